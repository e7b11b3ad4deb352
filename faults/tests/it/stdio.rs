//! S: what a plugin prints and reads beside the protocol, and what it inherits.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use plug::{Command, Proxy as _};
use plug_faults::{ProbeProxy, load_probe};

use crate::aftermath::{BOUND, Case, EVIL, assert_soon, evil, in_time, start};
use crate::ends::Host;
use crate::terminal::Terminal;

/// The next line that a plugin prints and that has something to do with the test.
fn line_with(probe: &ProbeProxy, text: &str) -> String {
    let mut lines = probe.peer().stderr_lines().unwrap();
    let text = text.to_owned();
    in_time(format!("a line with {text:?}"), move || {
        lines.find(|line| line.contains(&text)).expect("it came before the end")
    })
}

#[test]
fn s1_whatever_prints_to_stdout_is_text_of_stderr() {
    let case = Case::new();
    let probe = case.evil(&[]);
    for (act, line) in [
        ("print by println", "by println"),
        ("eprint by eprintln", "by eprintln"),
        ("write by write(1)", "by write(1)"),
        ("child-print by a child", "and by a child"),
    ] {
        probe.act(act).unwrap();
        assert_eq!(line_with(&probe, line), line);
        assert_eq!(probe.echo("intact").unwrap(), b"intact");
    }
    drop(probe);
    case.finish();
}

#[test]
fn s2_stdin_is_empty() {
    let case = Case::new();
    let probe = case.evil(&[]);
    let call = {
        let probe = probe.clone();
        start("the end of stdin", move || probe.act("read"))
    };
    assert_eq!(call.get().unwrap(), "0");
    drop(probe);
    case.finish();
}

#[test]
fn s3_a_plugin_that_prints_a_lot_never_waits_for_who_reads_it() {
    let case = Case::new();
    let probe = case.evil(&[]);
    // It is there, and does not read.
    let lines = probe.peer().stderr_lines().unwrap();
    let begin = Instant::now();
    let mut call = {
        let probe = probe.clone();
        start("1 GiB of output", move || probe.act("spew 1024"))
    };
    let mut calls = 0;
    while call.is_pending() {
        assert_eq!(probe.echo("beside").unwrap(), b"beside");
        calls += 1;
    }
    println!("1 GiB in {:?}, {calls} calls beside it", begin.elapsed());
    let longest: u64 = call.get().unwrap().parse().unwrap();
    assert_soon("the longest of its writes", Duration::from_micros(longest));
    // Once this returns, all that was printed has been read by the runtime, and nothing by this test.
    let peer = probe.peer().clone();
    in_time("the stop", move || peer.stop(BOUND).unwrap());
    drop(probe);
    let (kept, dropped) = in_time("the rest of the lines", move || {
        let mut lines = lines;
        let kept: usize = lines.by_ref().map(|line| line.len() + 1).sum();
        (kept, lines.dropped_bytes())
    });
    assert_eq!(kept as u64 + dropped, 1 << 30, "{kept} bytes kept");
    assert!(kept <= 64 << 10, "{kept}");
    case.finish();
}

#[test]
fn s4_lines_without_end_and_bytes_that_are_no_text() {
    let case = Case::new();
    let probe = case.evil(&[]);
    let lines = probe.peer().stderr_lines().unwrap();
    probe.act("bytes").unwrap();
    let nul = line_with(&probe, "nul");
    assert_eq!(nul, "nul \0, bad \u{fffd}\u{fffd}, red \x1b[31m, bell \x07");
    probe.act("line 10").unwrap();
    let error = {
        let probe = probe.clone();
        probe.act("bytes").unwrap();
        in_time("the call", move || probe.act("abort").unwrap_err())
    };
    let tail = error.stderr().unwrap();
    assert!(tail.ends_with("red \\u{1b}[31m, bell \\u{7}"), "{}", &tail[tail.len() - 80..]);
    assert!(tail.contains("nul \\u{0}, bad \u{fffd}\u{fffd}"));
    assert!(tail.chars().all(|char| char == '\n' || !char.is_control()));
    let lines: Vec<String> = in_time("the lines", move || lines.collect());
    assert!(lines.len() > 1, "a long line comes in pieces");
    assert!(lines.iter().all(|line| line.len() <= 8 << 10));
    drop(probe);
    case.finish();
}

