//! H: what was started is no plugin, or not this one, or not yet.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command as StdCommand, Stdio};
use std::time::{Duration, Instant};

use plug::{Command, Delivery, ErrorKind, ExitStatus};
use plug_faults::load_probe;
use plug_faults::wire::{Frame, Hello};

use crate::aftermath::{
    Case, EVIL, Folder, SOON, assert_exited, assert_soon, evil, in_time, is_alive, pid, raw, start,
    wait_until,
};
use crate::raw_host::RawHost;
use crate::terminal::Terminal;

#[test]
fn h1_a_program_that_exits_is_no_plugin() {
    let case = Case::new();
    let begin = Instant::now();
    let error = Command::new("/bin/true").load().unwrap_err();
    assert_soon("the error", begin.elapsed());
    assert_eq!(error.kind(), ErrorKind::Handshake, "{error:?}");
    assert_eq!(error.exit().unwrap().status(), ExitStatus::Code(0));
    assert!(error.message().contains("exited with code 0 before its hello"), "{error}");
    assert!(error.message().contains("is it a plugin?"), "{error}");
    case.finish();
}

#[test]
fn h2_a_program_that_echoes_is_no_plugin() {
    let case = Case::new();
    let begin = Instant::now();
    let error = Command::new("/bin/cat").load().unwrap_err();
    assert_soon("the error", begin.elapsed());
    assert_eq!(error.kind(), ErrorKind::Handshake, "{error:?}");
    assert!(error.message().contains("echoes"), "{error}");
    case.finish();
}

#[test]
fn h3_a_program_that_says_nothing_is_given_up() {
    let case = Case::new();
    let timeout = Duration::from_millis(300);
    let begin = Instant::now();
    let error = Command::new("/bin/sleep").arg("100").start_timeout(timeout).load().unwrap_err();
    let took = begin.elapsed();
    assert_eq!(error.kind(), ErrorKind::Handshake, "{error:?}");
    assert!(error.message().contains("in time"), "{error}");
    assert!(took >= timeout, "{took:?}");
    assert_soon("the error, beyond its time-out", took - timeout);
    case.finish();
}

#[test]
fn h3_also_one_that_prints_all_the_time() {
    let case = Case::new();
    // Long enough for a shell to begin with it, also on a busy machine.
    let timeout = SOON;
    let begin = Instant::now();
    let error = Command::new("/bin/sh")
        .args(["-c", "while :; do echo still starting >&2; done"])
        .start_timeout(timeout)
        .load()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Handshake, "{error:?}");
    assert!(error.stderr().unwrap().contains("still starting"), "{error:?}");
    assert_soon("the error, beyond its time-out", begin.elapsed() - timeout);
    case.finish();
}

#[test]
fn h5_a_banner_before_the_hello_is_quoted() {
    let case = Case::new();
    // Longer than a preamble, shorter, and with what no terminal should see.
    for banner in ["Welcome to the libfoo 1.2 experience!", "Hi", "\x1b[31mred"] {
        let error = evil(&[&format!("--say={banner}")]).load().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Handshake, "{error:?}");
        let quoted = banner.escape_default().to_string().replace("\\u{1b}", "\\x1b");
        assert!(error.message().contains(&quoted), "{error}");
    }
    case.finish();
}

#[test]
fn h6_the_host_refuses_a_plugin_of_other_versions() {
    let case = Case::new();
    for (min, max) in [("0", "0"), ("4", "4"), ("2", "9")] {
        let begin = Instant::now();
        let error = raw(&["versions", min, max]).load().unwrap_err();
        assert_soon("the error", begin.elapsed());
        assert_eq!(error.kind(), ErrorKind::Incompatible, "{error:?}");
        let text = error.message();
        assert!(text.contains("the host speaks 1, the plugin speaks "), "{error}");
        assert!(text.contains(&format!("speaks {min}")), "{error}");
    }
    for (min, max) in [("1", "1"), ("1", "9"), ("0", "1")] {
        let probe = case.load(raw(&["versions", min, max]));
        assert_eq!(probe.echo("fits").unwrap(), b"fits");
    }
    case.finish();
}

