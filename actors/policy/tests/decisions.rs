//! What policies mean: each statement of the policy semantics, as a sentence.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, sync::Arc};

use aa_policy::{
    AgentPolicies, Amount, BudgetFacts, Cost, Facts, Judgement, OnStreamMatch, Outcome, Period,
    Policy, PolicySet, STARTER, Spend, Suspension, check, decide, judge,
};
use aa_protocol::{Action, AgentFacts, NanoUsd, ReasonCode, Timestamp, Verdict};
use serde_json::{Value, json};

const NOON: &str = "2026-11-23T12:00:00Z";

fn policy(name: &str, rules: &str) -> Arc<Policy> {
    let indented: String = rules.lines().map(|line| format!("  {line}\n")).collect();
    let source = format!(
        "apiVersion: agent-assembly/v1\nkind: Policy\nmetadata:\n  name: {name}\n  version: \"2\"\nspec:\n{indented}"
    );
    let checked = check(source.as_bytes(), "file");
    assert!(checked.errors.is_empty(), "{source}\n{:#?}", checked.errors);
    Arc::new(checked.policy.unwrap())
}

fn set(documents: &[(&str, &str)]) -> PolicySet {
    PolicySet::new(documents.iter().map(|(name, rules)| (policy(name, rules), Some(7)))).unwrap()
}

fn agent() -> AgentFacts {
    serde_json::from_value(json!({
        "id": "01234567-89ab-cdef-0123-456789abcdef", "name": "researcher",
        "org": "acme", "team": "platform", "governance_level": "L1", "labels": {}
    }))
    .unwrap()
}

fn action(json: Value) -> Action {
    serde_json::from_value(json).unwrap()
}

fn call(tool: &str) -> Action {
    action(json!({"kind": "tool_call", "tool": tool, "args": {}}))
}

fn decide_at(policies: &AgentPolicies, facts: &Facts<'_>, action: &Action, at: &str) -> Outcome {
    decide(policies, facts, action, at.parse().unwrap())
}

fn eval(documents: &[(&str, &str)], action: &Action) -> Outcome {
    let agent = agent();
    decide_at(&set(documents).for_agent(&agent), &Facts::of(&agent), action, NOON)
}

fn verdict(rules: &str, action: Value) -> Verdict {
    eval(&[("p", rules)], &self::action(action)).decision.verdict
}

fn codes(outcome: &Outcome) -> Vec<ReasonCode> {
    outcome.decision.reasons.iter().map(|reason| reason.code).collect()
}

fn denies(rules: &str, action: Value) -> bool {
    verdict(rules, action) == Verdict::Deny
}

// --- Evaluation -----------------------------------------------------------------------------------

#[test]
fn a_document_applies_when_its_scope_covers_the_agent() {
    let block = "tools: {bash: {allow: false}}";
    for (scope, applies) in [
        ("global", true),
        ("org:acme", true),
        ("org:other", false),
        ("team:platform", true),
        ("team:ops", false),
        ("agent:01234567-89ab-cdef-0123-456789abcdef", true),
        ("agent:01234567-89AB-CDEF-0123-456789ABCDEF", true),
        ("agent:11234567-89ab-cdef-0123-456789abcdef", false),
        ("tool:bash", true),
        ("tool:git", false),
    ] {
        let scoped = format!("scope: {scope}\n{block}");
        let outcome = eval(&[("base", "scope: global"), ("scoped", &scoped)], &call("bash"));
        assert_eq!(outcome.decision.verdict == Verdict::Deny, applies, "{scope}");
        assert_eq!(outcome.applied.len(), 1 + usize::from(applies), "{scope}");
    }
}

#[test]
fn an_absent_scope_is_global() {
    assert!(denies("tools: {bash: {allow: false}}", json!({"kind": "tool_call", "tool": "bash"})));
}

#[test]
fn a_tool_document_applies_to_calls_of_that_tool_only() {
    let documents = [
        ("base", "scope: global"),
        (
            "t",
            "scope: tool:bash\nschedule: {active_hours: {start: '00:00', end: '00:01', timezone: UTC}}",
        ),
    ];
    assert_eq!(eval(&documents, &call("bash")).decision.verdict, Verdict::Deny);
    assert_eq!(eval(&documents, &call("git")).decision.verdict, Verdict::Allow);
    let result = action(json!({"kind": "tool_result", "tool": "bash", "content": "x"}));
    assert_eq!(eval(&documents, &result).decision.verdict, Verdict::Allow);
}

#[test]
fn the_most_restrictive_verdict_wins_whatever_the_order_of_loading() {
    let ask = ("ask", "tools: {bash: {requires_approval_if: 'true'}}");
    let deny = ("deny", "tools: {bash: {allow: false}}");
    let allow = ("allow", "tools: {bash: {allow: true}}");
    for order in [[ask, deny, allow], [deny, allow, ask], [allow, ask, deny]] {
        assert_eq!(eval(&order, &call("bash")).decision.verdict, Verdict::Deny);
    }
    assert_eq!(eval(&[allow, ask], &call("bash")).decision.verdict, Verdict::RequireApproval);
    assert_eq!(eval(&[ask, allow], &call("bash")).decision.verdict, Verdict::RequireApproval);
}

