//! X1 to X4, X6, X10, X14: that what is started is what was meant.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use plug::{Command, Error, ErrorKind, Proxy as _};
use plug_faults::load_probe;
use sha2::{Digest as _, Sha256};

use crate::aftermath::{Case, EVIL, Folder, HOST, evil};
use crate::streams::FLOWING;

pub(crate) fn digest(path: impl AsRef<Path>) -> String {
    let digest = Sha256::digest(fs::read(path).unwrap());
    digest.iter().fold(String::new(), |mut digits, byte| {
        write!(digits, "{byte:02x}").unwrap();
        digits
    })
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[track_caller]
fn assert_refused(error: &Error, texts: &[&str]) {
    assert_eq!(error.kind(), ErrorKind::Spawn, "{error:?}");
    for text in texts {
        assert!(error.message().contains(text), "no {text:?} in {error:?}");
    }
}

#[cfg(plug_portable)]
#[test]
fn what_cannot_be_verified_is_not_started() {
    let case = Case::new();
    let error = load_probe(evil(&[]).sha256(digest(EVIL))).unwrap_err();
    assert_refused(&error, &["this system has no memory that can be sealed"]);
    case.finish();
}

#[cfg(not(plug_portable))]
mod verified {
    use std::io::Write as _;

    use super::*;
    use crate::aftermath::{BOUND, in_time, start};

    fn len(path: &Path) -> String {
        fs::metadata(path).unwrap().len().to_string()
    }

    /// The evil plugin with some bytes behind its end, which change its digest and nothing else.
    fn longer(path: &Path, by: usize) {
        fs::copy(EVIL, path).unwrap();
        fs::File::options().append(true).open(path).unwrap().write_all(&vec![b'+'; by]).unwrap();
    }

    #[test]
    fn x1_what_was_swapped_between_approval_and_start_does_not_run() {
        let case = Case::new();
        let folder = Folder::new("x1");
        let (path, link, other) =
            (folder.join("plugin"), folder.join("link"), folder.join("other"));
        fs::copy(EVIL, &path).unwrap();
        symlink(&path, &link).unwrap();
        let approved = digest(&path);
        longer(&other, 1);
        let load = |path: &Path| load_probe(Command::new(path).sha256(&approved));
        for path in [&path, &link] {
            let probe = load(path).unwrap();
            assert_eq!(probe.act("exe").unwrap(), len(Path::new(EVIL)));
            case.expect_gone(probe.peer().pid().unwrap());
        }
        // The link.
        fs::remove_file(&link).unwrap();
        symlink(&other, &link).unwrap();
        assert_refused(&load(&link).unwrap_err(), &[&digest(&other)]);
        // The content.
        longer(&path, 2);
        assert_refused(&load(&path).unwrap_err(), &[&digest(&path)]);
        // The file at the path.
        fs::rename(&other, &path).unwrap();
        assert_refused(&load(&path).unwrap_err(), &[&digest(&path)]);
        case.finish();
    }

    #[test]
    fn x1_a_plugin_that_runs_does_not_care_for_its_file() {
        let case = Case::new();
        let folder = Folder::new("x1-running");
        let path = folder.join("plugin");
        fs::copy(EVIL, &path).unwrap();
        let probe = case.load(Command::new(&path).sha256(digest(&path)));
        // It could not be written while it was executed; what is executed is the copy.
        fs::write(&path, vec![0; 10 << 20]).unwrap();
        assert_eq!(probe.act("exe").unwrap(), len(Path::new(EVIL)));
        probe.act("child-print goes on").unwrap();
        drop(probe);
        case.finish();
    }

    #[test]
    fn x1_a_restart_runs_the_approved_copy_again() {
        let case = Case::new();
        let folder = Folder::new("x1-restart");
        let path = folder.join("plugin");
        fs::copy(EVIL, &path).unwrap();
        let brief = std::time::Duration::from_millis(1);
        let restart = plug::Restart::on_crash().backoff(brief, brief).queue_for(BOUND);
        let probe = case.load(Command::new(&path).sha256(digest(&path)).restart(restart));
        fs::remove_file(&path).unwrap();
        longer(&path, 1);
        let first = probe.peer().pid().unwrap();
        in_time("the crash", {
            let probe = probe.clone();
            move || probe.act("abort").unwrap_err()
        });
        let said = in_time("the restart", {
            let probe = probe.clone();
            move || probe.act("exe").unwrap()
        });
        assert_eq!(said, len(Path::new(EVIL)));
        assert_ne!(probe.peer().pid().unwrap(), first);
        case.expect_gone(probe.peer().pid().unwrap());
        drop(probe);
        case.finish();
    }

    /// Each load meets the file in another state. Whatever it meets, the approved program runs, or none.
    #[test]
    fn x1_a_file_that_changes_all_the_time_runs_approved_or_not_at_all() {
        let case = Case::new();
        let folder = Folder::new("x1-race");
        let (path, good, bad) = (folder.join("plugin"), folder.join("good"), folder.join("bad"));
        fs::copy(EVIL, &good).unwrap();
        longer(&bad, 1);
        fs::copy(&good, &path).unwrap();
        let approved = digest(&good);
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let attacker = {
            let (path, next) = (path.clone(), folder.join("next"));
            start("the attacker", move || {
                while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                    // In place, and by another file.
                    fs::copy(&bad, &path).unwrap();
                    fs::copy(&good, &next).unwrap();
                    fs::rename(&next, &path).unwrap();
                }
            })
        };
        let (mut ran, mut refused) = (0, 0);
        for _ in 0..20 {
            match load_probe(Command::new(&path).sha256(&approved)) {
                Ok(probe) => {
                    assert_eq!(probe.act("exe").unwrap(), len(Path::new(EVIL)));
                    ran += 1;
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Spawn, "{error:?}");
                    refused += 1;
                }
            }
        }
        drop(stop);
        attacker.get();
        println!("{ran} ran, {refused} were refused");
        case.finish();
    }

    #[test]
    fn x2_a_program_with_another_digest_is_not_executed() {
        let case = Case::new();
        let folder = Folder::new("x2");
        let marker = folder.join("marker");
        let touch = |digest: &str| {
            load_probe(Command::new("/bin/touch").arg(&marker).sha256(digest)).unwrap_err()
        };
        let wrong = digest(EVIL);
        let error = touch(&wrong);
        assert_refused(&error, &["/bin/touch", &wrong, &digest("/bin/touch")]);
        assert!(!marker.exists(), "it ran");
        // With its own digest it runs: so the marker says something.
        assert_eq!(touch(&digest("/bin/touch")).kind(), ErrorKind::Handshake);
        assert!(marker.exists());
        case.finish();
    }

    #[test]
    fn x2_what_is_no_digest_is_said_so() {
        let case = Case::new();
        let right = digest(EVIL);
        for wrong in
            ["", "abc", &right[1..], &format!("{right}0"), &right.replace(&right[..1], "g")]
        {
            let error = load_probe(evil(&[]).sha256(wrong)).unwrap_err();
            assert_refused(&error, &[&format!("{wrong:?} is not a SHA-256 digest")]);
        }
        case.load(evil(&[]).sha256(right.to_uppercase())).echo("loaded").unwrap();
        case.finish();
    }

    #[test]
    fn x10_what_would_not_run_from_a_copy_says_why() {
        let case = Case::new();
        let folder = Folder::new("x10");
        let file = |name: &str, content: &[u8], mode: u32| {
            let path = folder.join(name);
            fs::write(&path, content).unwrap();
            set_mode(&path, mode);
            path
        };
        let pipe = folder.join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        let mut alien = fs::read("/bin/true").unwrap();
        alien[18..20].copy_from_slice(&[0xfe, 0xca]);
        let cases = [
            (file("script", b"#!/bin/sh\nexit 3\n", 0o755), "a script cannot be verified"),
            (file("text", b"just text\n", 0o755), "not a program for this machine"),
            (file("empty", b"", 0o755), "not a program for this machine"),
            (file("alien", &alien, 0o755), "not a program for this machine"),
            (file("plain", &fs::read("/bin/true").unwrap(), 0o644), "is it executable?"),
            (folder.join(""), "no regular file"),
            (folder.join("nothing"), "is it built, and is the path right?"),
            (pipe, "no regular file"),
        ];
        for (path, text) in cases {
            let content = if path.is_file() { digest(&path) } else { digest(EVIL) };
            let command = Command::new(&path).sha256(content);
            let error = in_time("a load that fails", move || load_probe(command).unwrap_err());
            assert_refused(&error, &[text]);
        }
        case.finish();
    }

    #[test]
    fn a_plugin_runs_from_its_copy_as_from_its_file() {
        let case = Case::new();
        let command = || Command::new(EVIL).sha256(digest(EVIL));
        let description = command().describe().unwrap();
        assert_eq!(description.name(), "evil");
        // One that has no name but that of its program.
        let peer = command().arg("--old").current_dir("/").load().unwrap();
        assert_eq!(peer.name(), "evil");
        case.expect_gone(peer.pid().unwrap());
        drop(peer);
        let probe = case.load(command().max_memory(1 << 30));
        let fds = probe.act("fds").unwrap();
        assert!(!fds.contains("memfd:evil"), "it has its own copy open: {fds}");
        assert_eq!(probe.echo("works").unwrap(), b"works");
        let error = probe.act("panic as ever").unwrap_err();
        assert!(error.message().contains("as ever"), "{error}");
        drop(probe);
        case.finish();
    }
}

