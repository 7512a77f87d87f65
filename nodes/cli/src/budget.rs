//! `aasm budget`: what teams, the workspace and single agents may spend, and what they spend.

use aa_budget::Period;
use aa_control_plane::rest::{
    budgets::{Budget, BudgetPage, BudgetWithSpending, OnExceeded, SetBudgetRequest},
    spending::{Spending, Turn},
    usd::Usd,
};
use clap::{Args, Subcommand, ValueEnum};
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
    /// Set a budget of a team or the workspace, in the place of the one there was
    Set(SetArguments),
    /// List the budgets of teams and the workspace with what is spent of them
    List(ListArguments),
    /// Show one budget and what is spent of it
    #[command(visible_alias = "get")]
    Show(OneArguments),
    /// Take a budget away
    Remove(OneArguments),
    /// Show what an agent spends in its own windows, those its policies limit
    Agent(AgentArguments),
}

/// Whose budget it is.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Whose {
    /// Of this team, as agents register with it
    #[arg(long)]
    team: Option<String>,
    /// Of all agents of the workspace together
    #[arg(long)]
    workspace_wide: bool,
}

/// The most that may be spent.
#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
struct Most {
    /// The most US dollars in a window
    #[arg(long, value_name = "USD")]
    cost_limit: Option<Usd>,
    /// The most tokens of prompts and answers together in a window
    #[arg(long, value_name = "N")]
    token_limit: Option<u64>,
}

