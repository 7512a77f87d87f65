//! `aasm agent`: seeing, suspending and resuming agents.

use aa_control_plane::rest::agents::{
    Agent, AgentPage, BudgetSuspension, Status, StatusRequest, Suspended,
};
use aa_protocol::{AgentFacts, AgentId};
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::{
    api::Api,
    connection::ApiArguments,
    moment::short,
    outcome::{Exit, Failure},
    policy::REMOTE_EXIT_CODES,
    table::{Columns, Text},
    terminal::{Format, Style, Terminal, printable},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the agents of the workspace
    List(ListArguments),
    /// Show one agent
    #[command(visible_alias = "show")]
    Get(AgentArguments),
    /// Deny everything an agent asks for, from now on
    Suspend(StatusArguments),
    /// Let policies decide again
    Resume(StatusArguments),
}

#[derive(Args, Debug)]
#[command(after_help = REMOTE_EXIT_CODES)]
pub(crate) struct ListArguments {
    /// For people, or `{"agents":[…]}`
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = REMOTE_EXIT_CODES)]
pub(crate) struct AgentArguments {
    /// The agent's id or name
    agent: String,
    /// For people or programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = REMOTE_EXIT_CODES)]
pub(crate) struct StatusArguments {
    /// The agent's id or name
    agent: String,
    /// Why; it is kept in the audit log and shown to the agent
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// For people or programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Serialize)]
struct AgentList {
    agents: Vec<Agent>,
}

/// Agents asked for at a time.
const PAGE: usize = 500;

pub(crate) fn run(command: Command, terminal: &mut Terminal) -> Result<Exit, Failure> {
    match command {
        Command::List(arguments) => list(&arguments, terminal),
        Command::Get(arguments) => get(&arguments, terminal),
        Command::Suspend(arguments) => set_status(&arguments, "suspend", terminal),
        Command::Resume(arguments) => set_status(&arguments, "resume", terminal),
    }
}

fn list(arguments: &ListArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let api = Api::open(&arguments.api)?;
    let mut agents = Vec::new();
    each_page(&api, |page| agents.extend(page))?;
    agents.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    if arguments.format == Format::Json {
        terminal.json(&AgentList { agents })?;
        return Ok(Exit::Done);
    }
    if agents.is_empty() {
        terminal.note("no agent has registered yet");
        return Ok(Exit::Done);
    }
    let headings = ["NAME", "ID", "TEAM", "ORG", "LEVEL", "STATUS", "ENTRIES", "REGISTERED"];
    let mut columns = Columns::new(&headings, terminal.colour());
    for agent in agents {
        let status = status_text(&agent);
        columns.row([
            Text::styled(agent.name, Style::Strong),
            agent.id.into(),
            agent.team.unwrap_or_default().into(),
            agent.org.unwrap_or_default().into(),
            agent.governance_level.into(),
            status,
            agent.entries.to_string().into(),
            short(&agent.registered_at).into(),
        ]);
    }
    columns.print(terminal)?;
    Ok(Exit::Done)
}

fn get(arguments: &AgentArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let api = Api::open(&arguments.api)?;
    let agent: Agent = api.get(&["agents", &resolve(&api, &arguments.agent)?]).read()?;
    show(&agent, arguments.format, terminal)?;
    Ok(Exit::Done)
}

fn set_status(
    arguments: &StatusArguments,
    verb: &str,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let api = Api::open(&arguments.api)?;
    let id = resolve(&api, &arguments.agent)?;
    let request = StatusRequest { reason: arguments.reason.clone() };
    let agent: Agent = api.post(&["agents", &id, verb]).json(&request)?.read()?;
    if arguments.format == Format::Json {
        terminal.json(&agent)?;
        return Ok(Exit::Done);
    }
    let now = match agent.status {
        Status::Active => "active: policies decide",
        Status::Suspended => "suspended: every action is denied",
    };
    terminal.line(format_args!("{} ({}) is {now}", printable(&agent.name), agent.id))?;
    Ok(Exit::Done)
}

fn show(agent: &Agent, format: Format, terminal: &mut Terminal) -> Result<(), Failure> {
    if format == Format::Json {
        return Ok(terminal.json(agent)?);
    }
    let labels: Vec<String> =
        agent.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let suspended = terminal.paint(Style::Bad, "suspended");
    let by_operator = agent.suspended.as_ref().map(describe_suspension);
    let by_budget = agent.budget_suspension.as_ref().map(describe_budget_suspension);
    let status =
        match [by_operator, by_budget].into_iter().flatten().reduce(|a, b| format!("{a}; {b}")) {
            None => terminal.paint(Style::Good, "active").into_owned(),
            Some(why) => format!("{suspended} {why}"),
        };
    let shown = |text: &Option<String>| printable(text.as_deref().unwrap_or("–")).into_owned();
    let facts = [
        ("name", printable(&agent.name).into_owned()),
        ("id", agent.id.clone()),
        ("status", status),
        ("org", shown(&agent.org)),
        ("team", shown(&agent.team)),
        ("level", agent.governance_level.clone()),
        ("labels", printable(&labels.join(", ")).into_owned()),
        ("registered", short(&agent.registered_at)),
        ("entries", agent.entries.to_string()),
    ];
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        terminal.line(format_args!("{name:<11} {value}"))?;
    }
    for key in &agent.keys {
        let proven = short(&key.proven_at);
        terminal.line(format_args!("{:<11} {} (proven {proven})", "key", key.public_key))?;
    }
    Ok(())
}

fn describe_suspension(suspension: &Suspended) -> String {
    let Suspended { at, by, reason } = suspension;
    let reason = match reason.as_str() {
        "" => String::new(),
        reason => format!(": {}", printable(reason)),
    };
    format!("since {} by {by}{reason}", short(at))
}

fn describe_budget_suspension(suspension: &BudgetSuspension) -> String {
    let BudgetSuspension { policy, window, until, .. } = suspension;
    let (policy, until) = (printable(policy), short(until));
    format!("by the {window} budget of policy {policy} until {until}")
}

fn status_text(agent: &Agent) -> Text {
    match (agent.status, &agent.budget_suspension) {
        (Status::Active, _) => Text::styled("active", Style::Good),
        (Status::Suspended, Some(budget)) if agent.suspended.is_none() => {
            Text::styled(format!("suspended by budget until {}", short(&budget.until)), Style::Bad)
        }
        (Status::Suspended, _) => Text::styled("suspended", Style::Bad),
    }
}

fn each_page(api: &Api, mut take: impl FnMut(Vec<Agent>)) -> Result<(), Failure> {
    let mut after: Option<String> = None;
    loop {
        let request = api.get(&["agents"]).query("limit", Some(PAGE));
        let page: AgentPage = request.query("after", after).read()?;
        take(page.agents);
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(()),
        }
    }
}

