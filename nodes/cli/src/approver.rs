//! `aasm approver`: who is asked for approval.

use std::str::FromStr;

use aa_control_plane::rest::approvers::{
    ApprovalChain, ApproverGroup, ApproverList, ChainStage, SetChainRequest, SetGroupRequest,
};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde::Serialize;

use crate::{
    api::Api,
    connection::ApiArguments,
    outcome::{Exit, Failure},
    policy::{REMOTE_EXIT_CODES, remote_help},
    table::{Columns, Text},
    terminal::{Format, Style, Terminal, printable},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the groups and chains
    List(ListArguments),
    /// Set the groups of people who approve; a role that a policy names is a group
    #[command(subcommand)]
    Group(GroupCommand),
    /// Set the chains of groups that requests go along where a policy names no role
    #[command(subcommand)]
    Chain(ChainCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// Set a group, in the place of the one there was
    Set(SetGroupArguments),
    /// Take a group away: where it is named, the owners and admins are asked then
    Remove(RemoveGroupArguments),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ChainCommand {
    /// Set a chain, in the place of the one there was
    Set(SetChainArguments),
    /// Take a chain away: the workspace's holds then, or the owners and admins are asked
    Remove(RemoveChainArguments),
}

#[derive(Args, Debug)]
#[command(after_help = REMOTE_EXIT_CODES)]
pub(crate) struct ListArguments {
    /// For people, or `{"groups":[…],"chains":[…]}`
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = remote_help(
    "aasm approver group set security --member 7hq2mzk4tp --member x3vw9rb1nd --needed 2"
))]
pub(crate) struct SetGroupArguments {
    /// The group's name, as policies have it in `escalation_role`
    name: String,
    /// A member: the id of an API key, as `aasm key list` shows it; again for each. Without any, the owners and admins
    #[arg(long = "member", value_name = "KEY")]
    members: Vec<String>,
    /// How many of them must approve where a policy names the group: 2 for four eyes
    #[arg(long, value_name = "N", default_value_t = 1)]
    needed: u32,
    /// For people or programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = REMOTE_EXIT_CODES)]
pub(crate) struct RemoveGroupArguments {
    /// The group's name
    name: String,
    /// For people or programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

/// Whose chain it is.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Whose {
    /// Of this team, as agents register with it
    #[arg(long)]
    team: Option<String>,
    /// Of all teams without a chain of their own
    #[arg(long)]
    workspace_wide: bool,
}

#[derive(Args, Debug)]
#[command(after_help = remote_help(
    "aasm approver chain set --team platform --stage leads@60 --stage directors:2@40\n  \
     aasm approver chain set --workspace-wide --stage on-call@50 --stage owners-and-admins@50"
))]
pub(crate) struct SetChainArguments {
    #[command(flatten)]
    whose: Whose,
    /// A stage: the group (or owners-and-admins), how many of it must approve (1 without it), and how many per cent of
    /// the time it has before the next stage is asked as well; all shares make up 100
    #[arg(long = "stage", value_name = "GROUP[:NEEDED]@SHARE", required = true)]
    stages: Vec<StageArgument>,
    /// For people or programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = remote_help("aasm approver chain remove --team platform"))]
pub(crate) struct RemoveChainArguments {
    #[command(flatten)]
    whose: Whose,
    /// For people or programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

/// `GROUP[:NEEDED]@SHARE`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct StageArgument(ChainStage);

/// What a stage of no group is called.
const OWNERS_AND_ADMINS: &str = "owners-and-admins";

pub(crate) fn run(command: Command, terminal: &mut Terminal) -> Result<Exit, Failure> {
    match command {
        Command::List(arguments) => list(&arguments, terminal),
        Command::Group(GroupCommand::Set(arguments)) => set_group(&arguments, terminal),
        Command::Group(GroupCommand::Remove(arguments)) => remove_group(&arguments, terminal),
        Command::Chain(ChainCommand::Set(arguments)) => set_chain(arguments, terminal),
        Command::Chain(ChainCommand::Remove(arguments)) => remove_chain(&arguments, terminal),
    }
}

fn list(arguments: &ListArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let list: ApproverList = Api::open(&arguments.api)?.get(&["approvers"]).read()?;
    if arguments.format == Format::Json {
        terminal.json(&list)?;
        return Ok(Exit::Done);
    }
    let ApproverList { groups, chains } = list;
    let mut lines = Vec::new();
    if !groups.is_empty() {
        let mut columns = Columns::new(&["GROUP", "NEEDED", "MEMBERS"], terminal.colour());
        for group in &groups {
            let name = Text::styled(group.name.as_str(), Style::Strong);
            columns.row([name, group.needed.to_string().into(), members(group).into()]);
        }
        lines.extend(columns.lines());
    }
    if !chains.is_empty() {
        let mut columns = Columns::new(&["CHAIN OF", "STAGES"], terminal.colour());
        for chain in &chains {
            let whose = chain.team.as_deref().unwrap_or("(workspace)");
            columns.row([Text::styled(whose, Style::Strong), stages(chain).into()]);
        }
        if !lines.is_empty() {
            lines.push(String::new());
        }
        lines.extend(columns.lines());
    }
    if lines.is_empty() {
        terminal.note("no group and no chain is set: the owners and admins are asked");
    }
    for line in lines {
        terminal.line(line)?;
    }
    Ok(Exit::Done)
}

fn set_group(arguments: &SetGroupArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let segments = group_path(&arguments.name)?;
    // A key that is given by mistake is not sent, nor repeated on the screen.
    if arguments.members.iter().any(|id| id.starts_with("aak_")) {
        let message = "--member takes the id of a key, not the key: the part after `aak_`, 10 \
                       characters, as `aasm key list` shows it";
        return Err(Failure::bad_input(message));
    }
    let SetGroupArguments { members, needed, .. } = arguments;
    let request = SetGroupRequest { members: members.clone(), needed: *needed };
    let api = Api::open(&arguments.api)?;
    let group: ApproverGroup = api.request(Method::PUT, &segments).json(&request)?.read()?;
    let said = format!("set the group {}: {}", group.name, terms(&group));
    say(&group, &said, arguments.format, terminal)
}

fn remove_group(
    arguments: &RemoveGroupArguments,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let segments = group_path(&arguments.name)?;
    let api = Api::open(&arguments.api)?;
    let group: ApproverGroup = api.request(Method::DELETE, &segments).read()?;
    let said = format!("removed the group {}; it was {}", group.name, terms(&group));
    say(&group, &said, arguments.format, terminal)
}

fn set_chain(arguments: SetChainArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let segments = arguments.whose.segments()?;
    let given = arguments.stages.into_iter().map(|StageArgument(stage)| stage);
    let request = SetChainRequest { stages: given.collect() };
    let api = Api::open(&arguments.api)?;
    let chain: ApprovalChain = api.request(Method::PUT, &segments).json(&request)?.read()?;
    let said = format!("set the chain of {}: {}", name_of(&chain), stages(&chain));
    say(&chain, &said, arguments.format, terminal)
}

fn remove_chain(
    arguments: &RemoveChainArguments,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let segments = arguments.whose.segments()?;
    let api = Api::open(&arguments.api)?;
    let chain: ApprovalChain = api.request(Method::DELETE, &segments).read()?;
    let said = format!("removed the chain of {}; it was {}", name_of(&chain), stages(&chain));
    say(&chain, &said, arguments.format, terminal)
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

fn group_path(name: &str) -> Result<[&str; 3], Failure> {
    if name == OWNERS_AND_ADMINS {
        let message = format_args!("`{name}` stands for the owners and admins; choose another");
        return Err(Failure::bad_input(message));
    }
    Ok(["approvers", "groups", segment(name, "group")?])
}

/// A name as a part of a path, which cannot hold those that mean places in it.
fn segment<'a>(name: &'a str, what: &str) -> Result<&'a str, Failure> {
    if matches!(name, "" | "." | "..") {
        return Err(Failure::bad_input(format_args!("no {what} can be named {name:?}")));
    }
    Ok(name)
}

/// `2 of a, b`.
fn terms(group: &ApproverGroup) -> String {
    format!("{} of {}", group.needed, members(group))
}

fn members(group: &ApproverGroup) -> String {
    match group.members.as_slice() {
        [] => "the owners and admins".to_owned(),
        members => members.join(", "),
    }
}

fn name_of(chain: &ApprovalChain) -> String {
    match &chain.team {
        Some(team) => format!("team {team}"),
        None => "the workspace".to_owned(),
    }
}

/// `leads 60 %, then 2 of directors 40 %`.
fn stages(chain: &ApprovalChain) -> String {
    let stage = |stage: &ChainStage| {
        let group = stage.group.as_deref().unwrap_or("the owners and admins");
        match stage.needed {
            1 => format!("{group} {} %", stage.share),
            needed => format!("{needed} of {group} {} %", stage.share),
        }
    };
    chain.stages.iter().map(stage).collect::<Vec<_>>().join(", then ")
}

// === impl Whose ===

impl Whose {
    /// The path of the chain below the API.
    fn segments(&self) -> Result<Vec<&str>, Failure> {
        match self.team.as_deref() {
            None => Ok(vec!["approvers", "chains", "workspace"]),
            Some(team) => Ok(vec!["approvers", "chains", "teams", segment(team, "team")?]),
        }
    }
}

// === impl StageArgument ===

impl FromStr for StageArgument {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const FORM: &str = "write GROUP[:NEEDED]@SHARE, such as leads@60 or directors:2@40";
        let (who, share) = text.rsplit_once('@').ok_or(FORM)?;
        let share = share.parse().map_err(|_| FORM)?;
        let (group, needed) = match who.rsplit_once(':') {
            Some((group, needed)) => (group, needed.parse().map_err(|_| FORM)?),
            None => (who, 1),
        };
        let group = match group {
            "" => return Err("name a group, or owners-and-admins"),
            OWNERS_AND_ADMINS => None,
            group => Some(group.to_owned()),
        };
        Ok(Self(ChainStage { group, needed, share }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_a_group_a_number_and_a_share() {
        let stage = |group: Option<&str>, needed, share| {
            StageArgument(ChainStage { group: group.map(str::to_owned), needed, share })
        };
        for (text, parsed) in [
            ("leads@60", stage(Some("leads"), 1, 60)),
            ("directors:2@40", stage(Some("directors"), 2, 40)),
            ("owners-and-admins@100", stage(None, 1, 100)),
            ("owners-and-admins:3@100", stage(None, 3, 100)),
            ("a@b:2@5", stage(Some("a@b"), 2, 5)),
        ] {
            assert_eq!(text.parse(), Ok(parsed), "{text}");
        }
        for text in ["", "leads", "leads@", "leads@x", "leads:@5", "leads:x@5", "@5", ":2@5"] {
            assert!(text.parse::<StageArgument>().is_err(), "{text}");
        }
    }
}
