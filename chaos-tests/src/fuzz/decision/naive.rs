//! Decisions as the policy reference describes them, for reading, not for speed: plain JSON in, loops
//! over everything, no index, nothing compiled ahead, no code of the engine.

use std::collections::{BTreeMap, BTreeSet};

use aa_protocol::{ReasonCode, Verdict};
use serde_json::Value;

#[path = "naive_condition.rs"]
pub(super) mod condition;
#[path = "naive_host.rs"]
mod host;
#[path = "naive_zone.rs"]
mod zone;

const NANOS_PER_USD: f64 = 1e9;
const DEFAULT_APPROVAL_SECONDS: u64 = 300;

/// A document as it was written.
pub(super) struct Document {
    pub(super) name: String,
    pub(super) source: Value,
}

/// What is asked.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) action: Value,
    pub(super) suspended: bool,
    /// Admitted calls by tool.
    pub(super) rates: BTreeMap<String, u64>,
    /// Spending by document.
    pub(super) spending: BTreeMap<String, Spending>,
    /// What is armed, as `document/sequence`.
    pub(super) armed: BTreeSet<String>,
    /// Nano-USD.
    pub(super) cost: i64,
    /// Microseconds since the epoch.
    pub(super) now: i64,
}

/// Nano-USD spent by one agent under one document.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spending {
    pub(super) day: i64,
    pub(super) month: i64,
    /// Whether the window of the day or of the month is suspended.
    pub(super) suspended: Option<&'static str>,
}

/// What is answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) verdict: Verdict,
    /// The reasons that led to the verdict, in order.
    pub(super) reasons: Vec<Reason>,
    /// Seconds and roles.
    pub(super) approval: Option<(u64, BTreeSet<String>)>,
    pub(super) applied: Vec<String>,
    /// What it arms anew, as `document/sequence`.
    pub(super) arms: Vec<String>,
    pub(super) counted_limit: Option<u64>,
}

/// Code, document and field. No field where the document as a whole is meant.
pub(super) type Reason = (ReasonCode, Option<String>, Option<String>);

/// Follows "Evaluation" and "Sections" line by line.
pub(super) fn answer(documents: &[Document], agent: &Value, question: &Question) -> Answer {
    let mut applicable: Vec<&Document> = Vec::new();
    for document in documents {
        if covers_agent(scope(document), agent) {
            applicable.push(document);
        }
    }
    // A `tool:` document counts once one of a wider scope applies too.
    if !applicable.is_empty() {
        for document in documents {
            if covers_call(scope(document), &question.action) {
                applicable.push(document);
            }
        }
    }
    applicable.sort_by(|a, b| a.name.cmp(&b.name));

    let mut denials: Vec<Reason> = Vec::new();
    if applicable.is_empty() {
        denials.push((ReasonCode::NoApplicablePolicy, None, None));
    }
    if question.suspended {
        denials.push((ReasonCode::AgentSuspended, None, None));
    }
    let mut requests: Vec<Reason> = Vec::new();
    let mut approval: Option<(u64, BTreeSet<String>)> = None;
    let checks: [Check; 10] = [
        schedule,
        |document, _, question| capability(document, question, 0),
        |document, _, question| capability(document, question, 1),
        network,
        tool,
        data,
        rate,
        sequences,
        conditions,
        budget,
    ];
    for check in checks {
        for document in &applicable {
            for (code, path) in check(document, agent, question) {
                let reason = (code, Some(document.name.clone()), Some(full_path(document, &path)));
                let asks = matches!(
                    code,
                    ReasonCode::ApprovalRequired
                        | ReasonCode::ApprovalConditionError
                        | ReasonCode::SequenceRequiresApproval
                );
                if asks {
                    requests.push(reason);
                    let (seconds, roles) = approval.get_or_insert((u64::MAX, BTreeSet::new()));
                    *seconds = (*seconds).min(approval_seconds(document));
                    roles.extend(approval_role(document));
                } else {
                    denials.push(reason);
                }
            }
        }
    }

    let arms = Vec::new();
    let applied: Vec<String> = applicable.iter().map(|document| document.name.clone()).collect();
    if !denials.is_empty() {
        let verdict = Verdict::Deny;
        let reasons = denials;
        return Answer { verdict, reasons, approval: None, applied, arms, counted_limit: None };
    }
    if !requests.is_empty() {
        let verdict = Verdict::RequireApproval;
        let reasons = requests;
        return Answer { verdict, reasons, approval, applied, arms, counted_limit: None };
    }
    let mut admitted = Vec::new();
    let mut counted_limit = None;
    for document in &applicable {
        admitted.push((ReasonCode::Allowed, Some(document.name.clone()), None));
        let limit = tool_rule(document, question).and_then(|rule| rule["limit_per_hour"].as_u64());
        counted_limit = counted_limit.max(limit);
    }
    // Every document that covers the agent is armed, and every `tool:` document.
    let mut arms = Vec::new();
    let mut watching: Vec<&Document> = documents.iter().collect();
    watching.sort_by(|a, b| a.name.cmp(&b.name));
    for document in watching {
        if covers_agent(scope(document), agent) || scope(document).starts_with("tool:") {
            arms.extend(armed_by(document, question));
        }
    }
    let verdict = Verdict::Allow;
    Answer { verdict, reasons: admitted, approval: None, applied, arms, counted_limit }
}

