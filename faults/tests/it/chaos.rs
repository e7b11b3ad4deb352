//! P12, P29, R1, R11: plugins and hosts that die at random points of mixed traffic, and what grows. In processes of their own, whose
//! memory nobody else uses; by hand, `chaos` and `soak` do the same for longer.

use std::process::Command;

use crate::aftermath::Case;

/// Runs a program that says what was wrong, and does not hang: a plugin's life has a bound there.
fn run(program: &str, args: &[&str]) {
    let case = Case::new();
    let output = Command::new(program).args(args).output().unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} {args:?}: {wrong}", output.status);
    case.finish();
}

#[test]
fn p29_a_thousand_plugins_die_at_random_points_of_mixed_traffic() {
    run(env!("CARGO_BIN_EXE_chaos"), &["kills", "1000"]);
}

#[test]
fn p12_a_hundred_hosts_are_killed_in_mixed_traffic() {
    run(env!("CARGO_BIN_EXE_chaos"), &["hosts", "100"]);
}

#[test]
fn r1_a_hundred_thousand_calls_take_no_memory() {
    run(env!("CARGO_BIN_EXE_soak"), &["calls", "100000"]);
}

#[test]
fn r11_a_few_seconds_of_the_soak() {
    run(env!("CARGO_BIN_EXE_soak"), &["time", "4"]);
}
