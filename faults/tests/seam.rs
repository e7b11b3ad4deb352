//! Fail at step N, for every N (H9, F14, M8, M9).
//!
//! Each scenario is played by a host in a process of its own (`seam-host`), so that what happens once per process is
//! tried as well: once as it is, to see which system calls it makes, and then once for each of them and each way in
//! which the system can fail it there. The scenario must succeed or end with an error that says what is wrong; nothing
//! may be left behind, and the next load must work. What fails is the host's; then the same with the plugin's.
//!
//! `RUSTFLAGS="--cfg plug_seam" CARGO_TARGET_DIR=target/seam cargo test -p plug-faults --test seam`

#![cfg(plug_seam)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

/// All of them. `SEAM_ONLY` names those to be played, separated by commas.
const SCENARIOS: [&str; 21] = [
    "load",
    "call",
    "long-message",
    "second-load",
    "describe",
    "in-process",
    "stop",
    "refused",
    "kill",
    "survivor",
    "stderr",
    "idle",
    "deadline",
    "cancel",
    "slow",
    "streams",
    "mirror",
    "nested",
    "chorus",
    "restart",
    "verified",
];

/// Those whose first system calls are not those of every load.
const BEGIN_OTHERWISE: [&str; 4] = ["load", "describe", "in-process", "verified"];

fn scenarios() -> Vec<&'static str> {
    let only = std::env::var("SEAM_ONLY").ok();
    let is_wanted =
        |name: &&str| only.as_ref().is_none_or(|only| only.split(',').any(|one| one == *name));
    SCENARIOS.into_iter().filter(is_wanted).collect()
}

/// Whose system calls fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Host,
    Plugin,
}

/// A scenario, played once.
#[derive(Clone, Debug)]
struct Run {
    scenario: &'static str,
    side: Side,
    rules: String,
    /// How many descriptors more than it has the host may have.
    files: Option<usize>,
    /// How often the side should make a system call at most.
    steps_at_most: usize,
}

/// What came of it.
struct Outcome {
    /// What the scenario ended with: `ok`, or an error.
    said: String,
    steps: Vec<Step>,
}

/// A system call.
#[derive(Clone, Debug)]
struct Step {
    number: usize,
    call: String,
    /// In how many ways it can fail.
    possible: usize,
    /// In which it did.
    failure: Option<String>,
}

impl Run {
    fn new(scenario: &'static str, side: Side, rules: impl Into<String>) -> Run {
        Run { scenario, side, rules: rules.into(), files: None, steps_at_most: 20_000 }
    }

    /// Plays it, and says what is wrong: it hung, panicked, left something behind, or the next load failed.
    fn play(&self) -> Result<Outcome, String> {
        static RUNS: AtomicUsize = AtomicUsize::new(0);
        let unique = format!("{}-{}", std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed));
        let trace = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{unique}.trace"));
        let (rules_name, trace_name) = match self.side {
            Side::Host => ("PLUG_SEAM", "PLUG_SEAM_TRACE"),
            Side::Plugin => ("SEAM_PLUGIN", "SEAM_PLUGIN_TRACE"),
        };
        let mut command = Command::new(env!("CARGO_BIN_EXE_seam-host"));
        command
            .args([self.scenario, EVIL, env!("CARGO_BIN_EXE_flowing"), digest()])
            .env(rules_name, &self.rules)
            .env(trace_name, &trace)
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(files) = self.files {
            command.env("SEAM_FILES", files.to_string());
        }
        let outcome = finish(command);
        let steps = read_trace(&trace);
        let failed = |what: String| {
            let failures = steps.iter().filter(|step| step.failure.is_some()).take(5);
            let failures: Vec<_> = failures.map(Step::describe).collect();
            Err(format!("{self:?}: {what}\n    failed: {}", failures.join(", ")))
        };
        let (said, complaints) = match outcome {
            Ok(outcome) => outcome,
            Err(what) => return failed(what),
        };
        if said.is_empty() {
            return failed(complaints);
        }
        if steps.len() > self.steps_at_most {
            return failed(format!("it spins: {} steps", steps.len()));
        }
        if !self.is_precise(&said) {
            return failed(format!("this is no answer: {said}\n{complaints}"));
        }
        Ok(Outcome { said, steps })
    }

    /// Whether a host can make something of it: success, or an error of the kinds that say that the system or the plugin's
    /// process has failed. A good plugin breaks no protocol, and a handler that was not asked to fails nothing.
    fn is_precise(&self, said: &str) -> bool {
        let kinds = ["Spawn: ", "Handshake: ", "Exited: ", "Shutdown: "];
        // Of a plugin inside the host, no process ends that could say more.
        let is_cut_off = self.scenario == "in-process"
            && said.contains("the other side ended in the middle of a message");
        said == "ok" || is_cut_off || kinds.iter().any(|kind| said.starts_with(kind))
    }
}

