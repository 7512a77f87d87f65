//! The sentences of reasons. A field of the action in which a sensitive pattern matched is never quoted.

use aa_budget::Amount;
use aa_protocol::{Action, Finding, NanoUsd, Reason, ReasonCode, Timestamp};

use crate::{
    budget::Exceeded,
    capabilities::Capability,
    condition::ConditionFault,
    data::Scan,
    diagnostic::quoted,
    facts::{SharedBudget, Suspension},
    tree::member_path,
};

/// What may be quoted of one action.
pub(super) struct Wording<'a> {
    tool: Option<&'a str>,
    tool_is_quotable: bool,
    model_is_quotable: bool,
    host_is_quotable: bool,
    condition_is_quotable: bool,
}

const REDACTED: &str = "`[redacted]`";

// === impl Wording ===

impl<'a> Wording<'a> {
    pub(super) fn new(action: &'a Action, scan: &Scan) -> Self {
        let tool = match action {
            Action::ToolCall { tool, .. } => Some(tool.as_str()),
            _ => None,
        };
        Self {
            tool,
            tool_is_quotable: scan.may_quote("tool"),
            model_is_quotable: scan.may_quote("model"),
            host_is_quotable: scan.may_quote("host"),
            // A condition may spell out the very argument that a pattern matched.
            condition_is_quotable: scan.hits.is_empty(),
        }
    }

    pub(super) fn capability_denied(&self, capability: Capability<'_>) -> String {
        format!("the capability {} is denied", self.capability(capability))
    }

    pub(super) fn capability_not_allowed(&self, capability: Capability<'_>) -> String {
        format!("the capability {} is not in the allow list", self.capability(capability))
    }

    pub(super) fn host_not_allowed(&self, host: &str, is_host: bool) -> String {
        let host = if self.host_is_quotable { quoted(host) } else { REDACTED.to_owned() };
        if is_host {
            format!("the host {host} is not in the allowlist")
        } else {
            format!("{host} is no valid host, and no entry of the allowlist matches it")
        }
    }

    pub(super) fn tool_denied(&self, tool: &str) -> String {
        format!("the tool {} is not allowed", self.tool(tool))
    }

    pub(super) fn rate_limited(&self, tool: &str, admitted: u64, limit: u64) -> String {
        format!(
            "the tool {} was called {admitted} times in the last 60 minutes; the limit is {limit}",
            self.tool(tool)
        )
    }

    pub(super) fn approval_required(&self, tool: &str, condition: &str) -> String {
        let condition =
            if self.condition_is_quotable { quoted(condition) } else { REDACTED.to_owned() };
        format!("a person must approve the call of {}, because {condition}", self.tool(tool))
    }

    pub(super) fn approval_condition_error(&self, tool: &str, fault: &ConditionFault) -> String {
        format!(
            "a person must approve the call of {}, because its condition could not be evaluated: {}",
            self.tool(tool),
            fault.sentence()
        )
    }

    pub(super) fn sequence_denied(&self, tool: &str, sequence: &str) -> String {
        format!(
            "the sequence {} denies the tool {} for the rest of the session, since an earlier result armed it",
            quoted(sequence),
            self.tool(tool)
        )
    }

    pub(super) fn sequence_requires_approval(&self, tool: &str, sequence: &str) -> String {
        format!(
            "a person must approve the call of {}, because an earlier result of the session armed the sequence {}",
            self.tool(tool),
            quoted(sequence)
        )
    }

    pub(super) fn price_unknown(&self, action: &Action) -> String {
        let model = match action {
            Action::LlmCall { model, .. } if self.model_is_quotable => quoted(model),
            _ => REDACTED.to_owned(),
        };
        format!(
            "nobody knows what the model {model} costs, and a budget applies; set its price, or one for unknown models"
        )
    }

    /// The path of a tool's rule holds the tool's name.
    pub(super) fn redact_path(&self, reason: &mut Reason, root: &str) {
        let (Some(tool), false) = (self.tool, self.tool_is_quotable) else { return };
        let Some(path) = &mut reason.path else { return };
        let entry = member_path(&member_path(root, "tools"), tool);
        if let Some(field) = path.strip_prefix(&entry) {
            *path = format!("{}[redacted]{field}", member_path(root, "tools"));
        }
    }

    fn tool(&self, tool: &str) -> String {
        if self.tool_is_quotable { quoted(tool) } else { REDACTED.to_owned() }
    }

    fn capability(&self, capability: Capability<'_>) -> String {
        match capability {
            Capability::McpTool(_) if !self.tool_is_quotable => "`mcp_tool:[redacted]`".to_owned(),
            Capability::Model(_) if !self.model_is_quotable => "`model:[redacted]`".to_owned(),
            capability => quoted(&capability.to_string()),
        }
    }
}

pub(super) fn suspended(suspension: &Suspension) -> String {
    if suspension.reason.is_empty() {
        return "an operator has suspended the agent".to_owned();
    }
    format!("an operator has suspended the agent: {}", quoted(&suspension.reason))
}

pub(super) fn sensitive_data(pattern: usize, policy: &str, findings: &[Finding]) -> String {
    let found = findings.iter().find(|found| found.pattern == pattern && found.policy == policy);
    let Some(found) = found else {
        return format!("sensitive pattern {pattern} matches the action");
    };
    let place = if found.in_key { "a key of" } else { "the text at" };
    let pointer = if found.pointer.is_empty() { "/" } else { &found.pointer };
    format!(
        "sensitive pattern {pattern} matches {} bytes of {place} {pointer}, from byte {}",
        found.length, found.offset
    )
}

pub(super) fn budget(
    exceeded: &Exceeded<'_>,
    cost: NanoUsd,
    code: ReasonCode,
    reset: Timestamp,
) -> String {
    let period = exceeded.period.as_adjective();
    let (limit, spent) = (exceeded.limit, exceeded.spent.total());
    if code == ReasonCode::BudgetSuspended {
        return format!(
            "the {period} budget of {limit} is used up ({spent} spent, {cost} asked); the agent is suspended until {reset}"
        );
    }
    format!(
        "{cost} more would pass the {period} budget of {limit}; {spent} are spent; it resets at {reset}"
    )
}

pub(super) fn shared_budget(budget: &SharedBudget<'_>, asked: Amount) -> String {
    let SharedBudget { spender, window, standing, .. } = budget;
    let used = standing.posted.saturating_add(standing.reserved);
    let reset = standing.resets_at;
    let mut passed = Vec::new();
    if let Some(limit) = standing.limits.cost
        && asked.cost().0 > 0
        && used.cost().checked_add(asked.cost()).is_none_or(|total| total > limit)
    {
        passed.push(format!("{} more would pass {limit}, {} are spent", asked.cost(), used.cost()));
    }
    if let Some(limit) = standing.limits.tokens
        && asked.tokens() > 0
        && used.tokens().checked_add(asked.tokens()).is_none_or(|total| total > limit)
    {
        let (asked, used) = (asked.tokens(), used.tokens());
        passed.push(format!("{asked} more tokens would pass {limit}, {used} are used"));
    }
    let passed = passed.join("; ");
    format!(
        "the {window} budget of {} does not hold the call: {passed}; it resets at {reset}",
        quoted(spender)
    )
}
