//! The tour: what calls look like, and what a plugin can do to its host.

mod show;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use plug::{CancelToken, Command, Proxy as _, StderrLines, Stream};
use plug_example::{AuditService, KvProxy, Pair, SerializerProxy, load_kv, load_serializer};

use crate::args::any;
use crate::audit::SmallValues;
use crate::plugin;
use crate::terminal::Terminal;
use show::{Show, event, quoted, text};

pub(crate) fn run(terminal: &mut Terminal) -> anyhow::Result<()> {
    let directory = tempfile::tempdir().context("cannot make a directory for the tour")?;
    let mut tour = Tour {
        show: Show::new(terminal),
        kv_plugin: plugin("kv-plugin")?,
        serializer_plugin: plugin("serializer-plugin")?,
        directory: directory.path(),
    };
    tour.run()
}

struct Tour<'a> {
    show: Show<'a>,
    kv_plugin: PathBuf,
    serializer_plugin: PathBuf,
    directory: &'a Path,
}

impl Tour<'_> {
    fn run(&mut self) -> anyhow::Result<()> {
        let pid = std::process::id();
        self.show.text(&format!(
            "This is the host, process {pid}. Each plugin is a process of its own."
        ))?;
        self.show.heading("A call")?;
        let kv = self.load_store()?;
        let mut printed = kv.peer().stderr_lines().context("a process has a stderr")?;
        self.calls(&kv, &mut printed)?;
        self.streams(&kv)?;
        self.callback()?;
        self.limits(&kv, &mut printed)?;
        let serializer = self.another_service()?;
        let kv = self.crash(&kv)?;

        self.show.heading("The end")?;
        for peer in [kv.peer(), serializer.peer()] {
            let pid = show::pid(peer);
            peer.stop(Duration::from_secs(2))?;
            let name = peer.name();
            self.show.explain(&format!("{name}.stop(2 s): process {pid} has ended"))?;
        }
        Ok(())
    }

    fn load_store(&mut self) -> anyhow::Result<KvProxy> {
        let command = Command::new(&self.kv_plugin)
            .arg("--trace")
            .args(["--crash-on", CRASH])
            .args(["--hang-on", HANG])
            .arg(self.directory);
        let kv = load_kv(command)?;
        self.show.loaded("load_kv", kv.peer())?;
        Ok(kv)
    }

    fn calls(&mut self, kv: &KvProxy, printed: &mut StderrLines) -> anyhow::Result<()> {
        let put = kv.put("greeting", "hello");
        self.show.outcome(r#"kv.put("greeting", "hello")"#, put.map(|()| "()".to_owned()))?;
        self.show.outcome(r#"kv.get("greeting")"#, kv.get("greeting").map(quoted))?;

        self.show.heading("An error from the plugin")?;
        self.show.outcome(r#"kv.get("nothing")"#, kv.get("nothing").map(quoted))?;

        self.show.heading("A println! in the plugin")?;
        self.show.explain(
            "This plugin prints each call with println!, to the stdout that carries the protocol everywhere else. \
             The host gets it as text:",
        )?;
        for line in printed.take(3) {
            self.show.printed(&line)?;
        }
        Ok(())
    }

    fn streams(&mut self, kv: &KvProxy) -> anyhow::Result<()> {
        self.show.heading("A stream from the plugin")?;
        let mut events = kv.watch("greeting")?;
        self.show.explain(
            r#"kv.watch("greeting") begins with what is stored under keys that begin so, and goes on with changes:"#,
        )?;
        self.show.outcome("events.next()", next(&mut events))?;
        let put = kv.put("greeting in French", "bonjour");
        self.show
            .outcome(r#"kv.put("greeting in French", "bonjour")"#, put.map(|()| "()".to_owned()))?;
        self.show.outcome("events.next()", next(&mut events))?;
        // The call ends, and the plugin forgets this watcher.
        drop(events);

        self.show.heading("Streams both ways")?;
        self.show.explain(
            "kv.sync(pairs) answers each pair with what is stored under its key, and then sends what the host has not:",
        )?;
        let (pairs, requests) = Stream::channel(1);
        let mut answers = kv.sync(requests)?;
        for (key, value) in [("greeting", "hi"), ("farewell", "goodbye")] {
            // If the plugin takes no more, its answer says why.
            let _ = pairs.send(pair(key, value));
            self.show.outcome(&format!("pairs.send({key:?}, {value:?})"), next(&mut answers))?;
        }
        drop(pairs);
        for answer in answers {
            self.show.outcome("drop(pairs)", answer.map(event))?;
        }

        self.show.heading("A stream to the plugin")?;
        let numbers = (1..=100).map(|n| pair(&format!("number {n}"), &n.to_string()));
        let count = kv.import(numbers).map(|count| count.to_string());
        self.show.outcome("kv.import(a hundred pairs)", count)?;
        Ok(())
    }

    fn callback(&mut self) -> anyhow::Result<()> {
        self.show.heading("A plugin that asks its host")?;
        self.show.explain(
            "The next process of this plugin gets a service of the host, and asks it before it stores a value:",
        )?;
        let (audit, records) = SmallValues::new(100);
        let command = Command::new(&self.kv_plugin)
            .serve::<AuditService>(Arc::new(audit))
            .arg(self.directory);
        let kv = load_kv(command)?;
        self.show.loaded("load_kv", kv.peer())?;
        let put = kv.put("small", "1234567890").map(|()| "()".to_owned());
        self.show.outcome(r#"kv.put("small", ten bytes)"#, put)?;
        let record = records.recv_timeout(PATIENCE).context("the plugin has not recorded this")?;
        self.show.explain(&format!("The plugin has told the host, one-way: {record}."))?;
        let put = kv.put("large", vec![b'x'; 1000]).map(|()| "()".to_owned());
        self.show.outcome(r#"kv.put("large", a thousand bytes)"#, put)?;
        Ok(())
    }

    fn limits(&mut self, kv: &KvProxy, printed: &mut StderrLines) -> anyhow::Result<()> {
        self.show.heading("A call that is cancelled")?;
        self.show.explain(
            "This plugin was told to hang when it is asked for this key, until it is cancelled:",
        )?;
        let token = CancelToken::new();
        let cancellable = kv.with_cancel(&token);
        let outcome = std::thread::scope(|scope| {
            let call = scope.spawn(|| cancellable.get(HANG));
            // It has arrived.
            printed.find(|line| *line == format!("get {HANG:?}"));
            token.cancel();
            call.join().expect("a call does not panic")
        });
        self.show.outcome(&format!("kv.with_cancel(&token).get({HANG:?})"), outcome.map(quoted))?;
        self.show.explain("Its handler has seen it:")?;
        if let Some(line) = printed.find(|line| line.contains("nobody waits")) {
            self.show.printed(&line)?;
        }

        self.show.heading("A call that takes too long")?;
        let outcome = kv.with_timeout(Duration::from_millis(100)).get(HANG);
        self.show
            .outcome(&format!("kv.with_timeout(100 ms).get({HANG:?})"), outcome.map(quoted))?;
        Ok(())
    }

    fn another_service(&mut self) -> anyhow::Result<SerializerProxy> {
        self.show.heading("Another service, another plugin")?;
        let serializer = load_serializer(&self.serializer_plugin)?;
        self.show.loaded("load_serializer", serializer.peer())?;
        let values = HashMap::from([
            ("answer".to_owned(), any(&42_i64)),
            ("pi".to_owned(), any(&3.25_f64)),
            ("question".to_owned(), any(&"unknown".to_owned())),
        ]);
        self.show.outcome("serializer.marshal(values)", serializer.marshal(values).map(text))?;
        Ok(serializer)
    }

    /// Returns the store that is loaded after that.
    fn crash(&mut self, kv: &KvProxy) -> anyhow::Result<KvProxy> {
        self.show.heading("A plugin that crashes in a call")?;
        self.show.explain("This plugin was told to abort when it is asked for this key:")?;
        let Err(error) = kv.get(CRASH) else { bail!("kv-plugin did not crash as it was told to") };
        let printed = error.stderr().and_then(|text| text.lines().last()).map(str::to_owned);
        self.show.outcome(&format!("kv.get({CRASH:?})"), Err(error))?;
        if let Some(line) = printed {
            self.show.explain("The last line that it printed is part of the error:")?;
            self.show.printed(&line)?;
        }

        self.show.heading("The host goes on")?;
        self.show.outcome(r#"kv.get("greeting")"#, kv.get("greeting").map(quoted))?;
        self.show.explain("That process is gone for good, so the host loads the plugin again:")?;
        let kv = self.load_store()?;
        self.show.outcome(r#"kv.get("greeting")"#, kv.get("greeting").map(quoted))?;
        Ok(kv)
    }
}

fn pair(key: &str, value: &str) -> Pair {
    Pair { key: key.to_owned(), value: value.as_bytes().to_vec() }
}

fn next(events: &mut Stream<plug_example::Event>) -> plug::Result<String> {
    match events.next() {
        Some(outcome) => outcome.map(event),
        None => Ok("the end of the stream".to_owned()),
    }
}

/// The key that the plugin crashes on.
const CRASH: &str = "a bomb";

/// The key that the plugin hangs on.
const HANG: &str = "a tar pit";

/// How long the host waits for what should be there at once.
const PATIENCE: Duration = Duration::from_secs(10);
