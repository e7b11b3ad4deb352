//! A host in a process of its own: for what happens when a host ends, and for counting what it has.

use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use plug::Proxy as _;
use plug_faults::flow::FlowProxy;
use plug_faults::{ProbeProxy, evil, load_probe};
use rustix::process::{Resource, Rlimit, setrlimit};

fn main() -> plug::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        // For who wants to know whether this can be run.
        ["nothing"] => Ok(()),
        // Loads a plugin, and returns from main without dropping it.
        ["leave", plugin] => {
            let probe = load(plug::Command::new(plugin))?;
            std::mem::forget(probe);
            Ok(())
        }
        // Loads a plugin, keeps it busy with calls, and waits to be killed.
        ["wait", plugin, ref acts @ ..] => {
            let probe = load_probe(plugin)?;
            for act in acts {
                let (probe, act) = (probe.clone(), String::from(*act));
                std::thread::spawn(move || probe.act(act));
            }
            // All of them, and the one that asks.
            while probe.act("running")?.parse::<usize>()? < acts.len() + 1 {}
            say(&probe)?;
            std::thread::sleep(evil::HANG);
            Ok(())
        }
        // Has a plugin start a process, whose id it writes to a file, and waits to be killed.
        ["child", plugin, how, file] => {
            let probe = load_probe(plugin)?;
            std::fs::write(file, probe.act(format!("child {how}"))?)?;
            say(&probe)?;
            std::thread::sleep(evil::HANG);
            Ok(())
        }
        // Has a plugin that streams wait in a handler until that is cancelled, and waits to be killed.
        ["ask", plugin, what] => {
            let flow: FlowProxy = plug::Command::new(plugin).load()?.proxy()?;
            let (asking, what) = (flow.clone(), what.to_owned());
            std::thread::spawn(move || asking.ask(what));
            while flow.ask("asked")? == "0" {}
            println!("{}", flow.peer().pid().unwrap_or_default());
            io::stdout().flush()?;
            std::thread::sleep(evil::HANG);
            Ok(())
        }
        // The same in a session of its own with a terminal, where Ctrl-C comes from.
        ["terminal", terminal, plugin, stop_file] => {
            rustix::process::setsid().map_err(io::Error::from)?;
            let _terminal = std::fs::File::options().read(true).write(true).open(terminal)?;
            let command = plug::Command::new(plugin).arg(format!("--stop-file={stop_file}"));
            let _probe = load(command)?;
            std::thread::sleep(evil::HANG);
            Ok(())
        }
        // Starts and drops so many streams, and says now and then how much memory both sides have, in KiB.
        ["pairs", plugin, count] => {
            let flow: FlowProxy = plug::Command::new(plugin).load()?.proxy()?;
            let plugin = flow.peer().pid().unwrap_or_default().to_string();
            let count: u64 = count.parse()?;
            for pair in 0..=count {
                if pair % (count / 10) == 0 {
                    println!("{} {}", evil::memory("self")?, evil::memory(&plugin)?);
                }
                drop(flow.count(u64::MAX, 10_u64)?);
            }
            assert_eq!(flow.ask("method")?, "flow.Flow/Ask");
            Ok(())
        }
        // Forwards what a plugin prints while it does what it is told, and then says its process id.
        ["forward", plugin, ref acts @ ..] => {
            let probe = load_probe(plug::Command::new(plugin).forward_stderr(true))?;
            for act in acts {
                probe.act(*act)?;
            }
            say(&probe)?;
            std::thread::sleep(evil::HANG);
            Ok(())
        }
        // The same in a session of its own with a terminal, which stops whoever writes to it in the background.
        ["forward-to-terminal", terminal, plugin, act] => {
            use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
            rustix::process::setsid().map_err(io::Error::from)?;
            let terminal = std::fs::File::options().read(true).write(true).open(terminal)?;
            let mut modes = tcgetattr(&terminal).map_err(io::Error::from)?;
            modes.local_modes |= LocalModes::TOSTOP;
            tcsetattr(&terminal, OptionalActions::Now, &modes).map_err(io::Error::from)?;
            rustix::stdio::dup2_stderr(&terminal).map_err(io::Error::from)?;
            let probe = load_probe(plug::Command::new(plugin).forward_stderr(true))?;
            probe.act(act)?;
            say(&probe)?;
            std::thread::sleep(evil::HANG);
            Ok(())
        }
        // Loads many plugins, and says what that takes.
        ["many", plugin, count] => {
            let count: usize = count.parse()?;
            // Five descriptors each.
            let files = rustix::process::getrlimit(Resource::Nofile);
            setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files })
                .map_err(io::Error::from)?;
            println!("threads before {}", entries("/proc/self/task")?);
            let fds_before = entries("/proc/self/fd")?;
            println!("fds before {fds_before}");
            let probes: Vec<_> =
                (0..count).map(|_| load_probe(plugin)).collect::<plug::Result<_>>()?;
            for (index, probe) in probes.iter().enumerate() {
                let payload = index.to_string().into_bytes();
                assert_eq!(probe.echo(payload.clone())?, payload);
            }
            println!("new pipes hold {}", evil::pipe_size()?);
            println!("threads with {}", entries("/proc/self/task")?);
            println!("fds with {}", entries("/proc/self/fd")?);
            let begin = Instant::now();
            for probe in &probes {
                let (probe, wait) = (probe.clone(), probe.peer().stderr_lines());
                drop(probe);
                drop(wait);
            }
            drop(probes);
            // The watcher with its three descriptors stays. It lets go of a plugin a moment after its process has ended.
            let gone = || -> plug::Result<bool> {
                Ok(entries("/proc/self/task")? == 2
                    && children()? == 0
                    && entries("/proc/self/fd")? <= fds_before + 3)
            };
            while !gone()? && begin.elapsed() < Duration::from_secs(20) {
                std::thread::sleep(Duration::from_millis(1));
            }
            println!("threads after {}", entries("/proc/self/task")?);
            println!("fds after {}", entries("/proc/self/fd")?);
            println!("children after {}", children()?);
            Ok(())
        }
        _ => Err("wrong arguments".into()),
    }
}

fn load(command: plug::Command) -> plug::Result<ProbeProxy> {
    let probe = load_probe(command)?;
    say(&probe)?;
    Ok(probe)
}

/// Tells the test the plugin's process id.
fn say(probe: &ProbeProxy) -> plug::Result<()> {
    println!("{}", probe.peer().pid().unwrap_or_default());
    Ok(io::stdout().flush()?)
}

fn entries(directory: impl AsRef<Path>) -> io::Result<usize> {
    Ok(std::fs::read_dir(directory)?.count())
}

fn children() -> io::Result<usize> {
    let mut children = 0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let text = std::fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        children += text.split_whitespace().count();
    }
    Ok(children)
}
