//! Conditions: a CEL text is refused, or it has the value for every call that the evaluator of the `cel`
//! crate gives it when asked from scratch.

use aa_policy::{Facts, check, decide};
use aa_protocol::{Action, AgentFacts, GovernanceLevel, ReasonCode, json::parse_json};
use serde_json::{Map, Value, json};

use super::{
    decision::evaluate_naively,
    subject::{ACTIONS, AGENT, NOW, policies_of},
};

/// Past it, arguments may be too large for a condition to be evaluated at all.
const SMALL_ARGUMENTS: usize = 64;

/// Reads a condition from the first line, and the arguments of a call, as JSON, from the rest.
///
/// # Panics
/// When an accepted condition leads to another decision than its value.
pub fn target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (condition, arguments) = text.split_once('\n').unwrap_or((text, ""));
    let document = json!({"tools": {"bash": {"requires_approval_if": condition}}}).to_string();
    let checked = check(document.as_bytes(), "fuzz");
    assert_eq!(checked.policy.is_some(), checked.errors.is_empty(), "a policy, or errors");
    let Some(policy) = checked.policy else { return };
    let policies = policies_of(policy);
    let call = |args| Action::ToolCall { tool: "bash".to_owned(), args };
    let given = match parse_json(arguments) {
        Ok(Value::Object(members)) => members,
        _ => Map::new(),
    };
    for level in GovernanceLevel::ALL {
        let agent = AgentFacts { governance_level: level, ..AGENT.clone() };
        for action in [&call(given.clone()), &call(Map::new()), &ACTIONS[0]] {
            let outcome = decide(&policies, &Facts::of(&agent), action, NOW);
            let expected = expected(condition, &agent, action);
            let told = outcome.decision.reasons[0].code;
            // The naive evaluator has no regular expressions, no levels written as strings, and no
            // bound on what it walks through.
            let unknown = ["matches", "'L", "\"L"].iter().any(|part| condition.contains(part))
                || told == ReasonCode::ApprovalConditionError && arguments.len() > SMALL_ARGUMENTS;
            assert!(told == expected || unknown, "{told}, not {expected}, for {level}: {action:?}");
        }
    }
}

fn expected(condition: &str, agent: &AgentFacts, action: &Action) -> ReasonCode {
    let json = |value: serde_json::Result<Value>| value.expect("it serializes");
    let agent = json(serde_json::to_value(agent));
    let action = json(serde_json::to_value(action));
    match evaluate_naively(condition, &agent, &action, NOW.as_micros()) {
        Some(true) => ReasonCode::ApprovalRequired,
        Some(false) => ReasonCode::Allowed,
        None => ReasonCode::ApprovalConditionError,
    }
}