#[test]
fn scripts_run_unless_they_must_be_verified() {
    let case = Case::new();
    let folder = Folder::new("script");
    let path = folder.join("plugin");
    fs::write(&path, format!("#!/bin/sh\nexec '{EVIL}' \"$@\"\n")).unwrap();
    set_mode(&path, 0o755);
    let probe = case.load(Command::new(&path));
    assert_eq!(probe.echo("works").unwrap(), b"works");
    drop(probe);
    case.finish();
}

/// A folder whose path others cannot change, as far as this test can see to that.
fn private(folder: &Folder) -> PathBuf {
    set_mode(&folder.join(""), 0o700);
    let path = folder.join("plugin");
    fs::copy(EVIL, &path).unwrap();
    set_mode(&path, 0o755);
    path
}

#[test]
fn x4_strict_refuses_what_others_may_write() {
    let case = Case::new();
    let folder = Folder::new("x4");
    let path = private(&folder);
    let load = |path: &Path| load_probe(Command::new(path).strict(true));
    case.expect_gone(load(&path).unwrap().peer().pid().unwrap());

    let refused = |path: &Path, texts: &[&str]| {
        assert_refused(&load(path).unwrap_err(), texts);
        // Without, it is loaded.
        load_probe(path).unwrap();
    };
    for mode in [0o775, 0o757] {
        set_mode(&path, mode);
        refused(&path, &[&format!("may write {} (mode {mode:04o})", path.display()), "chmod go-w"]);
    }
    set_mode(&path, 0o755);
    let open = folder.join("open");
    fs::create_dir(&open).unwrap();
    let link = open.join("link");
    symlink("../plugin", &link).unwrap();
    set_mode(&open, 0o777);
    refused(&link, &[&format!("may write {} (mode 0777)", open.display())]);
    set_mode(&open, 0o1777);
    case.expect_gone(load(&link).unwrap().peer().pid().unwrap());
    case.finish();
}

