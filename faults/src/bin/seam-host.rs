//! A host in a process of its own that plays one scenario, while system calls fail as `PLUG_SEAM` says, and then looks
//! whether anything is left behind and whether the next load works.
//!
//! Arguments: the scenario, the evil plugin, the flowing plugin, the SHA-256 digest of the evil one. What `SEAM_PLUGIN` and `SEAM_PLUGIN_TRACE` say goes to
//! the plugins of the scenario as `PLUG_SEAM` and `PLUG_SEAM_TRACE`. With `SEAM_FILES`, the scenario is played while
//! this process may have so many descriptors more than it has. Prints `ok`, or the error that the scenario ended with.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use plug::{CancelToken, Command, ErrorKind, Peer, Proxy as _, Restart, Stream};
use plug_faults::census::{Census, is_alive};
use plug_faults::evil::Evil;
use plug_faults::flow::{FlowProxy, HomeService, House, Item, counted};
use plug_faults::{ProbeProxy, load_probe};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [scenario, evil, flowing, digest] = &args[..] else { panic!("wrong arguments: {args:?}") };
    let plugins = Plugins { evil, flowing, digest };
    #[cfg(plug_seam)]
    plug::arm_seam();
    let before = Census::now().expect("/proc is there");
    let limit = getrlimit(Resource::Nofile);
    if let Ok(files) = std::env::var("SEAM_FILES") {
        // The limit is a number that none may reach; what is open need not be the lowest numbers.
        let mut free = (0..).filter(|fd| !before.fds.contains_key(fd));
        let first_too_many = free.nth(files.parse().unwrap()).unwrap();
        let current = Some(first_too_many.into());
        setrlimit(Resource::Nofile, Rlimit { current, ..limit }).unwrap();
    }
    let outcome = plugins.play(scenario);
    setrlimit(Resource::Nofile, limit).unwrap();
    wait_until_nothing_is_left(&before, "after the scenario");

    #[cfg(plug_seam)]
    plug::disarm_seam();
    let next = load_probe(Command::new(evil)).expect("the next load works");
    assert_eq!(next.echo("next").unwrap(), b"next");
    next.peer().stop(BOUND).expect("a plugin without calls stops in good order");
    drop(next);
    wait_until_nothing_is_left(&before, "after the next load");
    match outcome {
        Ok(()) => println!("ok"),
        Err(error) => println!("{:?}: {error}", error.kind()),
    }
}

struct Plugins<'a> {
    evil: &'a str,
    flowing: &'a str,
    /// Of the evil one.
    digest: &'a str,
}

impl Plugins<'_> {
    fn play(&self, scenario: &str) -> plug::Result<()> {
        match scenario {
            "load" => self.probe().map(drop),
            "call" => echo(&self.probe()?, 10),
            // More than a pipe holds, both ways.
            "long-message" => echo(&self.probe()?, 300 << 10),
            // Longer than what comes to memory of messages before.
            "huge-message" => echo(&self.probe()?, 5 << 20),
            "second-load" => {
                let first = self.probe()?;
                let second = self.probe()?;
                echo(&first, 10)?;
                echo(&second, 10)
            }
            "describe" => with(Command::new(self.evil)).describe().map(drop),
            "in-process" => {
                let probe: ProbeProxy = plug::in_process(Evil::default())?.proxy()?;
                echo(&probe, 100 << 10)
            }
            "stop" => {
                let probe = self.probe()?;
                echo(&probe, 10)?;
                probe.peer().stop(BOUND)
            }
            "refused" => {
                let refused = with(Command::new(self.evil).arg("--fail=no space")).load();
                expect(refused.map(drop), ErrorKind::Handshake)
            }
            "kill" => {
                let probe = self.probe()?;
                kill(&probe);
                expect(probe.act("hang"), ErrorKind::Exited)
            }
            // A process that the plugin has started holds its pipes when it is killed in a call.
            "survivor" => {
                let probe = self.probe()?;
                let survivor = probe.act("child survive")?.parse().unwrap();
                let calling = probe.clone();
                let call = std::thread::spawn(move || calling.act("hang"));
                let begun = until(|| Ok(call.is_finished() || probe.act("running")? != "1"));
                kill(&probe);
                let outcome = call.join().unwrap();
                assert!(is_alive(survivor), "it must live for this scenario to mean something");
                let _ = kill_process(Pid::from_raw(survivor as i32).unwrap(), Signal::KILL);
                begun?;
                expect(outcome, ErrorKind::Exited)
            }
            "stderr" => {
                let probe = self.probe()?;
                // More than the pipe holds, while nobody calls, and then while somebody does.
                probe.act("spew 1").map(drop)?;
                echo(&probe, 10)
            }
            "idle" => {
                let probe = self.probe()?;
                std::thread::sleep(Duration::from_millis(10));
                echo(&probe, 10)?;
                std::thread::sleep(Duration::from_millis(10));
                Ok(())
            }
            "deadline" => {
                let flow = self.flow()?;
                flow.with_timeout(BOUND).ask("method")?;
                expect(flow.with_timeout(BRIEF).ask("wait"), ErrorKind::Deadline)
            }
            "cancel" => {
                let flow = self.flow()?;
                let token = CancelToken::new();
                let calling = flow.with_cancel(&token);
                let call = std::thread::spawn(move || calling.ask("wait"));
                std::thread::sleep(BRIEF);
                token.cancel();
                expect(call.join().unwrap(), ErrorKind::Cancelled)?;
                // The handler has learnt of it: nobody else would run this.
                flow.ask("method").map(drop)
            }
            // A slow handler, and others behind it.
            "slow" => {
                let probe = self.probe()?;
                let sleeping = probe.clone();
                let slow = std::thread::spawn(move || sleeping.act("nap 30"));
                let begun = until(|| Ok(slow.is_finished() || probe.act("running")? != "1"));
                let outcome = begun.and_then(|()| (0..3).try_for_each(|_| echo(&probe, 10)));
                slow.join().unwrap()?;
                outcome
            }
            "streams" => {
                let flow = self.flow()?;
                let mut numbers = 0;
                for item in flow.count(30_u64, 5_000_u64)? {
                    numbers += item?.number;
                }
                assert_eq!(numbers, 29 * 30 / 2);
                let total = flow.sum(counted(30, 5_000))?;
                assert_eq!((total.items, total.bytes), (30, 150_000));
                // Dropped when some of it has been read.
                drop(flow.count(1_000_u64, 1_000_u64)?.next().transpose()?);
                Ok(())
            }
            "mirror" => {
                let flow = self.flow()?;
                let (sender, stream) = Stream::channel(1);
                let mut mirrored = flow.mirror(stream)?;
                for number in 0..5 {
                    if sender.send(Item { number, payload: Vec::new() }).is_err() {
                        break;
                    }
                    match mirrored.next() {
                        Some(item) => assert_eq!(item?.number, number),
                        None => panic!("the stream has ended without an error"),
                    }
                }
                drop(sender);
                mirrored.next().transpose().map(|end| assert!(end.is_none(), "it has an end"))
            }
            "nested" => self.flow()?.down(6_u32).map(|depth| assert_eq!(depth, 6)),
            // Threads of the plugin's own call the host, which has none for that yet.
            "chorus" => self.flow()?.ask("chorus 3").map(drop),
            "restart" => {
                let brief = Duration::from_millis(1);
                let restart = Restart::on_crash().backoff(brief, 5 * brief).queue_for(BOUND);
                let probe = load_probe(with(Command::new(self.evil)).restart(restart))?;
                expect(probe.act("exit 3"), ErrorKind::Exited)?;
                // It waits for the next process.
                echo(&probe, 10)
            }
            "verified" => echo(&load_probe(with(Command::new(self.evil).sha256(self.digest)))?, 10),
            other => panic!("there is no scenario {other:?}"),
        }
    }

    fn probe(&self) -> plug::Result<ProbeProxy> {
        load_probe(with(Command::new(self.evil)))
    }

    fn flow(&self) -> plug::Result<FlowProxy> {
        let house = Arc::new(House::default());
        let peer: Peer = with(Command::new(self.flowing)).serve::<HomeService>(house).load()?;
        peer.proxy()
    }
}