#[test]
fn allowlists_intersect_denies_unite_and_the_smallest_limit_wins() {
    let documents = [
        (
            "a",
            "network: {allowlist: [x.example, y.example]}\ntools: {bash: {limit_per_hour: 10}}\ncapabilities: {deny: [file_read]}",
        ),
        (
            "b",
            "network: {allowlist: [y.example, z.example]}\ntools: {bash: {limit_per_hour: 3}}\ncapabilities: {deny: [file_write]}",
        ),
    ];
    for (host, allowed) in [("x.example", false), ("y.example", true), ("z.example", false)] {
        let outcome = eval(
            &documents,
            &action(json!({"kind": "network_connect", "host": host, "port": 443})),
        );
        assert_eq!(outcome.decision.verdict == Verdict::Allow, allowed, "{host}");
    }
    for kind in ["file_read", "file_write"] {
        let outcome = eval(&documents, &action(json!({"kind": kind, "path": "/x"})));
        assert_eq!(outcome.decision.verdict, Verdict::Deny);
    }
    let agent = agent();
    let rates: BTreeMap<String, u64> = [("bash".to_owned(), 3)].into();
    let facts = Facts { rates: &rates, ..Facts::of(&agent) };
    let outcome = decide_at(&set(&documents).for_agent(&agent), &facts, &call("bash"), NOON);
    assert_eq!(codes(&outcome), [ReasonCode::RateLimited]);
    assert_eq!(outcome.decision.reasons[0].policy.as_deref(), Some("b"));
}

#[test]
fn a_tool_document_counts_only_once_a_document_of_a_wider_scope_applies_too() {
    let outcome = eval(&[("t", "scope: tool:bash\ntools: {bash: {allow: true}}")], &call("bash"));
    assert_eq!(codes(&outcome), [ReasonCode::NoApplicablePolicy]);
    assert!(outcome.applied.is_empty());
}

#[test]
fn without_an_applicable_document_everything_is_denied() {
    for documents in [&[][..], &[("ops", "scope: team:ops")][..]] {
        let outcome = eval(documents, &call("bash"));
        assert_eq!(outcome.decision.verdict, Verdict::Deny);
        assert_eq!(codes(&outcome), [ReasonCode::NoApplicablePolicy]);
    }
}

#[test]
fn the_starter_policy_allows_everything() {
    let checked = check(STARTER.as_bytes(), "x");
    assert!(checked.errors.is_empty() && checked.warnings.is_empty(), "{checked:?}");
    let starter = Arc::new(checked.policy.unwrap());
    assert_eq!(starter.name(), "starter");
    let agent = agent();
    let policies = PolicySet::new([(starter, Some(1))]).unwrap().for_agent(&agent);
    for action in every_kind() {
        let outcome = decide_at(&policies, &Facts::of(&agent), &action, NOON);
        assert_eq!(outcome.decision.verdict, Verdict::Allow, "{action:?}");
        assert_eq!(outcome.decision.reasons[0].policy.as_deref(), Some("starter"));
    }
}

fn every_kind() -> Vec<Action> {
    [
        json!({"kind": "tool_call", "tool": "bash", "args": {"a": 1}}),
        json!({"kind": "tool_result", "tool": "bash", "content": {"a": ["x"]}}),
        json!({"kind": "llm_call", "model": "gpt-4o", "host": "api.openai.com", "messages": [{"role": "user"}]}),
        json!({"kind": "llm_call", "model": "local", "messages": []}),
        json!({"kind": "llm_result", "model": "gpt-4o", "content": "x", "usage": {"input_tokens": 1}}),
        json!({"kind": "network_connect", "host": "x.example", "port": 443}),
        json!({"kind": "network_listen", "port": 80}),
        json!({"kind": "file_read", "path": "/x"}),
        json!({"kind": "file_write", "path": "/x"}),
        json!({"kind": "process_exec", "argv": ["ls", "-l"]}),
        json!({"kind": "agent_spawn", "child": "helper"}),
    ]
    .map(action)
    .into()
}