/// The sections, wherever the format keeps them.
fn sections(document: &Document) -> &Value {
    if document.source.get("apiVersion").is_some() {
        &document.source["spec"]
    } else {
        &document.source
    }
}

fn full_path(document: &Document, path: &str) -> String {
    if document.source.get("apiVersion").is_some() {
        format!("spec.{path}")
    } else {
        path.to_owned()
    }
}

fn scope(document: &Document) -> &str {
    sections(document)["scope"].as_str().unwrap_or("global")
}

fn covers_agent(scope: &str, agent: &Value) -> bool {
    if scope == "global" {
        return true;
    }
    for (kind, fact) in [("org:", "org"), ("team:", "team")] {
        if let Some(wanted) = scope.strip_prefix(kind) {
            return agent[fact].as_str() == Some(wanted);
        }
    }
    match scope.strip_prefix("agent:") {
        // A UUID is the same in either case.
        Some(wanted) => {
            agent["id"].as_str().is_some_and(|id| id.to_lowercase() == wanted.to_lowercase())
        }
        None => false,
    }
}

fn covers_call(scope: &str, action: &Value) -> bool {
    scope.strip_prefix("tool:").is_some_and(|tool| tool_called(action) == Some(tool))
}

fn tool_called(action: &Value) -> Option<&str> {
    if action["kind"] == "tool_call" { action["tool"].as_str() } else { None }
}

fn tool_rule<'d>(document: &'d Document, question: &Question) -> Option<&'d Value> {
    let tool = tool_called(&question.action)?;
    sections(document)["tools"].get(tool)
}

fn approval_seconds(document: &Document) -> u64 {
    let sections = sections(document);
    sections["approval"]["timeout_seconds"]
        .as_u64()
        .or(sections["approval_timeout_secs"].as_u64())
        .unwrap_or(DEFAULT_APPROVAL_SECONDS)
}

fn approval_role(document: &Document) -> Option<String> {
    sections(document)["approval"]["escalation_role"].as_str().map(str::to_owned)
}

type Violations = Vec<(ReasonCode, String)>;

type Check = fn(&Document, &Value, &Question) -> Violations;

fn schedule(document: &Document, _: &Value, question: &Question) -> Violations {
    let hours = &sections(document)["schedule"]["active_hours"];
    let (Some(start), Some(end), Some(zone)) =
        (hours["start"].as_str(), hours["end"].as_str(), hours["timezone"].as_str())
    else {
        return Vec::new();
    };
    let minute = zone::minute_of_day(question.now, zone);
    if minute >= minutes(start) && minute < minutes(end) {
        return Vec::new();
    }
    vec![(ReasonCode::OutsideActiveHours, "schedule.active_hours".to_owned())]
}

/// `HH:MM` as minutes since midnight.
fn minutes(text: &str) -> i64 {
    let (hours, minutes) = text.split_once(':').expect("generated as HH:MM");
    let number = |text: &str| text.parse::<i64>().expect("generated as HH:MM");
    number(hours) * 60 + number(minutes)
}