#[test]
fn h6_the_plugin_refuses_a_host_of_other_versions() {
    let case = Case::new();
    let host = RawHost::start(&[], &Hello::of_probe((2, 3)));
    // It still says hello, so that the host learns why.
    let hello = host.hello();
    assert_eq!((hello.version_min, hello.version_max), (1, 1));
    let (code, printed) = in_time("the end of the plugin", move || host.end());
    assert_eq!(code, Some(1), "{printed}");
    assert!(printed.contains("the host speaks 2 to 3, the plugin speaks 1"), "{printed}");

    let mut host = RawHost::start(&[], &Hello::of_probe((1, 3)));
    host.hello();
    host.send(&[Frame::open(1, 1, &plug_faults::EchoRequest { payload: b"fits".to_vec() })]);
    assert_eq!(host.next().call, 1);
    let (code, printed) = in_time("the end of the plugin", move || host.end());
    assert_eq!(code, Some(0), "{printed}");
    case.finish();
}

#[test]
fn h7_what_cannot_be_started_says_why() {
    let case = Case::new();
    let folder = Folder::new("h7");
    let file = |name: &str, content: &[u8], mode: u32| {
        let path = folder.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    let mut alien = fs::read("/bin/true").unwrap();
    // The machine that the program is for: one that never was.
    alien[18..20].copy_from_slice(&[0xfe, 0xca]);
    let cases = [
        (folder.join("nothing"), "is it built, and is the path right?"),
        (file("plain", b"#!/bin/sh\n", 0o644), "is it executable?"),
        (folder.join(""), "it is a directory"),
        (file("text", b"just text\n", 0o755), "not a program for this machine"),
        (file("alien", &alien, 0o755), "not a program for this machine"),
        (file("script", b"#!/no/such/interpreter\n", 0o755), "not the interpreter"),
    ];
    for (path, hint) in cases {
        let error = in_time("a load that fails", {
            let path = path.clone();
            move || Command::new(path).load().unwrap_err()
        });
        assert_eq!(error.kind(), ErrorKind::Spawn, "{error:?}");
        assert!(error.message().contains(path.to_str().unwrap()), "{error}");
        assert!(error.message().contains(hint), "{error:?}");
    }
    let error = Command::new("").load().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Spawn, "{error:?}");
    let error = Command::new("no-such-plugin-anywhere").load().unwrap_err();
    assert!(error.message().contains("no such program in PATH"), "{error}");
    case.finish();
}

#[test]
fn h7_a_missing_library_is_told_by_the_loader() {
    let case = Case::new();
    let folder = Folder::new("h7-library");
    let path = folder.join("plugin");
    let mut program = fs::read("/bin/true").unwrap();
    let name = b"libc.so.6\0";
    let Some(at) = program.windows(name.len()).position(|window| window == name) else {
        println!("skipped: /bin/true is not linked with glibc here");
        return;
    };
    program[at..at + 4].copy_from_slice(b"libX");
    fs::write(&path, program).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let error = Command::new(path).load().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Handshake, "{error:?}");
    assert_eq!(error.exit().unwrap().status(), ExitStatus::Code(127));
    assert!(error.stderr().unwrap().contains("libX.so.6"), "{error:?}");
    case.finish();
}

#[test]
fn h8_a_file_that_is_just_being_written_is_tried_again() {
    let case = Case::new();
    let folder = Folder::new("h8");
    let path = folder.join("plugin");
    fs::copy(EVIL, &path).unwrap();

    let writer = fs::File::options().append(true).open(&path).unwrap();
    let begin = Instant::now();
    let error = Command::new(&path).load().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Spawn, "{error:?}");
    assert!(begin.elapsed() >= Duration::from_millis(900), "it gave up at once: {error}");
    assert_soon("giving up, after a second", begin.elapsed().saturating_sub(SOON / 2));

    let load = {
        let path = path.clone();
        start("the load", move || load_probe(&path))
    };
    // The load may have found the file busy by now, or not: it succeeds either way.
    std::thread::sleep(Duration::from_millis(100));
    drop(writer);
    let probe = load.get().unwrap();
    case.expect_gone(pid(&probe));
    assert_eq!(probe.echo("now").unwrap(), b"now");
    drop(probe);
    case.finish();
}

