//! `put`, `get` and `marshal`.

use std::collections::HashMap;
use std::path::PathBuf;

use plug::prost_types::Any;
use plug_example::{KvProxy, load_kv, load_serializer};

use crate::plugin;
use crate::terminal::Terminal;

pub(crate) fn put(
    terminal: &mut Terminal,
    directory: Option<PathBuf>,
    key: &str,
    value: Vec<u8>,
) -> anyhow::Result<()> {
    let text = format!("stored {} bytes under {key:?}\n", value.len());
    store(directory)?.put(key, value)?;
    Ok(terminal.text(&text)?)
}

pub(crate) fn get(
    terminal: &mut Terminal,
    directory: Option<PathBuf>,
    key: &str,
) -> anyhow::Result<()> {
    let value = store(directory)?.get(key)?;
    Ok(terminal.value(&value)?)
}

pub(crate) fn marshal(terminal: &mut Terminal, values: HashMap<String, Any>) -> anyhow::Result<()> {
    let serializer = load_serializer(plugin("serializer-plugin")?)?;
    let json = String::from_utf8(serializer.marshal(values)?)?;
    Ok(terminal.text(&format!("{json}\n"))?)
}

fn store(directory: Option<PathBuf>) -> anyhow::Result<KvProxy> {
    let program = plugin("kv-plugin")?;
    let directory = directory.unwrap_or_else(|| program.with_file_name("kv-data"));
    Ok(load_kv(plug::Command::new(program).arg(directory))?)
}
