//! `aasm alert`: who is told of what, and what was not delivered.

mod destination;

use std::collections::{BTreeSet, HashMap};

use aa_control_plane::rest::alerts::{
    AlertDestination, Alerts, DeadLetter, DeadLetterCount, DeadLetterPage, DeadLetterSelection,
    SetRuleRequest, TestResult,
};
use aa_notify::{Channel, EventKind, Rule, Severity};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde::Serialize;

use crate::{
    agent,
    api::Api,
    connection::ApiArguments,
    moment::short,
    outcome::{Exit, Failure},
    policy::remote_help,
    table::{Columns, Text},
    terminal::{Format, Style, Terminal, printable},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List destinations and rules, and how deliveries are going
    List(ListArguments),
    /// Set a destination that gets signed HTTP requests
    Webhook(destination::WebhookArguments),
    /// Set a destination that is a Slack channel
    Slack(destination::SlackArguments),
    /// Set a destination that gets mail
    Email(destination::EmailArguments),
    /// Send a destination a test message and wait for what becomes of it
    Test(NameArguments),
    /// Take a destination away, with what waits for it
    Remove(NameArguments),
    /// Set who is told of what
    #[command(subcommand)]
    Rule(RuleCommand),
    /// See, send again and discard messages that no destination took
    #[command(subcommand)]
    Dead(DeadCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum RuleCommand {
    /// Set a rule, in the place of the one there was
    Set(SetRuleArguments),
    /// Take a rule away
    Remove(NameArguments),
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadCommand {
    /// List dead letters, the oldest first
    List(ListArguments),
    /// Send dead letters again: all, or those chosen
    Replay(SelectArguments),
    /// Forget dead letters: all, or those chosen
    Discard(SelectArguments),
}

#[derive(Args, Debug)]
#[command(after_help = remote_help("aasm alert list"))]
pub(crate) struct ListArguments {
    /// For people or programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = remote_help("aasm alert test ops"))]
pub(crate) struct NameArguments {
    /// Its name
    name: String,
    /// For people or programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = remote_help(
    "aasm alert rule set everything --to ops\n  \
     aasm alert rule set approvals --to slack --event approval_needed --event approval_escalated\n  \
     aasm alert rule set platform --to pager --team platform --min-severity critical"
))]
pub(crate) struct SetRuleArguments {
    /// Its name: a-z, 0-9, _, - and .
    name: String,
    /// A destination; several are told alike
    #[arg(long = "to", value_name = "DESTINATION", required = true)]
    to: Vec<String>,
    /// A kind of event: violation, budget_threshold, budget_exceeded, approval_needed, approval_escalated,
    /// approval_decided, agent_suspended, agent_resumed, audit_verification_failed; all without it
    #[arg(long = "event", value_name = "KIND")]
    events: Vec<EventKind>,
    /// Only of this agent, by name or id
    #[arg(long = "agent", value_name = "AGENT")]
    agents: Vec<String>,
    /// Only of this team
    #[arg(long = "team", value_name = "TEAM")]
    teams: Vec<String>,
    /// Only where this policy decided
    #[arg(long = "policy", value_name = "POLICY")]
    policies: Vec<String>,
    /// Only what is at least this urgent: info, warning or critical
    #[arg(long, value_name = "SEVERITY")]
    min_severity: Option<Severity>,
    /// For people or programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = remote_help(
    "aasm alert dead replay\n  aasm alert dead replay --of ops\n  aasm alert dead discard --id 17"
))]
pub(crate) struct SelectArguments {
    /// This one
    #[arg(long, value_name = "N")]
    id: Option<u64>,
    /// Those of this destination
    #[arg(long = "of", value_name = "DESTINATION", conflicts_with = "id")]
    destination: Option<String>,
    /// For people or programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

/// Dead letters asked for at a time.
const PAGE: usize = 1_000;

pub(crate) fn run(command: Command, terminal: &mut Terminal) -> Result<Exit, Failure> {
    match command {
        Command::List(arguments) => list(&arguments, terminal),
        Command::Webhook(arguments) => destination::webhook(arguments, terminal),
        Command::Slack(arguments) => destination::slack(arguments, terminal),
        Command::Email(arguments) => destination::email(arguments, terminal),
        Command::Test(arguments) => test(&arguments, terminal),
        Command::Remove(arguments) => remove(&arguments, terminal),
        Command::Rule(RuleCommand::Set(arguments)) => set_rule(arguments, terminal),
        Command::Rule(RuleCommand::Remove(arguments)) => remove_rule(&arguments, terminal),
        Command::Dead(DeadCommand::List(arguments)) => list_dead(&arguments, terminal),
        Command::Dead(DeadCommand::Replay(arguments)) => {
            select(arguments, "replay", "on their way again", terminal)
        }
        Command::Dead(DeadCommand::Discard(arguments)) => {
            select(arguments, "discard", "discarded", terminal)
        }
    }
}

fn list(arguments: &ListArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let api = Api::open(&arguments.api)?;
    let alerts: Alerts = api.get(&["alerts"]).read()?;
    if arguments.format == Format::Json {
        terminal.json(&alerts)?;
        return Ok(Exit::Done);
    }
    let Alerts { destinations, rules, dead_letters, problem } = alerts;
    if destinations.is_empty() {
        terminal.note(
            "nobody is told anything; `aasm alert webhook`, `slack` and `email` set destinations",
        );
    } else {
        for line in destination_lines(&destinations, terminal.colour()) {
            terminal.line(line)?;
        }
    }
    if !rules.is_empty() {
        terminal.line("")?;
        let names = agent::names(&api);
        for line in rule_lines(&rules, &names, terminal.colour()) {
            terminal.line(line)?;
        }
    } else if !destinations.is_empty() {
        terminal
            .note("no rule sends anything there; `aasm alert rule set NAME --to DESTINATION` does");
    }
    for destination in &destinations {
        if let Some(problem) = &destination.problem {
            terminal.note(format_args!("{}: {}", destination.name, printable(problem)));
        }
    }
    if dead_letters > 0 {
        let plural = if dead_letters == 1 { "" } else { "s" };
        terminal.note(format_args!(
            "{dead_letters} message{plural} nobody took: `aasm alert dead list`"
        ));
    }
    if let Some(problem) = problem {
        terminal.note(format_args!("the audit log is not read: {}", printable(&problem)));
    }
    Ok(Exit::Done)
}

fn test(arguments: &NameArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let api = Api::open(&arguments.api)?;
    let segments = ["alerts", "destinations", arguments.name.as_str(), "test"];
    let result: TestResult = api.post(&segments).read()?;
    let said = format!("{} took the test message", result.destination);
    say(&result, &said, arguments.format, terminal)
}

fn remove(arguments: &NameArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let api = Api::open(&arguments.api)?;
    let segments = ["alerts", "destinations", arguments.name.as_str()];
    let destination: AlertDestination = api.request(Method::DELETE, &segments).read()?;
    let said = format!("removed the destination {}", destination.name);
    say(&destination, &said, arguments.format, terminal)
}

fn set_rule(arguments: SetRuleArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let SetRuleArguments { name, to, events, agents, teams, policies, min_severity, format, api } =
        arguments;
    let api = Api::open(&api)?;
    let mut ids = BTreeSet::new();
    for given in &agents {
        let id = agent::resolve(&api, given)?;
        let parsed = id.parse();
        ids.insert(parsed.map_err(|_| Failure::refused(format_args!("{id} is no agent's id")))?);
    }
    let request = SetRuleRequest {
        destinations: to.into_iter().collect(),
        events: events.into_iter().collect(),
        agents: ids,
        teams: teams.into_iter().collect(),
        policies: policies.into_iter().collect(),
        min_severity,
    };
    let segments = ["alerts", "rules", name.as_str()];
    let rule: Rule = api.request(Method::PUT, &segments).json(&request)?.read()?;
    let names = agent::names(&api);
    let said = format!("{} are told of {}", destinations(&rule), wanted(&rule, &names));
    say(&rule, &said, format, terminal)
}

fn remove_rule(arguments: &NameArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let api = Api::open(&arguments.api)?;
    let segments = ["alerts", "rules", arguments.name.as_str()];
    let rule: Rule = api.request(Method::DELETE, &segments).read()?;
    let said = format!("removed the rule {}", rule.name);
    say(&rule, &said, arguments.format, terminal)
}

fn list_dead(arguments: &ListArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let api = Api::open(&arguments.api)?;
    let (mut letters, mut after) = (Vec::new(), None);
    loop {
        let request = api.get(&["alerts", "dead-letters"]);
        let request = request.query("after", after).query("limit", Some(PAGE));
        let page: DeadLetterPage = request.read()?;
        letters.extend(page.dead_letters);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    if arguments.format == Format::Json {
        terminal.json(&DeadLetterPage { dead_letters: letters, next: None })?;
        return Ok(Exit::Done);
    }
    if letters.is_empty() {
        terminal.note("every message was taken");
        return Ok(Exit::Done);
    }
    let mut columns =
        Columns::new(&["ID", "FOR", "GIVEN UP", "TRIES", "MESSAGE", "WHY"], terminal.colour());
    for letter in letters {
        let DeadLetter { id, destination, headline, attempts, problem, given_up_at, .. } = letter;
        columns.row([
            Text::styled(id.to_string(), Style::Strong),
            destination.into(),
            short(&given_up_at).into(),
            attempts.to_string().into(),
            headline.into(),
            Text::styled(problem.unwrap_or_default(), Style::Bad),
        ]);
    }
    columns.print(terminal)?;
    Ok(Exit::Done)
}

fn select(
    arguments: SelectArguments,
    verb: &str,
    done: &str,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let SelectArguments { id, destination, format, api } = arguments;
    let api = Api::open(&api)?;
    let selection = DeadLetterSelection { id, destination };
    let request = api.post(&["alerts", "dead-letters", verb]).json(&selection)?;
    let count: DeadLetterCount = request.read()?;
    let plural = if count.count == 1 { "" } else { "s" };
    let said = format!("{} dead letter{plural} {done}", count.count);
    say(&count, &said, format, terminal)
}

fn say(
    value: &impl Serialize,
    words: &str,
    format: Format,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    match format {
        Format::Json => terminal.json(value)?,
        Format::Text => terminal.line(printable(words))?,
    }
    Ok(Exit::Done)
}

fn destination_lines(destinations: &[AlertDestination], colour: bool) -> Vec<String> {
    let headings = ["DESTINATION", "TYPE", "WHERE", "WAITING", "COUNTED", "LAST TAKEN"];
    let mut columns = Columns::new(&headings, colour);
    for destination in destinations {
        columns.row([
            Text::styled(destination.name.as_str(), Style::Strong),
            destination.channel.type_name().into(),
            place(&destination.channel).into(),
            destination.waiting.to_string().into(),
            destination.folded.to_string().into(),
            destination.last_taken_at.as_deref().map(short).unwrap_or_default().into(),
        ]);
    }
    columns.lines()
}

fn rule_lines(rules: &[Rule], names: &HashMap<String, String>, colour: bool) -> Vec<String> {
    let mut columns = Columns::new(&["RULE", "TELLS", "OF"], colour);
    for rule in rules {
        columns.row([
            Text::styled(rule.name.as_str(), Style::Strong),
            destinations(rule).into(),
            wanted(rule, names).into(),
        ]);
    }
    columns.lines()
}

/// Where a channel leads, without anything secret.
fn place(channel: &Channel) -> String {
    match channel {
        Channel::Webhook(webhook) => webhook.url.clone(),
        Channel::Slack(slack) => {
            let buttons = if slack.signing_secret.is_some() { ", with buttons" } else { "" };
            format!("the secret {}{buttons}", slack.url_secret)
        }
        Channel::Email(email) => format!("{} by {}", email.to.join(", "), email.server),
    }
}

fn destinations(rule: &Rule) -> String {
    rule.destinations.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// `approval_needed of team platform, at least warning`.
fn wanted(rule: &Rule, names: &HashMap<String, String>) -> String {
    let mut text = match rule.events.is_empty() {
        true => "everything".to_owned(),
        false => rule.events.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", "),
    };
    let agents = rule.agents.iter().map(|id| {
        let id = id.to_string();
        names.get(&id).cloned().unwrap_or(id)
    });
    let of = agents
        .map(|name| format!("agent {name}"))
        .chain(rule.teams.iter().map(|team| format!("team {team}")))
        .chain(rule.policies.iter().map(|policy| format!("policy {policy}")));
    let of: Vec<_> = of.collect();
    if !of.is_empty() {
        text += &format!(" of {}", of.join(", "));
    }
    if let Some(least) = rule.min_severity {
        text += &format!(", at least {least}");
    }
    text
}
