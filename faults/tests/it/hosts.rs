//! P19, P21, P28, H9, M8, M9, X3: hosts in odd surroundings, each a process of its own.

use std::path::Path;
use std::process::Command;

use crate::aftermath::{Case, EVIL, Folder, HOST, helper, is_alive, kill, output, wait_until};
use crate::user::as_another;

/// The children that were in the groups of plugins that have ended.
fn left_in_groups(text: &str) -> Vec<u32> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("child "));
    lines.map(|id| id.parse().unwrap()).collect()
}

/// The kernel reaps the children of such a host: nobody learns how they ended, and their ids are free at once. So no
/// signal is sent any more, not even to the rest of the group.
#[test]
fn p19_p21_a_host_that_ignores_sigchld() {
    let case = Case::new();
    let mut ignoring = Command::new("env");
    ignoring.args(["--ignore-signal=CHLD", HOST, "exits", EVIL]);
    if !Command::new("env").args(["--ignore-signal=CHLD", "true"]).status().unwrap().success() {
        println!("SKIPPED: the env of this system cannot have a signal ignored");
        return;
    }
    let text = output(&mut ignoring);
    print!("{text}");
    let ends = text.lines().filter(|line| line.starts_with("Exited"));
    let said: Vec<_> = ends.collect();
    assert_eq!(said, ["Exited Unknown by host: false"; 2], "{text}");
    for child in left_in_groups(&text) {
        assert!(is_alive(child), "a signal was sent to an id that may be a stranger's");
        kill(child);
        wait_until("the end of the child", || !is_alive(child));
    }
    case.finish();
}

/// Which of the two waits for it first is chance.
#[test]
fn p19_a_host_in_which_somebody_else_waits_for_all_children() {
    let case = Case::new();
    let text = helper(&["robbed", EVIL]);
    let count = |end: &str| text.lines().filter(|line| *line == end).count();
    let known = count("Exited Code(3) by host: false");
    let unknown = count("Exited Unknown by host: false");
    println!("{known} known, {unknown} unknown");
    assert_eq!(known + unknown, 40, "{text}");
    for child in left_in_groups(&text).into_iter().filter(|child| is_alive(*child)) {
        kill(child);
        wait_until("the end of the child", || !is_alive(child));
    }
    case.finish();
}

#[test]
fn h9_a_host_with_each_number_of_descriptors() {
    let case = Case::new();
    let text = helper(&["few-files", EVIL]);
    print!("{text}");
    let failed: Vec<_> = text.lines().filter(|line| !line.ends_with("are enough")).collect();
    assert!(failed.len() >= 5, "{text}");
    for line in failed {
        assert!(line.contains(": Spawn: "), "{line}");
    }
    case.finish();
}

#[test]
fn h9_a_host_that_may_have_no_more_processes() {
    let case = Case::new();
    let Some(mut command) = as_another(&["few-processes", EVIL]) else { return };
    let text = output(&mut command);
    print!("{text}");
    assert!(text.starts_with("Spawn: "), "{text}");
    case.finish();
}

#[test]
fn m8_a_plugin_that_may_have_no_more_threads() {
    let case = Case::new();
    // It is another user that makes and removes a file there.
    let folder = Folder::new("m8");
    folder.open_to_all();
    let go = folder.join("go");
    let Some(mut command) = as_another(&["few-threads", EVIL, go.to_str().unwrap()]) else {
        return;
    };
    let text = output(&mut command);
    let said: Vec<_> = text.lines().collect();
    assert_eq!(said, ["done", "a thread for each"], "no more handlers at a time than threads");
    case.finish();
}

#[test]
fn m9_a_host_and_a_plugin_without_proc() {
    let case = Case::new();
    let without_proc = |then: &str, args: &[&str]| {
        let mut command = Command::new("unshare");
        // Others than root need a user namespace for that, and may not always have one.
        command.args((!rustix::process::geteuid().is_root()).then_some("--map-root-user"));
        command.args(["--mount", "/bin/sh", "-c"]);
        command.args([&format!("umount -l /proc && {then}"), HOST]).args(args);
        command
    };
    let probe = without_proc("test ! -e /proc/self", &[]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: nobody here may be without /proc");
        return;
    }
    let exec = "exec \"$0\" \"$@\"";
    assert_eq!(output(&mut without_proc(exec, &["use", EVIL])), "heard\n");
    // What cannot work says why.
    if cfg!(not(plug_portable)) {
        let digest = crate::launch::digest(EVIL);
        let said = output(&mut without_proc(exec, &["refused", EVIL, &digest]));
        assert!(said.starts_with("Err((Spawn, "), "{said}");
        assert!(said.contains("is started through /proc, which is not there"), "{said}");
    }
    case.finish();
}

/// A host's memory is not copied, not even its page tables: so the time does not depend on how much it has.
#[test]
fn p28_a_spawn_does_not_fork() {
    let case = Case::new();
    let folder = Folder::new("p28");
    let log = folder.join("log");
    let mut traced = Command::new("strace");
    traced.args(["-f", "-e", "trace=clone,clone3,fork,vfork", "-o"]).arg(&log);
    if !traced.arg("/bin/true").output().is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: there is no strace that works");
        return;
    }
    let mut traced = Command::new("strace");
    traced.args(["-f", "-e", "trace=clone,clone3,fork,vfork", "-o"]).arg(&log);
    output(traced.args([HOST, "use", EVIL]));
    let log = std::fs::read_to_string(&log).unwrap();
    // Other lines tell of signals, of ends, and of a thread that had its end in the middle of nothing: `???(`.
    let calls = ["clone(", "clone3(", "fork("];
    let begins = log.lines().filter(|line| calls.iter().any(|call| line.contains(call)));
    let begins: Vec<_> = begins.filter(|line| !line.contains("CLONE_THREAD")).collect();
    assert_eq!(begins.len(), 1, "{log}");
    assert!(begins[0].contains("CLONE_VM|CLONE_VFORK") || begins[0].contains("vfork("), "{log}");
    case.finish();
}

/// The working directory is searched only by those who say so.
#[test]
fn x3_a_bare_name_and_a_relative_path() {
    let case = Case::new();
    let folder = Path::new(EVIL).parent().unwrap();
    let with = |plugin: &str| {
        let mut command = Command::new(HOST);
        command.args(["use", plugin]).current_dir(folder);
        command
    };
    assert_eq!(output(&mut with("./evil")), "heard\n");
    let detour = Path::new("..").join(folder.file_name().unwrap()).join("./evil");
    assert_eq!(output(&mut with(detour.to_str().unwrap())), "heard\n");
    for (search, works) in [("/usr/bin:.:", false), (folder.to_str().unwrap(), true)] {
        let done = with("evil").env("PATH", search).output().unwrap();
        assert_eq!(done.status.success(), works, "{done:?}");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(works || said.contains("./evil"), "it says how to write that: {said}");
    }
    case.finish();
}
