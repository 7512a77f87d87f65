//! An entry of the audit log on one line, for people.

use std::collections::HashMap;

use aa_ledger::{Entry, Kind, ObservedSummary, Stream, UNSEEN};
use aa_protocol::{Reason, Verdict};

use super::{alert_line, approval_line, budget_line, secret_line};
use crate::{
    moment::short,
    terminal::{Style, printable},
};

/// Renders entries, each on a line of its own:
/// `2026-11-22 20:51:29  researcher  deny   tool_call bash  tool_denied: … (tools:7)`.
pub(super) struct EntryLines {
    names: HashMap<String, String>,
    colour: bool,
}

// === impl EntryLines ===

impl EntryLines {
    /// `names` are the agents' names by their ids.
    pub(super) fn new(names: HashMap<String, String>, colour: bool) -> Self {
        Self { names, colour }
    }

    /// The line of an entry; the entry itself when this version does not know its form.
    pub(super) fn render(&self, line: &str) -> String {
        match Entry::parse(line.as_bytes()) {
            Ok(entry) => self.render_entry(&entry),
            Err(_) => printable(line).into_owned(),
        }
    }

    fn render_entry(&self, entry: &Entry) -> String {
        let time = short(&entry.time.to_string());
        let time = Style::Quiet.paint(&time, self.colour);
        let subject = self.subject(entry);
        let subject = format!("{:<24}", printable(&subject));
        let (label, style) = match entry.verdict {
            Some(Verdict::Allow) => ("allow", Style::Good),
            Some(Verdict::RequireApproval) => ("approve?", Style::Warning),
            Some(Verdict::Deny) => ("deny", Style::Bad),
            None if entry.kind == Kind::Refusal => (entry.kind.as_str(), Style::Bad),
            None if entry.outcome() == Some(UNSEEN) => (UNSEEN, Style::Warning),
            None => (entry.kind.as_str(), Style::Quiet),
        };
        let label = format!("{label:<12}");
        let label = style.paint(&label, self.colour);
        let mut text = format!("{time}  {subject}  {label}");
        if let Some(action) = &entry.action {
            text += &format!("  {}", action.kind);
            if let Some(target) = action.target() {
                text += &format!(" {}", printable(target));
            }
            if let Some(observed) = &action.observed {
                text += &format!("  {}", printable(&seen(observed)));
            }
        }
        if let Some(actor) = &entry.actor {
            text += &format!("  by {}", printable(actor));
        }
        let event = budget_line::describe(entry, |id| self.name(id));
        let event = event
            .or_else(|| approval_line::describe(entry))
            .or_else(|| secret_line::describe(entry, |id| self.name(id)))
            .or_else(|| alert_line::describe(entry));
        if let Some(event) = event {
            return format!("{text}  {}", printable(&event));
        }
        // A digest is for programs.
        for (name, value) in entry.detail.iter().filter(|(name, _)| *name != "sha256") {
            text += &format!("  {name}={}", printable(value));
        }
        let telling = entry.verdict.is_some_and(|verdict| verdict != Verdict::Allow);
        if telling && let Some(reason) = entry.reasons.first() {
            text += &format!("  {}{}", printable(&reason.message), place(reason));
            let others = entry.reasons.len() - 1;
            if others > 0 {
                text += &format!(" and {others} more");
            }
        }
        text
    }

    fn subject(&self, entry: &Entry) -> String {
        let detail = |name: &str| entry.detail.get(name);
        match entry.stream {
            Stream::Agent(agent) => self.name(&agent.to_string()).to_owned(),
            Stream::Budget(_) if let Some(spender) = detail("spender") => {
                budget_line::spender(spender, |id| self.name(id))
            }
            Stream::Approval(_) if let Some(agent) = detail("agent") => self.name(agent).to_owned(),
            stream => stream.to_string(),
        }
    }

    /// An agent's name; its id where that is not known.
    fn name<'a>(&'a self, id: &'a str) -> &'a str {
        self.names.get(id).map(String::as_str).filter(|name| !name.is_empty()).unwrap_or(id)
    }
}

