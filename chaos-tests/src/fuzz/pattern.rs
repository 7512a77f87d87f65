//! Sensitive patterns: a pattern is refused, or it compiles within its bounds and finds what is there.

use aa_policy::check;
use aa_protocol::{Action, Decision, Finding, ReasonCode, Verdict};
use serde_json::{Value, json};

use super::subject::{decision, policies_of};

/// Stands beside the pattern that is tried, so that there are several.
const NEIGHBOUR: &str = "sk-[a-z]{4}";
/// How many findings a decision carries.
const MAX_FINDINGS: usize = 32;
/// Characters that mean the same, or nothing, in RE2 and to the `regex` crate.
const COMMON: &str = " _-@:=/.,;|()*+?{}[]^$";

/// Reads a pattern from the first line, and the text to search from the rest.
///
/// # Panics
/// When verdict and findings disagree, a finding lies outside the text, or another engine finds otherwise.
pub fn target(data: &[u8]) {
    let Ok(input) = std::str::from_utf8(data) else { return };
    let (pattern, text) = input.split_once('\n').unwrap_or((input, ""));
    let document = json!({"data": {"sensitive_patterns": [pattern, NEIGHBOUR]}}).to_string();
    let checked = check(document.as_bytes(), "fuzz");
    assert_eq!(checked.policy.is_some(), checked.errors.is_empty(), "a policy, or errors");
    let Some(policy) = checked.policy else { return };
    let policies = policies_of(policy);
    let content = Value::from(text);
    let result = Action::ToolResult { tool: String::new(), content };
    let decision = decision(&policies, &result).decision;
    let found = !decision.findings.is_empty();
    assert_eq!(decision.verdict == Verdict::Deny, found, "findings deny, and nothing else does");
    let codes = decision.reasons.iter().map(|reason| reason.code);
    assert_eq!(codes.into_iter().any(|code| code == ReasonCode::SensitiveData), found);
    for Finding { pattern, pointer, offset, length, .. } in &decision.findings {
        let text = if pointer == "/content" { text } else { "" };
        assert!(text.get(*offset..offset + length).is_some(), "{offset}+{length} is no text");
        assert!(*pattern < 2, "there is no pattern {pattern}");
    }
    // Escapes are resolved and searched once more, which other engines know nothing of.
    if text.contains('\\') {
        return;
    }
    let neighbour = regex::Regex::new(NEIGHBOUR).expect("the neighbour is well-formed");
    same(&decision, 1, &neighbour, text);
    if is_common(pattern, text)
        && let Ok(regex) = regex::Regex::new(pattern)
    {
        same(&decision, 0, &regex, text);
    }
}

/// What another engine found first is found first, if anything is.
fn same(decision: &Decision, pattern: usize, regex: &regex::Regex, text: &str) {
    let place = regex.find(text).map(|found| found.start());
    let path = format!("data.sensitive_patterns[{pattern}]");
    let violated = decision.reasons.iter().any(|reason| reason.path.as_deref() == Some(&path));
    // The tool's name, which is empty, is searched as well.
    let expected = place.is_some() || regex.is_match("");
    assert_eq!(violated, expected, "{regex} matches, or not, at {place:?}");
    let mut places = decision.findings.iter().filter(|finding| finding.pattern == pattern);
    let told = places.find(|finding| finding.pointer == "/content").map(|finding| finding.offset);
    // There is an end to what is located.
    if decision.findings.len() < MAX_FINDINGS {
        assert_eq!(told, place, "{regex} matches elsewhere");
    }
}

/// Whether the pattern means the same to the `regex` crate, for this text.
fn is_common(pattern: &str, text: &str) -> bool {
    // Letters fold to some outside ASCII.
    let (rest, folds) = match pattern.strip_prefix("(?i)") {
        Some(rest) => (rest, true),
        None => (pattern, false),
    };
    let known = rest.chars().all(|c| c.is_ascii_alphanumeric() || COMMON.contains(c));
    // Set operations and nested classes of the `regex` crate.
    let nested = rest.split(']').any(|part| part.matches('[').count() > 1);
    known && !nested && !rest.contains("--") && !rest.contains("(?") && (!folds || text.is_ascii())
}
