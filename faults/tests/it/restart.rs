//! R4, R5: plugins that are started again.

use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use plug::{
    CancelToken, Code, Command, Delivery, ErrorKind, ExitCause, ExitStatus, Proxy as _, Restart,
};
use plug_faults::flow::{FlowProxy, Home, HomeService, House, Item};
use plug_faults::{AgainProxy, ProbeProxy};
use rustix::process::Signal;

use crate::aftermath::{
    BOUND, Case, Folder, assert_soon, evil, in_time, is_alive, kill, pid, signal, start, wait_until,
};
use crate::exits::{next_end, watched};

const LONG: Duration = Duration::from_secs(1000);
const BRIEF: Duration = Duration::from_millis(10);

/// Again and again, at once.
fn always() -> Restart {
    Restart::on_crash().backoff(BRIEF, BRIEF).at_most(1000, LONG).queue_for(BOUND)
}

/// Not within this test.
fn some_day() -> Restart {
    always().backoff(LONG, LONG)
}

/// Kills the process and waits until its host knows.
fn kill_and_wait(probe: &ProbeProxy, ends: &Receiver<plug::Exit>) {
    let pid = pid(probe);
    kill(pid);
    let end = next_end(ends);
    assert_eq!((end.pid(), end.cause()), (pid, ExitCause::Crashed));
}

/// The processes that have written a line into a file.
fn pids(file: &Path) -> Vec<u32> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    // The last line may be half written.
    let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    lines.map(|line| line.trim().parse().unwrap()).collect()
}

/// An evil plugin whose options after the first count from its second start on, and the file with its starts.
fn later(folder: &Folder, options: &[&str]) -> (Command, std::path::PathBuf) {
    let file = folder.join("starts");
    let starts = format!("--starts={}", file.display());
    (evil(&[&[&starts, "--later"], options].concat()), file)
}

#[test]
fn r4_a_plugin_that_is_killed_again_and_again_goes_on() {
    let case = Case::new();
    let (command, ends) = watched(evil(&[]).restart(always()));
    let probe = case.load(command);
    let mut last = 0;
    for _ in 0..5 {
        assert_ne!(pid(&probe), last, "it is another process");
        last = pid(&probe);
        kill_and_wait(&probe, &ends);
        // It waits for the next.
        assert_eq!(probe.echo("on").unwrap(), b"on");
        probe.act(format!("eprint I am {}", pid(&probe))).unwrap();
        case.expect_gone(pid(&probe));
    }
    let lines = probe.peer().stderr_lines().unwrap();
    probe.peer().stop(BOUND).unwrap();
    assert_eq!(lines.count(), 1, "those of the current process");
    assert_eq!(next_end(&ends).cause(), ExitCause::Stopped);
    assert_eq!(probe.echo("after").unwrap_err().delivery(), Delivery::NotSent);
    drop(probe);
    assert!(ends.recv_timeout(BOUND).is_err(), "each end was told once");
    case.finish();
}

#[test]
fn r4_five_crashes_and_it_is_given_up() {
    let case = Case::new();
    let restart = Restart::on_crash().backoff(BRIEF, BRIEF).at_most(5, LONG).queue_for(BOUND);
    let (command, ends) = watched(evil(&[]).restart(restart));
    let probe = case.load(command);
    for crash in 1..=5 {
        probe.act(format!("eprint last words {crash}")).unwrap();
        case.expect_gone(pid(&probe));
        let error = probe.act("exit 7").unwrap_err();
        assert_eq!(error.delivery(), Delivery::MayHaveRun, "{error:?}");
        assert_eq!(next_end(&ends).status(), ExitStatus::Code(7));
    }
    for _ in 0..2 {
        let error = in_time("a call that fails at once", {
            let probe = probe.clone();
            move || probe.echo("after").unwrap_err()
        });
        assert_eq!((error.kind(), error.delivery()), (ErrorKind::Exited, Delivery::NotSent));
        assert!(error.message().contains("after 5 crashes within 1000s"), "{error}");
        assert!(error.message().contains("exited with code 7"), "{error}");
        assert_eq!(error.exit().unwrap().status(), ExitStatus::Code(7), "{error:?}");
        assert!(error.stderr().unwrap().contains("last words 5"), "{error:?}");
    }
    probe.peer().stop(BOUND).unwrap_err();
    drop(probe);
    assert!(ends.recv_timeout(BOUND).is_err(), "each end was told once");
    case.finish();
}