/// How a model call went: `200 in 1.234 s, first token after 0.045 s, stop`. The provider's ids are for programs.
fn seen(observed: &ObservedSummary<'_>) -> String {
    let seconds = |us: u64| format!("{}.{:03} s", us / 1_000_000, us / 1_000 % 1_000);
    let mut text = observed.status.map(|status| format!("{status} ")).unwrap_or_default();
    text += &format!("in {}", seconds(observed.latency_us));
    if let Some(first) = observed.first_token_us {
        text += &format!(", first token after {}", seconds(first));
    }
    if let Some(reason) = &observed.finish_reason {
        text += &format!(", {reason}");
    }
    text
}

fn place(reason: &Reason) -> String {
    match (&reason.policy, reason.line) {
        (Some(policy), Some(line)) => format!(" ({}:{line})", printable(policy)),
        (Some(policy), None) => format!(" ({})", printable(policy)),
        (None, _) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use aa_ledger::{ActionSummary, ChainHead, Draft, MacKey, seal};
    use aa_protocol::{ActionId, ActionKind, AgentId, Timestamp};

    use super::*;

    /// A line of the ledger's golden file.
    const DENIED: &str = include_str!("../../tests/golden/entry.json");

    #[test]
    fn a_denied_action_shows_who_what_and_the_policy_line_that_decided() {
        let names = [("11112222-3333-4444-8555-666600000001".to_owned(), "researcher".to_owned())];
        let lines = EntryLines::new(names.into(), false);
        assert_eq!(
            lines.render(DENIED.trim_end()),
            "2026-11-22 20:51:29  researcher                deny          llm_call gpt-4o  \
             by operator \"ann\" \\ <ann@example.com>  a=Grüße — ✓  \
             b=tab\u{fffd}line\u{fffd}return\u{fffd}bell\u{fffd}\u{fffd}  \
             the tool `bash` is not allowed (shell:9)"
        );
    }

    #[test]
    fn what_nobody_looked_at_is_called_unseen() {
        let id = ActionId::from_bytes([1; 16]);
        let mut action = ActionSummary::bare(id, ActionKind::NetworkConnect);
        action.host = Some("bank.example".into());
        let workspace = "ws-a1b2c3d4-e5f6-7890-abcd-ef1234567890".parse().unwrap();
        let event = "evt_01m82gee73000000000000001a".parse().unwrap();
        let (stream, time) =
            (Stream::Agent(AgentId::of_name(workspace, "a")), Timestamp::default());
        let draft = Draft {
            action: Some(&action),
            detail: &[("duration_us", "9"), ("outcome", "unseen")],
            ..Draft::new(event, workspace, stream, time, Kind::Event)
        };
        let mut line = Vec::new();
        let key = MacKey::new("k1", &[7; 32]).unwrap();
        seal(&draft, &mut ChainHead::default(), &key, &mut line);
        let shown = EntryLines::new(HashMap::new(), false);
        let shown = shown.render(std::str::from_utf8(&line).unwrap());
        assert!(shown.contains("  unseen        network_connect bank.example"), "{shown}");
    }

    #[test]
    fn how_a_model_call_went_is_said_in_words() {
        let bare = ObservedSummary { latency_us: 2_000_999, ..ObservedSummary::default() };
        assert_eq!(seen(&bare), "in 2.000 s");
        let full = ObservedSummary {
            latency_us: 1_234_567,
            first_token_us: Some(45_678),
            status: Some(200),
            finish_reason: Some("stop".into()),
            ..bare
        };
        assert_eq!(seen(&full), "200 in 1.234 s, first token after 0.045 s, stop");
    }

    #[test]
    fn an_entry_of_a_later_version_is_shown_as_it_is() {
        let lines = EntryLines::new(HashMap::new(), false);
        assert_eq!(lines.render("{\"v\":9}"), "{\"v\":9}");
    }
}
