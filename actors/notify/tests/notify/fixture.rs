//! Entries, events and channels to test with.

use std::sync::LazyLock;

use aa_ledger::{ActionSummary, ChainHead, Draft, Entry, Kind, MacKey, PolicyRef, Stream, seal};
use aa_notify::{
    Channel, EmailChannel, Event, EventKind, Facts, Security, Severity, SlackChannel,
    WebhookChannel,
};
use aa_protocol::{
    Action, ActionId, AgentId, ApprovalId, BudgetId, Decision, EventId, Reason, ReasonCode,
    Timestamp, Verdict, WorkspaceId,
};
use aa_vault::{SecretName, SecretValue};
use serde_json::json;
use uuid::Uuid;

pub(crate) const NOW: Timestamp = Timestamp::from_micros(1_790_000_000_000_000);
pub(crate) const WORKSPACE: WorkspaceId = WorkspaceId::from_uuid(Uuid::from_u128(1));
pub(crate) const AGENT: AgentId = AgentId::from_uuid(Uuid::from_u128(2));
pub(crate) const BUDGET: BudgetId = BudgetId::from_uuid(Uuid::from_u128(3));
pub(crate) const APPROVAL: ApprovalId = ApprovalId::from_uuid(Uuid::from_u128(4));

pub(crate) fn id(number: u128) -> EventId {
    EventId::from_parts(NOW.unix_millis(), number)
}

/// The line of an entry and the entry read back.
pub(crate) fn sealed(draft: &Draft<'_>) -> (Vec<u8>, Entry) {
    let key = MacKey::new("mac-1", &[7; 32]).unwrap();
    let mut line = Vec::new();
    seal(draft, &mut ChainHead::default(), &key, &mut line);
    let entry = Entry::parse(&line).unwrap();
    (line, entry)
}

/// The entry of a kind with these facts.
pub(crate) fn entry(
    stream: Stream,
    kind: Kind,
    actor: Option<&str>,
    detail: &[(&str, &str)],
) -> Entry {
    sealed(&Draft { actor, detail, ..Draft::new(id(1), WORKSPACE, stream, NOW, kind) }).1
}

/// The entry of a tool call that was decided.
pub(crate) fn decided(verdict: Verdict, code: ReasonCode, tool: &str) -> (Vec<u8>, Entry) {
    let action: Action = serde_json::from_value(json!({
        "kind": "tool_call", "tool": tool, "args": { "command": "PAYLOAD-MARKER" },
    }))
    .unwrap();
    let summary = ActionSummary::of(&action, ActionId::from_bytes([5; 16]), &[]);
    let reason = Reason {
        policy: Some("prod".to_owned()),
        revision: Some(3),
        path: Some("spec.tools.bash.allow".to_owned()),
        line: Some(12),
        ..Reason::undocumented(code, "tool `bash` is not allowed")
    };
    let decision = Decision { verdict, reasons: vec![reason], approval: None, findings: vec![] };
    let policies = [PolicyRef { name: "prod".to_owned(), revision: 3 }];
    sealed(&Draft {
        action: Some(&summary),
        decision: Some(&decision),
        policies: &policies,
        ..Draft::new(id(1), WORKSPACE, Stream::Agent(AGENT), NOW, Kind::Decision)
    })
}

/// A violation by an agent at a time.
pub(crate) fn violation(number: u128, tool: &str, at: Timestamp) -> Event {
    static BASE: LazyLock<Event> = LazyLock::new(|| {
        let (_, entry) = decided(Verdict::Deny, ReasonCode::ToolDenied, "bash");
        Event::of_entry(&entry).unwrap()
    });
    let mut facts = Facts::default();
    facts.push("tool", tool);
    for (key, value) in BASE.facts.iter() {
        facts.push(key, value);
    }
    let title = BASE.title.replace("bash", tool);
    Event { id: id(number), at, title, facts, ..BASE.clone() }
}

/// A request for approval.
pub(crate) fn approval_needed() -> Event {
    let mut facts = Facts::default();
    facts.push("asks", "the group oncall");
    Event {
        id: id(9),
        at: NOW,
        workspace: WORKSPACE,
        kind: EventKind::ApprovalNeeded,
        severity: Severity::Warning,
        title: "approval needed from the group oncall".to_owned(),
        agent: Some(AGENT),
        agent_name: Some("billing-agent".to_owned()),
        team: Some("billing".to_owned()),
        approval: Some(APPROVAL),
        policy: None,
        facts,
    }
}

pub(crate) fn name(text: &str) -> SecretName {
    text.parse().unwrap()
}

pub(crate) fn secret(text: &str) -> SecretValue {
    SecretValue::copy_of(text.as_bytes()).unwrap()
}

pub(crate) fn webhook(url: &str) -> Channel {
    Channel::Webhook(WebhookChannel {
        url: url.to_owned(),
        secret: name("hook"),
        previous_secret: Some(name("old-hook")),
    })
}

pub(crate) fn slack(buttons: bool) -> Channel {
    Channel::Slack(SlackChannel {
        url_secret: name("slack-url"),
        signing_secret: buttons.then(|| name("slack-signing")),
        approvers: Default::default(),
    })
}

pub(crate) fn email(port: u16, security: Security) -> EmailChannel {
    EmailChannel {
        server: "localhost".to_owned(),
        port,
        security,
        username: None,
        password: None,
        from: "aasm@example.com".to_owned(),
        to: vec!["ops@example.com".to_owned(), "oncall@example.net".to_owned()],
    }
}
