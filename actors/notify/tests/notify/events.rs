//! What of the audit log is told.

use aa_ledger::{Draft, Kind, Stream};
use aa_notify::{Event, EventKind, Severity};
use aa_protocol::{Decision, Reason, ReasonCode, Verdict};
use proptest::prelude::*;

use crate::fixture::{AGENT, APPROVAL, BUDGET, NOW, WORKSPACE, decided, entry, id, sealed};

fn told(kind: Kind, stream: Stream, actor: Option<&str>, detail: &[(&str, &str)]) -> Option<Event> {
    Event::of_entry(&entry(stream, kind, actor, detail))
}

#[test]
fn a_denied_action_is_a_violation_that_names_what_and_why_and_holds_no_payload() {
    let (line, entry) = decided(Verdict::Deny, ReasonCode::ToolDenied, "bash");
    assert!(Event::may_be_in(&line));
    let event = Event::of_entry(&entry).unwrap();
    assert_eq!((event.kind, event.severity), (EventKind::Violation, Severity::Warning));
    assert_eq!(event.title, "tool call `bash` denied: tool denied (policy prod)");
    assert_eq!(event.agent, Some(AGENT));
    assert_eq!(event.policy.as_deref(), Some("prod"));
    assert_eq!(event.facts.get("rule"), Some("spec.tools.bash.allow (line 12)"));
    assert_eq!(event.facts.get("reason"), Some("tool `bash` is not allowed"));
    assert_eq!(event.facts.get("tool"), Some("bash"));
    assert!(!serde_json::to_string(&event).unwrap().contains("PAYLOAD-MARKER"));
    let named = event.with_agent("research\u{202e}-agent", Some("platform"));
    assert!(named.headline().starts_with("research\u{fffd}-agent: tool call"));
    assert_eq!(named.team.as_deref(), Some("platform"));
}

#[test]
fn sensitive_data_is_critical() {
    let (_, entry) = decided(Verdict::Deny, ReasonCode::SensitiveData, "mail");
    assert_eq!(Event::of_entry(&entry).unwrap().severity, Severity::Critical);
}

#[test]
fn the_reason_that_denies_is_told_even_behind_one_that_asks() {
    let reason = |code| Reason::undocumented(code, "because");
    let reasons = vec![reason(ReasonCode::ApprovalRequired), reason(ReasonCode::RateLimited)];
    let decision = Decision { verdict: Verdict::Deny, reasons, approval: None, findings: vec![] };
    let draft = Draft {
        decision: Some(&decision),
        ..Draft::new(id(1), WORKSPACE, Stream::Agent(AGENT), NOW, Kind::Decision)
    };
    let event = Event::of_entry(&sealed(&draft).1).unwrap();
    assert_eq!(event.title, "an action denied: rate limited");
}

#[test]
fn what_is_allowed_or_waits_for_approval_is_told_by_nobody() {
    for verdict in [Verdict::Allow, Verdict::RequireApproval] {
        let (line, entry) = decided(verdict, ReasonCode::Allowed, "search");
        assert_eq!(Event::of_entry(&entry), None);
        assert!(!Event::may_be_in(&line));
    }
    // That somebody could not be told is not told to others in turn.
    assert_eq!(told(Kind::Alert, Stream::Alerts, None, &[("change", "dead_letter")]), None);
}

#[test]
fn refused_input_is_a_violation() {
    let detail = [("code", "bad_signature"), ("message", "the signature is not the agent's")];
    let event = told(Kind::Refusal, Stream::Agent(AGENT), None, &detail).unwrap();
    assert_eq!(event.kind, EventKind::Violation);
    assert_eq!(event.title, "input refused: bad signature");
}

