//! The long-running instruments, run tiny, so that they work when they are needed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

fn run(program: &str, arguments: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let output =
        Command::new(program).args(arguments).current_dir(directory.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let failed = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}\n{failed}");
    said
}

#[test]
fn a_few_seconds_of_soak_hold() {
    let said = run(env!("CARGO_BIN_EXE_soak"), &["0.1", "42", "200"]);
    assert!(said.contains("everything held"), "{said}");
}

#[test]
fn drift_and_crowd_run_with_small_numbers() {
    let drift = run(env!("CARGO_BIN_EXE_scale"), &["drift", "1000", "4", "4"]);
    assert_eq!(drift.matches("first decision after").count(), 3, "{drift}");
    let crowd = run(env!("CARGO_BIN_EXE_scale"), &["crowd", "60", "20", "1"]);
    assert!(crowd.contains("20 active agents"), "{crowd}");
}
