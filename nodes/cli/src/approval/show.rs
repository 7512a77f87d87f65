//! One request, with everything that is needed to judge it.

use std::io;

use aa_control_plane::rest::approvals::{
    Approval, ApprovalAnswer, ApprovalReason, ApprovalScope, ApprovalStage, ApprovalState,
};
use aa_protocol::Timestamp;

use super::{left, short_id, style_of, wants};
use crate::{
    moment::{in_words, short},
    terminal::{Style, indented_json, printable},
};

/// A request, line by line. Everything from the agent is shown as such and cannot pass for something else: its action as
/// JSON whose strings have no ends of lines, its words behind a bar.
pub(super) fn lines(approval: &Approval, now: Timestamp, colour: bool) -> io::Result<Vec<String>> {
    let is_pending = approval.state == ApprovalState::Pending;
    let agent = &approval.agent;
    let team = agent.team.as_ref().map(|team| format!(", team {team}")).unwrap_or_default();
    let agent = format!("{} ({}){team}", agent.name, agent.id);
    let state = style_of(approval.state).paint(approval.state.as_str(), colour);
    let mut lines = vec![
        fact("request", &approval.id),
        format!("{:<11} {state}{}", "state", printable(&how(approval))),
    ];
    if is_pending {
        let (left, deadline) = (left(approval, now), short(&approval.deadline));
        lines.push(fact("expires", &format!("in {left}, at {deadline}; it counts as denied then")));
    }
    lines.push(fact("agent", &agent));
    let times = match approval.asked {
        0 | 1 => String::new(),
        times => format!(", {times} times"),
    };
    lines.push(fact("asked", &format!("{}{times}", short(&approval.asked_at))));
    lines.extend(approval.reasons.iter().map(|reason| fact("because", &because(reason))));
    lines.push(fact("wants", &wants(approval)));
    lines.push("exactly this action:".to_owned());
    lines.extend(indented_json(&approval.action)?.lines().map(|line| format!("  {line}")));
    if let Some(context) = &approval.context {
        let note = "the requester's own words, which nobody has checked:";
        lines.push(Style::Warning.paint(note, colour).into_owned());
        lines.extend(context.lines().map(|line| format!("  | {}", printable(line))));
    }
    lines.extend(approval.stages.iter().map(|stage| fact("before", &standing(stage, now))));
    if approval.stages.len() > 1 {
        let rule = match approval.needs_every_stage {
            true => "all of them must approve",
            false => "the first of them that approves decides",
        };
        lines.push(fact("", rule));
    }
    lines.extend(approval.answers.iter().map(|answer| fact("answer", &answered(answer))));
    if let Some(action) = &approval.used_by {
        lines.push(fact("used", &format!("by action {action}")));
    }
    if approval.may_answer {
        let id = short_id(&approval.id);
        let words = format!("aasm approval approve {id}, or deny {id} --reason TEXT");
        lines.push(fact("to answer", &words));
    } else if is_pending {
        lines.push(fact("to answer", "use another key: this one may not"));
    }
    Ok(lines)
}

fn fact(name: &str, value: &str) -> String {
    format!("{name:<11} {}", printable(value))
}

/// How it was decided: `, once`, `, by key k: too late`; nothing while it is not, or expired.
pub(super) fn how(approval: &Approval) -> String {
    let Some(outcome) = &approval.outcome else { return String::new() };
    let scope = outcome.scope.map(|scope| format!(", {}", good_for(scope)));
    let by = outcome.by.as_ref().map(|by| format!(", by key {by}"));
    let reason = outcome.reason.as_ref().filter(|reason| !reason.is_empty());
    let reason = reason.map(|reason| format!(": {reason}"));
    [scope, by, reason].into_iter().flatten().collect()
}

/// Whom it is before at a time, on a line: `the group leads (0 of 2) or the owners and admins`.
pub(super) fn before(approval: &Approval, now: Timestamp) -> String {
    let open = approval.stages.iter().filter(|stage| opens_in(stage, now).is_none());
    let name = |stage: &ApprovalStage| match stage.needed {
        1 => group(stage),
        needed => format!("{} ({} of {needed})", group(stage), stage.approved),
    };
    let names: Vec<_> = open.map(name).collect();
    names.join(if approval.needs_every_stage { " and " } else { " or " })
}

/// `the group leads: 1 of 2 approved`.
fn standing(stage: &ApprovalStage, now: Timestamp) -> String {
    let ApprovalStage { needed, approved, opens_at, .. } = stage;
    let standing = format!("{}: {approved} of {needed} approved", group(stage));
    match opens_in(stage, now) {
        Some(wait) => {
            format!("{standing}; asked in {}, at {}", in_words(wait), short(opens_at))
        }
        None => standing,
    }
}

fn opens_in(stage: &ApprovalStage, now: Timestamp) -> Option<std::time::Duration> {
    let opens_at: Timestamp = stage.opens_at.parse().ok()?;
    (opens_at > now).then(|| opens_at.since(now))
}

