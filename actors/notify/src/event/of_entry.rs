//! The one mapping from audit entries to events.

use aa_ledger::{Entry, Kind, Stream};
use aa_protocol::{AgentId, NanoUsd, Reason, ReasonCode, Timestamp, Verdict};
use memchr::memmem;

use super::{Event, EventKind, Facts, MAX_POLICY_BYTES, MAX_TEAM_BYTES, MAX_TITLE_BYTES, Severity};
use crate::text::{bounded, plain};

/// The facts in which events differ that are not told as one.
pub(super) const DISTINGUISHING: [&str; 8] =
    ["code", "rule", "action", "tool", "model", "spender", "window", "percent"];

/// What is found out about an entry.
struct Draft {
    kind: EventKind,
    severity: Severity,
    title: String,
    facts: Facts,
    agent: Option<AgentId>,
    team: Option<String>,
    policy: Option<String>,
}

// === impl Event ===

impl Event {
    /// What people may want to know of an entry; `None` for what is only kept.
    ///
    /// A decision that denies, and a refusal, are violations. What waits for approval is told by the approval's own
    /// entries; an answer is told when it settles the request.
    pub fn of_entry(entry: &Entry) -> Option<Self> {
        let draft = match entry.kind {
            Kind::Decision => of_decision(entry)?,
            Kind::Refusal => of_refusal(entry),
            Kind::Status => of_status(entry)?,
            Kind::Budget => of_budget(entry)?,
            Kind::Approval => of_approval(entry)?,
            Kind::Workspace => of_workspace(entry)?,
            Kind::Registration | Kind::Event | Kind::Policy | Kind::Key | Kind::Secret => {
                return None;
            }
            // That somebody could not be told is told to nobody: it would go round in a circle.
            Kind::Alert => return None,
        };
        let approval = match entry.stream {
            Stream::Approval(id) => Some(id),
            _ => text(entry, "approval").and_then(|id| id.parse().ok()),
        };
        Some(Self {
            id: entry.id,
            at: entry.time,
            workspace: entry.workspace,
            kind: draft.kind,
            severity: draft.severity,
            title: plain(&draft.title, MAX_TITLE_BYTES),
            agent: draft.agent.or_else(|| entry.agent()),
            agent_name: None,
            team: draft.team.map(|team| plain(&team, MAX_TEAM_BYTES)),
            approval: approval.filter(|_| draft.kind.is_about_approval()),
            policy: draft.policy.map(|policy| plain(&policy, MAX_POLICY_BYTES)),
            facts: draft.facts,
        })
    }

    /// Whether [`Event::of_entry`] may find an event in this line, by a look at its beginning only. `false` is certain
    /// for lines in the canonical form in which entries are sealed; any other line may be one.
    pub fn may_be_in(line: &[u8]) -> bool {
        let Some(kind) = canonical_kind(line) else { return true };
        match kind {
            b"registration" | b"event" | b"policy" | b"key" | b"secret" | b"alert" => false,
            b"decision" => {
                // Inside a string each quotation mark follows a backslash: this cannot stand in one.
                let verdict = memmem::find(line, b",\"verdict\":\"");
                !verdict.is_some_and(|at| {
                    let rest = &line[at + b",\"verdict\":\"".len()..];
                    rest.starts_with(b"allow\"") || rest.starts_with(b"require_approval\"")
                })
            }
            _ => true,
        }
    }
}

// === impl Draft ===

impl Draft {
    fn new(kind: EventKind, severity: Severity, title: String) -> Self {
        let facts = Facts::default();
        Self { kind, severity, title, facts, agent: None, team: None, policy: None }
    }
}