#[test]
fn all_violations_are_reported_with_document_revision_path_line_and_column() {
    let rules = "capabilities:\n  deny: [mcp_tool:bash]\ntools:\n  bash:\n    allow: false\n    limit_per_hour: 0\ndata:\n  sensitive_patterns: [\"secret\"]\nschedule:\n  active_hours: {start: \"01:00\", end: \"02:00\", timezone: UTC}";
    let action = action(json!({"kind": "tool_call", "tool": "bash", "args": {"x": "a secret"}}));
    let outcome = eval(&[("p", rules)], &action);
    let reasons: Vec<_> = outcome
        .decision
        .reasons
        .iter()
        .map(|r| (r.code, r.path.as_deref().unwrap(), r.line.unwrap(), r.column.unwrap()))
        .collect();
    assert_eq!(
        reasons,
        [
            (ReasonCode::OutsideActiveHours, "spec.schedule.active_hours", 16, 5),
            (ReasonCode::CapabilityDenied, "spec.capabilities.deny[0]", 8, 12),
            (ReasonCode::ToolDenied, "spec.tools.bash.allow", 11, 7),
            (ReasonCode::SensitiveData, "spec.data.sensitive_patterns[0]", 14, 26),
            (ReasonCode::RateLimited, "spec.tools.bash.limit_per_hour", 12, 7),
        ]
    );
    for reason in &outcome.decision.reasons {
        assert_eq!(reason.policy.as_deref(), Some("p"));
        assert_eq!(reason.revision, Some(7));
        assert_eq!(reason.version.as_deref(), Some("2"));
        assert!(reason.message.len() > 20, "{reason:?}");
    }
}

#[test]
fn flat_documents_name_paths_without_the_envelope() {
    let checked = check(b"version: \"1.0\"\ntools:\n  bash: {allow: false}\n", "my policy");
    let policies = PolicySet::new([(Arc::new(checked.policy.unwrap()), None)]).unwrap();
    let agent = agent();
    let outcome = decide_at(&policies.for_agent(&agent), &Facts::of(&agent), &call("bash"), NOON);
    let reason = &outcome.decision.reasons[0];
    assert_eq!(reason.path.as_deref(), Some("tools.bash.allow"));
    assert_eq!((reason.policy.as_deref(), reason.revision), (Some("my-policy"), None));
    assert_eq!(
        (reason.version.as_deref(), reason.line, reason.column),
        (Some("1.0"), Some(3), Some(10))
    );
}

