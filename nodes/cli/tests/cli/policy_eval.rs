use serde_json::{Value, json};

use crate::harness::{Ran, aasm, files, run};

const POLICY: &str = "apiVersion: agent-assembly/v1\nkind: Policy\nmetadata:\n  name: tools\n  \
                      version: \"1.2.0\"\nspec:\n  tools:\n    bash:\n      allow: false\n    \
                      search:\n      limit_per_hour: 2\n";
const AGENT: &str = r#"{"id":"01234567-89ab-cdef-0123-456789abcdef","name":"a","org":"acme",
"team":"platform","governance_level":"L2","labels":{}}"#;
const TEAM: &str = "scope: team:platform\nschedule:\n  active_hours:\n    start: \"09:00\"\n    \
                    end: \"18:00\"\n    timezone: UTC\n";

fn eval(action: &Value, more: &[&str]) -> Ran {
    let directory = files(&[
        ("tools.yaml", POLICY),
        ("team.yaml", TEAM),
        ("agent.json", AGENT),
        ("bad.yaml", "scope: nonsense\n"),
        ("action.json", &action.to_string()),
    ]);
    let arguments = ["policy", "eval", "--action", "action.json", "--format", "json", "--policy"];
    run(aasm().current_dir(&directory).args(arguments).arg("tools.yaml").args(more))
}

#[test]
fn the_json_form_is_the_one_scripts_rely_on() {
    let ran = eval(&json!({"kind": "tool_call", "tool": "bash", "args": {"cmd": "ls"}}), &[]);
    let ran = ran.exits(0);
    let decision = ran.json();
    assert_eq!(decision["verdict"], "deny");
    let reason = &decision["reasons"][0];
    let message = reason["message"].as_str().unwrap();
    assert_eq!(
        decision["reasons"],
        json!([{
            "policy": "tools", "version": "1.2.0", "path": "spec.tools.bash.allow", "line": 9,
            "code": "tool_denied", "message": message,
        }])
    );
    assert!(ran.out.starts_with("{\"verdict\":\"deny\",\"reasons\":[{\"policy\":"), "{}", ran.out);
}

#[test]
fn every_kind_of_action_of_the_table_is_read() {
    for action in [
        json!({"kind": "tool_call", "tool": "other", "args": {}}),
        json!({"kind": "tool_result", "tool": "other", "content": "text"}),
        json!({"kind": "llm_call", "model": "gpt-4o", "host": "api.openai.com", "messages": []}),
        json!({"kind": "llm_result", "model": "gpt-4o", "content": "text"}),
        json!({"kind": "network_connect", "host": "x", "port": 443}),
        json!({"kind": "network_listen", "port": 80}),
        json!({"kind": "file_read", "path": "/etc/hosts"}),
        json!({"kind": "file_write", "path": "/tmp/x"}),
        json!({"kind": "process_exec", "argv": ["ls"]}),
        json!({"kind": "agent_spawn", "child": "helper"}),
    ] {
        assert_eq!(eval(&action, &[]).exits(0).json()["verdict"], "allow", "{action}");
    }
}

#[test]
fn the_given_documents_are_the_whole_set() {
    // The default agent is in no team. The action in the same directory is no policy.
    let action = r#"{"kind":"file_read","path":"x"}"#;
    let directory = files(&[("team.yaml", TEAM), ("action.json", action)]);
    let arguments =
        ["policy", "eval", "--action", "action.json", "--policy", ".", "--format", "json"];
    let decision = run(aasm().current_dir(&directory).args(arguments)).exits(0).json();
    assert_eq!(decision["verdict"], "deny");
    assert_eq!(decision["reasons"].as_array().unwrap().len(), 1);
    assert_eq!(decision["reasons"][0]["code"], "no_applicable_policy");
    assert_eq!(decision["reasons"][0]["policy"], Value::Null);
}

#[test]
fn agent_and_time_are_those_given() {
    let action = json!({"kind": "file_read", "path": "x"});
    let at = |time| ["team.yaml", "--agent", "agent.json", "--at", time];
    let open = eval(&action, &at("2026-11-23T12:00:00Z")).exits(0).json();
    assert_eq!(open["verdict"], "allow");
    let closed = eval(&action, &at("2026-11-23T20:00:00Z")).exits(0).json();
    assert_eq!(closed["reasons"][0]["code"], "outside_active_hours");
}