#[test]
fn budgets_tell_of_thresholds_and_refusals() {
    let standing = [
        ("spender", "team billing"),
        ("window", "daily"),
        ("zone", "UTC"),
        ("resets_at", "2026-09-22T00:00:00.000000Z"),
        ("spent_nano_usd", "20000000000"),
        ("reserved_nano_usd", "0"),
        ("spent_tokens", "12"),
        ("reserved_tokens", "0"),
        ("limit_nano_usd", "25000000000"),
    ];
    let with = |more: &[(&'static str, &'static str)]| {
        let detail = [&standing, more].concat();
        told(Kind::Budget, Stream::Budget(BUDGET), None, &detail)
    };
    let event = with(&[("change", "threshold"), ("percent", "80")]).unwrap();
    assert_eq!((event.kind, event.severity), (EventKind::BudgetThreshold, Severity::Warning));
    assert_eq!(event.title, "daily budget of team billing reached 80 %");
    assert_eq!(event.team.as_deref(), Some("billing"));
    assert_eq!(event.facts.get("spent"), Some("$20.00"));
    assert_eq!(event.facts.get("limit"), Some("$25.00"));
    let event = with(&[("change", "refused")]).unwrap();
    assert_eq!((event.kind, event.severity), (EventKind::BudgetExceeded, Severity::Critical));
    let title = "daily budget of team billing refuses calls until 2026-09-22 00:00 UTC";
    assert_eq!(event.title, title);
    assert_eq!(with(&[("change", "expired")]), None);
    let set = [("change", "set"), ("spender", "team billing"), ("window", "daily")];
    assert_eq!(told(Kind::Budget, Stream::Policies, Some("key:a"), &set), None);
}

#[test]
fn the_budget_of_an_agent_names_the_agent() {
    let spender = format!("agent {AGENT}");
    let detail = [("change", "refused"), ("spender", spender.as_str()), ("window", "daily")];
    let event = told(Kind::Budget, Stream::Budget(BUDGET), None, &detail).unwrap();
    assert_eq!(event.agent, Some(AGENT));
}

#[test]
fn approvals_are_told_when_needed_escalated_and_settled() {
    let agent = AGENT.to_string();
    let with = |actor, more: &[(&'static str, &'static str)]| {
        let detail = [&[("agent", agent.as_str())], more].concat();
        told(Kind::Approval, Stream::Approval(APPROVAL), actor, &detail)
    };
    let asked = [
        ("asks", "the group oncall"),
        ("change", "asked"),
        ("deadline", "2026-09-21T15:00:00.000000Z"),
    ];
    let event = with(None, &asked).unwrap();
    assert_eq!(event.kind, EventKind::ApprovalNeeded);
    assert_eq!((event.agent, event.approval), (Some(AGENT), Some(APPROVAL)));
    let title = "approval needed from the group oncall until 2026-09-21 15:00 UTC";
    assert_eq!(event.title, title);
    let event = with(None, &[("asks", "leads"), ("change", "escalated")]).unwrap();
    assert_eq!(event.kind, EventKind::ApprovalEscalated);

    // The first of two who must approve settles nothing.
    let answered = |state| [("answer", "approve"), ("change", "answered"), ("state", state)];
    assert_eq!(with(Some("key:a"), &answered("pending")), None);
    let event = with(Some("key:a"), &answered("approved")).unwrap();
    assert_eq!(event.kind, EventKind::ApprovalDecided);
    assert_eq!(event.title, "approved by key:a");
    let denied =
        [("answer", "deny"), ("change", "answered"), ("reason", "no"), ("state", "denied")];
    let event = with(Some("key:b"), &denied).unwrap();
    assert_eq!((event.title.as_str(), event.facts.get("reason")), ("denied by key:b", Some("no")));
    let event = with(None, &[("change", "expired"), ("state", "expired")]).unwrap();
    assert_eq!((event.kind, event.severity), (EventKind::ApprovalDecided, Severity::Warning));
    assert_eq!(with(None, &[("change", "used")]), None);
}

