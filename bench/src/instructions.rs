//! Instructions of a call, counted by callgrind: what it takes to encode, frame, deframe, decode and dispatch, on either
//! side, without the kernel. Unlike times they do not depend on what else the machine does.
//!
//! A host makes calls under valgrind, and the plugin runs under it as well; once more with more calls; and the difference
//! is divided by the calls that the second run has more. Counted is one thread of each side, in the function that makes
//! the calls, and in the one that is the plugin: so the watchers, whose work depends on time, do not count.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use plug::Proxy as _;
use plug::bytes::Bytes;

use crate::candidates::load_plug;
use crate::program;
use crate::services::echo::EchoProxy;
use crate::timing::check;
use crate::work::{Work, payload};

/// The argument with which this program is the host. The number of calls follows.
pub const CALLS: &str = "--calls";

/// What a call may take on each side: some 5 % above what it takes. Builds of the same code differ by up to 2 %.
const AT_MOST: Sides = Sides { host: 1_550, plugin: 1_830 };

const FEW: u64 = 1_000;
const MANY: u64 = 11_000;

/// Instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sides {
    host: u64,
    plugin: u64,
}

/// Prints what a call takes, and fails if that is too much.
pub fn count() -> Result<()> {
    let valgrind = Command::new("valgrind").arg("--version").stdout(Stdio::null()).status();
    if !valgrind.is_ok_and(|status| status.success()) {
        println!("SKIPPED: there is no valgrind, so no instructions are counted");
        return Ok(());
    }
    let (few, many) = (run(FEW)?, run(MANY)?);
    let each = |few: u64, many: u64| many.saturating_sub(few) / (MANY - FEW);
    let call = Sides { host: each(few.host, many.host), plugin: each(few.plugin, many.plugin) };
    println!("instructions of a 64 B echo, in user space:");
    println!("  {:<8}{:>8}   at most {:>8}", "host", call.host, AT_MOST.host);
    println!("  {:<8}{:>8}   at most {:>8}", "plugin", call.plugin, AT_MOST.plugin);
    ensure!(
        call.host <= AT_MOST.host && call.plugin <= AT_MOST.plugin,
        "a call takes more instructions than AT_MOST in bench/src/instructions.rs allows"
    );
    ensure!(
        call.host > 100 && call.plugin > 100,
        "so few cannot be: callgrind has not found the functions"
    );
    Ok(())
}

fn run(calls: u64) -> Result<Sides> {
    let directory = tempfile::tempdir()?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--trace-children=yes", "--demangle=no", "--quiet"])
        .arg(format!("--callgrind-out-file={}/%p", directory.path().display()))
        // With these nothing else is collected. They are parts of mangled names.
        .args(["--toggle-collect=*measured_calls*", "--toggle-collect=*in_child*"])
        .arg(program::own()?)
        .args([CALLS, &calls.to_string()])
        .output()?;
    ensure!(
        output.status.success(),
        "valgrind has failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    collected(directory.path())
}

/// From what callgrind has written for each process.
fn collected(directory: &Path) -> Result<Sides> {
    let mut sides = Sides { host: 0, plugin: 0 };
    for file in std::fs::read_dir(directory)? {
        let text = std::fs::read_to_string(file?.path())?;
        let (command, total) = command_and_total(&text)?;
        if command.contains(CALLS) {
            sides.host += total;
        } else {
            sides.plugin += total;
        }
    }
    Ok(sides)
}

fn command_and_total(text: &str) -> Result<(&str, u64)> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let (Some(command), Some(total)) = (field("cmd:"), field("totals:").or(field("summary:")))
    else {
        bail!("callgrind has written neither cmd nor totals");
    };
    Ok((command.trim(), total.trim().parse().context("the total is no number")?))
}

/// The host.
pub fn call(calls: u64) -> Result<()> {
    let echo = load_plug()?;
    let payload = Bytes::from(payload(Work::Echo64.size()));
    measured_calls(calls, &echo, &payload)?;
    // Callgrind writes when a process ends.
    Ok(echo.peer().stop(Duration::from_secs(60))?)
}

/// Its name is how callgrind finds it.
#[inline(never)]
fn measured_calls(calls: u64, echo: &EchoProxy, payload: &Bytes) -> Result<()> {
    for _ in 0..calls {
        check(&echo.echo(payload.clone())?, payload)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_and_commands_are_found() {
        let text = "# callgrind format\ncmd: bench --calls 10\nevents: Ir\nfn=(1)\n1 5\n\ntotals: 123456\n";
        assert_eq!(command_and_total(text).unwrap(), ("bench --calls 10", 123_456));
        assert!(command_and_total("cmd: bench").is_err());
    }
}