/// What a person sees who starts a plugin in a terminal.
#[test]
fn h10_started_by_hand_it_says_what_it_is() {
    let case = Case::new();
    let Terminal { keyboard, name } = Terminal::new();
    let terminal = || {
        // Not to become the terminal of the test.
        let flags =
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
        rustix::fs::open(&name, flags, rustix::fs::Mode::empty()).unwrap()
    };
    let mut command = StdCommand::new(EVIL);
    command.stdin(terminal()).stdout(terminal()).stderr(terminal());
    // Also where the variable of a host happens to be set.
    for host in [None, Some("1")] {
        command.env_remove("PLUG_HOST");
        command.envs(host.map(|host| ("PLUG_HOST", host)));
        let status = in_time("the end of the plugin", {
            let mut child = command.spawn().unwrap();
            move || child.wait().unwrap()
        });
        assert_eq!(status.code(), Some(64));
    }
    drop(command);
    let mut text = Vec::new();
    // Once nobody has the terminal open, reading what it shows ends with an error.
    let _ = { keyboard }.read_to_end(&mut text);
    let text = String::from_utf8(text).unwrap();
    assert_eq!(text.matches("evil is a plugin").count(), 2, "{text}");
    assert!(text.contains("probe.Probe, probe.Adder"), "{text}");
    assert!(text.chars().all(|char| !char.is_control() || "\r\n".contains(char)), "{text:?}");
    case.finish();
}

#[test]
fn h10_also_without_a_terminal_and_nothing_on_stdout() {
    let case = Case::new();
    let mut command = StdCommand::new(EVIL);
    command.env_remove("PLUG_HOST").stdin(Stdio::null()).stdout(Stdio::piped());
    let output = command.stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert_eq!(output.stdout, b"");
    assert!(String::from_utf8(output.stderr).unwrap().contains("is a plugin"));
    case.finish();
}

#[test]
fn h12_a_plugin_that_dies_after_its_hello_fails_the_first_call_unsent() {
    let case = Case::new();
    for _ in 0..10 {
        let probe = case.load(raw(&["hello-then-exit"]));
        let pid = pid(&probe);
        wait_until("the end of the plugin", || !is_alive(pid));
        let begin = Instant::now();
        let error = in_time("the first call", move || probe.echo("first").unwrap_err());
        assert_soon("the error", begin.elapsed());
        assert_exited(&error, ExitStatus::Code(3));
        assert_eq!(error.delivery(), Delivery::NotSent, "{error:?}");
    }
    case.finish();
}

#[test]
fn h13_two_hundred_loads_at_once_get_their_own_pipes() {
    let case = Case::new();
    let loads: Vec<_> = (0..40)
        .map(|thread| {
            start("some loads", move || {
                let load = |index| {
                    let probe = load_probe(evil(&[])).unwrap();
                    let payload = format!("{thread} {index}").into_bytes();
                    assert_eq!(probe.echo(payload.clone()).unwrap(), payload);
                    (pid(&probe), probe.act("fds").unwrap(), probe)
                };
                (0..5).map(load).collect::<Vec<_>>()
            })
        })
        .collect();
    let loaded: Vec<_> = loads.into_iter().flat_map(crate::aftermath::Pending::get).collect();
    let mut pids: Vec<_> = loaded.iter().map(|(pid, ..)| *pid).collect();
    pids.sort();
    pids.dedup();
    assert_eq!(pids.len(), 200);
    let mut owners = std::collections::BTreeMap::new();
    for (pid, fds, _) in &loaded {
        let pipes = fds.lines().filter_map(|line| Some(line.split_once(' ')?.1));
        // What this process has been given itself, and passes on, is no concern of ours.
        for pipe in pipes.filter(|pipe| pipe.starts_with("pipe:") && !case.had(pipe)) {
            let owner = owners.insert(pipe.to_owned(), pid);
            assert!(owner.is_none_or(|owner| owner == pid), "two processes have {pipe}: {fds}");
        }
    }
    for pid in pids {
        case.expect_gone(pid);
    }
    drop(loaded);
    case.finish();
}

/// The exit may be noticed before what was said: many at once make sure of that now and then.
#[test]
fn a_plugin_that_does_not_want_to_start_says_why() {
    let case = Case::new();
    let loads: Vec<_> = (0..8)
        .map(|_| {
            start("loads that are refused", || {
                for _ in 0..10 {
                    let error = evil(&["--fail=the database is locked"]).load().unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::Handshake, "{error:?}");
                    assert!(error.message().contains("the database is locked"), "{error:?}");
                }
            })
        })
        .collect();
    loads.into_iter().for_each(crate::aftermath::Pending::get);
    case.finish();
}

#[test]
fn h12_many_that_die_after_their_hello_are_loaded_all_the_same() {
    let case = Case::new();
    let loads: Vec<_> = (0..8)
        .map(|_| {
            start("loads of plugins that die", || {
                for _ in 0..40 {
                    let probe = load_probe(raw(&["loud-hello-then-exit"])).unwrap();
                    assert_exited(&probe.echo("first").unwrap_err(), ExitStatus::Code(3));
                }
            })
        })
        .collect();
    loads.into_iter().for_each(crate::aftermath::Pending::get);
    case.finish();
}
