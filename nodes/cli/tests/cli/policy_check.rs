use std::process::Stdio;

use serde_json::json;

use crate::harness::{aasm, files, run, run_with_input, text};

const VALID: &str = "scope: global\ntools:\n  bash:\n    allow: false\n";
const INVALID: &str = "scope: project:x\ncolour: red\napproval_timeout_secs: 0\n";

#[test]
fn a_valid_document_exits_0_an_invalid_1_an_unreadable_2() {
    let directory = files(&[("good.yaml", VALID), ("bad.yaml", INVALID)]);
    let check = |names: &[&str]| {
        run(aasm().current_dir(&directory).args(["policy", "check"]).args(names)).code
    };
    assert_eq!(check(&["good.yaml"]), 0);
    assert_eq!(check(&["bad.yaml"]), 1);
    assert_eq!(check(&["good.yaml", "bad.yaml"]), 1);
    assert_eq!(check(&["missing.yaml"]), 2);
    assert_eq!(check(&["bad.yaml", "missing.yaml"]), 2);
    assert_eq!(check(&[]), 2);
}

#[test]
fn the_json_form_is_the_one_scripts_rely_on() {
    let directory = files(&[("good.yaml", VALID), ("bad.yaml", INVALID)]);
    let arguments = ["policy", "check", "good.yaml", "bad.yaml", "none.yaml", "--format", "json"];
    let ran = run(aasm().current_dir(&directory).args(arguments)).exits(2);
    let report = ran.json();
    assert_eq!(
        report["files"][0],
        json!({"file": "good.yaml", "valid": true, "errors": [], "warnings": []})
    );
    let bad = &report["files"][1];
    assert_eq!((&bad["file"], &bad["valid"]), (&json!("bad.yaml"), &json!(false)));
    let error = bad["errors"][0].as_object().unwrap();
    let mut keys: Vec<_> = error.keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["code", "column", "line", "message", "path"]);
    assert_eq!(
        (&error["path"], &error["line"], &error["column"], &error["code"]),
        (&json!("scope"), &json!(1), &json!(8), &json!("invalid_scope"))
    );
    assert_eq!(bad["errors"].as_array().unwrap().len(), 2);
    assert_eq!(bad["warnings"][0]["code"], "unknown_key");
    let unreadable = &report["files"][2];
    assert_eq!(
        (&unreadable["valid"], &unreadable["errors"][0]["code"]),
        (&json!(false), &json!("unreadable"))
    );
}

#[test]
fn people_see_the_place_the_line_and_a_caret() {
    let directory = files(&[("bad.yaml", INVALID)]);
    let ran = run(aasm().current_dir(&directory).args(["policy", "check", "bad.yaml"])).exits(1);
    assert!(ran.out.starts_with("bad.yaml:1:8: error[invalid_scope]: "), "{}", ran.out);
    assert!(ran.out.contains("\n  |\n1 | scope: project:x\n  |        ^ scope\n"), "{}", ran.out);
    assert!(ran.out.ends_with("invalid bad.yaml: 2 errors, 1 warning\n"), "{}", ran.out);
    assert!(!ran.out.contains('\u{1b}'), "no colour for a pipe");
}

#[test]
fn a_directory_stands_for_its_policies_without_its_tests() {
    let directory = files(&[
        ("a.yaml", VALID),
        ("b.yml", VALID),
        ("c.json", "{\"scope\":\"global\"}"),
        ("a.test.yaml", "nonsense"),
        ("notes.txt", "nonsense"),
    ]);
    let ran = run(aasm().args(["policy", "check", "--format", "json"]).arg(directory.path()));
    assert_eq!(ran.exits(0).json()["files"].as_array().unwrap().len(), 3);
    let empty = files(&[]);
    let ran = run(aasm().args(["policy", "check"]).arg(empty.path())).exits(2);
    assert!(ran.err.contains("there is no policy"), "{}", ran.err);
}

#[test]
fn a_document_is_read_from_standard_input() {
    let ran = run_with_input(aasm().args(["policy", "check", "-"]), VALID.as_bytes());
    assert_eq!(ran.exits(0).out, "valid <stdin>\n");
}

#[test]
fn a_reader_that_went_away_is_no_error() {
    let many: String = (0..400).map(|n| format!("unknown{n}: 1\n")).collect();
    let directory = files(&[("many.yaml", &many)]);
    let mut command = aasm();
    command.args(["policy", "check"]).arg(directory.path().join("many.yaml"));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(0));
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
    assert_eq!(said, "");
}

#[test]
fn the_schema_describes_both_formats() {
    let schema = run(aasm().args(["policy", "schema"])).exits(0).json();
    assert!(schema["$schema"].is_string(), "{schema}");
    assert!(schema.to_string().contains("apiVersion"));
    assert!(schema.to_string().contains("approval_timeout_secs"));
}

#[test]
fn a_check_against_the_workspace_needs_one() {
    let directory = files(&[("a.yaml", VALID)]);
    let path = directory.path().join("a.yaml");
    let ran = run(aasm().args(["policy", "check", "--registered", text(&path)])).exits(2);
    assert!(ran.err.contains("name the data directory with --data"), "{}", ran.err);
}
