use crate::harness::{aasm, files, run};

const POLICY: &str = "scope: global\ntools:\n  bash:\n    allow: false\n";
const CASES: &str = "at: 2026-11-23T12:00:00Z\ncases:\n  - name: the shell stays shut\n    action: {kind: tool_call, tool: \
                     bash, args: {}}\n    expect: {verdict: deny, code: tool_denied}\n  - name: \
                     the rest is open\n    action: {kind: file_read, path: /x}\n    expect: allow\n";

#[test]
fn passing_cases_exit_0() {
    let directory = files(&[("tools.yaml", POLICY), ("tools.test.yaml", CASES)]);
    let ran = run(aasm().current_dir(&directory).args(["policy", "test"])).exits(0);
    assert!(ran.out.contains("pass tools.test.yaml:3 the shell stays shut\n"), "{}", ran.out);
    assert!(ran.out.ends_with("2 passed, 0 failed\n"), "{}", ran.out);
}

#[test]
fn a_failing_case_exits_1_and_shows_what_came_instead() {
    let open = CASES.replace("expect: allow", "expect: deny");
    let directory = files(&[("tools.yaml", POLICY), ("tools.test.yaml", &open)]);
    let arguments = ["policy", "test", "tools.test.yaml", "--format", "json"];
    let report = run(aasm().current_dir(&directory).args(arguments)).exits(1).json();
    assert_eq!((&report["passed"], &report["failed"]), (&1.into(), &1.into()));
    assert_eq!(report["cases"][1]["verdict"], "allow");
    assert!(report["cases"][1]["failure"].is_string());
}

#[test]
fn no_tests_or_unreadable_ones_exit_2() {
    let directory = files(&[("tools.yaml", POLICY), ("bad.test.yaml", "cases: 1\n")]);
    let test = |argument: &str| {
        run(aasm().current_dir(&directory).args(["policy", "test", argument])).exits(2).err
    };
    assert!(test("bad.test.yaml").contains("bad.test.yaml:1:8: error["));
    assert!(test("tools.yaml").contains("is no policy test"));
    assert!(test("missing.test.yaml").contains("cannot read"));
    let empty = files(&[]);
    let ran = run(aasm().current_dir(&empty).args(["policy", "test"])).exits(2);
    assert!(ran.err.contains("there is no policy test"), "{}", ran.err);
}

#[test]
fn a_case_may_come_after_other_actions_of_the_session() {
    let policy = "sequences:\n  s:\n    after: {tools: [read_file]}\n    then: {tools: [send_email], \
                  decision: deny}\n";
    let cases = "at: 2026-11-23T12:00:00Z\ncases:\n  - name: what was read stays\n    after: [{kind: \
                 tool_result, tool: read_file, content: x}]\n    action: {kind: tool_call, tool: \
                 send_email}\n    expect: {verdict: deny, code: sequence_denied}\n";
    let directory = files(&[("mail.yaml", policy), ("mail.test.yaml", cases)]);
    let ran = run(aasm().current_dir(&directory).args(["policy", "test"])).exits(0);
    assert!(ran.out.ends_with("1 passed, 0 failed\n"), "{}", ran.out);
}