const EVIL: &str = env!("CARGO_BIN_EXE_evil");

/// That of the evil plugin.
fn digest() -> &'static str {
    static DIGEST: OnceLock<String> = OnceLock::new();
    DIGEST.get_or_init(|| {
        let digest = Sha256::digest(fs::read(EVIL).unwrap());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    })
}

/// Waits for a process, and returns what it said on stdout and on stderr, the first if it succeeded.
fn finish(mut command: Command) -> Result<(String, String), String> {
    let mut child = command.spawn().unwrap();
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let complaints = thread::spawn(move || {
        let mut text = Vec::new();
        let _ = stderr.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begin.elapsed() > WATCHDOG {
            child.kill().unwrap();
            child.wait().unwrap();
            return Err(format!("it hangs: no end within {WATCHDOG:?}"));
        }
        thread::sleep(Duration::from_millis(2));
    };
    let mut said = String::new();
    if status.success() {
        stdout.read_to_string(&mut said).unwrap();
    }
    Ok((said.trim().to_owned(), complaints.join().unwrap()))
}

fn read_trace(path: &Path) -> Vec<Step> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let _ = fs::remove_file(path);
    let step = |line: &str| {
        let mut words = line.split(' ');
        Some(Step {
            number: words.next()?.parse().ok()?,
            call: words.next()?.to_owned(),
            possible: words.next()?.parse().ok()?,
            failure: words.next().map(str::to_owned),
        })
    };
    text.lines().map(|line| step(line).unwrap_or_else(|| panic!("in the trace: {line}"))).collect()
}

impl Step {
    fn describe(&self) -> String {
        format!("step {} {} {}", self.number, self.call, self.failure.as_deref().unwrap_or("ok"))
    }
}

/// Plays them all, several at a time, and says what was wrong with them.
fn play_all(runs: &[Run]) -> Vec<(Run, Result<Outcome, String>)> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(run) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = run.play();
                    done.lock().unwrap().push((run.clone(), outcome));
                }
            });
        }
    });
    done.into_inner().unwrap()
}

/// Fails if a run went wrong, with all that did.
fn assert_all_right(what: &str, begin: Instant, done: &[(Run, Result<Outcome, String>)]) {
    let mut answers = BTreeMap::<&str, usize>::new();
    for (_, outcome) in done {
        if let Ok(outcome) = outcome {
            let kind = outcome.said.split(':').next().unwrap_or_default();
            *answers.entry(kind).or_default() += 1;
        }
    }
    println!("{what}: {} runs in {:?}: {answers:?}", done.len(), begin.elapsed());
    let wrong: Vec<_> =
        done.iter().filter_map(|(_, outcome)| outcome.as_ref().err().map(String::as_str)).collect();
    assert!(wrong.is_empty(), "{} of {} runs:\n{}", wrong.len(), done.len(), wrong.join("\n"));
}

