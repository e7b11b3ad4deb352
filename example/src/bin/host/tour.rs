//! The tour: what a call looks like, and what a plugin can do to its host.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use plug::Proxy as _;
use plug_example::{KvProxy, load_kv, load_serializer};

use crate::args::any;
use crate::plugin;
use crate::terminal::{Style, Terminal};

pub(crate) fn run(terminal: &mut Terminal) -> anyhow::Result<()> {
    let (kv_plugin, serializer_plugin) = (plugin("kv-plugin")?, plugin("serializer-plugin")?);
    let directory = tempfile::tempdir().context("cannot make a directory for the tour")?;
    terminal.paragraph(
        Style::Plain,
        0,
        &format!(
            "This is the host, process {}. Each plugin is a process of its own.",
            std::process::id()
        ),
    )?;

    terminal.heading("A call")?;
    let kv = load_store(terminal, &kv_plugin, directory.path())?;
    show(
        terminal,
        r#"kv.put("greeting", "hello")"#,
        kv.put("greeting", "hello").map(|()| "()".to_owned()),
    )?;
    show(terminal, r#"kv.get("greeting")"#, kv.get("greeting").map(quoted))?;

    terminal.heading("An error from the plugin")?;
    show(terminal, r#"kv.get("nothing")"#, kv.get("nothing").map(quoted))?;

    terminal.heading("A println! in the plugin")?;
    explain(
        terminal,
        "This plugin prints each call with println!, to the stdout that carries the protocol everywhere else. \
         The host gets it as text:",
    )?;
    let printed = kv.peer().stderr_lines().context("a process has a stderr")?;
    for line in printed.take(3) {
        terminal.paragraph(Style::Faint, 4, &format!("| {line}"))?;
    }

    terminal.heading("Another service, another plugin")?;
    let serializer = load_serializer(serializer_plugin)?;
    introduce(terminal, "load_serializer", serializer.peer())?;
    let values = HashMap::from([
        ("answer".to_owned(), any(&42_i64)),
        ("pi".to_owned(), any(&3.25_f64)),
        ("question".to_owned(), any(&"unknown".to_owned())),
    ]);
    show(terminal, "serializer.marshal(values)", serializer.marshal(values).map(text))?;

    terminal.heading("A plugin that crashes in a call")?;
    explain(terminal, "This plugin was told to abort when it is asked for this key:")?;
    let error = match kv.get(CRASH) {
        Ok(_) => anyhow::bail!("kv-plugin did not crash as it was told to"),
        Err(error) => error,
    };
    let printed = error.stderr().and_then(|text| text.lines().last()).map(str::to_owned);
    show(terminal, &format!("kv.get({CRASH:?})"), Err(error))?;
    if let Some(line) = printed {
        explain(terminal, "The last line that it printed is part of the error:")?;
        terminal.paragraph(Style::Faint, 4, &format!("| {line}"))?;
    }

    terminal.heading("The host goes on")?;
    show(terminal, r#"kv.get("greeting")"#, kv.get("greeting").map(quoted))?;
    explain(terminal, "That process is gone for good, so the host loads the plugin again:")?;
    let kv = load_store(terminal, &kv_plugin, directory.path())?;
    show(terminal, r#"kv.get("greeting")"#, kv.get("greeting").map(quoted))?;

    terminal.heading("The end")?;
    for peer in [kv.peer(), serializer.peer()] {
        peer.stop(Duration::from_secs(2))?;
        let ended = format!("{}.stop(2 s): process {} has ended", peer.name(), pid(peer));
        terminal.paragraph(Style::Plain, 2, &ended)?;
    }
    Ok(())
}

fn load_store(
    terminal: &mut Terminal,
    program: &Path,
    directory: &Path,
) -> anyhow::Result<KvProxy> {
    let command =
        plug::Command::new(program).arg("--trace").args(["--crash-on", CRASH]).arg(directory);
    let kv = load_kv(command)?;
    introduce(terminal, "load_kv", kv.peer())?;
    Ok(kv)
}

fn introduce(terminal: &mut Terminal, call: &str, plugin: &plug::Peer) -> anyhow::Result<()> {
    terminal.paragraph(Style::Plain, 2, &format!("{call}({:?})", plugin.name()))?;
    let text = format!("process {}, offers {}", pid(plugin), plugin.services().join(", "));
    Ok(terminal.paragraph(Style::Good, 4, &text)?)
}

fn explain(terminal: &mut Terminal, text: &str) -> anyhow::Result<()> {
    Ok(terminal.paragraph(Style::Plain, 2, text)?)
}

/// A call and what became of it.
fn show(terminal: &mut Terminal, call: &str, outcome: plug::Result<String>) -> anyhow::Result<()> {
    terminal.paragraph(Style::Plain, 2, call)?;
    match outcome {
        Ok(value) => terminal.paragraph(Style::Good, 4, &value)?,
        Err(error) => {
            terminal.paragraph(Style::Bad, 4, &error.to_string())?;
            let what = format!(
                "kind: {:?}, code: {:?}, delivery: {:?}",
                error.kind(),
                error.code(),
                error.delivery()
            );
            terminal.paragraph(Style::Faint, 4, &what)?;
        }
    }
    Ok(())
}

fn pid(plugin: &plug::Peer) -> String {
    plugin.pid().map_or_else(|| "unknown".to_owned(), |pid| pid.to_string())
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

fn quoted(bytes: Vec<u8>) -> String {
    format!("{:?}", text(bytes))
}

/// The key that the plugin crashes on.
const CRASH: &str = "a bomb";