#[test]
fn r4_a_start_that_fails_counts_as_a_crash() {
    let case = Case::new();
    let folder = Folder::new("fail");
    let (command, starts) = later(&folder, &["--fail=no space"]);
    let (command, ends) = watched(command.restart(always().at_most(4, LONG)));
    let probe = case.load(command);
    kill_and_wait(&probe, &ends);
    let error = probe.echo("after").unwrap_err();
    assert_eq!((error.kind(), error.delivery()), (ErrorKind::Exited, Delivery::NotSent));
    assert!(error.message().contains("no space"), "{error}");
    assert_eq!(pids(&starts).len(), 4, "one that was loaded and three that failed");
    drop(probe);
    assert!(ends.recv_timeout(BOUND).is_err(), "those that were not loaded have no notice");
    pids(&starts).into_iter().for_each(|pid| case.expect_gone(pid));
    case.finish();
}

#[test]
fn r5_calls_of_all_kinds_wait_for_the_restart() {
    let case = Case::new();
    let wait = Duration::from_millis(300);
    let (command, ends) = watched(flowing().restart(always().backoff(wait, wait)));
    let flow: FlowProxy = command.load().unwrap().proxy().unwrap();
    let pid = flow.peer().pid().unwrap();
    kill(pid);
    next_end(&ends);
    let calls: Vec<_> = (0..40_u64)
        .map(|call| {
            let flow = flow.clone();
            start(format!("call {call}"), move || match call % 5 {
                0 => flow.ask("method").map(|_| 3),
                1 => Ok(flow.count(3_u64, 10_u64)?.filter(Result::is_ok).count()),
                2 => flow.sum(plug_faults::flow::counted(3, 10)).map(|total| total.items as usize),
                3 => {
                    let items = plug_faults::flow::counted(3, 10);
                    Ok(flow.mirror(items)?.filter(Result::is_ok).count())
                }
                _ => flow.tell("told").map(|()| 3),
            })
        })
        .collect();
    for call in calls {
        assert_eq!(call.get().unwrap(), 3);
    }
    assert_ne!(flow.peer().pid(), Some(pid));
    case.expect_gone(pid);
    drop(flow);
    case.finish();
}

#[test]
fn r5_a_call_waits_no_longer_than_it_may() {
    let case = Case::new();
    let brief = Duration::from_millis(50);
    let (command, ends) = watched(evil(&[]).restart(some_day().queue_for(BOUND)));
    let patient = case.load(command);
    let (command, impatient_ends) = watched(evil(&[]).restart(some_day().queue_for(brief)));
    let impatient = case.load(command);
    kill_and_wait(&patient, &ends);
    kill_and_wait(&impatient, &impatient_ends);

    let begin = Instant::now();
    let error = impatient.echo("x").unwrap_err();
    assert!(begin.elapsed() >= brief);
    assert_eq!((error.kind(), error.delivery()), (ErrorKind::Exited, Delivery::NotSent));
    assert!(error.message().contains("has taken longer than 50ms"), "{error}");
    assert!(error.message().contains("signal 9"), "{error}");

    let error = patient.with_timeout(brief).echo("x").unwrap_err();
    assert_eq!((error.kind(), error.delivery()), (ErrorKind::Deadline, Delivery::NotSent));

    let token = CancelToken::new();
    let mut call = start("a call that is cancelled", {
        let patient = patient.with_cancel(&token);
        move || (patient.echo("x").unwrap_err(), patient.echo("again").unwrap_err())
    });
    assert!(call.is_pending());
    token.cancel();
    let (error, again) = call.get();
    assert_eq!((error.kind(), error.delivery()), (ErrorKind::Cancelled, Delivery::NotSent));
    assert_eq!((again.kind(), again.delivery()), (ErrorKind::Cancelled, Delivery::NotSent));
    drop((patient, impatient));
    case.finish();
}

