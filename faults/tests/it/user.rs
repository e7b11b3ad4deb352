//! R6: what depends on the user that a host runs as, and on what else that user has.
//!
//! All of the tests can run as another user, and with small pipes: `faults-as --user=nobody --small-pipes`, see
//! [`faults-as`](../../src/bin/faults-as.rs). The gate does that.

use std::process::Command;

use crate::aftermath::{Case, EVIL, HOST, in_time, output, raw};

/// The path of the program that runs others as somebody else.
const AS: &str = env!("CARGO_BIN_EXE_faults-as");

/// A run with small pipes is one: otherwise it would show nothing.
#[test]
fn r6_the_pipes_of_this_run_hold_what_it_says() {
    let case = Case::new();
    let probe = case.load(raw(&["pipe-sizes"]));
    let sizes = in_time("the sizes", move || probe.act("").unwrap());
    let own = || plug_faults::evil::pipe_size().unwrap().to_string();
    let said = std::env::var("PLUG_FAULTS_PIPES").unwrap_or_else(|_| own());
    println!("pipes of {said} bytes");
    assert_eq!(sizes, [said.as_str(); 3].join(" "), "stdin, stdout and stderr");
    case.finish();
}

/// From the 342nd on, their pipes hold 8 KiB: 64 MiB for all pipes of a user, and three pipes of 64 KiB each.
#[test]
fn r6_four_hundred_plugins_of_one_user() {
    let case = Case::new();
    let Some(mut command) = as_another(&["many", EVIL, "400"]) else { return };
    let text = output(&mut command);
    print!("{text}");
    assert!(text.contains("children after 0"), "{text}");
    assert!(text.contains("new pipes hold 8192"), "{text}");
    case.finish();
}

/// The helper host as a user that limits hold for: not as root. It is nobody else's id, most likely: another run of these
/// tests would use up the same limits.
pub(crate) fn as_another(args: &[&str]) -> Option<Command> {
    let mut command = Command::new(AS);
    if rustix::process::geteuid().is_root() {
        let user = format!("--user={}", 40_000 + std::process::id() % 20_000);
        let is_able = Command::new(AS).args([user.as_str(), HOST, "nothing"]).output();
        command.arg(user);
        if !is_able.is_ok_and(|output| output.status.success()) {
            println!("SKIPPED: another user may not run {HOST}");
            return None;
        }
    }
    command.arg(HOST).args(args);
    Some(command)
}