/// Each step of each scenario in each way.
fn fail_each_step(side: Side, scenarios: &[&'static str]) {
    let begin = Instant::now();
    let mut runs = Vec::new();
    for &scenario in scenarios {
        let outcome = Run::new(scenario, side, "").play().unwrap();
        assert_eq!(outcome.said, "ok", "{scenario}, when nothing fails");
        let count = outcome.steps.len();
        assert!(count > 5, "{scenario} makes {count} system calls of the {side:?}");
        let before = runs.len();
        // The load at the beginning of the others is the same.
        let is_tried = side == Side::Plugin || BEGIN_OTHERWISE.contains(&scenario);
        let skipped = if is_tried { 0 } else { OF_A_LOAD };
        for step in &outcome.steps[skipped.min(count)..] {
            for failure in 0..step.possible {
                let rules = format!("{}=#{failure}", step.number);
                let steps_at_most = 20 * count + 5_000;
                runs.push(Run { steps_at_most, ..Run::new(scenario, side, rules) });
            }
        }
        println!("{scenario}: {count} steps of the {side:?}, {} runs", runs.len() - before);
    }
    let mut done = play_all(&runs);
    for (run, outcome) in &mut done {
        let Ok(played) = outcome else { continue };
        // What the caller is not told of: the other threads may have made another call this time.
        let failure = played.steps.iter().find(|step| step.failure.is_some());
        let is_harmless = failure.is_none_or(|step| {
            matches!(step.failure.as_deref(), Some("EINTR" | "most:1"))
                || (step.call == "write" && step.failure.as_deref() == Some("EAGAIN"))
        });
        // H9: who lacks something for a start is told so.
        let is_lack = failure.is_some_and(|step| match step.failure.as_deref() {
            Some("EMFILE" | "ENFILE" | "ENOMEM") => step.call != "poll",
            Some("EAGAIN") => ["spawn", "thread"].contains(&step.call.as_str()),
            _ => false,
        });
        let is_load = side == Side::Host && ["load", "verified"].contains(&run.scenario);
        let is_told = played.said == "ok" || played.said.starts_with("Spawn: ");
        if is_load && is_lack && !is_told {
            *outcome = Err(format!("{run:?}: {}", played.said));
        } else if is_harmless && played.said != "ok" {
            let failure = failure.map(Step::describe);
            *outcome = Err(format!("{run:?}: {} although only {failure:?} failed", played.said));
        }
    }
    assert_all_right("each step in each way", begin, &done);
}

#[test]
fn h9_f14_each_system_call_of_a_host_fails() {
    fail_each_step(Side::Host, &scenarios());
}

#[test]
fn h9_f14_each_system_call_of_a_plugin_fails() {
    // In the others it does the same, or nothing that goes through the seam.
    fail_each_step(Side::Plugin, &["call", "long-message", "slow", "streams", "nested"]);
}

/// Bytes arrive as they were sent, however they are cut, and whatever is interrupted.
#[test]
fn f14_interrupted_short_and_put_off_again_and_again() {
    let begin = Instant::now();
    let mut runs = Vec::new();
    for scenario in scenarios() {
        for side in [Side::Host, Side::Plugin] {
            for rules in [
                "read/2=EINTR,write/2=EINTR,poll/2=EINTR,epoll-wait/2=EINTR,waitid/2=EINTR",
                "write/2=EAGAIN",
                "write=most:1",
                "read=most:3",
                "read=most:7,write=most:11",
            ] {
                // One read for each few bytes, also of what a plugin prints.
                let steps_at_most = 4_000_000;
                runs.push(Run { steps_at_most, ..Run::new(scenario, side, rules) });
            }
        }
    }
    let mut done = play_all(&runs);
    all_must_succeed(&mut done);
    assert_all_right("again and again", begin, &done);
}

/// Slow handlers delay the others, and nothing hangs.
#[test]
fn m8_no_thread_can_be_made() {
    let begin = Instant::now();
    let mut runs = Vec::new();
    for scenario in scenarios() {
        // Without its watcher, a host loads nothing.
        runs.push(Run::new(scenario, Side::Host, "thread=EAGAIN"));
        runs.push(Run::new(scenario, Side::Host, "thread>1=EAGAIN"));
        // Its handler hangs for good, so the others wait for good.
        if scenario != "survivor" {
            runs.push(Run::new(scenario, Side::Plugin, "thread>1=EAGAIN"));
        }
    }
    let mut done = play_all(&runs);
    assert_all_right("without threads", begin, &done);
    done.retain(|(run, _)| run.rules == "thread>1=EAGAIN");
    done.retain(|(run, _)| run.side == Side::Plugin || !NEED_THREADS.contains(&run.scenario));
    all_must_succeed(&mut done);
    assert_all_right("without threads but the watcher", begin, &done);
}

/// What a host cannot do without a thread: a plugin inside it, a restart, and to serve a plugin that calls it unasked, as
/// the flowing one does when it starts.
const NEED_THREADS: [&str; 8] =
    ["in-process", "streams", "mirror", "chorus", "deadline", "cancel", "nested", "restart"];

/// What the system lacks for the moment does not end the supervision.
#[test]
fn r4_a_restart_without_a_thread_is_tried_again() {
    // The first is the watcher's.
    let outcome = Run::new("restart", Side::Host, "thread/2=EAGAIN").play().unwrap();
    assert_eq!(outcome.said, "ok");
    let threads = outcome.steps.iter().filter(|step| step.call == "thread");
    let failures: Vec<_> = threads.map(|step| step.failure.as_deref()).collect();
    assert_eq!(failures[..3], [None, Some("EAGAIN"), None], "what follows drops what is left");
    // As often as the policy allows.
    let outcome = Run::new("restart", Side::Host, "thread>1=EAGAIN").play().unwrap();
    assert!(outcome.said.starts_with("Exited: "), "{}", outcome.said);
    assert!(outcome.said.contains("after 5 crashes"), "{}", outcome.said);
    assert!(outcome.said.contains("no thread could be made"), "{}", outcome.said);
}

#[test]
fn messages_do_without_large_pages() {
    for side in [Side::Host, Side::Plugin] {
        let outcome = Run::new("huge-message", side, "advise=EINVAL").play().unwrap();
        assert_eq!(outcome.said, "ok", "without those of the {side:?}");
        let asked = outcome.steps.iter().filter(|step| step.call == "advise");
        assert!(asked.count() > 0, "the {side:?} has not asked for any");
    }
}

#[test]
fn m9_without_proc() {
    let begin = Instant::now();
    let mut runs = Vec::new();
    for scenario in scenarios() {
        for side in [Side::Host, Side::Plugin] {
            runs.push(Run::new(scenario, side, "proc=ENOENT"));
        }
    }
    let mut done = play_all(&runs);
    all_must_succeed(&mut done);
    assert_all_right("without /proc", begin, &done);
}

/// What fails for want of descriptors goes on failing, unlike in the other tests.
#[test]
fn h9_a_host_that_may_have_few_descriptors() {
    let begin = Instant::now();
    let mut runs = Vec::new();
    for scenario in scenarios() {
        for files in 0..=16 {
            runs.push(Run { files: Some(files), ..Run::new(scenario, Side::Host, "") });
        }
    }
    let done = play_all(&runs);
    for scenario in scenarios() {
        let of_scenario = || done.iter().filter(|(run, _)| run.scenario == scenario);
        let succeeded = |outcome: &Result<Outcome, String>| {
            outcome.as_ref().is_ok_and(|outcome| outcome.said == "ok")
        };
        let count = of_scenario().filter(|(_, outcome)| succeeded(outcome)).count();
        let all = of_scenario().count();
        assert!(0 < count && count < all, "{scenario} worked with {count} of {all} limits");
    }
    assert_all_right("few descriptors", begin, &done);
}

fn all_must_succeed(done: &mut [(Run, Result<Outcome, String>)]) {
    for (run, outcome) in done {
        let said = outcome.as_ref().map_or("ok", |outcome| &outcome.said);
        if said != "ok" {
            *outcome = Err(format!("{run:?}: {said}"));
        }
    }
}

#[test]
fn each_kind_of_system_call_is_made() {
    let mut made = BTreeMap::<String, usize>::new();
    for scenario in scenarios() {
        for side in [Side::Host, Side::Plugin] {
            for step in Run::new(scenario, side, "").play().unwrap().steps {
                *made.entry(step.call).or_default() += 1;
            }
        }
    }
    println!("{made:?}");
    for call in [
        "pipe",
        "duplicate",
        "set-flags",
        "resize",
        "read",
        "write",
        "readable",
        "poll",
        "epoll-create",
    ]
    .into_iter()
    .chain(["epoll-control", "epoll-wait", "timer-create", "timer-set", "event-create"])
    .chain(["event-write", "pidfd-open", "waitid", "kill", "limit", "spawn", "thread", "proc"])
    .chain(["memory", "open"])
    {
        assert!(made.contains_key(call), "no scenario makes a {call}");
    }
}

#[test]
fn a_trace_says_what_failed() {
    let outcome = Run::new("load", Side::Host, "spawn=ENOMEM").play().unwrap();
    assert!(outcome.said.starts_with("Spawn: "), "{}", outcome.said);
    let failed: Vec<_> = outcome.steps.iter().filter(|step| step.failure.is_some()).collect();
    assert_eq!(failed.len(), 1);
    assert_eq!((failed[0].call.as_str(), failed[0].failure.as_deref()), ("spawn", Some("ENOMEM")));
    assert!(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).is_dir());
}

/// How many steps a load takes at least.
const OF_A_LOAD: usize = 15;

/// How long a run may take. What waits longest in it is a process that could not be killed at once.
const WATCHDOG: Duration = Duration::from_secs(25);

/// How many run at once: some of them wait most of the time.
const AT_ONCE: usize = 6;