#[test]
fn r5_a_call_that_may_have_run_is_repeated_once_if_its_method_is_idempotent() {
    let case = Case::new();
    let folder = Folder::new("again");
    let probe = case.load(evil(&[]).restart(always()));
    let again: AgainProxy = probe.peer().proxy().unwrap();
    let of = |verb: &str, name: &str| format!("{verb} {}", folder.join(name).display());

    let error = probe.act(of("die-once-of", "act")).unwrap_err();
    assert_eq!((error.kind(), error.delivery()), (ErrorKind::Exited, Delivery::MayHaveRun));
    assert_eq!(probe.echo("on").unwrap(), b"on");
    assert_eq!(pids(&folder.join("act")).len(), 1, "it is not repeated");

    assert_eq!(again.redo(of("die-once-of", "redo")).unwrap(), "2");
    assert_eq!(again.look(of("die-once-of", "look")).unwrap(), "2");

    // What it always dies of is tried twice, and no more.
    let error = again.redo(of("die-of", "poison")).unwrap_err();
    assert_eq!((error.kind(), error.delivery()), (ErrorKind::Exited, Delivery::MayHaveRun));
    assert_eq!(probe.echo("on").unwrap(), b"on");
    assert_eq!(pids(&folder.join("poison")).len(), 2);

    for name in ["act", "redo", "look", "poison"] {
        pids(&folder.join(name)).into_iter().for_each(|pid| case.expect_gone(pid));
    }
    drop((probe, again));
    case.finish();
}

/// The first try and the wait for the second take their time from one deadline.
#[test]
fn r5_one_deadline_covers_both_tries_of_an_idempotent_call() {
    let case = Case::new();
    let folder = Folder::new("deadline");
    let starts = folder.join("starts");
    let wait = Duration::from_millis(400);
    let probe = case.load(evil(&[]).restart(always().backoff(wait, wait)));
    let again: AgainProxy = probe.peer().proxy().unwrap();
    let left = again
        .with_timeout(LONG)
        .redo(format!("die-once-and-tell-the-time-left {}", starts.display()))
        .unwrap();
    let left = Duration::from_micros(left.parse().unwrap());
    assert_eq!(pids(&starts).len(), 2, "it was tried twice");
    assert!(left < LONG - wait / 2, "{left:?} are left of {LONG:?} after a wait of {wait:?}");
    pids(&starts).into_iter().for_each(|pid| case.expect_gone(pid));
    drop((probe, again));
    case.finish();
}

#[test]
fn a_stop_ends_the_supervision_while_it_waits() {
    let case = Case::new();
    let (command, ends) = watched(evil(&[]).restart(some_day()));
    let probe = case.load(command);
    kill_and_wait(&probe, &ends);
    let waiting = start("a call that waits", {
        let probe = probe.clone();
        move || probe.echo("x").unwrap_err()
    });
    let begin = Instant::now();
    let error = probe.peer().stop(BOUND).unwrap_err();
    assert_soon("the stop", begin.elapsed());
    assert_eq!(error.exit().unwrap().status(), ExitStatus::Signal(9), "how it ended last");
    let error = waiting.get();
    assert_eq!((error.kind(), error.delivery()), (ErrorKind::Exited, Delivery::NotSent));
    assert_eq!(probe.echo("x").unwrap_err().delivery(), Delivery::NotSent);
    drop(probe);
    case.finish();
}

