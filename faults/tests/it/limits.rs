//! R9, P3: what a plugin may take, and what its host learns when that is not enough.

use plug::ErrorKind;
use plug_faults::load_probe;

use crate::aftermath::{Case, evil};

/// Where limits cannot be set from outside, as everywhere but on Linux, who asks for one is told.
#[test]
#[cfg(plug_portable)]
fn a_limit_that_cannot_be_set_fails_the_load() {
    let case = Case::new();
    let commands = [
        (evil(&[]).max_memory(1 << 30), "its memory"),
        (evil(&[]).max_cpu_time(std::time::Duration::from_secs(1)), "its processor time"),
        (evil(&[]).max_open_files(100), "its open files"),
        (evil(&[]).core_dumps(false), "its core dumps"),
    ];
    for (command, what) in commands {
        let error = load_probe(command).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Spawn, "{error:?}");
        assert!(error.message().contains(what), "{error}");
        assert!(error.message().contains("this system has no such limits"), "{error}");
    }
    case.load(evil(&[]).core_dumps(true)).echo("loaded").unwrap();
    case.finish();
}

#[cfg(not(plug_portable))]
mod linux {
    use std::time::Duration;

    use plug::ExitStatus;

    use super::*;
    use crate::aftermath::{assert_exited, in_time, start};

    #[test]
    fn r9_an_allocation_beyond_the_limit_fails() {
        let case = Case::new();
        let probe = case.load(evil(&[]).max_memory(GIB));
        probe.act("allocate 1000000").unwrap();
        let error = probe.act(format!("allocate {GIB}")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Status, "{error:?}");
        assert!(error.message().contains("memory allocation failed"), "{error}");
        assert_eq!(probe.echo("goes on").unwrap(), b"goes on");
        drop(probe);
        case.finish();
    }

    #[test]
    fn r9_a_plugin_that_leaks_up_to_its_limit_aborts_and_says_so() {
        let case = Case::new();
        let probe = case.load(evil(&[]).max_memory(GIB));
        let other = case.evil(&[]);
        let call = {
            let probe = probe.clone();
            start("the leak", move || probe.act("leak"))
        };
        let error = call.get().unwrap_err();
        assert_exited(&error, ExitStatus::Signal(6));
        assert!(error.stderr().unwrap().contains("memory allocation of"), "{error:?}");
        assert_eq!(other.echo("fine").unwrap(), b"fine");
        drop((probe, other));
        case.finish();
    }

    #[test]
    fn r9_a_plugin_that_cannot_start_within_its_limit_fails_its_load() {
        let case = Case::new();
        // Its code and its libraries take more than the limit, but may be there before that is.
        let greedy = || evil(&["--start-takes=50000000"]).max_memory(1 << 20);
        let error = in_time("the load", move || load_probe(greedy()).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Handshake, "{error:?}");
        assert!(error.exit().is_some(), "{error:?}");
        if error.message().contains("before its hello") {
            assert!(error.message().contains("Command::max_memory"), "{error}");
        }
        case.finish();
    }

    #[test]
    fn a_plugin_that_has_used_up_its_processor_time_is_ended_and_the_error_says_so() {
        let case = Case::new();
        let probe = case.load(evil(&[]).max_cpu_time(Duration::from_millis(200)));
        assert_eq!(fields(&probe.act("limit Max cpu time").unwrap()), ["1", "2"]);
        let call = {
            let probe = probe.clone();
            start("the act that spins", move || probe.act("spin"))
        };
        let error = call.get().unwrap_err();
        assert_exited(&error, ExitStatus::Signal(24));
        assert!(error.message().contains("SIGXCPU: its processor time is used up"), "{error}");
        drop(probe);
        case.finish();
    }

    #[test]
    fn a_plugin_cannot_open_more_files_than_it_may() {
        let case = Case::new();
        let probe = case.load(evil(&[]).max_open_files(100));
        assert_eq!(fields(&probe.act("limit Max open files").unwrap()), ["100", "100"]);
        probe.act("open 50").unwrap();
        let error = probe.act("open 100").unwrap_err();
        assert!(error.message().contains("Too many open files"), "{error}");
        assert_eq!(probe.echo("goes on").unwrap(), b"goes on");
        drop(probe);
        case.finish();
    }

    /// As a sandboxed program would. Its own limit may be set before or after that of the host.
    #[test]
    fn a_plugin_that_limits_itself_further_is_loaded() {
        let case = Case::new();
        for _ in 0..20 {
            let probe = case.load(evil(&["--limit-files=64"]).max_open_files(100));
            assert_eq!(probe.echo("loaded").unwrap(), b"loaded");
        }
        case.finish();
    }

    #[test]
    fn p3_a_plugin_leaves_no_core_file_unless_it_may() {
        let case = Case::new();
        let cores = |command: plug::Command| {
            let probe = case.load(command.arg("--keep-limits"));
            fields(&probe.act("limit Max core file size").unwrap())
        };
        let own = std::fs::read_to_string("/proc/self/limits").unwrap();
        let own = own.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(cores(evil(&[])), ["0", "0"], "by default");
        assert_eq!(cores(evil(&[]).core_dumps(false)), ["0", "0"]);
        assert_eq!(cores(evil(&[]).core_dumps(true)), fields(own), "as the host may");
        case.finish();
    }

    #[test]
    fn a_description_is_made_within_the_limits() {
        let case = Case::new();
        // It describes itself once it has the limit, which may come a moment later than its start.
        let command = evil(&["--await-file-limit=100"]).max_open_files(100);
        in_time("the description", || command.describe().unwrap());
        case.finish();
    }

    /// Soft and hard limit in a line of `/proc/<pid>/limits`.
    fn fields(line: &str) -> Vec<String> {
        let words = line.split_whitespace().map(str::to_owned);
        words.filter(|word| word == "unlimited" || word.parse::<u64>().is_ok()).collect()
    }

    const GIB: u64 = 1 << 30;
}
