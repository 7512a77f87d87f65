//! What stands around the decision: reference examples, rendered diagnostics, the schema, lints, cases.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use aa_policy::{
    Diagnostic, DiagnosticCode as Code, Policy, PolicySet, STARTER, cases, check, json_schema, lint,
};
use aa_protocol::AgentFacts;
use regex_automata::meta::Regex;
use serde_json::{Value, json};

const EXAMPLES: [(&str, &str); 8] = [
    ("budget-only", include_str!("examples/budget-only.yaml")),
    ("allowlist-openai-slack", include_str!("examples/allowlist-openai-slack.yaml")),
    ("capability-example", include_str!("examples/capability-example.yaml")),
    ("guarded-tools", include_str!("examples/guarded-tools.yaml")),
    ("business-hours-only", include_str!("examples/business-hours-only.yaml")),
    ("no-pii-in-output", include_str!("examples/no-pii-in-output.yaml")),
    ("production-full", include_str!("examples/production-full.yaml")),
    ("flat", include_str!("examples/flat.yaml")),
];

fn rendered(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().map(|diagnostic| format!("{diagnostic}\n")).collect()
}

#[test]
fn the_examples_of_the_reference_are_accepted() {
    for (name, source) in EXAMPLES {
        let checked = check(source.as_bytes(), name);
        assert!(checked.errors.is_empty(), "{}", rendered(&checked.errors));
        assert_eq!(checked.policy.unwrap().name(), name);
        let expected = if name == "production-full" { vec![Code::ShutOut] } else { vec![] };
        assert_eq!(checked.warnings.iter().map(|w| w.code).collect::<Vec<_>>(), expected, "{name}");
    }
}

#[test]
fn a_document_with_many_errors_renders_them_all_with_their_source_lines() {
    let checked = check(include_bytes!("examples/many-errors.yaml"), "x");
    assert!(checked.policy.is_none());
    let text = format!(
        "# errors\n\n{}\n# warnings\n\n{}",
        rendered(&checked.errors),
        rendered(&checked.warnings)
    );
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/examples/many-errors.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(golden, &text).unwrap();
    }
    assert_eq!(text, include_str!("examples/many-errors.txt"));
}

// --- Schema ---------------------------------------------------------------------------------------

/// The keywords that the schema uses, and only those.
fn is_valid(schema: &Value, value: &Value) -> bool {
    let matches = |pattern: &str, text: &str| Regex::new(pattern).unwrap().is_match(text);
    schema.as_object().unwrap().iter().all(|(keyword, rule)| match keyword.as_str() {
        "type" => match rule {
            Value::Array(types) => types.iter().any(|name| has_type(name, value)),
            name => has_type(name, value),
        },
        "properties" => value.as_object().is_none_or(|object| {
            object.iter().all(|(key, value)| rule.get(key).is_none_or(|rule| is_valid(rule, value)))
        }),
        "required" => value.as_object().is_none_or(|object| {
            rule.as_array().unwrap().iter().all(|key| object.contains_key(key.as_str().unwrap()))
        }),
        "additionalProperties" => value
            .as_object()
            .is_none_or(|object| object.values().all(|value| is_valid(rule, value))),
        "propertyNames" => value
            .as_object()
            .is_none_or(|object| object.keys().all(|key| is_valid(rule, &json!(key)))),
        "minLength" => {
            value.as_str().is_none_or(|text| text.len() as u64 >= rule.as_u64().unwrap())
        }
        "minItems" => {
            value.as_array().is_none_or(|items| items.len() as u64 >= rule.as_u64().unwrap())
        }
        "items" => {
            value.as_array().is_none_or(|items| items.iter().all(|item| is_valid(rule, item)))
        }
        "const" => value == rule,
        "enum" => rule.as_array().unwrap().contains(value),
        "pattern" => value.as_str().is_none_or(|text| matches(rule.as_str().unwrap(), text)),
        "minimum" => value.as_f64().is_none_or(|number| number >= rule.as_f64().unwrap()),
        "exclusiveMinimum" => value.as_f64().is_none_or(|number| number > rule.as_f64().unwrap()),
        "anyOf" => rule.as_array().unwrap().iter().any(|rule| is_valid(rule, value)),
        "if" => {
            let branch = if is_valid(rule, value) { "then" } else { "else" };
            is_valid(&schema[branch], value)
        }
        "then" | "else" | "$schema" | "title" | "description" | "default" | "format"
        | "examples" => true,
        other => panic!("unexpected keyword {other}"),
    })
}