#[test]
fn a_stop_and_a_drop_break_off_a_start() {
    let case = Case::new();
    for is_drop in [false, true] {
        let folder = Folder::new("slow");
        let (command, starts) = later(&folder, &["--slow-start=60000"]);
        let command = command.start_timeout(LONG).restart(always());
        let (command, ends) = watched(command);
        let probe = case.load(command);
        kill_and_wait(&probe, &ends);
        wait_until("the second start", || pids(&starts).len() == 2);
        pids(&starts).into_iter().for_each(|pid| case.expect_gone(pid));
        let begin = Instant::now();
        if !is_drop {
            probe.peer().stop(BOUND).unwrap_err();
            assert!(!is_alive(pids(&starts)[1]), "it has ended when stop returns");
        }
        drop(probe);
        assert_soon("the end of the supervision", begin.elapsed());
        assert!(ends.recv_timeout(BOUND).is_err(), "it was not loaded, so nobody is told");
    }
    case.finish();
}

#[test]
fn a_drop_breaks_off_the_wait_before_a_start() {
    let case = Case::new();
    let (command, ends) = watched(evil(&[]).restart(some_day()));
    let probe = case.load(command);
    kill_and_wait(&probe, &ends);
    let begin = Instant::now();
    drop(probe);
    assert_soon("the drop", begin.elapsed());
    case.finish();
}

fn flowing() -> Command {
    Command::new(env!("CARGO_BIN_EXE_flowing"))
}

/// Says what it is told, and waits where it is told to.
struct Waiting {
    heard: Mutex<Vec<String>>,
    go_on: Mutex<Receiver<()>>,
}

impl Home for Waiting {
    fn up(&self, depth: u32) -> plug::Result<u32> {
        House::default().up(depth)
    }

    fn say(&self, what: String) -> plug::Result<String> {
        let starts = {
            let mut heard = self.heard.lock().unwrap();
            heard.push(what.clone());
            heard.iter().filter(|heard| *heard == "may I start?").count()
        };
        if what == "wait" || (what == "may I start?" && starts == 3) {
            let _ = self.go_on.lock().unwrap().recv_timeout(BOUND);
        }
        Ok(what)
    }

    fn feed(&self, items: u64, size: u64) -> plug::Result<plug::Stream<Item>> {
        House::default().feed(items, size)
    }
}

#[test]
fn the_next_process_is_served_as_the_first_was_also_while_a_handler_for_that_runs() {
    let case = Case::new();
    let (sender, go_on) = channel();
    let home = Arc::new(Waiting { heard: Mutex::default(), go_on: Mutex::new(go_on) });
    let (command, ends) = watched(flowing().serve::<HomeService>(home.clone()).restart(always()));
    let flow: FlowProxy = command.load().unwrap().proxy().unwrap();
    let heard = |what: &str| home.heard.lock().unwrap().iter().filter(|said| *said == what).count();
    assert_eq!(flow.down(5).unwrap(), 5);
    let call = start("a call whose handler calls this host", {
        let flow = flow.clone();
        move || flow.ask("say wait").unwrap_err()
    });
    wait_until("the call back", || heard("wait") == 1);
    let first = flow.peer().pid().unwrap();
    case.expect_gone(first);
    kill(first);
    next_end(&ends);
    assert_eq!(flow.ask("say hello").unwrap(), "hello");
    assert_eq!((heard("hello"), heard("may I start?")), (1, 2));
    assert_eq!(flow.down(5).unwrap(), 5);
    // The thread of the call runs the handler: its error comes when that returns.
    sender.send(()).unwrap();
    let error = call.get();
    assert_eq!((error.kind(), error.delivery()), (ErrorKind::Exited, Delivery::MayHaveRun));

    // A stream stays with its process, and the next begins with the next.
    let mut items = flow.make("block 3").unwrap();
    assert_eq!((&mut items).take(3).filter(Result::is_ok).count(), 3);
    let second = flow.peer().pid().unwrap();
    case.expect_gone(second);
    kill(second);
    assert_eq!(items.next().unwrap().unwrap_err().kind(), ErrorKind::Exited);
    next_end(&ends);

    // The third start waits for its host, and is broken off.
    wait_until("the third start", || heard("may I start?") == 3);
    drop(items);
    let begin = Instant::now();
    drop(flow);
    assert_soon("the drop", begin.elapsed());
    sender.send(()).unwrap();
    drop(home);
    case.finish();
}