/// Hands the plugin what is meant for it.
fn with(mut command: Command) -> Command {
    for (ours, its) in [("SEAM_PLUGIN", "PLUG_SEAM"), ("SEAM_PLUGIN_TRACE", "PLUG_SEAM_TRACE")] {
        if let Some(value) = std::env::var_os(ours) {
            command = command.env(its, value);
        }
    }
    command
}

fn echo(probe: &ProbeProxy, len: usize) -> plug::Result<()> {
    let payload: Vec<u8> = (0..len).map(|place| (place % 251) as u8).collect();
    assert!(probe.echo(payload.clone())? == payload, "it comes back as it was");
    Ok(())
}

/// Takes an error of the kind that the scenario is about as a success.
fn expect<T>(result: plug::Result<T>, kind: ErrorKind) -> plug::Result<()> {
    match result {
        Err(error) if error.kind() == kind => Ok(()),
        Err(error) => Err(error),
        Ok(_) => panic!("an error was expected: {kind:?}"),
    }
}

fn kill(probe: &ProbeProxy) {
    // It may have ended, because of what was made to fail.
    let pid = probe.peer().pid().and_then(|pid| Pid::from_raw(pid as i32)).unwrap();
    let _ = kill_process(pid, Signal::KILL);
}

fn until(mut happened: impl FnMut() -> plug::Result<bool>) -> plug::Result<()> {
    let begin = Instant::now();
    while !happened()? {
        assert!(begin.elapsed() < BOUND, "waited in vain");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn wait_until_nothing_is_left(before: &Census, when: &str) {
    let begin = Instant::now();
    loop {
        let mut left = Census::now().expect("/proc is there").beyond(before);
        forgive_watcher(&mut left.fds);
        if left.threads == ["plug-watcher"] {
            left.threads.clear();
        }
        if left == Census::default() {
            return;
        }
        assert!(begin.elapsed() < BOUND, "{when}, this is left: {left:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The watcher stays, with one descriptor of each of its kinds.
fn forgive_watcher(fds: &mut BTreeMap<u32, String>) {
    for kind in ["anon_inode:[eventpoll]", "anon_inode:[timerfd]", "anon_inode:[eventfd]"] {
        let of_watcher = fds.iter().find(|(_, target)| *target == kind).map(|(fd, _)| *fd);
        of_watcher.map(|fd| fds.remove(&fd));
    }
}

/// How long something that does not come is waited for.
const BRIEF: Duration = Duration::from_millis(20);

/// How long anything is waited for, shorter than the test waits for this process.
const BOUND: Duration = Duration::from_secs(15);
