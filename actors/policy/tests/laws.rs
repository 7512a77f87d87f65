//! Laws that hold for every set of documents and every action.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, sync::Arc};

use aa_policy::{Facts, Judgement, Outcome, Policy, PolicySet, SequenceRef, check, decide, judge};
use aa_protocol::{Action, AgentFacts, Timestamp, Verdict};
use proptest::prelude::*;
use serde_json::json;

fn agent() -> AgentFacts {
    serde_json::from_value(json!({
        "id": "01234567-89ab-cdef-0123-456789abcdef", "name": "a", "org": "o", "team": "t",
        "governance_level": "L1"
    }))
    .unwrap()
}

fn scope() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["global", "org:o", "org:other", "team:t", "tool:bash", "tool:git"])
}

fn rules() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "",
        "network: {allowlist: [a.example]}\n",
        "network: {allowlist: ['*.example']}\n",
        "network: {}\n",
        "schedule: {active_hours: {start: '09:00', end: '18:00', timezone: Asia/Taipei}}\n",
        "tools: {bash: {allow: false}}\n",
        "tools: {bash: {limit_per_hour: 3}}\n",
        "tools: {bash: {limit_per_hour: 30}}\n",
        "tools: {bash: {requires_approval_if: 'governance_level >= L1'}}\n",
        "tools: {bash: {requires_approval_if: 'args.x == 1'}}\n",
        "capabilities: {allow: [file_read, 'mcp_tool:bash']}\n",
        "capabilities: {deny: [file_read]}\n",
        "capabilities: {allow: ['model:m']}\n",
        "data: {sensitive_patterns: ['s3cret']}\n",
        "sequences: {a: {after: {tools: [bash]}, then: {tools: [bash, git], decision: deny}}}\n",
        "sequences: {a: {after: {result_matches: s3c}, then: {tools: [git], decision: require_approval}}, \
         b: {after: {tools: [git]}, then: {tools: [bash], decision: deny}}}\n",
    ])
}

fn document() -> impl Strategy<Value = String> {
    (scope(), rules()).prop_map(|(scope, rules)| format!("scope: {scope}\n{rules}"))
}

fn action() -> impl Strategy<Value = Action> {
    prop::sample::select(vec![
        json!({"kind": "tool_call", "tool": "bash", "args": {"x": 1}}),
        json!({"kind": "tool_call", "tool": "bash", "args": {"text": "a s3cret"}}),
        json!({"kind": "tool_call", "tool": "git"}),
        json!({"kind": "tool_result", "tool": "bash", "content": "s3cret"}),
        json!({"kind": "llm_call", "model": "m", "host": "a.example"}),
        json!({"kind": "llm_call", "model": "n"}),
        json!({"kind": "network_connect", "host": "b.example", "port": 443}),
        json!({"kind": "file_read", "path": "/x"}),
        json!({"kind": "process_exec", "argv": ["ls"]}),
    ])
    .prop_map(|json| serde_json::from_value(json).unwrap())
}

fn compile(sources: &[String]) -> Vec<Arc<Policy>> {
    let compiled = sources.iter().enumerate().map(|(index, source)| {
        let checked = check(source.as_bytes(), &format!("p{index}"));
        Arc::new(checked.policy.unwrap_or_else(|| panic!("{source}: {:#?}", checked.errors)))
    });
    compiled.collect()
}

fn outcome(policies: &[Arc<Policy>], action: &Action, at: i64, admitted: u64) -> Outcome {
    outcome_when(policies, &Vec::new(), action, at, admitted)
}

fn armed() -> impl Strategy<Value = Vec<SequenceRef>> {
    let reference = (0_usize..6, prop::sample::select(vec!["a", "b"])).prop_map(|(index, name)| {
        SequenceRef { policy: format!("p{index}").into(), sequence: name.into() }
    });
    prop::collection::vec(reference, 0..8)
}

