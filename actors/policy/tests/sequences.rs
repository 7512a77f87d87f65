//! What sequences mean: results arm, calls are restrained.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use aa_policy::{
    AgentPolicies, Facts, Judgement, Outcome, PolicySet, Rehearsal, SequenceRef, check, decide,
    judge,
};
use aa_protocol::{Action, AgentFacts, ReasonCode, Timestamp, Verdict};
use serde_json::{Value, json};

const NOW: Timestamp = Timestamp::from_micros(1_795_435_200_000_000);

const MAIL: &str = "\
sequences:
  mail-after-confidential:
    after: {tools: [read_file], result_matches: '(?i)confidential'}
    then: {tools: [send_email, post], decision: require_approval}
approval: {timeout_seconds: 60, escalation_role: security}
";

const NO_MAIL: &str = "\
sequences:
  no-mail:
    after: {tools: [read_file]}
    then: {tools: [send_email], decision: deny}
";

fn agent() -> AgentFacts {
    serde_json::from_value(json!({
        "id": "01234567-89ab-cdef-0123-456789abcdef", "name": "a", "team": "platform"
    }))
    .unwrap()
}

fn policies(documents: &[(&str, &str)]) -> AgentPolicies {
    let compiled = documents.iter().map(|(name, source)| {
        let checked = check(source.as_bytes(), name);
        (Arc::new(checked.policy.unwrap_or_else(|| panic!("{:#?}", checked.errors))), Some(3))
    });
    PolicySet::new(compiled).unwrap().for_agent(&agent())
}

fn armed(names: &[(&str, &str)]) -> Vec<SequenceRef> {
    let reference = |(policy, sequence): &(&str, &str)| SequenceRef {
        policy: (*policy).into(),
        sequence: (*sequence).into(),
    };
    names.iter().map(reference).collect()
}

fn ask(policies: &AgentPolicies, armed: &Vec<SequenceRef>, action: &Action) -> Outcome {
    let agent = agent();
    decide(policies, &Facts { armed, ..Facts::of(&agent) }, action, NOW)
}

fn call(tool: &str) -> Action {
    serde_json::from_value(json!({"kind": "tool_call", "tool": tool})).unwrap()
}

fn result(tool: &str, content: Value) -> Action {
    serde_json::from_value(json!({"kind": "tool_result", "tool": tool, "content": content}))
        .unwrap()
}

fn arms(documents: &[(&str, &str)], action: &Action) -> Vec<String> {
    let outcome = ask(&policies(documents), &Vec::new(), action);
    outcome.arms.iter().map(ToString::to_string).collect()
}

