//! `aasm policy eval`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use aa_policy::{Outcome, Rehearsal};
use aa_protocol::{
    Action, AgentFacts, AgentId, Decision, GovernanceLevel, JsonError, Reason, Timestamp, Verdict,
    parse_json,
};
use clap::Args;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    document::LoadedSet,
    input,
    moment::now,
    outcome::{Exit, Failure},
    terminal::{Format, Style, Terminal, printable},
};

#[derive(Args, Debug)]
#[command(after_help = "\
An action file holds one action as JSON, for example
  {\"kind\":\"tool_call\",\"tool\":\"bash\",\"args\":{\"cmd\":\"ls\"}}
  {\"kind\":\"llm_call\",\"model\":\"gpt-4o\",\"host\":\"api.openai.com\",\"messages\":[]}
  {\"kind\":\"network_connect\",\"host\":\"example.com\",\"port\":443}
and an agent file
  {\"id\":\"<uuid>\",\"name\":\"…\",\"org\":\"…\",\"team\":\"…\",\"governance_level\":\"L1\",\"labels\":{}}

Exit codes:
  0  a verdict was reached, whichever it is
  2  bad input: a file cannot be read, is malformed, or a policy is invalid")]
pub(crate) struct Arguments {
    /// The policies: files, or directories of which every *.yaml, *.yml and *.json that is no test counts.
    /// They are the whole set; nothing else applies
    #[arg(long = "policy", required = true, num_args = 1.., value_name = "FILE_OR_DIR")]
    policies: Vec<PathBuf>,
    /// The action, as JSON; `-` is standard input
    #[arg(long, value_name = "FILE")]
    action: PathBuf,
    /// The agent, as JSON. Without it: an agent of no organisation and team at governance level L0
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// When the action happens. Without it: now
    #[arg(long, value_name = "RFC3339")]
    at: Option<Timestamp>,
    /// An action of the same session that came before, as JSON; repeat it for several, in their order. Each
    /// is decided too, and an admitted one leaves behind what it does: a result that arms a sequence, a counted call
    #[arg(long, value_name = "FILE")]
    after: Vec<PathBuf>,
    /// How often a tool was called in the hour before, for rate limits
    #[arg(long = "calls", value_name = "TOOL=N", value_parser = parse_calls)]
    calls: Vec<(String, u64)>,
    /// For people, or `{"verdict","reasons":[{"policy","version","path","line","code","message"}]}`
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Serialize)]
struct PlainDecision<'d> {
    verdict: Verdict,
    reasons: Vec<PlainReason<'d>>,
}

#[derive(Serialize)]
struct PlainReason<'d> {
    policy: Option<&'d str>,
    version: Option<&'d str>,
    path: Option<&'d str>,
    line: Option<u32>,
    code: &'d str,
    message: &'d str,
}

/// Actions carry prompts and files; past this size something else was given by mistake.
const MAX_ACTION: usize = 64 << 20;
const MAX_AGENT: usize = 1 << 20;

pub(crate) fn run(arguments: &Arguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let action: Action = read_json(&arguments.action, MAX_ACTION, "an action")?;
    let agent = match &arguments.agent {
        Some(path) => read_json(path, MAX_AGENT, "an agent")?,
        None => anonymous(),
    };
    let earlier = arguments
        .after
        .iter()
        .map(|path| Ok((path, read_json(path, MAX_ACTION, "an action")?)))
        .collect::<Result<Vec<(&PathBuf, Action)>, Failure>>()?;
    let except = [&arguments.action].into_iter().chain(&arguments.agent).chain(&arguments.after);
    let except: Vec<&Path> = except.map(PathBuf::as_path).collect();
    let loaded = LoadedSet::load(&arguments.policies, &except, terminal)?;
    let policies = loaded.set.for_agent(&agent);
    let at = arguments.at.unwrap_or_else(now);
    let mut session = Rehearsal::new(arguments.calls.iter().cloned().collect());
    for (path, action) in &earlier {
        let outcome = session.step(&policies, &agent, action, at);
        if matches!(arguments.format, Format::Text) {
            show_earlier(path, &outcome, terminal)?;
        }
    }
    let outcome = session.step(&policies, &agent, &action, at);
    match arguments.format {
        Format::Json => terminal.json_line(&PlainDecision::from(&outcome.decision))?,
        Format::Text => show(&outcome.decision, &loaded, terminal)?,
    }
    Ok(Exit::Done)
}

fn anonymous() -> AgentFacts {
    AgentFacts {
        id: AgentId::from_uuid(uuid::Uuid::nil()),
        name: "agent".to_owned(),
        org: None,
        team: None,
        governance_level: GovernanceLevel::L0,
        labels: BTreeMap::new(),
    }
}

/// Reads strict JSON; what is wrong is said with its place, and never with the text itself.
fn read_json<T: DeserializeOwned>(path: &Path, limit: usize, what: &str) -> Result<T, Failure> {
    let text = input::read_text(path, limit)?;
    let name = input::shown(path);
    let parsed = parse_json(&text);
    let value = parsed.map_err(|JsonError { problem, line, column }| {
        Failure::bad_input(format_args!("{name}:{line}:{column}: not JSON: {problem}"))
    })?;
    serde_json::from_value(value)
        .map_err(|error| Failure::bad_input(format_args!("{name} is not {what}: {error}")))
}

fn parse_calls(text: &str) -> Result<(String, u64), String> {
    let parsed = text.rsplit_once('=').and_then(|(tool, count)| {
        let count = count.parse().ok()?;
        (!tool.is_empty()).then(|| (tool.to_owned(), count))
    });
    parsed.ok_or_else(|| "write it as TOOL=N, such as bash=10".to_owned())
}

/// One line for an action that came before: what became of it, and what it left behind.
fn show_earlier(path: &Path, outcome: &Outcome, terminal: &mut Terminal) -> Result<(), Failure> {
    let mut line = format!("after {}: {}", input::shown(path), outcome.decision.verdict);
    if outcome.decision.verdict != Verdict::Allow
        && let Some(reason) = outcome.decision.reasons.first()
    {
        line += &format!(", {}", reason.code);
    }
    if !outcome.arms.is_empty() {
        let arms: Vec<_> = outcome.arms.iter().map(ToString::to_string).collect();
        line += &format!(", arms {}", arms.join(", "));
    }
    terminal.line(printable(&line))?;
    Ok(())
}

fn show(decision: &Decision, loaded: &LoadedSet, terminal: &mut Terminal) -> Result<(), Failure> {
    let style = match decision.verdict {
        Verdict::Allow => Style::Good,
        Verdict::RequireApproval => Style::Warning,
        Verdict::Deny => Style::Bad,
    };
    terminal.line(terminal.paint(style, decision.verdict.as_str()).into_owned())?;
    for reason in &decision.reasons {
        let Reason { code, message, .. } = reason;
        terminal.line(format_args!("  {code}: {}", printable(message)))?;
        if let Some(place) = place(reason, loaded) {
            terminal.line(format_args!("    at {place}"))?;
        }
    }
    if let Some(approval) = &decision.approval {
        let roles = match approval.roles.as_slice() {
            [] => "the team's approvers".to_owned(),
            roles => roles.join(" and "),
        };
        let seconds = approval.timeout_seconds;
        terminal.line(format_args!("  approval: by {} within {seconds} s", printable(&roles)))?;
    }
    Ok(())
}

/// `file:line:column path`, as far as the reason says.
fn place(reason: &Reason, loaded: &LoadedSet) -> Option<String> {
    let policy = reason.policy.as_deref()?;
    let mut place = loaded.file(policy).unwrap_or(policy).to_owned();
    if let (Some(line), Some(column)) = (reason.line, reason.column) {
        place += &format!(":{line}:{column}");
    }
    if let Some(path) = &reason.path {
        place += &format!(" {}", printable(path));
    }
    Some(place)
}

// === impl PlainDecision ===

impl<'d> From<&'d Decision> for PlainDecision<'d> {
    fn from(decision: &'d Decision) -> Self {
        let plain = |reason: &'d Reason| PlainReason {
            policy: reason.policy.as_deref(),
            version: reason.version.as_deref(),
            path: reason.path.as_deref(),
            line: reason.line,
            code: reason.code.as_str(),
            message: &reason.message,
        };
        Self { verdict: decision.verdict, reasons: decision.reasons.iter().map(plain).collect() }
    }
}