#[test]
fn s6_nobody_has_to_read_the_output() {
    let case = Case::new();
    let probe = case.evil(&[]);
    drop(probe.peer().stderr_lines());
    for _ in 0..4 {
        probe.act("spew 1").unwrap();
        probe.act("eprint still").unwrap();
    }
    assert_eq!(line_with(&probe, "still"), "still");
    drop(probe);
    case.finish();
}

#[test]
fn s5_a_callback_for_lines_that_panics_is_given_the_next_line() {
    let case = Case::new();
    let (sender, lines) = channel();
    let command = evil(&[]).on_stderr_line(move |line| {
        sender.send(line.to_owned()).unwrap();
        assert!(!line.contains("bad"), "a bad line");
    });
    let probe = case.load(command);
    probe.act("eprint bad").unwrap();
    probe.act("eprint good").unwrap();
    for expected in ["bad", "good"] {
        assert_eq!(lines.recv_timeout(BOUND).expect(expected), expected);
    }
    drop(probe);
    // What is left of it ends after the plugin, and drops the callback.
    let end = in_time("the end of the lines", move || lines.recv());
    assert!(end.is_err(), "{end:?}");
    case.finish();
}

#[test]
fn s5_a_callback_for_lines_that_blocks_misses_lines_and_stops_nobody() {
    let case = Case::new();
    let (entered, is_entered) = channel();
    let (go_on, is_on) = channel::<()>();
    let mut count = 0;
    let command = evil(&[]).on_stderr_line(move |line| {
        count += line.len() + 1;
        entered.send(count).unwrap();
        // Until the test lets it go on.
        let _ = is_on.recv();
    });
    let probe = case.load(command);
    probe.act("eprint first").unwrap();
    is_entered.recv_timeout(BOUND).expect("the callback runs");
    let call = {
        let probe = probe.clone();
        start("16 MiB of output", move || probe.act("spew 16"))
    };
    call.get().unwrap();
    assert_eq!(probe.echo("beside").unwrap(), b"beside");
    let peer = probe.peer().clone();
    in_time("the stop", move || peer.stop(BOUND).unwrap());
    drop(probe);
    drop(go_on);
    let taken = in_time("the rest of the lines", move || is_entered.iter().last().unwrap());
    assert!(taken > 6 && taken <= 6 + (64 << 10), "the first line, and what was kept: {taken}");
    case.finish();
}

#[test]
fn s5_a_callback_for_lines_hears_why_a_load_fails() {
    let case = Case::new();
    let (sender, lines) = channel();
    let command = evil(&["--fail=it does not want to"]);
    let command = command.on_stderr_line(move |line| sender.send(line.to_owned()).unwrap());
    load_probe(command).unwrap_err();
    let lines: Vec<String> = in_time("the end of the lines", move || lines.iter().collect());
    assert_eq!(lines, ["Error: it does not want to"]);

    let (sender, lines) = channel();
    let command = Command::new("/bin/sh").args(["-c", "echo no plugin >&2"]);
    let command = command.on_stderr_line(move |line| sender.send(line.to_owned()).unwrap());
    load_probe(command).unwrap_err();
    let lines: Vec<String> = in_time("the end of the lines", move || lines.iter().collect());
    assert_eq!(lines, ["no plugin"]);
    case.finish();
}

#[test]
fn what_is_forwarded_comes_line_by_line_and_escaped() {
    let case = Case::new();
    let args = ["forward", EVIL, "eprint one", "bytes", "print two"];
    let mut host = Host::start_with(&case, &args, Stdio::piped());
    let printed = BufReader::new(host.child.0.stderr.take().unwrap()).lines();
    let lines: Vec<String> = in_time("three lines", move || printed.take(3).flatten().collect());
    let bytes = "nul \\u{0}, bad \u{fffd}\u{fffd}, red \\u{1b}[31m, bell \\u{7}";
    assert_eq!(lines, ["one", bytes, "two"]);
    host.kill();
    case.finish();
}

/// The plugin prints more than a pipe holds, to a host whose own stderr nobody reads, or has closed.
#[test]
fn s5_forwarding_to_a_stderr_that_takes_nothing_stops_nobody() {
    let case = Case::new();
    for closed in [false, true] {
        let flags = rustix::pipe::PipeFlags::CLOEXEC;
        let (reader, writer) = rustix::pipe::pipe_with(flags).unwrap();
        let reader = (!closed).then_some(reader);
        // It says which process the plugin is when that has printed all.
        let host =
            Host::start_with(&case, &["forward", EVIL, "spew 4", "print end"], writer.into());
        host.kill();
        drop(reader);
    }
    case.finish();
}