#[test]
fn an_allow_names_the_documents_that_admitted_it() {
    let documents = [
        ("b", "tools: {bash: {limit_per_hour: 3}}"),
        ("a", "capabilities: {allow: [mcp_tool:bash]}"),
        ("c", "scope: tool:bash"),
        ("d", "scope: team:ops"),
    ];
    let outcome = eval(&documents, &call("bash"));
    let names: Vec<_> =
        outcome.decision.reasons.iter().map(|r| r.policy.as_deref().unwrap()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(outcome.applied.iter().map(|p| &*p.name).collect::<Vec<_>>(), ["a", "b", "c"]);
    let paths: Vec<_> = outcome.decision.reasons.iter().map(|r| r.path.as_deref()).collect();
    assert_eq!(paths, [Some("spec.capabilities.allow[0]"), Some("spec.tools.bash"), None]);
}

#[test]
fn the_first_reason_follows_the_order_of_checks() {
    let rules = "budget: {daily_limit_usd: 1}\ntools: {bash: {requires_approval_if: 'true', limit_per_hour: 0, allow: false}}\ncapabilities: {allow: []}\nschedule: {active_hours: {start: '00:00', end: '00:01', timezone: UTC}}\ndata: {sensitive_patterns: [x]}";
    let agent = agent();
    let suspension = Suspension { reason: "leak".into() };
    let facts = Facts { suspended: Some(&suspension), cost: cost(2.0), ..Facts::of(&agent) };
    let action = action(json!({"kind": "tool_call", "tool": "bash", "args": {"k": "x"}}));
    let outcome = decide_at(&set(&[("p", rules)]).for_agent(&agent), &facts, &action, NOON);
    use ReasonCode as Code;
    assert_eq!(
        codes(&outcome),
        [
            Code::AgentSuspended,
            Code::OutsideActiveHours,
            Code::CapabilityNotAllowed,
            Code::ToolDenied,
            Code::SensitiveData,
            Code::RateLimited,
            Code::ApprovalRequired,
            Code::BudgetExceeded,
        ]
    );
    let none = decide_at(&PolicySet::empty().for_agent(&agent), &facts, &action, NOON);
    assert_eq!(codes(&none), [Code::NoApplicablePolicy, Code::AgentSuspended]);
}

#[test]
fn a_denied_call_consumes_nothing() {
    let limited = "tools: {bash: {limit_per_hour: 5}}";
    assert_eq!(eval(&[("p", limited)], &call("bash")).counted_limit, Some(5));
    let larger = "tools: {bash: {limit_per_hour: 9}}";
    assert_eq!(eval(&[("p", limited), ("q", larger)], &call("bash")).counted_limit, Some(9));
    let denied = "capabilities: {deny: [mcp_tool:bash]}";
    assert_eq!(eval(&[("p", limited), ("q", denied)], &call("bash")).counted_limit, None);
    let asked = "tools: {bash: {requires_approval_if: 'true'}}";
    assert_eq!(eval(&[("p", limited), ("q", asked)], &call("bash")).counted_limit, None);
    assert_eq!(eval(&[("p", limited)], &call("git")).counted_limit, None);
}

#[test]
fn two_documents_of_one_name_are_no_set() {
    let error = PolicySet::new([
        (policy("a", "scope: global"), None),
        (policy("a", "scope: global"), None),
    ]);
    assert_eq!(error.unwrap_err().name, "a");
}

// --- Action kinds ---------------------------------------------------------------------------------

#[test]
fn each_action_needs_its_capability() {
    for (action, capability) in [
        (json!({"kind": "tool_call", "tool": "bash"}), "mcp_tool:bash"),
        (json!({"kind": "network_connect", "host": "x.example", "port": 1}), "network_outbound"),
        (json!({"kind": "network_listen", "port": 1}), "network_inbound"),
        (json!({"kind": "file_read", "path": "x"}), "file_read"),
        (json!({"kind": "file_write", "path": "x"}), "file_write"),
        (json!({"kind": "process_exec", "argv": ["x"]}), "terminal_exec"),
        (json!({"kind": "agent_spawn", "child": "x"}), "agent_spawn"),
        (json!({"kind": "llm_call", "model": "m", "host": "x.example"}), "network_outbound"),
    ] {
        assert!(
            !denies(&format!("capabilities: {{allow: [{capability}]}}"), action.clone()),
            "{action}"
        );
        assert!(denies("capabilities: {allow: []}", action.clone()), "{action}");
        assert!(
            denies(&format!("capabilities: {{deny: [{capability}]}}"), action.clone()),
            "{action}"
        );
    }
    assert!(denies("capabilities: {deny: [model:m]}", json!({"kind": "llm_call", "model": "m"})));
}

#[test]
fn results_need_no_capability() {
    for kind in ["tool_result", "llm_result"] {
        let action = json!({"kind": kind, "tool": "t", "content": "x"});
        let action = if kind == "llm_result" {
            json!({"kind": kind, "model": "m", "content": "x"})
        } else {
            action
        };
        assert!(!denies("capabilities: {allow: [], deny: [model:m, mcp_tool:t]}", action));
    }
}

#[test]
fn a_model_call_needs_network_outbound_only_when_a_host_is_known() {
    let rules = "capabilities: {deny: [network_outbound]}\nnetwork: {}";
    assert!(!denies(rules, json!({"kind": "llm_call", "model": "m"})));
    let outcome = eval(
        &[("p", rules)],
        &action(json!({"kind": "llm_call", "model": "m", "host": "x.example"})),
    );
    assert_eq!(codes(&outcome), [ReasonCode::CapabilityDenied, ReasonCode::HostNotAllowed]);
}

#[test]
fn a_tools_name_implies_no_capability() {
    let rules = "capabilities: {allow: [mcp_tool:bash]}";
    assert!(!denies(rules, json!({"kind": "tool_call", "tool": "bash"})));
    assert!(denies(rules, json!({"kind": "process_exec", "argv": ["bash"]})));
    assert!(denies(
        "capabilities: {allow: [terminal_exec]}",
        json!({"kind": "tool_call", "tool": "bash"})
    ));
}

#[test]
fn schedule_and_suspension_apply_to_every_action() {
    let rules = "schedule: {active_hours: {start: '00:00', end: '00:01', timezone: UTC}}";
    let agent = agent();
    let suspension = Suspension::default();
    let suspended = Facts { suspended: Some(&suspension), ..Facts::of(&agent) };
    for action in every_kind() {
        let outcome = eval(&[("p", rules)], &action);
        assert_eq!(codes(&outcome), [ReasonCode::OutsideActiveHours], "{action:?}");
        let open = set(&[("p", "scope: global")]).for_agent(&agent);
        let outcome = decide_at(&open, &suspended, &action, NOON);
        assert_eq!(codes(&outcome), [ReasonCode::AgentSuspended], "{action:?}");
    }
}

// --- Sections -------------------------------------------------------------------------------------

#[test]
fn an_absent_section_restricts_nothing() {
    for action in every_kind() {
        assert_eq!(eval(&[("p", "scope: global")], &action).decision.verdict, Verdict::Allow);
    }
}

#[test]
fn a_network_section_with_no_or_an_empty_allowlist_permits_no_outbound() {
    for rules in ["network: {}", "network:", "network: {allowlist: []}", "network:\n  allowlist:"] {
        assert!(
            denies(rules, json!({"kind": "network_connect", "host": "x.example", "port": 1})),
            "{rules}"
        );
        assert!(!denies(rules, json!({"kind": "network_listen", "port": 1})), "{rules}");
    }
}

#[test]
fn hosts_are_matched_by_the_allowlist_in_their_normal_form() {
    let rules = "network: {allowlist: [API.openai.com, '*.slack.com', bücher.example, '10.0.0.1']}";
    for (host, allowed) in [
        ("api.openai.com", true),
        ("API.OPENAI.COM.", true),
        ("a.b.slack.com", true),
        ("slack.com", false),
        ("xn--bcher-kva.example", true),
        ("10.0.0.1", true),
        ("10.0.0.2", false),
        ("", false),
        ("api.openai.com.evil.example", false),
    ] {
        let allows = !denies(rules, json!({"kind": "network_connect", "host": host, "port": 443}));
        assert_eq!(allows, allowed, "{host}");
    }
    assert!(!denies(
        "network: {allowlist: ['*']}",
        json!({"kind": "network_connect", "host": "::1", "port": 1})
    ));
}

#[test]
fn capabilities_deny_beats_everything() {
    let rules = "capabilities: {allow: [file_read, mcp_tool:git], deny: [file_read, mcp_tool:git]}";
    assert!(denies(rules, json!({"kind": "file_read", "path": "x"})));
    assert!(denies(rules, json!({"kind": "tool_call", "tool": "git"})));
}

#[test]
fn models_are_restricted_only_once_one_model_is_listed() {
    let call = |model: &str| json!({"kind": "llm_call", "model": model});
    assert!(!denies("capabilities: {allow: [mcp_tool:git]}", call("gpt-4o")));
    assert!(!denies("capabilities: {allow: []}", call("gpt-4o")));
    assert!(!denies("capabilities: {allow: [model:gpt-4o]}", call("gpt-4o")));
    assert!(denies("capabilities: {allow: [model:gpt-4o]}", call("gpt-4o-mini")));
    assert!(denies("capabilities: {allow: [model:gpt-4o]}", call("GPT-4o")));
}

#[test]
fn an_unlisted_tool_is_not_restricted_by_the_tools_section() {
    let rules = "tools:\n  bash: {allow: false}\n  git: {}\n  svn:";
    assert!(denies(rules, json!({"kind": "tool_call", "tool": "bash"})));
    for tool in ["git", "svn", "curl", "Bash"] {
        assert!(!denies(rules, json!({"kind": "tool_call", "tool": tool})), "{tool}");
    }
    assert!(!denies(rules, json!({"kind": "tool_result", "tool": "bash"})));
}

#[test]
fn at_most_the_limit_of_admitted_calls_is_allowed_in_the_window() {
    let agent = agent();
    let policies = set(&[("p", "tools: {bash: {limit_per_hour: 10}}")]).for_agent(&agent);
    for (admitted, allowed) in [(0, true), (9, true), (10, false), (11, false)] {
        let rates: BTreeMap<String, u64> = [("bash".to_owned(), admitted)].into();
        let facts = Facts { rates: &rates, ..Facts::of(&agent) };
        let outcome = decide_at(&policies, &facts, &call("bash"), NOON);
        assert_eq!(outcome.decision.verdict == Verdict::Allow, allowed, "{admitted}");
        assert_eq!(outcome.counted_limit, allowed.then_some(10));
    }
}

#[test]
fn a_missing_argument_requires_approval() {
    let rules = "tools: {bash: {requires_approval_if: 'args.risk > 3'}}";
    let outcome = eval(&[("p", rules)], &call("bash"));
    assert_eq!(outcome.decision.verdict, Verdict::RequireApproval);
    assert_eq!(codes(&outcome), [ReasonCode::ApprovalConditionError]);
    assert!(!denies(rules, json!({"kind": "tool_call", "tool": "bash", "args": {"risk": 1}})));
    assert_eq!(
        verdict(rules, json!({"kind": "tool_call", "tool": "bash", "args": {"risk": 1}})),
        Verdict::Allow
    );
}

#[test]
fn the_approval_deadline_falls_back_from_the_section_to_the_document_to_300_seconds() {
    let ask = "tools: {bash: {requires_approval_if: 'governance_level >= L1'}}";
    for (more, seconds) in [
        ("approval: {timeout_seconds: 600}\napproval_timeout_secs: 60", 600),
        ("approval_timeout_secs: 60", 60),
        ("approval: {escalation_role: sec}", 300),
        ("", 300),
    ] {
        let outcome = eval(&[("p", &format!("{ask}\n{more}"))], &call("bash"));
        assert_eq!(outcome.decision.approval.unwrap().timeout_seconds, seconds, "{more}");
    }
}

#[test]
fn when_several_documents_ask_the_shortest_deadline_and_every_role_hold() {
    let ask = "tools: {bash: {requires_approval_if: 'true'}}\napproval: ";
    let outcome = eval(
        &[
            ("a", &format!("{ask}{{timeout_seconds: 600, escalation_role: security-team}}")),
            ("b", &format!("{ask}{{timeout_seconds: 90, escalation_role: org-admin}}")),
            ("c", &format!("{ask}{{timeout_seconds: 900, escalation_role: org-admin}}")),
            ("d", "approval: {timeout_seconds: 1, escalation_role: nobody}"),
        ],
        &call("bash"),
    );
    let terms = outcome.decision.approval.unwrap();
    assert_eq!(terms.timeout_seconds, 90);
    assert_eq!(terms.roles, ["org-admin", "security-team"]);
    assert_eq!(codes(&outcome_of_ask(ask)), [ReasonCode::ApprovalRequired]);
}

fn outcome_of_ask(ask: &str) -> Outcome {
    eval(&[("a", &format!("{ask}{{}}"))], &call("bash"))
}

#[test]
fn any_deny_from_any_document_means_no_approval_is_asked_for() {
    let outcome = eval(
        &[
            ("a", "tools: {bash: {requires_approval_if: 'true'}}"),
            ("b", "capabilities: {deny: [mcp_tool:bash]}"),
        ],
        &call("bash"),
    );
    assert_eq!(outcome.decision.verdict, Verdict::Deny);
    assert_eq!(outcome.decision.approval, None);
    assert_eq!(codes(&outcome), [ReasonCode::CapabilityDenied, ReasonCode::ApprovalRequired]);
}

#[test]
fn sensitive_patterns_are_searched_in_every_string_keys_too() {
    let rules = "data: {sensitive_patterns: ['SECRET-[0-9]+']}";
    for action in [
        json!({"kind": "tool_call", "tool": "SECRET-1"}),
        json!({"kind": "tool_call", "tool": "t", "args": {"a": {"b": ["x", "SECRET-1"]}}}),
        json!({"kind": "tool_call", "tool": "t", "args": {"SECRET-1": 1}}),
        json!({"kind": "tool_result", "tool": "t", "content": "x SECRET-1 y"}),
        json!({"kind": "llm_call", "model": "m", "messages": [{"role": "user", "content": "SECRET-1"}]}),
        json!({"kind": "llm_result", "model": "m", "content": "SECRET-1"}),
        json!({"kind": "network_connect", "host": "SECRET-1.example", "port": 1}),
        json!({"kind": "file_read", "path": "/SECRET-1"}),
        json!({"kind": "file_write", "path": "/SECRET-1"}),
        json!({"kind": "process_exec", "argv": ["echo", "SECRET-1"]}),
        json!({"kind": "agent_spawn", "child": "SECRET-1"}),
    ] {
        let outcome = eval(&[("p", rules)], &self::action(action.clone()));
        assert_eq!(codes(&outcome), [ReasonCode::SensitiveData], "{action}");
        assert_eq!(outcome.decision.findings.len(), 1, "{action}");
    }
}

#[test]
fn json_is_decoded_first_so_that_escapes_hide_nothing() {
    let rules = "data: {sensitive_patterns: ['SECRET-[0-9]+']}";
    for text in [
        r#"{"kind":"tool_result","tool":"t","content":"\u0053ECRET-1"}"#,
        r#"{"kind":"tool_result","tool":"t","content":"{\"k\":\"\\u0053ECRET-1\"}"}"#,
        r#"{"kind":"tool_result","tool":"t","content":"{\"k\":\"{\\\"x\\\":\\\"\\\\u0053ECRET-1\\\"}\"}"}"#,
        r#"{"kind":"tool_result","tool":"t","content":"text before {\"k\":\"SECRET\\u002d1\", broken"}"#,
    ] {
        let action: Action = serde_json::from_str(text).unwrap();
        let outcome = eval(&[("p", rules)], &action);
        assert_eq!(codes(&outcome), [ReasonCode::SensitiveData], "{text}");
    }
}

#[test]
fn a_finding_carries_pattern_place_and_length_and_no_text() {
    let rules = "data: {sensitive_patterns: ['never', 'sk-[a-z]+', 'k-a']}";
    let content = "é sk-abc, sk-d";
    let outcome = eval(
        &[("p", rules)],
        &action(json!({"kind": "tool_result", "tool": "t", "content": {"a": [content]}})),
    );
    let found: Vec<_> = outcome
        .decision
        .findings
        .iter()
        .map(|f| {
            (
                f.policy.as_str(),
                f.pattern,
                f.pointer.as_str(),
                &content[f.offset..f.offset + f.length],
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            ("p", 1, "/content/a/0", "sk-abc"),
            ("p", 1, "/content/a/0", "sk-d"),
            ("p", 2, "/content/a/0", "k-a")
        ]
    );
    assert_eq!(codes(&outcome), [ReasonCode::SensitiveData; 2]);
    let written = serde_json::to_string(&outcome.decision).unwrap();
    assert!(!written.contains("abc") && !written.contains("sk-d"), "{written}");
}

#[test]
fn findings_are_bounded_and_every_matching_pattern_still_has_its_reason() {
    let rules = "data: {sensitive_patterns: ['x', 'y']}";
    let content = format!("{}y", "x".repeat(100_000));
    let outcome = eval(
        &[("p", rules)],
        &action(json!({"kind": "tool_result", "tool": "t", "content": content})),
    );
    assert_eq!(outcome.decision.findings.len(), 32);
    assert_eq!(codes(&outcome), [ReasonCode::SensitiveData; 2]);
}

#[test]
fn no_reason_quotes_a_field_in_which_a_sensitive_pattern_matched() {
    let rules = "data: {sensitive_patterns: ['hunter2']}\ncapabilities: {allow: [model:m]}\nnetwork: {}\ntools:\n  hunter2: {allow: false, limit_per_hour: 0, requires_approval_if: \"tool == 'hunter2'\"}";
    for action in [
        json!({"kind": "tool_call", "tool": "hunter2"}),
        json!({"kind": "llm_call", "model": "hunter2", "host": "hunter2.example"}),
        json!({"kind": "network_connect", "host": "hunter2.example", "port": 1}),
        json!({"kind": "file_read", "path": "/hunter2"}),
        json!({"kind": "agent_spawn", "child": "hunter2"}),
        json!({"kind": "process_exec", "argv": ["hunter2"]}),
    ] {
        let outcome = eval(&[("p", rules)], &self::action(action.clone()));
        assert!(codes(&outcome).len() > 1, "{action}");
        let written = format!("{outcome:?}");
        assert!(!written.contains("hunter2"), "{written}");
    }
}

#[test]
fn active_hours_include_their_start_and_not_their_end() {
    let rules = "schedule: {active_hours: {start: '09:00', end: '18:00', timezone: UTC}}";
    for (at, allowed) in [
        ("2026-11-23T08:59:59.999999Z", false),
        ("2026-11-23T09:00:00Z", true),
        ("2026-11-23T17:59:59.999999Z", true),
        ("2026-11-23T18:00:00Z", false),
        ("2026-11-22T12:00:00Z", true),
    ] {
        assert_eq!(is_active(rules, at), allowed, "{at}");
    }
}

fn is_active(rules: &str, at: &str) -> bool {
    let agent = agent();
    let policies = set(&[("p", rules)]).for_agent(&agent);
    decide_at(&policies, &Facts::of(&agent), &call("t"), at).decision.verdict == Verdict::Allow
}

#[test]
fn active_hours_follow_the_local_wall_clock_daylight_saving_included() {
    let rules =
        "schedule: {active_hours: {start: '09:00', end: '18:00', timezone: America/New_York}}";
    for (at, allowed) in [
        ("2026-01-15T13:59:59Z", false),
        ("2026-01-15T14:00:00Z", true),
        ("2026-07-15T13:00:00Z", true),
        ("2026-07-15T12:59:59Z", false),
        ("2026-07-15T22:00:00Z", false),
    ] {
        assert_eq!(is_active(rules, at), allowed, "{at}");
    }
    let rules = "schedule: {active_hours: {start: '09:00', end: '18:00', timezone: Asia/Taipei}}";
    assert!(is_active(rules, "2026-11-23T01:00:00Z") && !is_active(rules, "2026-11-23T10:00:00Z"));
}

#[test]
fn an_end_of_24_00_makes_a_whole_day() {
    let rules = "schedule: {active_hours: {start: '00:00', end: '24:00', timezone: UTC}}";
    for at in ["2026-11-23T00:00:00Z", "2026-11-23T23:59:59.999999Z"] {
        assert!(is_active(rules, at), "{at}");
    }
}

struct AllSpent(Spend);

impl BudgetFacts for AllSpent {
    fn spend(&self, _policy: &str) -> Spend {
        self.0
    }
}

fn cost(dollars: f64) -> Cost {
    Amount::new(NanoUsd::from_usd(dollars).unwrap(), 0).unwrap().into()
}

fn spend(rules: &str, day: f64, month: f64, asked: f64, suspended: Option<Period>) -> Outcome {
    let agent = agent();
    let usd = |usd| NanoUsd::from_usd(usd).unwrap();
    let budgets = AllSpent(Spend { day: usd(day).into(), month: usd(month).into(), suspended });
    let facts = Facts { budgets: &budgets, cost: cost(asked), ..Facts::of(&agent) };
    decide_at(&set(&[("p", rules)]).for_agent(&agent), &facts, &call("t"), NOON)
}

#[test]
fn a_budget_that_denies_refuses_actions_that_would_pass_it_and_lets_free_ones_pass() {
    let rules = "budget: {daily_limit_usd: 10, monthly_limit_usd: 100}";
    assert_eq!(spend(rules, 9.0, 9.0, 1.0, None).decision.verdict, Verdict::Allow);
    assert_eq!(codes(&spend(rules, 9.0, 9.0, 1.000_000_001, None)), [ReasonCode::BudgetExceeded]);
    assert_eq!(codes(&spend(rules, 0.0, 99.5, 1.0, None)), [ReasonCode::BudgetExceeded]);
    let both = spend(rules, 10.0, 100.0, 1.0, None);
    assert_eq!(codes(&both), [ReasonCode::BudgetExceeded; 2], "each limit is a violation");
    assert_eq!(spend(rules, 10.0, 100.0, 0.0, None).decision.verdict, Verdict::Allow);
    assert_eq!(spend(rules, 50.0, 500.0, 0.0, None).decision.verdict, Verdict::Allow);
}

#[test]
fn a_budget_that_suspends_refuses_everything_until_the_window_resets() {
    let rules = "budget: {daily_limit_usd: 10, action_on_exceed: suspend}";
    assert_eq!(spend(rules, 9.0, 9.0, 1.0, None).decision.verdict, Verdict::Allow);
    assert_eq!(codes(&spend(rules, 9.0, 9.0, 2.0, None)), [ReasonCode::BudgetSuspended]);
    assert_eq!(codes(&spend(rules, 10.0, 10.0, 0.0, None)), [ReasonCode::BudgetSuspended]);
    assert_eq!(
        codes(&spend(rules, 9.0, 9.0, 0.0, Some(Period::Day))),
        [ReasonCode::BudgetSuspended]
    );
    assert_eq!(spend(rules, 0.0, 10.0, 1.0, None).decision.verdict, Verdict::Allow);
}

#[test]
fn budget_windows_are_calendar_days_and_months_of_the_zone() {
    let policy = policy("p", "budget: {daily_limit_usd: 1, timezone: America/Los_Angeles}");
    let budget = policy.budget().unwrap();
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    let window = |period, now| budget.window(period, at(now));
    assert_eq!(
        window(Period::Day, "2026-11-23T07:59:59Z"),
        (at("2026-11-22T08:00:00Z"), at("2026-11-23T08:00:00Z"))
    );
    assert_eq!(
        window(Period::Day, "2026-03-08T12:00:00Z"),
        (at("2026-03-08T08:00:00Z"), at("2026-03-09T07:00:00Z")),
        "a day of 23 hours"
    );
    assert_eq!(
        window(Period::Month, "2026-12-31T23:00:00Z"),
        (at("2026-12-01T08:00:00Z"), at("2027-01-01T08:00:00Z"))
    );
}

// --- Admissions -----------------------------------------------------------------------------------

#[test]
fn what_the_same_entries_admit_shares_one_admission_with_what_was_derived_from_it() {
    let documents =
        set(&[("a", "tools: {git: {limit_per_hour: 9}}"), ("b", "scope: team:platform")]);
    let agent = agent();
    let admission = |action: &Action| {
        let policies = documents.for_agent(&agent);
        match judge(&policies, &Facts::of(&agent), action, NOON.parse().unwrap()) {
            Judgement::Admitted(admission) => admission,
            Judgement::Restrained(outcome) => panic!("{outcome:?}"),
        }
    };
    let (ls, cat, git) = (admission(&call("ls")), admission(&call("cat")), admission(&call("git")));
    assert!(Arc::ptr_eq(&ls, &cat), "no entry tells these tools apart");
    assert!(!Arc::ptr_eq(&ls, &git));
    assert_eq!((ls.outcome().counted_limit, git.outcome().counted_limit), (None, Some(9)));
    assert_eq!(ls.annex(|outcome| outcome.applied.len()), Some(&2));
    assert_eq!(cat.annex(|_| 7_usize), Some(&2), "made once");
    assert_eq!(cat.annex(|_| "another type"), None);
}

// --- Streams --------------------------------------------------------------------------------------

#[test]
fn streams_are_searched_for_the_patterns_of_every_document_that_covers_the_agent() {
    let policies = set(&[
        (
            "b-team",
            "scope: team:platform\ndata: {sensitive_patterns: ['b+'], on_stream_match: flag}",
        ),
        ("a-all", "data: {sensitive_patterns: ['a', 'x\\d'], on_stream_match: redact}"),
        ("c-org", "scope: org:acme\ndata: {sensitive_patterns: ['c']}"),
        ("d-other", "scope: team:other\ndata: {sensitive_patterns: ['d']}"),
        ("e-tool", "scope: tool:bash\ndata: {sensitive_patterns: ['e']}"),
        ("f-none", "data: {on_stream_match: cut}"),
    ]);
    let rules = policies.for_agent(&agent()).stream_rules();
    let told: Vec<_> = (rules.patterns.iter())
        .map(|rule| (&*rule.policy, rule.revision, rule.pattern, &*rule.text, rule.on_match))
        .collect();
    assert_eq!(
        told,
        [
            ("a-all", Some(7), 0, "a", OnStreamMatch::Redact),
            ("a-all", Some(7), 1, "x\\d", OnStreamMatch::Redact),
            ("b-team", Some(7), 0, "b+", OnStreamMatch::Flag),
            ("c-org", Some(7), 0, "c", OnStreamMatch::Cut),
        ]
    );
    assert_eq!(&*rules.patterns[1].path, "spec.data.sensitive_patterns[1]");
    assert!(PolicySet::empty().for_agent(&agent()).stream_rules().is_empty());
}

#[test]
fn of_what_a_match_does_to_a_stream_the_most_restrictive_holds() {
    use OnStreamMatch::{Cut, Flag, Redact};
    assert!(Cut > Redact && Redact > Flag && OnStreamMatch::default() == Cut);
    assert_eq!([Cut, Redact, Flag].map(OnStreamMatch::as_str), ["cut", "redact", "flag"]);
}