/// The id of an agent that is named by its id or its name.
pub(crate) fn resolve(api: &Api, given: &str) -> Result<String, Failure> {
    if given.parse::<AgentId>().is_ok() {
        return Ok(given.to_owned());
    }
    let mut found = Vec::new();
    each_page(api, |page| {
        let named = page.into_iter().filter(|agent| agent.name == given);
        found.extend(named.map(|agent| agent.id));
    })?;
    match found.as_slice() {
        [id] => Ok(id.clone()),
        [] => Err(Failure::refused(format_args!(
            "there is no agent of the id or name `{}`; `aasm agent list` shows all",
            printable(given)
        ))),
        several => Err(Failure::refused(format_args!(
            "{} agents are named `{}`; name one by its id: {}",
            several.len(),
            printable(given),
            several.join(", ")
        ))),
    }
}

/// The names of up to a page of agents by their ids, to make ids readable.
pub(crate) fn names(api: &Api) -> std::collections::HashMap<String, String> {
    let page = api.get(&["agents"]).query("limit", Some(PAGE)).read::<AgentPage>();
    // Without them, ids are shown.
    let agents = page.map(|page| page.agents).unwrap_or_default();
    agents.into_iter().map(|agent| (agent.id, agent.name)).collect()
}

/// What policies see of every registered agent.
pub(crate) fn registered_facts(arguments: &ApiArguments) -> Result<Vec<AgentFacts>, Failure> {
    let api = Api::open(arguments)?;
    let mut facts = Vec::new();
    let mut problem = None;
    each_page(&api, |page| {
        for agent in page {
            match facts_of(agent) {
                Ok(agent) => facts.push(agent),
                Err(error) => problem = Some(error),
            }
        }
    })?;
    match problem {
        None => Ok(facts),
        Some(problem) => Err(Failure::refused(problem)),
    }
}

fn facts_of(agent: Agent) -> Result<AgentFacts, String> {
    Ok(AgentFacts {
        id: agent.id.parse().map_err(|error: aa_protocol::IdError| error.to_string())?,
        name: agent.name,
        org: agent.org,
        team: agent.team,
        governance_level: agent
            .governance_level
            .parse()
            .map_err(|error: aa_protocol::agent::GovernanceLevelError| error.to_string())?,
        labels: agent.labels,
    })
}