fn has_type(name: &Value, value: &Value) -> bool {
    match name.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "null" => value.is_null(),
        other => panic!("unexpected type {other}"),
    }
}

fn envelope(spec: Value) -> Value {
    json!({"apiVersion": "agent-assembly/v1", "kind": "Policy", "metadata": {"name": "p"}, "spec": spec})
}

fn sequence(after: Value, then: Value) -> Value {
    json!({"sequences": {"s": {"after": after, "then": then}}})
}

#[test]
fn schema_and_validator_agree_on_good_and_bad_documents() {
    let schema = json_schema();
    let specs = [
        (json!({}), true),
        (json!({"scope": "team:a", "unknown": 1}), true),
        (json!({"network": null, "tools": {"bash": null}}), true),
        (
            json!({"schedule": {"active_hours": {"start": "09:00", "end": "24:00", "timezone": "UTC"}}}),
            true,
        ),
        (json!({"capabilities": {"allow": ["mcp_tool:a b", "file_read"]}}), true),
        (json!({"tools": {"bash": {"limit_per_hour": 0}}}), true),
        (json!({"scope": "project:foo"}), false),
        (json!({"scope": "agent:x"}), false),
        (json!({"network": {"allowlist": [""]}}), false),
        (json!({"network": {"allowlist": "a.example"}}), false),
        (json!({"schedule": {"active_hours": {"start": "09:00", "end": "18:00"}}}), false),
        (
            json!({"schedule": {"active_hours": {"start": "24:00", "end": "24:00", "timezone": "UTC"}}}),
            false,
        ),
        (json!({"budget": {"daily_limit_usd": 0}}), false),
        (json!({"budget": {"action_on_exceed": "block"}}), false),
        (json!({"data": {"on_stream_match": "flag"}}), true),
        (json!({"data": {"on_stream_match": "drop"}}), false),
        (json!({"tools": {"bash": {"allow": "yes"}}}), false),
        (json!({"tools": {"bash": {"requires_approval_if": ""}}}), false),
        (json!({"tools": {"": {}}}), false),
        (json!({"capabilities": {"deny": ["model:"]}}), false),
        (json!({"approval_timeout_secs": 0}), false),
        (json!({"approval": {"escalation_role": ""}}), false),
        (json!({"sequences": null}), true),
        (sequence(json!({"tools": ["a"]}), json!({"tools": ["b"], "decision": "deny"})), true),
        (sequence(json!({}), json!({"tools": ["b"], "decision": "deny"})), false),
        (sequence(json!(null), json!({"tools": ["b"], "decision": "deny"})), false),
        (sequence(json!({"tools": []}), json!({"tools": ["b"], "decision": "deny"})), false),
        (sequence(json!({"tools": ["a"]}), json!({"tools": null, "decision": "deny"})), false),
        (sequence(json!({"tools": ["a"]}), json!({"tools": ["b"], "decision": "no"})), false),
        (sequence(json!({"tools": ["a"]}), json!({"tools": ["b"]})), false),
        (json!({"sequences": {"a b": null}}), false),
    ];
    for (spec, good) in specs {
        for document in [envelope(spec.clone()), spec.clone()] {
            assert_eq!(is_valid(&schema, &document), good, "schema: {document}");
            let checked = check(document.to_string().as_bytes(), "x");
            assert_eq!(checked.policy.is_some(), good, "check: {document} {:?}", checked.errors);
        }
    }
    for bad in [
        json!([]),
        json!({"kind": "Policy"}),
        json!({"spec": {}}),
        json!({"metadata": {"name": "a b"}}),
    ] {
        assert!(!is_valid(&schema, &bad), "{bad}");
        assert!(check(bad.to_string().as_bytes(), "x").policy.is_none());
    }
}