#[test]
fn s10_a_terminal_that_stops_who_writes_in_the_background_does_not_stop_a_plugin() {
    let case = Case::new();
    let terminal = Terminal::new();
    let screen = BufReader::new(terminal.keyboard.try_clone().unwrap());
    let args = ["forward-to-terminal", &terminal.name, EVIL, "eprint on the screen"];
    // It says which process the plugin is when that has printed.
    let host = Host::start(&case, &args);
    let line = in_time("a line on the screen", move || screen.lines().next().unwrap().unwrap());
    assert_eq!(line, "on the screen");
    host.kill();
    // Until then, since its end would be that of the session.
    drop(terminal);
    case.finish();
}

#[test]
fn x5_the_environment_is_what_was_said() {
    let case = Case::new();
    let names = |probe: &ProbeProxy| -> BTreeSet<String> {
        probe.act("env").unwrap().lines().map(str::to_owned).collect()
    };
    let is_harmless = |name: &str| {
        let harmless = [
            "HOME",
            "LANG",
            "LANGUAGE",
            "LOGNAME",
            "PATH",
            "RUST_BACKTRACE",
            "SHELL",
            "TERM",
            "TMPDIR",
            "TZ",
            "USER",
        ];
        harmless.contains(&name) || name.starts_with("LC_") || name.starts_with("XDG_")
    };
    // Cargo sets some for the test. They stand for secrets.
    let own: Vec<_> = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect();
    let secret =
        own.iter().find(|name| !is_harmless(name)).expect("cargo or the shell has set some");
    let probe = case.load(evil(&[]).env("GIVEN", "a value").env_remove("HOME"));
    let given = names(&probe);
    assert_eq!(probe.act("var GIVEN").unwrap(), "a value");
    assert_eq!(probe.act("var PLUG_HOST").unwrap(), std::process::id().to_string());
    assert_eq!(probe.act("var PATH").unwrap(), std::env::var("PATH").unwrap_or_default());
    assert!(!given.contains("HOME") && given.contains("GIVEN"), "{given:?}");
    for name in given {
        assert!(is_harmless(&name) || ["GIVEN", "PLUG_HOST"].contains(&name.as_str()), "{name}");
    }
    drop(probe);
    let probe = case.load(evil(&[]).inherit_env().env_remove("PATH"));
    let inherited = names(&probe);
    assert!(inherited.contains(secret) && !inherited.contains("PATH"), "{inherited:?}");
    drop(probe);
    let probe = case.load(evil(&[]).current_dir("/"));
    assert_eq!(probe.act("where").unwrap(), "/");
    drop(probe);
    case.finish();
}

#[test]
fn a_child_of_the_plugin_does_not_get_the_pipes_of_the_protocol() {
    let case = Case::new();
    let probe = case.evil(&[]);
    let open = |fds: &str| -> Vec<(u32, String)> {
        let lines = fds.lines().filter_map(|line| line.split_once(' '));
        lines.map(|(fd, target)| (fd.parse().unwrap(), target.to_owned())).collect()
    };
    let own = open(&probe.act("fds").unwrap());
    let target = |fd: u32| own.iter().find(|(number, _)| *number == fd).unwrap().1.clone();
    assert_eq!(target(0), "/dev/null");
    assert_eq!(target(1), target(2), "what is printed to stdout goes to stderr");
    // The rest that is not from the host's own parent.
    let protocol: Vec<_> = own
        .iter()
        .filter(|(fd, pipe)| *fd > 2 && pipe.starts_with("pipe:") && !case.had(pipe))
        .collect();
    // The two, and on the portable path those that wake its watcher and its reader.
    assert!(protocol.len() >= 2, "{own:?}");

    let piped = open(&probe.act("child-fds").unwrap());
    probe.act("inheriting-child-fds").unwrap();
    probe.act("eprint end of list").unwrap();
    let mut lines = probe.peer().stderr_lines().unwrap();
    let inherited: String = in_time("the list", move || {
        lines.by_ref().take_while(|line| line != "end of list").map(|line| line + "\n").collect()
    });
    for fds in [piped, open(&inherited)] {
        assert!(fds.len() >= 3, "{fds:?}");
        for (_, pipe) in &protocol {
            assert!(fds.iter().all(|(_, target)| target != pipe), "{pipe} in {fds:?}");
        }
    }
    drop(probe);
    case.finish();
}
