//! A workspace from one store to another, as its operator does it.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Stdio, time::Instant};

use aa_client::AgentSpec;
use aa_protocol::{Action, Verdict};
use serde_json::Value;

use crate::{
    budgets::call,
    control_plane::ask,
    harness::{PATIENCE, Ran, Up, aasm, run, run_with_input, text},
};

fn act(up: &Up, agent: &str, actions: usize) -> Vec<Verdict> {
    let action = Action::ToolCall { tool: "bash".to_owned(), args: Default::default() };
    let spec = AgentSpec { name: agent.to_owned(), ..AgentSpec::default() };
    ask(up, spec, std::iter::repeat_n(action, actions))
}

fn set_secret(up: &Up) {
    let mut command = aasm();
    command.env("AASM_DATA", up.data()).args(["secret", "set", "kept"]);
    run_with_input(&mut command, b"value").exits(0);
}

fn restore(file: &Path, to: &Path, more: &[&str]) -> Ran {
    let mut command = aasm();
    command.args(["workspace", "restore", text(file), "--to", text(to)]).args(more);
    run(&mut command)
}

fn verify(file: &Path, more: &[&str]) -> Ran {
    run(aasm().args(["workspace", "verify", text(file)]).args(more))
}

/// What an operator sees of a workspace.
fn seen(up: &Up) -> Vec<Value> {
    let mut seen = Vec::new();
    for command in
        [&["policy", "list"][..], &["budget", "list"], &["secret", "list"], &["alert", "list"]]
    {
        seen.push(up.run(&[command, &["--format", "json"]].concat()).exits(0).json());
    }
    let agents = up.run(&["agent", "list", "--format", "json"]).exits(0).json();
    for agent in agents["agents"].as_array().unwrap() {
        seen.push(agent["name"].clone());
    }
    seen
}

#[test]
fn a_workspace_goes_on_from_its_backup_in_another_store() {
    let up = Up::start();
    act(&up, "a", 20);
    call(&up, "spender", &[3, 4]);
    set_secret(&up);
    up.run(&["key", "create", "kept", "--role", "viewer"]).exits(0);
    let (keys, pin) = (up.path("keys.json"), up.path("pin.txt"));
    up.run(&["audit", "keys", "--out", text(&keys)]).exits(0);
    up.run(&["audit", "checkpoint", "--out", text(&pin)]).exits(0);
    let file = up.path("acme.backup");
    let taken = up.run(&["workspace", "backup", "--out", text(&file)]).exits(0);
    assert!(
        taken.out.contains("chains followed") && !taken.out.contains("warning"),
        "{}",
        taken.out
    );
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let proven =
        verify(&file, &["--keys", text(&keys), "--checkpoint", text(&pin), "--format", "json"]);
    let proven = proven.exits(0).json();
    assert_eq!((&proven["trust"], &proven["contains_pinned"]), (&"pinned".into(), &true.into()));
    assert!(verify(&file, &[]).exits(0).out.contains("warning: the key"), "trusted on first use");
    let tail = up.run(&["audit", "query", "--kind", "workspace", "--format", "json"]).exits(0).out;
    assert!(tail.contains("backed_up"), "{tail}");
    let before = seen(&up);

    let (directory, _) = up.stop("-TERM");
    let target = directory.path().join("elsewhere/store");
    let refused = restore(&file, &directory.path().join("data"), &[]).exits(1);
    assert!(refused.err.contains("already has workspace"), "{}", refused.err);
    let unsaid = restore(&file, &target, &["--keys", text(&keys), "--shards", "7"]).exits(1);
    assert!(unsaid.err.contains("--home") && unsaid.err.contains("--tenant"), "{}", unsaid.err);
    let wanted = ["--keys", text(&keys), "--home", "--shards", "7", "--format", "json"];
    let restored = restore(&file, &target, &wanted).exits(0).json();
    assert_eq!((&restored["shards"], &restored["sha256"]), (&7.into(), &proven["sha256"]));
    assert_eq!(restored["home"], true);
    let nothing = restore(&file, &target, &["--undo"]).exits(1);
    assert!(nothing.err.contains("no interrupted restore"), "{}", nothing.err);

    fs::rename(directory.path().join("data/store.redb"), directory.path().join("old.redb"))
        .unwrap();
    let up = Up::start_with(directory, &["--store", text(&target)]);
    assert_eq!(up.started["first_run"], false);
    assert_eq!(seen(&up), before);
    assert_eq!(act(&up, "a", 3), [Verdict::Allow; 3]);
    let export = up.path("export.jsonl");
    up.run(&["audit", "export", "--out", text(&export)]).exits(0);
    let across =
        ["audit", "verify", text(&export), "--keys", text(&keys), "--checkpoint", text(&pin)];
    up.run(&across).exits(0);
    assert!(fs::read_to_string(&export).unwrap().contains("\"change\":\"restored\""));
}

