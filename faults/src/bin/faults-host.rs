//! A host in a process of its own: for what happens when a host ends, and for counting what it has.

use std::io::{self, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process;
use std::time::{Duration, Instant};

use plug::Proxy as _;
use plug_faults::flow::FlowProxy;
use plug_faults::{ProbeProxy, census, evil, load_probe};
use rustix::process::{Pid, Resource, Rlimit, WaitOptions, setrlimit};

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
        // Loads a plugin that must give signs of life, and calls it for each line that it is told.
        ["heartbeat", plugin, every, misses] => {
            let every = Duration::from_millis(every.parse()?);
            let command = plug::Command::new(plugin).heartbeat(every, misses.parse()?);
            let probe = load(command)?;
            for line in io::stdin().lines() {
                let payload = probe.echo(line?.into_bytes())?;
                println!("{}", String::from_utf8_lossy(&payload));
                io::stdout().flush()?;
            }
            Ok(probe.peer().stop(Duration::from_secs(20))?)
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
        // Loads a plugin that does not get that far, and waits to be killed.
        ["load", plugin, option] => {
            let _probe = plug::Command::new(plugin).arg(option).start_timeout(evil::HANG).load()?;
            Err("it was loaded".into())
        }
        // Starts itself in a terminal, and waits for its end, as a shell does.
        ["shell", terminal, plugin, go] => {
            rustix::process::setsid().map_err(io::Error::from)?;
            let terminal = std::fs::File::options().read(true).write(true).open(terminal)?;
            let mut host = process::Command::new(std::env::current_exe()?);
            host.args(["answered", plugin, go]).process_group(0).stdin(process::Stdio::piped());
            let mut host = host.spawn()?;
            let group = Pid::from_child(&host);
            rustix::termios::tcsetpgrp(terminal, group).map_err(io::Error::from)?;
            // Not before does it say that it is there: what is pressed then must reach it.
            drop(host.stdin.take());
            process::exit(host.wait()?.code().unwrap_or(1))
        }
        // Has a call under way until there is a file, once its input ends.
        ["answered", plugin, go] => {
            io::stdin().read_to_end(&mut Vec::new())?;
            let probe = load_probe(plugin)?;
            let call = std::thread::spawn({
                let (probe, act) = (probe.clone(), format!("await {go}"));
                move || probe.act(act)
            });
            while probe.act("running")? != "2" {}
            say(&probe)?;
            assert_eq!(call.join().map_err(|_| "it panicked")??, "done");
            probe.peer().stop(evil::HANG)
        }
        // Has a plugin exit with code 3, and says what it sees of that. The plugin has a child in its group.
        ["exits", plugin] => exits(plugin),
        // The same, while another thread waits for whatever child ends.
        ["robbed", plugin] => {
            std::thread::spawn(|| {
                loop {
                    // There is no child between two plugins.
                    if rustix::process::wait(WaitOptions::empty()).is_err() {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            });
            (0..20).try_for_each(|_| exits(plugin))
        }
        // Loads a plugin with each number of descriptors, until there are enough.
        ["few-files", plugin] => {
            // The watcher keeps three.
            drop(load_probe(plugin)?);
            settle(6 + 3)?;
            let files = rustix::process::getrlimit(Resource::Nofile);
            let before = entries("/proc/self/fd")?;
            for more in 0..100 {
                let current = Some(before as u64 - 1 + more);
                setrlimit(Resource::Nofile, Rlimit { current, ..files })
                    .map_err(io::Error::from)?;
                let loaded = load_probe(plugin).and_then(|probe| probe.echo("few"));
                setrlimit(Resource::Nofile, files).map_err(io::Error::from)?;
                settle(before)?;
                match loaded {
                    Ok(_) => {
                        println!("{more} descriptors are enough");
                        return Ok(());
                    }
                    Err(error) => println!("{more}: {:?}: {error}", error.kind()),
                }
            }
            Err("it is never enough".into())
        }
        // Loads a plugin while there can be no more processes of this user.
        ["few-processes", plugin] => {
            drop(load_probe(plugin)?);
            settle(6 + 3)?;
            let processes = rustix::process::getrlimit(Resource::Nproc);
            let none = Rlimit { current: Some(0), ..processes };
            setrlimit(Resource::Nproc, none).map_err(io::Error::from)?;
            let error = load_probe(plugin).err().ok_or("it was loaded")?;
            println!("{:?}: {error}", error.kind());
            settle(6 + 3)?;
            setrlimit(Resource::Nproc, processes).map_err(io::Error::from)?;
            load_probe(plugin)?.peer().stop(evil::HANG)
        }
        // Has a plugin that can start no thread wait in a handler, and asks other things of it.
        ["few-threads", plugin, go] => {
            let probe = load_probe(plugin)?;
            probe.act("no-more-threads")?;
            // Without the watcher. On a busy machine there may have been a second worker before that.
            let pid = probe.peer().pid().unwrap_or_default();
            let workers = std::fs::read_dir(format!("/proc/{pid}/task"))?.count() - 1;
            let call = |act: String| {
                let probe = probe.clone();
                std::thread::spawn(move || probe.act(act))
            };
            let slow = call(format!("await {go}"));
            let beside = call("most".to_owned());
            // Control frames pass, whatever the one thread does.
            for _ in 0..10 {
                probe.peer().ping(Duration::from_secs(20))?;
            }
            std::fs::write(go, "")?;
            let end = |call: std::thread::JoinHandle<_>| call.join().map_err(|_| "it panicked")?;
            println!("{}", end(slow)?);
            let most = end(beside)?;
            let is_bound = most.parse().is_ok_and(|most: usize| (1..=workers).contains(&most));
            println!("{}", if is_bound { "a thread for each" } else { &most });
            probe.peer().stop(evil::HANG)
        }
        // Loads and uses a plugin.
        ["use", plugin] => {
            let probe = load_probe(plugin)?;
            assert_eq!(probe.echo("used")?, b"used");
            probe.act("eprint heard")?;
            let heard = probe.peer().stderr_lines().and_then(|mut lines| lines.next());
            println!("{}", heard.unwrap_or_default());
            probe.peer().stop(evil::HANG)
        }
        // Does not load a plugin with a digest, and says why.
        ["refused", plugin, digest] => {
            let error = load_probe(plug::Command::new(plugin).sha256(digest)).map(drop);
            println!("{:?}", error.map_err(|error| (error.kind(), error.to_string())));
            Ok(())
        }
        // Starts and drops so many streams, and says now and then how much memory both sides have, in KiB.
        ["pairs", plugin, count] => {
            let flow: FlowProxy = plug::Command::new(plugin).load()?.proxy()?;
            let plugin = flow.peer().pid().unwrap_or_default();
            let count: u64 = count.parse()?;
            for pair in 0..=count {
                if pair % (count / 10) == 0 {
                    let kib = |pid| census::rss(pid).unwrap_or_default();
                    println!("{} {}", kib(process::id()), kib(plugin));
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
        // Sends a message that would burst, is sent one, and says what memory that took either side at most, in KiB.
        ["burst", plugin] => {
            let flow: FlowProxy = plug::Command::new(plugin).load()?.proxy()?;
            let plugin = flow.peer().pid().unwrap_or_default();
            let most = || {
                let sizes = [std::process::id(), plugin].map(census::most_rss);
                sizes.map(|kib| kib.unwrap_or_default().to_string()).join(" ")
            };
            println!("{}", most());
            const EMPTY: u32 = 2 << 20;
            // Two million empty messages in field 1.
            let empty = [10, 0].repeat(EMPTY as usize);
            let error = flow.peer().call("flow.Flow/Burst", &empty).expect_err("its request");
            println!("{:?} {:?} {:?} {error}", error.kind(), error.code(), error.delivery());
            // Before the plugin makes such a thing itself.
            println!("{}", most());
            let error = flow.burst(vec![], EMPTY).expect_err("its response");
            println!("{:?} {:?} {:?} {error}", error.kind(), error.code(), error.delivery());
            assert_eq!(flow.burst(vec![], 1000_u32)?.len(), 1000);
            println!("{}", most());
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

/// Has a plugin exit with code 3, and says what it sees of that.
fn exits(plugin: &str) -> plug::Result<()> {
    let before = entries("/proc/self/fd")?;
    let probe = load_probe(plug::Command::new(plugin).arg("--child=linger"))?;
    // It can wait for children of its own.
    probe.act("child-print x")?;
    let child = probe.act("children")?;
    let call = std::thread::spawn({
        let probe = probe.clone();
        move || probe.act("hang")
    });
    while probe.act("running")? != "2" {}
    let errors = [probe.act("exit 3").err(), call.join().map_err(|_| "it panicked")?.err()];
    for error in errors {
        let error = error.ok_or("a plugin that has exited answers")?;
        let exit = error.exit().ok_or("an exit without status")?;
        println!("{:?} {:?} by host: {}", error.kind(), exit.status(), exit.by_host());
    }
    println!("child {child}");
    drop(probe);
    // The watcher with its three may be new.
    settle(before + 3)
}

/// Waits until nothing of a plugin is left, and not more than so many descriptors.
fn settle(fds: usize) -> plug::Result<()> {
    let begin = Instant::now();
    while children()? > 0 || entries("/proc/self/fd")? > fds {
        if begin.elapsed() > Duration::from_secs(20) {
            let left = format!("{} children, descriptors:\n{}", children()?, evil::fds()?);
            return Err(format!("this is left: {left}").into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
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