#[test]
fn calls_of_the_last_hour_count_against_a_rate_limit() {
    let action = json!({"kind": "tool_call", "tool": "search"});
    let below = eval(&action, &["--calls", "search=1"]).exits(0).json();
    assert_eq!(below["verdict"], "allow");
    let reached = eval(&action, &["--calls", "search=2"]).exits(0).json();
    assert_eq!(reached["reasons"][0]["code"], "rate_limited");
}

#[test]
fn bad_input_exits_2_and_says_what_is_wrong() {
    let good = json!({"kind": "file_read", "path": "x"});
    for (action, more, says) in [
        (json!({"kind": "nonsense"}), vec![], "action.json is not an action"),
        (json!({"kind": "file_read", "path": "x", "more": 1}), vec![], "is not an action"),
        (good.clone(), vec!["--agent", "action.json"], "action.json is not an agent"),
        (good.clone(), vec!["--agent", "missing.json"], "cannot read missing.json"),
        (good.clone(), vec!["missing.yaml"], "cannot read missing.yaml"),
        (good.clone(), vec!["tools.yaml"], "two documents are named `tools`"),
        (good.clone(), vec!["--at", "yesterday"], "not an RFC 3339 time"),
        (good.clone(), vec!["--calls", "x"], "TOOL=N"),
        (good, vec!["bad.yaml"], "bad.yaml:1:8: error[invalid_scope]"),
    ] {
        let ran = eval(&action, &more).exits(2);
        assert!(ran.err.contains(says), "{says}: {}", ran.err);
        assert_eq!(ran.out, "");
    }
}

#[test]
fn people_see_the_file_and_the_line_that_decided() {
    let directory =
        files(&[("tools.yaml", POLICY), ("action.txt", r#"{"kind":"tool_call","tool":"bash"}"#)]);
    let arguments = ["policy", "eval", "--policy", ".", "--action", "action.txt"];
    let ran = run(aasm().current_dir(&directory).args(arguments)).exits(0);
    assert!(ran.out.starts_with("deny\n  tool_denied: "), "{}", ran.out);
    assert!(ran.out.contains("    at tools.yaml:9:7 spec.tools.bash.allow\n"), "{}", ran.out);
}

const SEQUENCES: &str = "sequences:\n  mail-after-confidential:\n    after: {tools: [read_file], \
                         result_matches: confidential}\n    then: {tools: [send_email], decision: \
                         require_approval}\ndata: {sensitive_patterns: [hunter2]}\n";

#[test]
fn what_came_before_in_the_session_is_decided_in_its_order() {
    let result = |content| json!({"kind": "tool_result", "tool": "read_file", "content": content});
    let directory = files(&[
        ("mail.yaml", SEQUENCES),
        ("read.json", &result("confidential").to_string()),
        ("blocked.json", &result("confidential hunter2").to_string()),
        ("action.json", r#"{"kind":"tool_call","tool":"send_email"}"#),
    ]);
    let arguments = ["policy", "eval", "--policy", "mail.yaml", "--action", "action.json"];
    let eval =
        |more: &[&str]| run(aasm().current_dir(&directory).args(arguments).args(more)).exits(0);
    assert!(eval(&[]).out.starts_with("allow\n"));
    let expected = "after blocked.json: deny, sensitive_data\n\
                    after read.json: allow, arms mail/mail-after-confidential\n\
                    require_approval\n  \
                    sequence_requires_approval: a person must approve the call of `send_email`, because an \
                    earlier result of the session armed the sequence `mail-after-confidential`\n    \
                    at mail.yaml:2:3 sequences.mail-after-confidential\n  \
                    approval: by the team's approvers within 300 s\n";
    assert_eq!(eval(&["--after", "blocked.json", "--after", "read.json"]).out, expected);
    let decision = eval(&["--after", "read.json", "--format", "json"]).json();
    assert_eq!(decision["verdict"], "require_approval");
    assert_eq!(eval(&["--after", "blocked.json", "--format", "json"]).json()["verdict"], "allow");

    let bad = run(aasm().current_dir(&directory).args(arguments).args(["--after", "mail.yaml"]));
    assert!(bad.exits(2).err.contains("mail.yaml:1:1: not JSON"));
}