#[test]
fn suspending_and_resuming_an_agent_is_told() {
    let status = |actor, detail: &[_]| told(Kind::Status, Stream::Agent(AGENT), actor, detail);
    let event = status(Some("key:a"), &[("status", "suspended"), ("reason", "odd")]).unwrap();
    assert_eq!((event.kind, event.severity), (EventKind::AgentSuspended, Severity::Critical));
    assert_eq!(event.title, "suspended by key:a");
    let by_budget = [
        ("policy", "prod"),
        ("reason", "budget"),
        ("status", "suspended"),
        ("until", "2026-09-22T00:00:00.000000Z"),
    ];
    let event = status(None, &by_budget).unwrap();
    assert_eq!(event.title, "suspended by its budget until 2026-09-22 00:00 UTC");
    assert_eq!(event.policy.as_deref(), Some("prod"));
    let event = status(None, &[("status", "active"), ("reason", "budget_reset")]).unwrap();
    assert_eq!(event.kind, EventKind::AgentResumed);
    assert_eq!(event.title, "resumed: budget reset");
}

#[test]
fn a_log_that_does_not_verify_is_critical() {
    let detail = [("change", "verification_failed"), ("entry", "17")];
    let event = told(Kind::Workspace, Stream::Workspace, None, &detail).unwrap();
    assert_eq!(event.kind, EventKind::AuditVerificationFailed);
    assert_eq!(event.severity, Severity::Critical);
    assert_eq!(event.facts.get("entry"), Some("17"));
    assert_eq!(told(Kind::Workspace, Stream::Workspace, None, &[("name", "acme")]), None);
}

#[test]
fn kinds_and_severities_are_read_by_their_names() {
    for kind in EventKind::ALL {
        assert_eq!(kind.to_string().parse::<EventKind>().unwrap(), kind);
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
    }
    for severity in Severity::ALL {
        assert_eq!(severity.to_string().parse::<Severity>().unwrap(), severity);
    }
    let error = "panic".parse::<Severity>().unwrap_err().to_string();
    assert_eq!(error, "`panic` is no severity; use one of critical, info, warning");
}

fn any_stream() -> impl Strategy<Value = Stream> {
    prop::sample::select(vec![
        Stream::Workspace,
        Stream::Policies,
        Stream::Vault,
        Stream::Alerts,
        Stream::Agent(AGENT),
        Stream::Budget(BUDGET),
        Stream::Approval(APPROVAL),
    ])
}

proptest! {
    #[test]
    fn no_event_is_missed_by_looking_at_the_beginning_of_its_line(
        kind in prop::sample::select(Kind::ALL.to_vec()),
        stream in any_stream(),
        verdict in prop::option::of(prop::sample::select(vec![
            Verdict::Allow, Verdict::RequireApproval, Verdict::Deny,
        ])),
        actor in prop::option::of(prop::sample::select(vec![
            "key:a", ",\"verdict\":\"allow\"", "x,", "\\", "\",\"verdict\":\"allow\",\"",
        ])),
        change in prop::sample::select(vec![
            "asked", "answered", "expired", "escalated", "threshold", "refused", "verification_failed",
        ]),
        status in prop::sample::select(vec!["suspended", "active"]),
        message in ".{0,200}",
    ) {
        let reasons = vec![Reason::undocumented(ReasonCode::ToolDenied, message.clone())];
        let decision = verdict.map(|verdict| Decision {
            verdict, reasons, approval: None, findings: vec![],
        });
        let detail = [
            ("change", change), ("status", status), ("state", "denied"), ("window", "daily"),
            ("spender", "workspace"), ("percent", "50"), ("verdict", "allow"), ("message", &message),
        ];
        let draft = Draft {
            actor,
            decision: decision.as_ref(),
            detail: &detail,
            ..Draft::new(id(1), WORKSPACE, stream, NOW, kind)
        };
        let (line, entry) = sealed(&draft);
        let event = Event::of_entry(&entry);
        prop_assert!(event.is_none() || Event::may_be_in(&line));
        if let Some(event) = event {
            let json = serde_json::to_string(&event).unwrap();
            prop_assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event);
        }
    }

    #[test]
    fn any_bytes_can_be_looked_at(bytes: Vec<u8>, cut in 0_usize..400) {
        let _ = Event::may_be_in(&bytes);
        let (line, _) = decided(Verdict::Deny, ReasonCode::ToolDenied, "bash");
        prop_assert!(Event::may_be_in(&line[..cut.min(line.len())]));
    }
}