fn of_decision(entry: &Entry) -> Option<Draft> {
    if entry.verdict != Some(Verdict::Deny) {
        return None;
    }
    // Reasons stand in the order of the checks: one that only wants approval can come before the one that denies.
    let denies = |reason: &&Reason| !reason.code.asks_for_approval();
    let reason = entry.reasons.iter().find(denies).or(entry.reasons.first());
    let code = reason.map(|reason| reason.code);
    let severity = match code {
        Some(ReasonCode::SensitiveData) => Severity::Critical,
        _ => Severity::Warning,
    };
    let what = acted(entry);
    let title = match reason {
        Some(reason) => format!("{what} denied: {}", because(reason)),
        None => format!("{what} denied"),
    };
    let mut draft = Draft::new(EventKind::Violation, severity, title);
    let facts = &mut draft.facts;
    facts.push("code", code.map(ReasonCode::as_str).unwrap_or_default());
    if let Some(reason) = reason {
        facts.push("reason", &reason.message);
        let revision = reason.revision.map(|revision| revision.to_string()).unwrap_or_default();
        facts.push("revision", &revision);
        let line = reason.line.map(|line| format!(" (line {line})")).unwrap_or_default();
        if let Some(path) = &reason.path {
            facts.push("rule", &format!("{path}{line}"));
        }
        draft.policy = reason.policy.clone();
    }
    if let Some(action) = &entry.action {
        facts.push("action", action.kind.as_str());
        let named = [
            ("tool", &action.tool),
            ("model", &action.model),
            ("host", &action.host),
            ("path", &action.path),
            ("program", &action.program),
            ("child", &action.child),
        ];
        for (key, value) in named {
            facts.push(key, value.as_deref().unwrap_or_default());
        }
    }
    if !entry.findings.is_empty() {
        facts.push("findings", &entry.findings.len().to_string());
    }
    Some(draft)
}

/// What the agent wanted, such as ``call of tool `bash` ``.
fn acted(entry: &Entry) -> String {
    let Some(action) = &entry.action else { return "an action".to_owned() };
    let kind = action.kind.as_str().replace('_', " ");
    let object = [&action.tool, &action.model, &action.child, &action.program, &action.host]
        .into_iter()
        .chain([&action.path])
        .find_map(|name| name.as_deref());
    match object {
        Some(object) => format!("{kind} `{}`", bounded(object, 80)),
        None => kind,
    }
}

fn because(reason: &Reason) -> String {
    let code = reason.code.as_str().replace('_', " ");
    match &reason.policy {
        Some(policy) => format!("{code} (policy {})", bounded(policy, 80)),
        None => code,
    }
}

fn of_refusal(entry: &Entry) -> Draft {
    let code = text(entry, "code").unwrap_or("malformed");
    let title = format!("input refused: {}", code.replace('_', " "));
    let mut draft = Draft::new(EventKind::Violation, Severity::Warning, title);
    draft.facts.push("code", code);
    draft.facts.push("reason", text(entry, "message").unwrap_or_default());
    draft
}

fn of_status(entry: &Entry) -> Option<Draft> {
    let by = entry.actor.as_deref();
    let reason = text(entry, "reason").unwrap_or_default();
    let mut draft = match text(entry, "status")? {
        "suspended" => {
            let title = match text(entry, "until") {
                // `reason` is the program's own word only where a budget suspends.
                Some(until) => format!("suspended by its budget until {}", minute(until)),
                None => format!("suspended by {}", by.unwrap_or("the system")),
            };
            Draft::new(EventKind::AgentSuspended, Severity::Critical, title)
        }
        "active" => {
            let title = match by {
                Some(by) => format!("resumed by {by}"),
                None => format!("resumed: {}", reason.replace('_', " ")),
            };
            Draft::new(EventKind::AgentResumed, Severity::Info, title)
        }
        _ => return None,
    };
    draft.policy = text(entry, "policy").map(str::to_owned);
    draft.facts.push("by", by.unwrap_or_default());
    draft.facts.push("reason", reason);
    draft.facts.push("until", text(entry, "until").unwrap_or_default());
    Some(draft)
}

fn of_budget(entry: &Entry) -> Option<Draft> {
    // A budget that people set says so in the stream of rules.
    let Stream::Budget(_) = entry.stream else { return None };
    let window = text(entry, "window")?;
    let spender = text(entry, "spender")?;
    let whose = match spender.split_once(' ') {
        Some(("team", team)) => format!("of team {}", bounded(team, 80)),
        Some(("agent", _)) => "of the agent".to_owned(),
        _ => "of the workspace".to_owned(),
    };
    let resets = text(entry, "resets_at").map(minute).unwrap_or_default();
    let mut draft = match text(entry, "change")? {
        "threshold" => {
            let percent = text(entry, "percent")?;
            let severity = match percent.parse::<u64>() {
                Ok(100..) => Severity::Critical,
                Ok(80..) => Severity::Warning,
                _ => Severity::Info,
            };
            let title = format!("{window} budget {whose} reached {percent} %");
            let mut draft = Draft::new(EventKind::BudgetThreshold, severity, title);
            draft.facts.push("percent", percent);
            draft
        }
        "refused" => {
            let title = format!("{window} budget {whose} refuses calls until {resets}");
            Draft::new(EventKind::BudgetExceeded, Severity::Critical, title)
        }
        _ => return None,
    };
    let facts = &mut draft.facts;
    facts.push("spender", spender);
    facts.push("window", window);
    for (key, name) in [
        ("limit", "limit_nano_usd"),
        ("spent", "spent_nano_usd"),
        ("reserved", "reserved_nano_usd"),
    ] {
        let amount = text(entry, name).and_then(|nanos| nanos.parse().ok()).map(NanoUsd);
        facts.push(key, &amount.map(|amount| amount.to_string()).unwrap_or_default());
    }
    for key in ["limit_tokens", "spent_tokens", "reserved_tokens"] {
        facts.push(key, text(entry, key).unwrap_or_default());
    }
    facts.push("resets_at", text(entry, "resets_at").unwrap_or_default());
    match spender.split_once(' ') {
        Some(("team", team)) => draft.team = Some(team.to_owned()),
        Some(("agent", id)) => draft.agent = id.parse().ok(),
        _ => {}
    }
    Some(draft)
}