fn outcome_when(
    policies: &[Arc<Policy>],
    armed: &Vec<SequenceRef>,
    action: &Action,
    at: i64,
    admitted: u64,
) -> Outcome {
    let set = PolicySet::new(policies.iter().map(|policy| (Arc::clone(policy), None))).unwrap();
    let agent = agent();
    let rates: BTreeMap<String, u64> = [("bash".to_owned(), admitted)].into();
    let facts = Facts { rates: &rates, armed, ..Facts::of(&agent) };
    decide(&set.for_agent(&agent), &facts, action, Timestamp::from_micros(at))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_loading_never_matters_and_deciding_is_deterministic(
        sources in prop::collection::vec(document(), 0..6),
        action in action(),
        at in 0_i64..4_000_000_000_000_000,
        admitted in 0_u64..40,
        rotation in 0_usize..6,
        armed in armed(),
    ) {
        let mut policies = compile(&sources);
        let outcome = |policies: &[Arc<Policy>]| outcome_when(policies, &armed, &action, at, admitted);
        let first = outcome(&policies);
        prop_assert_eq!(&first.decision, &outcome(&policies).decision);
        if !policies.is_empty() {
            let middle = rotation % policies.len();
            policies.rotate_left(middle);
        }
        policies.reverse();
        let again = outcome(&policies);
        prop_assert_eq!(first.decision, again.decision);
        prop_assert_eq!(first.applied, again.applied);
        prop_assert_eq!(first.counted_limit, again.counted_limit);
        prop_assert_eq!(first.arms, again.arms);
    }

    #[test]
    fn with_nothing_armed_a_document_decides_as_without_its_sequences(
        sources in prop::collection::vec(document(), 0..6),
        action in action(),
        at in 0_i64..4_000_000_000_000_000,
        admitted in 0_u64..40,
    ) {
        let with = outcome(&compile(&sources), &action, at, admitted);
        let bare: Vec<_> = sources
            .iter()
            .map(|source| source.split("sequences:").next().unwrap_or_default().to_owned())
            .collect();
        let without = outcome(&compile(&bare), &action, at, admitted);
        prop_assert_eq!(with.decision, without.decision);
        prop_assert_eq!(with.applied, without.applied);
        prop_assert_eq!(with.counted_limit, without.counted_limit);
    }

    #[test]
    fn arming_more_never_makes_a_decision_less_restrictive(
        sources in prop::collection::vec(document(), 0..6),
        action in action(),
        at in 0_i64..4_000_000_000_000_000,
        admitted in 0_u64..40,
        before in armed(),
        more in armed(),
    ) {
        let policies = compile(&sources);
        let after: Vec<_> = before.iter().chain(&more).cloned().collect();
        let first = outcome_when(&policies, &before, &action, at, admitted);
        let then = outcome_when(&policies, &after, &action, at, admitted);
        prop_assert!(then.decision.verdict >= first.decision.verdict);
        for reason in &first.decision.reasons {
            let is_kept = then.decision.reasons.contains(reason);
            prop_assert!(is_kept || first.decision.verdict == Verdict::Allow, "{reason:?}");
        }
    }

    /// Where no document of a wider scope applies yet, the verdict is deny and only such a document lifts it;
    /// from then on, documents only restrict.
    #[test]
    fn a_further_document_never_makes_a_decision_less_restrictive(
        sources in prop::collection::vec(document(), 0..5),
        further in document(),
        action in action(),
        at in 0_i64..4_000_000_000_000_000,
        admitted in 0_u64..40,
    ) {
        let mut all = sources.clone();
        all.push(further.clone());
        let policies = compile(&all);
        let before = outcome(&policies[..sources.len()], &action, at, admitted);
        let after = outcome(&policies, &action, at, admitted);
        if before.applied.is_empty() {
            prop_assert_eq!(before.decision.verdict, Verdict::Deny);
            let is_tool = further.starts_with("scope: tool:");
            prop_assert!(!is_tool || after.decision.verdict == Verdict::Deny);
        } else {
            prop_assert!(after.decision.verdict >= before.decision.verdict);
        }
    }

    #[test]
    fn every_decision_has_reasons_and_only_an_allow_is_counted(
        sources in prop::collection::vec(document(), 0..6),
        action in action(),
        at in 0_i64..4_000_000_000_000_000,
        admitted in 0_u64..40,
    ) {
        let outcome = outcome(&compile(&sources), &action, at, admitted);
        let decision = &outcome.decision;
        prop_assert!(!decision.reasons.is_empty());
        prop_assert_eq!(decision.approval.is_some(), decision.verdict == Verdict::RequireApproval);
        prop_assert!(outcome.counted_limit.is_none() || decision.verdict == Verdict::Allow);
        prop_assert!(outcome.counted_limit.is_none_or(|limit| admitted < limit));
    }

    /// Admissions are kept and shared; what one action leaves behind shows in no other decision.
    #[test]
    fn a_set_that_has_decided_before_decides_as_a_new_one(
        sources in prop::collection::vec(document(), 0..10),
        actions in prop::collection::vec(action(), 1..12),
        at in 0_i64..4_000_000_000_000_000,
        admitted in 0_u64..40,
    ) {
        let policies = compile(&sources);
        let set = PolicySet::new(policies.iter().map(|policy| (Arc::clone(policy), None))).unwrap();
        let agent = agent();
        let (kept, other) = (set.for_agent(&agent), set.for_agent(&agent));
        let rates: BTreeMap<String, u64> = [("bash".to_owned(), admitted)].into();
        let facts = Facts { rates: &rates, ..Facts::of(&agent) };
        for action in &actions {
            let fresh = outcome(&policies, action, at, admitted);
            for policies in [&kept, &other] {
                let judgement = judge(policies, &facts, action, Timestamp::from_micros(at));
                let is_admitted = matches!(judgement, Judgement::Admitted(_));
                prop_assert_eq!(is_admitted, fresh.decision.verdict == Verdict::Allow);
                prop_assert_eq!(&judgement.outcome().decision, &fresh.decision);
                prop_assert_eq!(&judgement.outcome().applied, &fresh.applied);
                prop_assert_eq!(judgement.outcome().counted_limit, fresh.counted_limit);
            }
        }
    }

    #[test]
    fn checking_never_panics(source in prop::collection::vec(any::<u8>(), 0..400)) {
        let checked = check(&source, "x");
        prop_assert_eq!(checked.policy.is_some(), checked.errors.is_empty());
    }

    #[test]
    fn checking_documents_of_odd_texts_never_panics(text in "\\PC{0,40}", key in "[a-z_]{1,12}") {
        for rules in [
            json!({"tools": {"t": {"requires_approval_if": text}}}),
            json!({"data": {"sensitive_patterns": [text]}}),
            json!({"network": {"allowlist": [text]}}),
            json!({"schedule": {"active_hours": {"start": text, "end": text, "timezone": text}}}),
            json!({"scope": text, "capabilities": {"allow": [text]}}),
            json!({key: text}),
        ] {
            let checked = check(rules.to_string().as_bytes(), "x");
            prop_assert_eq!(checked.policy.is_some(), checked.errors.is_empty());
        }
    }

    #[test]
    fn a_wildcard_matches_what_is_below_and_never_its_parent(
        labels in prop::collection::vec("[a-w][a-z0-9]{0,6}", 2..6),
        depth in 1_usize..4,
    ) {
        use aa_policy::host::{Host, HostGlob};
        let parent = labels[labels.len() - 2..].join(".");
        let glob = HostGlob::parse(&format!("*.{parent}")).unwrap();
        let below = format!("{}{parent}", "x.".repeat(depth));
        prop_assert!(glob.matches(&Host::parse(&below).unwrap()));
        prop_assert!(glob.matches(&Host::parse(&below.to_uppercase()).unwrap()));
        prop_assert!(!glob.matches(&Host::parse(&parent).unwrap()));
        let sibling = format!("x{parent}");
        prop_assert!(!glob.matches(&Host::parse(&sibling).unwrap()));
        prop_assert!(HostGlob::Any.covers(&glob));
    }
}
