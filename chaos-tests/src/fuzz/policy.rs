//! Policy sources, and files of policy tests: whatever the bytes, there is a policy or there are errors,
//! each at a place in the source; and what was accepted decides.

use aa_policy::{cases, check, diagnostic::Diagnostic};

use super::subject::{ACTIONS, decision, policies_of};

/// The most diagnostics of one severity that a check reports.
const MAX_DIAGNOSTICS: usize = 500;

/// Checks the bytes as a policy and as a file of cases.
///
/// # Panics
/// When the outcome contradicts itself.
pub fn target(source: &[u8]) {
    let checked = check(source, "fuzz");
    assert_eq!(checked.policy.is_some(), checked.errors.is_empty(), "a policy, or errors");
    place(source, &checked.errors);
    place(source, &checked.warnings);
    if let Some(policy) = checked.policy {
        assert!(!policy.name().is_empty(), "a policy has a name");
        let policies = policies_of(policy);
        for action in ACTIONS.iter() {
            let outcome = decision(&policies, action);
            assert!(!outcome.decision.reasons.is_empty(), "a decision has reasons");
        }
    }
    match cases::parse(source) {
        Ok(suite) => assert!(suite.cases.iter().all(|case| case.line >= 1)),
        Err(errors) => {
            assert!(!errors.is_empty(), "a refusal has errors");
            place(source, &errors);
        }
    }
}

fn place(source: &[u8], diagnostics: &[Diagnostic]) {
    assert!(diagnostics.len() <= MAX_DIAGNOSTICS, "{} diagnostics", diagnostics.len());
    let breaks = source.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count();
    for diagnostic in diagnostics {
        let Diagnostic { line, column, message, .. } = diagnostic;
        assert!(*line >= 1 && *line as usize <= breaks + 1, "line {line} of {breaks}: {message}");
        assert!(*column >= 1 && *column as usize <= source.len() + 1, "column {column}: {message}");
    }
    let places = diagnostics.iter().map(|diagnostic| (diagnostic.line, diagnostic.column));
    assert!(places.is_sorted(), "diagnostics are in the order of the source");
}