#[test]
fn a_matching_result_arms_and_every_text_of_it_counts() {
    for content in [
        json!("strictly Confidential"),
        json!({"rows": [1, {"note": "CONFIDENTIAL"}]}),
        json!({"confidential": true}),
        json!({"body": r#"{"x":"con\u0066idential"}"#}),
        json!({"body": r#""{\"x\":\"con\\u0066idential\"}""#}),
    ] {
        let found = arms(&[("p", MAIL)], &result("read_file", content.clone()));
        assert_eq!(found, ["p/mail-after-confidential"], "{content}");
    }
    for action in [
        result("read_file", json!("public")),
        result("read_file", json!(null)),
        result("other", json!("confidential")),
        call("read_file"),
    ] {
        assert!(arms(&[("p", MAIL)], &action).is_empty(), "{action:?}");
    }
}

#[test]
fn without_a_pattern_any_result_arms_and_without_tools_that_of_any_tool() {
    assert_eq!(arms(&[("p", NO_MAIL)], &result("read_file", json!(null))), ["p/no-mail"]);
    let any_tool = "sequences: {s: {after: {result_matches: secret_tool}, then: {tools: [x], decision: deny}}}";
    assert_eq!(arms(&[("p", any_tool)], &result("y", json!("a secret_tool"))), ["p/s"]);
    let by_name = arms(&[("p", any_tool)], &result("secret_tool", json!("nothing")));
    assert!(by_name.is_empty(), "the tool's name is not part of its result");
}

#[test]
fn an_armed_call_is_put_before_a_person_on_the_terms_of_the_document() {
    let armed = armed(&[("p", "mail-after-confidential")]);
    let documents = policies(&[("p", MAIL)]);
    let outcome = ask(&documents, &armed, &call("send_email"));
    let decision = &outcome.decision;
    assert_eq!(decision.verdict, Verdict::RequireApproval);
    let reason = &decision.reasons[0];
    assert_eq!(reason.code, ReasonCode::SequenceRequiresApproval);
    assert_eq!((reason.policy.as_deref(), reason.revision), (Some("p"), Some(3)));
    assert_eq!(reason.path.as_deref(), Some("sequences.mail-after-confidential"));
    assert_eq!((reason.line, reason.column), (Some(2), Some(3)));
    assert!(reason.message.contains("`mail-after-confidential`"), "{}", reason.message);
    let terms = decision.approval.as_ref().unwrap();
    assert_eq!((terms.timeout_seconds, terms.roles.as_slice()), (60, &["security".to_owned()][..]));

    assert_eq!(ask(&documents, &armed, &call("other")).decision.verdict, Verdict::Allow);
    let elsewhere = self::armed(&[("q", "mail-after-confidential"), ("p", "another")]);
    assert_eq!(ask(&documents, &elsewhere, &call("post")).decision.verdict, Verdict::Allow);

    let agent = agent();
    let facts = Facts { armed: &armed, is_approved: true, ..Facts::of(&agent) };
    let approved = decide(&documents, &facts, &call("post"), NOW);
    assert_eq!(approved.decision.verdict, Verdict::Allow);
}

#[test]
fn no_approval_lifts_a_denial() {
    let armed = armed(&[("p", "no-mail")]);
    let agent = agent();
    let facts = Facts { armed: &armed, is_approved: true, ..Facts::of(&agent) };
    let outcome = decide(&policies(&[("p", NO_MAIL)]), &facts, &call("send_email"), NOW);
    let codes: Vec<_> = outcome.decision.reasons.iter().map(|reason| reason.code).collect();
    assert_eq!(
        (outcome.decision.verdict, codes),
        (Verdict::Deny, vec![ReasonCode::SequenceDenied])
    );
}

#[test]
fn a_denied_result_arms_nothing_by_its_decision_and_tells_what_it_arms_if_it_was_seen() {
    let source = format!("{MAIL}data: {{sensitive_patterns: [hunter2]}}\n");
    let documents = policies(&[("p", &source)]);
    let action = result("read_file", json!("confidential: hunter2"));
    let outcome = ask(&documents, &Vec::new(), &action);
    assert_eq!(outcome.decision.verdict, Verdict::Deny);
    assert!(outcome.arms.is_empty());
    let seen = documents.arms(&Vec::new(), &action);
    assert_eq!(seen, armed(&[("p", "mail-after-confidential")]));
    assert!(documents.arms(&seen, &action).is_empty(), "it is armed already");
}

#[test]
fn a_kept_admission_hides_no_armed_sequence_and_arms_no_other_result() {
    let documents = policies(&[("p", MAIL), ("q", NO_MAIL)]);
    let agent = agent();
    let nothing = Vec::new();
    let facts = Facts { armed: &nothing, ..Facts::of(&agent) };
    let ask = |facts: &Facts<'_>, action: &Action| judge(&documents, facts, action, NOW);
    assert!(matches!(ask(&facts, &call("send_email")), Judgement::Admitted(_)));
    let armed = armed(&[("q", "no-mail")]);
    let later = Facts { armed: &armed, ..facts };
    assert!(matches!(ask(&later, &call("send_email")), Judgement::Restrained(_)));
    let arming = ask(&facts, &result("read_file", json!("confidential")));
    assert_eq!(arming.outcome().arms.len(), 2);
    assert!(ask(&facts, &result("other", json!("confidential"))).outcome().arms.is_empty());
    let again = ask(&later, &result("read_file", json!("confidential")));
    assert_eq!(again.outcome().arms.len(), 1, "what is armed is not armed again");
}

#[test]
fn a_document_about_one_tool_is_armed_by_results_of_any() {
    let mail = format!("scope: tool:send_email\n{NO_MAIL}");
    let documents = [("base", "version: '1'"), ("mail", mail.as_str())];
    assert_eq!(arms(&documents, &result("read_file", json!("x"))), ["mail/no-mail"]);
    let outcome = ask(&policies(&documents), &armed(&[("mail", "no-mail")]), &call("send_email"));
    assert_eq!(outcome.decision.verdict, Verdict::Deny);
    let alone = policies(&documents[1..]);
    assert!(alone.arms(&Vec::new(), &result("read_file", json!("x"))).is_empty());
}

#[test]
fn a_tool_whose_name_is_sensitive_is_not_quoted() {
    let source = format!("{NO_MAIL}data: {{sensitive_patterns: [send_e]}}\n");
    let outcome =
        ask(&policies(&[("p", &source)]), &armed(&[("p", "no-mail")]), &call("send_email"));
    assert!(outcome.decision.reasons.iter().all(|reason| !reason.message.contains("send_email")));
    assert!(outcome.decision.reasons.iter().any(|r| r.code == ReasonCode::SequenceDenied));
}

#[test]
fn a_rehearsed_session_keeps_what_its_actions_leave_behind() {
    let limited = "tools: {post: {limit_per_hour: 1}}";
    let documents = policies(&[("p", MAIL), ("q", limited)]);
    let mut session = Rehearsal::default();
    let mut step = |action: &Action| session.step(&documents, &agent(), action, NOW);
    assert_eq!(step(&call("post")).decision.verdict, Verdict::Allow);
    assert_eq!(step(&call("post")).decision.reasons[0].code, ReasonCode::RateLimited);
    assert_eq!(step(&call("send_email")).decision.verdict, Verdict::Allow);
    assert_eq!(step(&result("read_file", json!("confidential"))).arms.len(), 1);
    assert_eq!(step(&call("send_email")).decision.verdict, Verdict::RequireApproval);
}