#[test]
fn x14_strict_refuses_a_program_that_runs_as_somebody_else() {
    let case = Case::new();
    let folder = Folder::new("x14");
    let path = private(&folder);
    set_mode(&path, 0o4755);
    let error = load_probe(Command::new(&path).strict(true)).unwrap_err();
    assert_refused(&error, &["runs as another user", "chmod ug-s"]);
    case.finish();
}

#[test]
fn x3_strict_refuses_a_bare_name() {
    let case = Case::new();
    let error = Command::new("true").strict(true).load().unwrap_err();
    assert_refused(&error, &["a name to be looked up in PATH", "/true"]);
    let error = Command::new("").strict(true).load().unwrap_err();
    assert_refused(&error, &["its path is empty"]);
    let error = Command::new("/no/such/plugin").strict(true).load().unwrap_err();
    assert_refused(&error, &["is it built, and is the path right?"]);
    case.finish();
}

/// A host with a plugin in its working directory, which `PATH` names too, as `.` and as nothing.
#[test]
fn x3_the_working_directory_is_never_searched() {
    let case = Case::new();
    let folder = Folder::new("x3");
    fs::copy(EVIL, folder.join("plug-x3-plugin")).unwrap();
    let host = |program: &str| {
        let mut command = std::process::Command::new(HOST);
        command.args(["leave", program]).current_dir(folder.join("")).env("PATH", ".::/bin");
        let output = command.stderr(Stdio::piped()).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (found, text) = host("plug-x3-plugin");
    assert!(!found && text.contains("write ./plug-x3-plugin"), "{text}");
    assert!(host("./plug-x3-plugin").0, "a path is a path");
    case.finish();
}

#[test]
fn x6_plugins_get_nothing_of_what_the_runtime_has_open() {
    let case = Case::new();
    // With their pipes, and where that is possible one with a copy of its program.
    let mut probes: Vec<_> = (0..3).map(|_| case.evil(&[])).collect();
    if cfg!(not(plug_portable)) {
        probes.push(case.load(evil(&[]).sha256(digest(EVIL))));
    }
    let own = plug_faults::evil::fds().unwrap();
    let last = case.evil(&[]);
    let fds = last.act("fds").unwrap();
    // What has a name of its own: the plugin has an epoll, too.
    let of_host: Vec<_> = own
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(_, target)| target)
        .filter(|target| !case.had(target))
        .filter(|target| target.starts_with("pipe:") || target.contains("memfd:"))
        .collect();
    assert!(of_host.len() >= 9, "three pipes for each: {own}");
    for target in of_host {
        assert!(!fds.contains(target), "{target} of the host is in the plugin: {fds}");
    }
    drop((probes, last));
    case.finish();
}

/// What starts processes is a third of a plugin's program otherwise, and each start of it pays for that.
#[test]
fn a_plugin_has_nothing_of_a_host_in_its_program() {
    let starts_processes = |program: &str| {
        let bytes = fs::read(program).unwrap();
        bytes.windows(NAME.len()).any(|window| window == NAME)
    };
    const NAME: &[u8] = b"posix_spawnp";
    assert!(starts_processes(HOST), "that is how the standard library does it here");
    assert!(
        !starts_processes(FLOWING),
        "something that both sides know leads to what loads plugins"
    );
}