/// The capabilities an action needs.
fn needed(action: &Value) -> Vec<String> {
    let text = |member: &str| action[member].as_str().unwrap_or_default();
    match text("kind") {
        "tool_call" => vec![format!("mcp_tool:{}", text("tool"))],
        "llm_call" => {
            let mut needed = vec![format!("model:{}", text("model"))];
            if action.get("host").is_some() {
                needed.push("network_outbound".to_owned());
            }
            needed
        }
        "network_connect" => vec!["network_outbound".to_owned()],
        "network_listen" => vec!["network_inbound".to_owned()],
        "file_read" => vec!["file_read".to_owned()],
        "file_write" => vec!["file_write".to_owned()],
        "process_exec" => vec!["terminal_exec".to_owned()],
        "agent_spawn" => vec!["agent_spawn".to_owned()],
        _ => Vec::new(),
    }
}

/// One of the capabilities that are needed, if that many are.
fn capability(document: &Document, question: &Question, index: usize) -> Violations {
    let needed = needed(&question.action);
    let Some(needed) = needed.get(index) else { return Vec::new() };
    let capabilities = &sections(document)["capabilities"];
    for (index, listed) in capabilities["deny"].as_array().into_iter().flatten().enumerate() {
        if *listed == **needed {
            return vec![(ReasonCode::CapabilityDenied, format!("capabilities.deny[{index}]"))];
        }
    }
    let Some(allow) = capabilities["allow"].as_array() else { return Vec::new() };
    let is_model = |text: &str| text.starts_with("model:");
    let lists_models = allow.iter().any(|listed| listed.as_str().is_some_and(is_model));
    let restricted = !is_model(needed) || lists_models;
    if restricted && !allow.iter().any(|listed| *listed == **needed) {
        return vec![(ReasonCode::CapabilityNotAllowed, "capabilities.allow".to_owned())];
    }
    Vec::new()
}

fn network(document: &Document, _: &Value, question: &Question) -> Violations {
    let connects = matches!(question.action["kind"].as_str(), Some("network_connect" | "llm_call"));
    let Some(host) = question.action["host"].as_str().filter(|_| connects) else {
        return Vec::new();
    };
    let Some(network) = sections(document).get("network") else { return Vec::new() };
    for glob in network["allowlist"].as_array().into_iter().flatten() {
        if glob.as_str().is_some_and(|glob| host::matches(glob, host)) {
            return Vec::new();
        }
    }
    let path = if network.get("allowlist").is_some() { "network.allowlist" } else { "network" };
    vec![(ReasonCode::HostNotAllowed, path.to_owned())]
}

fn tool(document: &Document, _: &Value, question: &Question) -> Violations {
    match (tool_rule(document, question), tool_called(&question.action)) {
        (Some(rule), Some(tool)) if rule["allow"] == false => {
            vec![(ReasonCode::ToolDenied, format!("tools.{tool}.allow"))]
        }
        _ => Vec::new(),
    }
}

fn data(document: &Document, _: &Value, question: &Question) -> Violations {
    let patterns = sections(document)["data"]["sensitive_patterns"].as_array();
    let mut violations = Vec::new();
    for (index, pattern) in patterns.into_iter().flatten().enumerate() {
        let pattern = pattern.as_str().expect("generated as a string");
        let regex = regex::Regex::new(&super::world::in_rust_syntax(pattern));
        let regex = regex.expect("generated from a list");
        if strings(&question.action).iter().any(|text| regex.is_match(text)) {
            let path = format!("data.sensitive_patterns[{index}]");
            violations.push((ReasonCode::SensitiveData, path));
        }
    }
    violations
}

/// Every string an action carries, keys too; not the names of the action's own members.
fn strings(action: &Value) -> Vec<&str> {
    let mut found = Vec::new();
    for (member, value) in action.as_object().into_iter().flatten() {
        if member != "kind" && member != "usage" {
            collect(value, &mut found);
        }
    }
    found
}

