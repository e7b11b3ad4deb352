//! A plugin that offers `example.KV` and keeps the values in a directory. A host that offers `example.Audit` has a
//! say in what is stored.
//!
//! `kv-plugin [--trace] [--crash-on KEY] [--hang-on KEY] DIRECTORY`

use std::ffi::OsString;
use std::time::Duration;

use anyhow::{Context as _, bail};
use plug::{Call, Code, Error, Peer, Stream};
use plug_example::{AuditProxy, AuditService, Event, Kv, KvService, Pair, Store};

fn main() -> plug::Result<()> {
    // An error here fails the load, and the host gets its text.
    plug::run_with(|host| Ok(KvPlugin::from_args(std::env::args_os().skip(1), host)?))
}

/// The store, and three bad habits for the host's tour to show.
struct KvPlugin {
    store: Store,
    trace: bool,
    crash_on: Option<String>,
    hang_on: Option<String>,
}

impl KvPlugin {
    fn from_args(
        mut args: impl Iterator<Item = OsString>,
        host: &Peer,
    ) -> anyhow::Result<KvPlugin> {
        let (mut trace, mut crash_on, mut hang_on, mut directory) = (false, None, None, None);
        while let Some(arg) = args.next() {
            let mut key = |option: &str| {
                let key = args.next().and_then(|key| key.into_string().ok());
                key.with_context(|| format!("{option} needs a key"))
            };
            match arg.to_str() {
                Some("--trace") => trace = true,
                Some(option @ "--crash-on") => crash_on = Some(key(option)?),
                Some(option @ "--hang-on") => hang_on = Some(key(option)?),
                Some(option) if option.starts_with("--") => bail!("there is no option {option}"),
                _ if directory.is_some() => bail!("there is more than one directory"),
                _ => directory = Some(arg),
            }
        }
        let directory = directory.context(
            "which directory? Usage: kv-plugin [--trace] [--crash-on KEY] [--hang-on KEY] DIRECTORY",
        )?;
        let mut store = Store::open(directory)?;
        if host.has::<AuditService>() {
            store = store.audited(host.proxy::<AuditProxy>()?);
        }
        Ok(KvPlugin { store, trace, crash_on, hang_on })
    }

    fn note(&self, call: &str, what: &str) {
        if self.trace {
            println!("{call} {what:?}");
        }
    }
}

impl Kv for KvPlugin {
    fn get(&self, key: String) -> plug::Result<Vec<u8>> {
        self.note("get", &key);
        if self.crash_on.as_ref() == Some(&key) {
            eprintln!("crashing on {key:?}, as --crash-on says");
            std::process::abort();
        }
        if self.hang_on.as_ref() == Some(&key) {
            // A handler that waits for something else should look up now and then, as this one does.
            let call = Call::current();
            while !call.wait_cancelled(Duration::from_secs(60)) {}
            self.note("nobody waits any more for get", &key);
            return Err(Error::new(Code::Cancelled, "nobody waits for it any more"));
        }
        self.store.get(key)
    }

    fn put(&self, key: String, value: Vec<u8>) -> plug::Result<()> {
        self.note("put", &key);
        self.store.put(key, value)
    }

    fn watch(&self, prefix: String) -> plug::Result<Stream<Event>> {
        self.note("watch", &prefix);
        self.store.watch(prefix)
    }

    fn import(&self, requests: Stream<Pair>) -> plug::Result<u64> {
        self.store.import(requests)
    }

    fn sync(&self, requests: Stream<Pair>) -> plug::Result<Stream<Event>> {
        self.store.sync(requests)
    }
}

impl plug::Plugin for KvPlugin {
    type Services = KvService;
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
}
