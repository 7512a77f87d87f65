use crate::harness::{aasm, files, run, run_with_input};

#[test]
fn what_is_no_export_exits_2() {
    let directory = files(&[("notes.txt", "hello\n"), ("keys.json", "{\"log_keys\":1}")]);
    let verify = |arguments: &[&str]| {
        run(aasm().current_dir(&directory).args(["audit", "verify"]).args(arguments))
    };
    let ran = verify(&["notes.txt"]).exits(2);
    assert!(ran.err.contains("notes.txt: is not an audit export"), "{}", ran.err);
    let ran = verify(&["missing.jsonl"]).exits(2);
    assert!(ran.err.contains("cannot read missing.jsonl"), "{}", ran.err);
    verify(&["notes.txt", "--keys", "keys.json"]).exits(2);
    verify(&["notes.txt", "--checkpoint", "notes.txt"]).exits(2);
    verify(&["."]).exits(2);
    verify(&[]).exits(2);
    let json = verify(&["notes.txt", "--format", "json"]).exits(2).json();
    assert_eq!(json["intact"], false);
}

#[test]
fn a_wiped_export_exits_1() {
    let ran = run_with_input(aasm().args(["audit", "verify", "-"]), b"");
    assert!(ran.exits(1).out.contains("NOT INTACT: <stdin>"));
}