// --- Lints ----------------------------------------------------------------------------------------

fn set(documents: &[(&str, &str)]) -> PolicySet {
    let compile = |name: &str, source: &str| {
        let checked = check(source.as_bytes(), name);
        Arc::new(
            checked.policy.unwrap_or_else(|| panic!("{source}\n{}", rendered(&checked.errors))),
        )
    };
    PolicySet::new(documents.iter().map(|(name, source)| (compile(name, source), None::<u64>)))
        .unwrap()
}

fn agent(team: &str) -> AgentFacts {
    serde_json::from_value(json!({
        "id": "01234567-89ab-cdef-0123-456789abcdef", "name": "a", "org": "acme", "team": team
    }))
    .unwrap()
}

#[test]
fn a_scope_no_registered_agent_is_in_is_found() {
    let set = set(&[
        ("a", "scope: global"),
        ("b", "scope: team:platform"),
        ("c", "scope: team:plattform"),
        ("d", "version: '1'\nscope: agent:11234567-89ab-cdef-0123-456789abcdef"),
        ("e", "scope: tool:bash"),
    ]);
    let found = lint(&set, &[agent("platform")]);
    let found: Vec<_> =
        found.iter().map(|l| (l.policy.as_str(), l.diagnostic.code, l.diagnostic.line)).collect();
    assert_eq!(found, [("c", Code::UnusedScope, 1), ("d", Code::UnusedScope, 2)]);
}

#[test]
fn a_tool_document_that_no_wider_document_admits_is_found() {
    let found = lint(&set(&[("t", "scope: tool:bash")]), &[agent("x")]);
    assert_eq!(found[0].diagnostic.code, Code::UnusedScope);
}

#[test]
fn a_tool_entry_that_the_capabilities_of_another_document_shut_out_is_found() {
    let set = set(&[
        ("base", "capabilities: {deny: ['mcp_tool:bash']}"),
        ("team", "scope: team:x\ntools:\n  bash: {limit_per_hour: 3}\n  git: {}\n"),
    ]);
    let found = lint(&set, &[agent("x")]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].policy.as_str(), found[0].diagnostic.line), ("team", 3));
}

// --- Cases ----------------------------------------------------------------------------------------

const SUITE: &str = r#"
at: 2026-11-23T12:00:00Z
agent: {team: platform}
cases:
  - name: the shell is limited
    action: {kind: tool_call, tool: bash, args: {cmd: ls}}
    rates: {bash: 3}
    expect: {verdict: deny, code: rate_limited, policy: base, reason: the limit is 3}
  - name: at L2 a person decides
    agent: {governance_level: L2}
    action: {kind: tool_call, tool: bash}
    expect: require_approval
  - name: wrong on purpose
    action: {kind: file_read, path: /etc/hosts}
    at: 2026-11-23T09:30:00+08:00
    expect: {verdict: deny, code: capability_denied}
"#;

#[test]
fn cases_pass_or_say_what_was_expected_and_what_was_decided() {
    let suite =
        cases::parse(SUITE.as_bytes()).unwrap_or_else(|errors| panic!("{}", rendered(&errors)));
    assert_eq!(suite.policies, None);
    let base = "tools: {bash: {limit_per_hour: 3, requires_approval_if: governance_level >= L2}}";
    let results = cases::run(&suite, &set(&[("base", base)]));
    assert_eq!(
        results.iter().map(|r| r.failure.is_none()).collect::<Vec<_>>(),
        [true, true, false]
    );
    assert_eq!(results[2].line, 13);
    assert_eq!(
        results[2].failure.as_deref().unwrap(),
        "expected deny, code capability_denied\n     got allow\n         allowed · base: nothing here restricts the action"
    );
}