#[derive(Args, Debug)]
#[command(after_help = remote_help(
    "aasm budget set --team platform --window daily --cost-limit 25 --alert-at 50,80,100"
))]
pub(crate) struct SetArguments {
    #[command(flatten)]
    whose: Whose,
    /// How often it starts anew, in UTC: hourly, daily, weekly (on Mondays), monthly
    #[arg(long, value_parser = parse_window)]
    window: Period,
    #[command(flatten)]
    most: Most,
    /// What happens to a call that would pass a limit
    #[arg(long, value_enum, default_value_t)]
    on_exceeded: Action,
    /// At how many per cent somebody is told: ascending numbers from 1 to 100; 50,80,100 without it
    #[arg(long, value_name = "PERCENT,…", value_delimiter = ',')]
    alert_at: Option<Vec<u64>>,
    /// For people or programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = remote_help("aasm budget list"))]
pub(crate) struct ListArguments {
    /// For people, or `{"budgets":[…]}`
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = remote_help(
    "aasm budget show --team platform --window daily\n  \
     aasm budget remove --workspace-wide --window monthly"
))]
pub(crate) struct OneArguments {
    #[command(flatten)]
    whose: Whose,
    /// Which of its budgets: hourly, daily, weekly, monthly
    #[arg(long, value_parser = parse_window)]
    window: Period,
    /// For people or programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = remote_help("aasm budget agent researcher"))]
pub(crate) struct AgentArguments {
    /// The agent's id or name
    agent: String,
    /// For people, or `{"agent","windows":[…]}`
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Action {
    /// It is refused
    #[default]
    Deny,
    /// It goes on, and somebody is told
    Alert,
}

#[derive(Serialize)]
struct BudgetList {
    budgets: Vec<BudgetWithSpending>,
}

/// Budgets asked for at a time.
const PAGE: usize = 500;

/// From here on, in per cent, spending is shown as a warning.
const NEAR_THE_END: u64 = 80;

pub(crate) fn run(command: Command, terminal: &mut Terminal) -> Result<Exit, Failure> {
    match command {
        Command::Set(arguments) => set(&arguments, terminal),
        Command::List(arguments) => list(&arguments, terminal),
        Command::Show(arguments) => show(&arguments, terminal),
        Command::Remove(arguments) => remove(&arguments, terminal),
        Command::Agent(arguments) => of_agent(&arguments, terminal),
    }
}

fn set(arguments: &SetArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let segments = arguments.whose.segments(arguments.window)?;
    let request = SetBudgetRequest {
        cost_limit_usd: arguments.most.cost_limit,
        token_limit: arguments.most.token_limit,
        action_on_exceeded: match arguments.on_exceeded {
            Action::Deny => OnExceeded::Deny,
            Action::Alert => OnExceeded::Alert,
        },
        alert_at: arguments.alert_at.clone(),
    };
    let api = Api::open(&arguments.api)?;
    let set: BudgetWithSpending = api.request(Method::PUT, &segments).json(&request)?.read()?;
    if arguments.format == Format::Json {
        terminal.json(&set)?;
        return Ok(Exit::Done);
    }
    let BudgetWithSpending { budget, current } = &set;
    let (name, terms) = (name_of(budget), terms_of(budget));
    terminal.line(format_args!("set the {name}: {terms}"))?;
    if current.percent > 0 {
        let percent = current.percent;
        terminal.note(format_args!("{percent} % of it is spent already in the present window"));
    }
    Ok(Exit::Done)
}

fn list(arguments: &ListArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let api = Api::open(&arguments.api)?;
    let mut budgets = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let request = api.get(&["budgets"]).query("limit", Some(PAGE));
        let page: BudgetPage = request.query("after", after).read()?;
        budgets.extend(page.budgets);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    if arguments.format == Format::Json {
        terminal.json(&BudgetList { budgets })?;
        return Ok(Exit::Done);
    }
    if budgets.is_empty() {
        terminal.note("no budget is set; `aasm budget set` sets one");
        return Ok(Exit::Done);
    }
    let headings = [
        "OF",
        "WINDOW",
        "COST LIMIT",
        "SPENT",
        "RESERVED",
        "TOKEN LIMIT",
        "TOKENS",
        "USED",
        "EXCEEDED",
        "RESETS",
    ];
    let mut columns = Columns::new(&headings, terminal.colour());
    for BudgetWithSpending { budget, current } in budgets {
        let whose = budget.team.unwrap_or_else(|| "(workspace)".to_owned());
        columns.row([
            Text::styled(whose, Style::Strong),
            budget.window.as_str().into(),
            budget.cost_limit_usd.map(dollars).unwrap_or_default().into(),
            dollars(current.spent_usd).into(),
            dollars(current.reserved_usd).into(),
            budget.token_limit.map(|most| most.to_string()).unwrap_or_default().into(),
            current.spent_tokens.to_string().into(),
            used(current.percent),
            budget.action_on_exceeded.as_str().into(),
            short(&current.resets_at).into(),
        ]);
    }
    columns.print(terminal)?;
    Ok(Exit::Done)
}

fn show(arguments: &OneArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let segments = arguments.whose.segments(arguments.window)?;
    let found: BudgetWithSpending = Api::open(&arguments.api)?.get(&segments).read()?;
    if arguments.format == Format::Json {
        terminal.json(&found)?;
        return Ok(Exit::Done);
    }
    let BudgetWithSpending { budget, current } = &found;
    let changed = format!("{} by {}", short(&budget.updated_at), budget.updated_by);
    let mut facts = vec![
        ("budget", name_of(budget)),
        ("terms", terms_of(budget)),
        ("changed", printable(&changed).into_owned()),
    ];
    facts.extend(spent(current, terminal));
    for (name, value) in facts {
        terminal.line(format_args!("{name:<11} {value}"))?;
    }
    Ok(Exit::Done)
}

fn remove(arguments: &OneArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let segments = arguments.whose.segments(arguments.window)?;
    let api = Api::open(&arguments.api)?;
    let removed: Budget = api.request(Method::DELETE, &segments).read()?;
    match arguments.format {
        Format::Json => terminal.json(&removed)?,
        Format::Text => {
            let (name, terms) = (name_of(&removed), terms_of(&removed));
            terminal.line(format_args!("removed the {name}; it was {terms}"))?;
        }
    }
    Ok(Exit::Done)
}

fn of_agent(arguments: &AgentArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let api = Api::open(&arguments.api)?;
    let id = agent::resolve(&api, &arguments.agent)?;
    let spending: Spending = api.get(&["agents", &id, "spending"]).read()?;
    if arguments.format == Format::Json {
        terminal.json(&spending)?;
        return Ok(Exit::Done);
    }
    if spending.windows.is_empty() {
        terminal.note(
            "no policy has limited what the agent spends; `aasm budget list` shows the budgets it \
             shares with others",
        );
        return Ok(Exit::Done);
    }
    let headings = ["WINDOW", "ZONE", "LIMIT", "SPENT", "RESERVED", "USED", "REFUSED", "RESETS"];
    let mut columns = Columns::new(&headings, terminal.colour());
    for window in spending.windows {
        let current = window.current;
        columns.row([
            Text::styled(window.window.as_str(), Style::Strong),
            window.zone.into(),
            window.cost_limit_usd.map(dollars).unwrap_or_default().into(),
            dollars(current.spent_usd).into(),
            dollars(current.reserved_usd).into(),
            used(current.percent),
            current.refused.to_string().into(),
            short(&current.resets_at).into(),
        ]);
    }
    columns.print(terminal)?;
    Ok(Exit::Done)
}

/// What is spent, line by line; what is nothing is left out, but for the sum.
fn spent(current: &Turn, terminal: &Terminal) -> Vec<(&'static str, String)> {
    let amount = |usd: Usd, tokens: u64| match (usd == Usd::default(), tokens) {
        (true, 0) => None,
        (_, tokens) => Some(format!("{}, {tokens} tokens", dollars(usd))),
    };
    let percent = format!("{} %", current.percent);
    let percent = terminal.paint(style_of(current.percent), &percent);
    let sum = format!("{}, {} tokens", dollars(current.spent_usd), current.spent_tokens);
    let reserved = amount(current.reserved_usd, current.reserved_tokens)
        .map(|reserved| format!("{reserved}, for {} under way", calls(current.calls_under_way)));
    let estimated = amount(current.estimated_usd, current.estimated_tokens)
        .map(|estimated| format!("{estimated}, for calls whose cost nobody reported"));
    let overrun = amount(current.overrun_usd, current.overrun_tokens)
        .map(|overrun| format!("{overrun}, beyond what was reserved"));
    let refused = (current.refused > 0).then(|| calls(current.refused));
    let lines = [
        ("spent", Some(format!("{sum} ({percent})"))),
        ("estimated", estimated),
        ("overrun", overrun),
        ("reserved", reserved),
        ("refused", refused),
        ("since", Some(short(&current.starts_at))),
        ("resets", Some(short(&current.resets_at))),
    ];
    lines.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn calls(count: u64) -> String {
    if count == 1 { "1 call".to_owned() } else { format!("{count} calls") }
}

fn used(percent: u64) -> Text {
    Text::styled(format!("{percent} %"), style_of(percent))
}

const fn style_of(percent: u64) -> Style {
    match percent {
        100.. => Style::Bad,
        NEAR_THE_END.. => Style::Warning,
        _ => Style::Good,
    }
}

/// `daily budget of team platform`.
fn name_of(budget: &Budget) -> String {
    let whose = match &budget.team {
        Some(team) => format!("team {}", printable(team)),
        None => "the workspace".to_owned(),
    };
    format!("{} budget of {whose}", budget.window)
}

/// `$25.00, 1000000 tokens; deny when exceeded; alerts at 50, 80, 100 %`.
fn terms_of(budget: &Budget) -> String {
    let cost = budget.cost_limit_usd.map(dollars);
    let tokens = budget.token_limit.map(|most| format!("{most} tokens"));
    let limits: Vec<_> = cost.into_iter().chain(tokens).collect();
    let alerts: Vec<_> = budget.alert_at.iter().map(u64::to_string).collect();
    let alerts = match alerts.as_slice() {
        [] => "no alerts".to_owned(),
        alerts => format!("alerts at {} %", alerts.join(", ")),
    };
    format!("{}; {} when exceeded; {alerts}", limits.join(", "), budget.action_on_exceeded.as_str())
}

fn dollars(usd: Usd) -> String {
    usd.nanos().to_string()
}

fn parse_window(name: &str) -> Result<Period, String> {
    Period::from_name(name).ok_or_else(|| "use hourly, daily, weekly or monthly".to_owned())
}

// === impl Whose ===

impl Whose {
    /// The path of the budget below the API.
    fn segments(&self, window: Period) -> Result<Vec<&str>, Failure> {
        match self.team.as_deref() {
            None => Ok(vec!["budgets", "workspace", window.as_str()]),
            // A path cannot hold them: they mean places in it.
            Some(name @ ("" | "." | "..")) => {
                Err(Failure::bad_input(format_args!("no budget can be of a team named {name:?}")))
            }
            Some(team) => Ok(vec!["budgets", "teams", team, window.as_str()]),
        }
    }
}
