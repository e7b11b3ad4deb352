//! A plugin that offers `example.KV` and keeps the values in a directory.
//!
//! `kv-plugin [--trace] [--crash-on KEY] DIRECTORY`

use std::ffi::OsString;

use anyhow::{Context as _, bail};
use plug_example::{Kv, KvService, Store};

fn main() -> plug::Result<()> {
    // An error here fails the load, and the host gets its text.
    plug::run_with(|_host| Ok(KvPlugin::from_args(std::env::args_os().skip(1))?))
}

/// The store, and two bad habits for the host's tour to show.
struct KvPlugin {
    store: Store,
    trace: bool,
    crash_on: Option<String>,
}

impl KvPlugin {
    fn from_args(mut args: impl Iterator<Item = OsString>) -> anyhow::Result<KvPlugin> {
        let (mut trace, mut crash_on, mut directory) = (false, None, None);
        while let Some(arg) = args.next() {
            match arg.to_str() {
                Some("--trace") => trace = true,
                Some("--crash-on") => {
                    let key = args.next().and_then(|key| key.into_string().ok());
                    crash_on = Some(key.context("--crash-on needs a key")?);
                }
                Some(option) if option.starts_with("--") => bail!("there is no option {option}"),
                _ if directory.is_some() => bail!("there is more than one directory"),
                _ => directory = Some(arg),
            }
        }
        let directory = directory
            .context("which directory? Usage: kv-plugin [--trace] [--crash-on KEY] DIRECTORY")?;
        Ok(KvPlugin { store: Store::open(directory)?, trace, crash_on })
    }

    fn note(&self, call: &str, key: &str) {
        if self.trace {
            println!("{call} {key:?}");
        }
        if self.crash_on.as_deref() == Some(key) {
            eprintln!("crashing on {key:?}, as --crash-on says");
            std::process::abort();
        }
    }
}

impl Kv for KvPlugin {
    fn get(&self, key: String) -> plug::Result<Vec<u8>> {
        self.note("get", &key);
        self.store.get(key)
    }

    fn put(&self, key: String, value: Vec<u8>) -> plug::Result<()> {
        self.note("put", &key);
        self.store.put(key, value)
    }
}

impl plug::Plugin for KvPlugin {
    type Services = KvService;
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
}