fn of_approval(entry: &Entry) -> Option<Draft> {
    use EventKind::{ApprovalDecided, ApprovalEscalated, ApprovalNeeded};
    let asks = || text(entry, "asks").unwrap_or("its approvers");
    let by = entry.actor.as_deref().unwrap_or("nobody");
    let mut draft = match text(entry, "change")? {
        "asked" => {
            let until = text(entry, "deadline").map(minute).unwrap_or_default();
            let title = format!("approval needed from {} until {until}", bounded(asks(), 120));
            Draft::new(ApprovalNeeded, Severity::Warning, title)
        }
        "escalated" => {
            let title = format!("no answer yet, now also before {}", bounded(asks(), 120));
            Draft::new(ApprovalEscalated, Severity::Critical, title)
        }
        "answered" => {
            let (severity, title) = match text(entry, "state")? {
                "approved" => (Severity::Info, format!("approved by {by}")),
                "denied" => (Severity::Info, format!("denied by {by}")),
                "expired" => (Severity::Warning, EXPIRED.to_owned()),
                _ => return None,
            };
            Draft::new(ApprovalDecided, severity, title)
        }
        "expired" => Draft::new(ApprovalDecided, Severity::Warning, EXPIRED.to_owned()),
        _ => return None,
    };
    draft.agent = text(entry, "agent").and_then(|agent| agent.parse().ok());
    for key in ["state", "scope", "reason", "asks", "deadline"] {
        draft.facts.push(key, text(entry, key).unwrap_or_default());
    }
    draft.facts.push("by", entry.actor.as_deref().unwrap_or_default());
    Some(draft)
}

const EXPIRED: &str = "request for approval expired: nobody answered in time";

fn of_workspace(entry: &Entry) -> Option<Draft> {
    if text(entry, "change")? != "verification_failed" {
        return None;
    }
    let title = "the audit log did not verify".to_owned();
    let mut draft = Draft::new(EventKind::AuditVerificationFailed, Severity::Critical, title);
    for (key, value) in &entry.detail {
        if key != "change" {
            draft.facts.push(key, value);
        }
    }
    Some(draft)
}

fn text<'e>(entry: &'e Entry, key: &str) -> Option<&'e str> {
    entry.detail.get(key).map(String::as_str)
}

/// A time to the minute, in UTC.
fn minute(time: &str) -> String {
    let Ok(time) = time.parse::<Timestamp>() else { return bounded(time, 32) };
    let text = time.to_string();
    let (date, rest) = text.split_once('T').unwrap_or((&text, ""));
    format!("{date} {} UTC", rest.get(..5).unwrap_or_default())
}

/// The `kind` of a line in canonical form.
fn canonical_kind(line: &[u8]) -> Option<&[u8]> {
    let rest = line.strip_prefix(b"{\"v\":1,\"id\":\"evt_")?;
    let rest = rest.get(26..)?.strip_prefix(b"\",\"workspace\":\"ws-")?;
    let rest = rest.get(36..)?.strip_prefix(b"\",\"stream\":\"")?;
    let stream = memchr::memchr(b'"', rest.get(..64.min(rest.len()))?)?;
    let rest = rest[stream..].strip_prefix(b"\",\"seq\":")?;
    let sequence = rest.iter().position(|byte| !byte.is_ascii_digit())?;
    let rest = rest[sequence..].strip_prefix(b",\"time\":\"")?;
    let rest = rest.get(27..)?.strip_prefix(b"\",\"kind\":\"")?;
    let end = memchr::memchr(b'"', rest.get(..32.min(rest.len()))?)?;
    Some(&rest[..end])
}