/// Nothing is left of the deployment but the backup.
#[test]
fn another_deployment_serves_a_workspace_from_its_backup() {
    let up = Up::start();
    act(&up, "a", 5);
    let made = up.run(&["key", "create", "kept", "--role", "admin"]).exits(0);
    let key = made.out.trim().to_owned();
    let file = up.path("acme.backup");
    up.run(&["workspace", "backup", "--out", text(&file)]).exits(0);
    let (old, _) = up.stop("-TERM");
    let directory = tempfile::tempdir().unwrap();
    restore(&file, &directory.path().join("data"), &["--home"]).exits(0);
    drop(old);
    let up = Up::start_in(directory);
    assert_eq!(up.started["first_run"], false);
    up.run_as(&key, &["agent", "list"]).exits(0);
    assert_eq!(act(&up, "a", 2), [Verdict::Allow; 2]);
    let export = up.path("export.jsonl");
    up.run(&["audit", "export", "--out", text(&export)]).exits(0);
    run(aasm().args(["audit", "verify", text(&export)])).exits(0);
}

#[test]
fn a_file_that_is_not_as_it_was_written_is_not_restored() {
    let up = Up::start();
    act(&up, "a", 5);
    let file = up.path("acme.backup");
    up.run(&["workspace", "backup", "--out", text(&file)]).exits(0);
    let bytes = fs::read(&file).unwrap();
    let target = up.path("target");
    let cut = up.path("cut");
    fs::write(&cut, &bytes[..bytes.len() - 100]).unwrap();
    let mut changed = bytes.clone();
    changed[bytes.len() / 2] ^= 1;
    let flipped = up.path("flipped");
    fs::write(&flipped, &changed).unwrap();
    let foreign = up.file("foreign", "{\"format\":\"agent-assembly/audit-export/1\"}\n");
    for (path, code, why) in [
        (&cut, 1, "it was cut off"),
        (&flipped, 1, "it was altered"),
        (&foreign, 2, "no backup"),
        (&up.path("missing"), 2, "No such file"),
    ] {
        let found = verify(path, &[]).exits(code);
        assert!(found.err.contains(why), "{}", found.err);
        let refused = restore(path, &target, &[]).exits(code);
        assert!(refused.err.contains(why), "{}", refused.err);
        assert!(!target.exists(), "nothing is made for it");
    }
    let other = up.file("keys.json", r#"{"log_keys":[]}"#);
    let untrusted = restore(&file, &target, &["--keys", text(&other)]).exits(1);
    assert!(untrusted.err.contains("does not have the key"), "{}", untrusted.err);
}

#[test]
fn only_an_owner_takes_a_backup_and_what_was_there_stays_until_there_is_a_better_one() {
    let up = Up::start();
    let made = up.run(&["key", "create", "admin", "--role", "admin"]).exits(0);
    let key = made.out.trim().to_owned();
    let file = up.file("acme.backup", "the one of yesterday");
    let refused = up.run_as(&key, &["workspace", "backup", "--out", text(&file)]).exits(1);
    assert!(refused.err.contains("it takes owner"), "{}", refused.err);
    assert_eq!(fs::read_to_string(&file).unwrap(), "the one of yesterday");
    up.run(&["workspace", "backup", "--out", text(&file)]).exits(0);
    verify(&file, &[]).exits(0);
}

#[test]
fn a_restore_that_was_killed_is_done_again() {
    let up = Up::start();
    for agent in ["a", "b", "c"] {
        act(&up, agent, 400);
    }
    let file = up.path("acme.backup");
    up.run(&["workspace", "backup", "--out", text(&file)]).exits(0);
    let target = up.path("target");
    let mut command = aasm();
    command.args(["workspace", "restore", text(&file), "--to", text(&target), "--home"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    while !target.join("store.redb").exists() {
        assert!(began.elapsed() < PATIENCE, "the restore begins");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let again = restore(&file, &target, &["--home"]);
    // Killed too late, it was done.
    let was_done = again.code == 1 && again.err.contains("already has workspace");
    assert!(again.code == 0 || was_done, "{}", again.err);
    let (directory, _) = up.stop("-TERM");
    let up = Up::start_with(directory, &["--store", text(&target)]);
    assert_eq!(act(&up, "a", 1), [Verdict::Allow]);
}