fn group(stage: &ApprovalStage) -> String {
    match &stage.group {
        Some(group) => format!("the group {group}"),
        None => "the owners and admins".to_owned(),
    }
}

/// The rule's sentence with its place: `… (ask:6 revision 1, spec.tools.bash.requires_approval_if)`.
fn because(reason: &ApprovalReason) -> String {
    let ApprovalReason { policy, line, revision, path, message, .. } = reason;
    let Some(policy) = policy else { return message.clone() };
    let line = line.map(|line| format!(":{line}")).unwrap_or_default();
    let revision = revision.map(|revision| format!(" revision {revision}")).unwrap_or_default();
    let path = path.as_ref().map(|path| format!(", {path}")).unwrap_or_default();
    format!("{message} ({policy}{line}{revision}{path})")
}

fn answered(answer: &ApprovalAnswer) -> String {
    let ApprovalAnswer { by, scope, reason, at, .. } = answer;
    let what = match scope {
        Some(scope) => format!("approved, {}", good_for(*scope)),
        None => "denied".to_owned(),
    };
    let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    format!("{} {what}, by key {by}{reason}", short(at))
}

const fn good_for(scope: ApprovalScope) -> &'static str {
    match scope {
        ApprovalScope::Once => "once",
        ApprovalScope::Session => "for the session",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A request whose every text tries to look like something else.
    fn hostile() -> Approval {
        let value = json!({
            "id": "3fa91c2b-3333-4444-8555-666600000001", "state": "pending", "kind": "tool_call",
            "agent": {"id": "11112222-3333-4444-8555-666600000001", "name": "res\u{1b}[2Jearcher",
                "team": "plat\nform"},
            "action": {"kind": "tool_call", "tool": "ba\u{1b}]0;sh",
                "args": {"cmd": "ls\u{202e}\nstate       approved", "list": [1, {"deep": 2.50}]}},
            "tool": "ba\u{1b}]0;sh", "digest": "", "asked": 3, "used_by": null, "outcome": null,
            "context": "please\nstate       approved\u{9b}31m",
            "asked_at": "2026-11-22T20:51:29.000000Z", "deadline": "2026-11-22T21:00:00.000000Z",
            "reasons": [{"code": "approval_required", "policy": "ask", "revision": 2, "version": null,
                "path": "spec.tools.bash.requires_approval_if", "line": 6, "column": 3,
                "message": "the tool `bash` needs approval"}],
            "stages": [
                {"group": "leads", "needed": 2, "approved": 1, "opens_at": "2026-11-22T20:51:29.000000Z"},
                {"group": null, "needed": 1, "approved": 0, "opens_at": "2026-11-22T20:57:00.000000Z"},
            ],
            "needs_every_stage": false, "may_answer": true,
            "answers": [{"by": "k1", "approved": true, "scope": "session", "reason": "fi\u{7}ne",
                "at": "2026-11-22T20:52:00.000000Z"}],
        });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_request_shows_what_is_needed_to_judge_it_and_nothing_the_agent_says_passes_for_it() {
        let now = "2026-11-22T20:55:50Z".parse().unwrap();
        let shown = lines(&hostile(), now, false).unwrap().join("\n");
        assert_eq!(
            shown,
            "\
request     3fa91c2b-3333-4444-8555-666600000001
state       pending
expires     in 4 min 10 s, at 2026-11-22 21:00:00; it counts as denied then
agent       res\u{fffd}[2Jearcher (11112222-3333-4444-8555-666600000001), team plat\u{fffd}form
asked       2026-11-22 20:51:29, 3 times
because     the tool `bash` needs approval (ask:6 revision 2, spec.tools.bash.requires_approval_if)
wants       tool_call ba\u{fffd}]0;sh
exactly this action:
  {
    \"args\": {
      \"cmd\": \"ls\\u202e\\nstate       approved\",
      \"list\": [
        1,
        {
          \"deep\": 2.5
        }
      ]
    },
    \"kind\": \"tool_call\",
    \"tool\": \"ba\\u001b]0;sh\"
  }
the requester's own words, which nobody has checked:
  | please
  | state       approved\u{fffd}31m
before      the group leads: 1 of 2 approved
before      the owners and admins: 0 of 1 approved; asked in 1 min 10 s, at 2026-11-22 20:57:00
            the first of them that approves decides
answer      2026-11-22 20:52:00 approved, for the session, by key k1: fi\u{fffd}ne
to answer   aasm approval approve 3fa91c2b, or deny 3fa91c2b --reason TEXT"
        );
    }

    #[test]
    fn before_whom_it_is_follows_the_stages() {
        let approval = hostile();
        let before = |now: &str| before(&approval, now.parse().unwrap());
        assert_eq!(before("2026-11-22T20:55:50Z"), "the group leads (1 of 2)");
        assert_eq!(
            before("2026-11-22T20:57:00Z"),
            "the group leads (1 of 2) or the owners and admins"
        );
    }
}