/// Calls the plugin that asks it whether it may start.
#[derive(Default)]
struct Eager {
    outcomes: Mutex<Vec<plug::Result<u32>>>,
}

impl Home for Eager {
    fn up(&self, depth: u32) -> plug::Result<u32> {
        House::default().up(depth)
    }

    fn say(&self, what: String) -> plug::Result<String> {
        let called =
            plug::Call::current().peer().map(|plugin| plugin.proxy::<FlowProxy>()?.down(0));
        self.outcomes.lock().unwrap().extend(called);
        Ok(what)
    }

    fn feed(&self, items: u64, size: u64) -> plug::Result<plug::Stream<Item>> {
        House::default().feed(items, size)
    }
}

/// The call would wait for the start, and the start for the call.
#[test]
fn a_handler_that_serves_a_start_cannot_call_that_plugin_and_the_start_goes_on() {
    let case = Case::new();
    let home = Arc::new(Eager::default());
    // Longer than a start may take.
    let restart = always().queue_for(LONG);
    let command = flowing().serve::<HomeService>(home.clone()).restart(restart);
    let (command, ends) = watched(command);
    let flow: FlowProxy = command.load().unwrap().proxy().unwrap();
    let first = flow.peer().pid().unwrap();
    kill(first);
    assert_eq!(next_end(&ends).pid(), first);
    wait_until("the next process", || flow.down(0).is_ok());
    let second = flow.peer().pid().unwrap();
    assert_ne!(first, second);
    [first, second].into_iter().for_each(|pid| case.expect_gone(pid));
    let outcomes = std::mem::take(&mut *home.outcomes.lock().unwrap());
    assert_eq!(outcomes.len(), 2, "a start and a restart, each of which was good: {outcomes:?}");
    for outcome in outcomes {
        let error = outcome.expect_err("it cannot be called yet");
        assert_eq!((error.kind(), error.delivery()), (ErrorKind::Shutdown, Delivery::NotSent));
        assert_eq!(error.code(), Code::FailedPrecondition, "{error:?}");
        assert!(error.message().contains("is still starting"), "{error:?}");
    }
    drop((flow, home));
    case.finish();
}

#[test]
fn a_program_that_offers_something_else_is_not_taken_for_the_one_that_was_loaded() {
    let case = Case::new();
    for option in ["--old", "--other"] {
        let folder = Folder::new("replaced");
        let (command, starts) = later(&folder, &[option]);
        let (command, ends) = watched(command.restart(always()));
        let probe = case.load(command);
        kill_and_wait(&probe, &ends);
        for _ in 0..2 {
            let error = probe.echo("x").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Incompatible, "{error:?}");
            assert_eq!(error.delivery(), Delivery::NotSent);
            assert!(error.message().contains("Load it anew"), "{error}");
        }
        wait_until("the end of the other program", || !is_alive(pids(&starts)[1]));
        assert_eq!(pids(&starts).len(), 2, "it is not tried again");
        drop(probe);
    }
    case.finish();
}

#[test]
fn p15_an_unresponsive_plugin_is_started_again() {
    let case = Case::new();
    let beating = evil(&[]).heartbeat(Duration::from_millis(100), 4);
    let (command, ends) = watched(beating.restart(always()));
    let probe = case.load(command);
    signal(pid(&probe), Signal::STOP);
    assert_eq!(next_end(&ends).cause(), ExitCause::Unresponsive);
    assert_eq!(probe.echo("on").unwrap(), b"on");
    case.expect_gone(pid(&probe));
    drop(probe);
    case.finish();
}