fn collect<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        Value::Object(members) => {
            for (key, value) in members {
                found.push(key);
                collect(value, found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn rate(document: &Document, _: &Value, question: &Question) -> Violations {
    let Some(tool) = tool_called(&question.action) else { return Vec::new() };
    let admitted = question.rates.get(tool).copied().unwrap_or(0);
    let limit = tool_rule(document, question).and_then(|rule| rule["limit_per_hour"].as_u64());
    match limit {
        Some(limit) if admitted >= limit => {
            vec![(ReasonCode::RateLimited, format!("tools.{tool}.limit_per_hour"))]
        }
        _ => Vec::new(),
    }
}

fn sequences(document: &Document, _: &Value, question: &Question) -> Violations {
    let mut violations = Vec::new();
    let Some(tool) = tool_called(&question.action) else { return violations };
    for (name, sequence) in sections(document)["sequences"].as_object().into_iter().flatten() {
        let restricts = lists(&sequence["then"]["tools"], tool);
        if restricts && question.armed.contains(&format!("{}/{name}", document.name)) {
            let code = match sequence["then"]["decision"].as_str() {
                Some("deny") => ReasonCode::SequenceDenied,
                _ => ReasonCode::SequenceRequiresApproval,
            };
            violations.push((code, format!("sequences.{name}")));
        }
    }
    violations
}

/// What a result that reaches the agent arms in one document.
fn armed_by(document: &Document, question: &Question) -> Vec<String> {
    let mut arms = Vec::new();
    let (action, tool) = (&question.action, question.action["tool"].as_str());
    let Some(tool) = tool.filter(|_| action["kind"] == "tool_result") else { return arms };
    for (name, sequence) in sections(document)["sequences"].as_object().into_iter().flatten() {
        let after = &sequence["after"];
        let of_tool = after.get("tools").is_none_or(|tools| lists(tools, tool));
        let matches = after["result_matches"].as_str().is_none_or(|pattern| {
            let regex = regex::Regex::new(&super::world::in_rust_syntax(pattern));
            let regex = regex.expect("generated from a list");
            let mut texts = Vec::new();
            collect(&action["content"], &mut texts);
            texts.iter().any(|text| regex.is_match(text))
        });
        let name = format!("{}/{name}", document.name);
        if of_tool && matches && !question.armed.contains(&name) {
            arms.push(name);
        }
    }
    arms
}

fn lists(list: &Value, wanted: &str) -> bool {
    list.as_array().into_iter().flatten().any(|listed| *listed == *wanted)
}

fn conditions(document: &Document, agent: &Value, question: &Question) -> Violations {
    let Some(rule) = tool_rule(document, question) else { return Vec::new() };
    let Some(condition) = rule["requires_approval_if"].as_str() else { return Vec::new() };
    let tool = tool_called(&question.action).unwrap_or_default();
    let path = format!("tools.{tool}.requires_approval_if");
    match condition::evaluate(condition, agent, &question.action, question.now) {
        Some(true) => vec![(ReasonCode::ApprovalRequired, path)],
        Some(false) => Vec::new(),
        None => vec![(ReasonCode::ApprovalConditionError, path)],
    }
}

fn budget(document: &Document, _: &Value, question: &Question) -> Violations {
    let budget = &sections(document)["budget"];
    let spending = question.spending.get(&document.name).copied().unwrap_or_default();
    let suspends = budget["action_on_exceed"] == "suspend";
    let mut violations = Vec::new();
    let windows =
        [("day", "daily_limit_usd", spending.day), ("month", "monthly_limit_usd", spending.month)];
    for (window, field, spent) in windows {
        let Some(limit) = budget[field].as_f64() else { continue };
        let limit = (limit * NANOS_PER_USD) as i128;
        let exceeds = question.cost > 0 && i128::from(spent) + i128::from(question.cost) > limit;
        // A budget that suspends does so once nothing of it is left.
        let used_up = i128::from(spent) >= limit;
        let path = format!("budget.{field}");
        if suspends && (exceeds || used_up || spending.suspended == Some(window)) {
            violations.push((ReasonCode::BudgetSuspended, path));
        } else if exceeds {
            violations.push((ReasonCode::BudgetExceeded, path));
        }
    }
    violations
}