#[test]
fn a_case_says_what_the_session_did_before() {
    let suite = r#"
at: 2026-11-23T12:00:00Z
cases:
  - name: what was read does not leave
    after:
      - {kind: tool_result, tool: read_file, content: confidential}
    action: {kind: tool_call, tool: send_email}
    expect: {verdict: require_approval, code: sequence_requires_approval, policy: p}
  - name: another result changes nothing
    after: [{kind: tool_result, tool: read_file, content: public}]
    action: {kind: tool_call, tool: send_email}
    expect: allow
  - name: a blocked result never reached the agent
    after: [{kind: tool_result, tool: read_file, content: confidential hunter2}]
    action: {kind: tool_call, tool: send_email}
    expect: require_approval
"#;
    let suite = cases::parse(suite.as_bytes()).unwrap_or_else(|e| panic!("{}", rendered(&e)));
    let policy = "sequences:\n  s:\n    after: {tools: [read_file], result_matches: confidential}\n    \
                  then: {tools: [send_email], decision: require_approval}\n\
                  data: {sensitive_patterns: [hunter2]}\n";
    let results = cases::run(&suite, &set(&[("p", policy)]));
    assert_eq!((&results[0].failure, &results[1].failure), (&None, &None));
    let failure = results[2].failure.as_deref().unwrap();
    assert!(failure.contains("\n   after[0] got deny: sensitive_data · "), "{failure}");

    let broken = "at: 2026-11-23T12:00:00Z\ncases:\n  - name: x\n    after: {kind: file_read}\n    \
                  action: {kind: file_read, path: x}\n    expect: allow\n  - name: y\n    \
                  after: [{kind: nonsense}]\n    action: {kind: file_read, path: x}\n    expect: allow\n";
    let errors = cases::parse(broken.as_bytes()).unwrap_err();
    let found: Vec<_> = errors.iter().map(|e| (e.code, e.path.as_str(), e.line)).collect();
    assert_eq!(
        found,
        [(Code::WrongType, "cases[0].after", 4), (Code::WrongType, "cases[1].after[0]", 8)]
    );
}

#[test]
fn a_broken_file_of_cases_says_everything_that_is_wrong_with_its_place() {
    let source = "cases:\n  - name: x\n    action: {kind: tool_cal}\n    expect: alow\n  - nme: y\n    at: noon\n    action: {kind: file_read, path: x}\n    expect: {verdict: deny, code: nope}\n";
    let errors = cases::parse(source.as_bytes()).unwrap_err();
    let found: Vec<_> = errors.iter().map(|e| (e.code, e.path.as_str(), e.line)).collect();
    assert_eq!(
        found,
        [
            (Code::MissingField, "cases[0].at", 2),
            (Code::WrongType, "cases[0].action", 3),
            (Code::UnknownChoice, "cases[0].expect", 4),
            (Code::UnknownKey, "cases[1].nme", 5),
            (Code::MissingField, "cases[1].name", 5),
            (Code::InvalidTime, "cases[1].at", 6),
            (Code::UnknownChoice, "cases[1].expect.code", 8),
        ]
    );
    assert!(cases::parse(b"cases: []\n").is_err());
    assert!(cases::parse(b"x").is_err());
    let torn = cases::parse(b"cases: [1, 2}\n").unwrap_err();
    assert_eq!(torn[0].source_line.as_deref(), Some("cases: [1, 2}"), "{}", rendered(&torn));
}

#[test]
fn policies_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Policy>();
    shared::<PolicySet>();
    shared::<aa_policy::AgentPolicies>();
    assert!(check(STARTER.as_bytes(), "x").policy.is_some());
}
