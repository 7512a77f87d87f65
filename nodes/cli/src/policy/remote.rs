//! The `aasm policy` commands about policies that were applied.

use aa_control_plane::rest::policies::{
    AppliedPolicy, PolicyHistory, PolicyList, PolicyWithSource, RemovedPolicy, Revision,
    RollbackRequest,
};
use clap::Args;

use crate::{
    api::Api,
    connection::ApiArguments,
    moment::short,
    outcome::{Exit, Failure},
    table::{Columns, Text},
    terminal::{Format, Style, Terminal},
};

#[derive(Args, Debug)]
#[command(after_help = REMOTE_EXIT_CODES)]
pub(crate) struct ListArguments {
    /// Also those out of force
    #[arg(long)]
    all: bool,
    /// For people, or `{"policies":[…]}` as the API has it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = REMOTE_EXIT_CODES)]
pub(crate) struct GetArguments {
    /// The policy
    name: String,
    /// The revision; the one in force, or the latest, without it
    #[arg(long, value_name = "N")]
    revision: Option<u64>,
    /// The source exactly as it was applied, or everything known of the policy as JSON
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = REMOTE_EXIT_CODES)]
pub(crate) struct HistoryArguments {
    /// The policy
    name: String,
    /// For people, or `{"name","active_revision","revisions":[…]}`
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = REMOTE_EXIT_CODES)]
pub(crate) struct RollbackArguments {
    /// The policy
    name: String,
    /// The revision to bring back; the one before the revision in force without it
    #[arg(long, value_name = "N")]
    to: Option<u64>,
    /// For people or programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = REMOTE_EXIT_CODES)]
pub(crate) struct RemoveArguments {
    /// The policy
    name: String,
    /// For people or programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

pub(crate) const REMOTE_EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the control plane refused (there is no such thing, or the key may not) or cannot be reached
  2  bad input: wrong usage, or no operator API is named";

/// What a command's help ends with: examples, and its exit codes.
pub(crate) fn remote_help(examples: &str) -> String {
    format!("Example:\n  {examples}\n\n{REMOTE_EXIT_CODES}")
}

pub(crate) fn list(arguments: &ListArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let mut list: PolicyList = Api::open(&arguments.api)?.get(&["policies"]).read()?;
    if !arguments.all {
        list.policies.retain(|policy| policy.active_revision.is_some());
    }
    if arguments.format == Format::Json {
        terminal.json(&list)?;
        return Ok(Exit::Done);
    }
    if list.policies.is_empty() {
        terminal.note("no policy is in force: every action is denied");
        return Ok(Exit::Done);
    }
    let headings = ["NAME", "REVISION", "VERSION", "SCOPE", "APPLIED", "BY"];
    let mut columns = Columns::new(&headings, terminal.colour());
    for policy in list.policies {
        let number = match policy.active_revision {
            Some(active) => active.to_string().into(),
            None => Text::styled("removed", Style::Quiet),
        };
        let revision = policy.revision;
        columns.row([
            Text::styled(policy.name, Style::Strong),
            number,
            revision.version.unwrap_or_default().into(),
            revision.scope.into(),
            short(&revision.applied_at).into(),
            revision.applied_by.into(),
        ]);
    }
    columns.print(terminal)?;
    Ok(Exit::Done)
}

pub(crate) fn get(arguments: &GetArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let api = Api::open(&arguments.api)?;
    let name = arguments.name.as_str();
    match arguments.format {
        Format::Json => {
            let policy: PolicyWithSource =
                api.get(&["policies", name]).query("revision", arguments.revision).read()?;
            terminal.json(&policy)?;
        }
        Format::Text => {
            let request = api.get(&["policies", name, "source"]);
            terminal.raw(&request.query("revision", arguments.revision).bytes()?)?;
        }
    }
    Ok(Exit::Done)
}

pub(crate) fn history(
    arguments: &HistoryArguments,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let api = Api::open(&arguments.api)?;
    let history: PolicyHistory = api.get(&["policies", &arguments.name, "history"]).read()?;
    if arguments.format == Format::Json {
        terminal.json(&history)?;
        return Ok(Exit::Done);
    }
    let headings = ["REVISION", "VERSION", "SCOPE", "APPLIED", "BY", "NOTE"];
    let mut columns = Columns::new(&headings, terminal.colour());
    for revision in history.revisions {
        let brought_back = revision.rollback_of.map(|of| format!("brings back {of}"));
        let in_force = history.active_revision == Some(revision.revision);
        let note = [in_force.then(|| "in force".to_owned()), brought_back];
        let note: Vec<String> = note.into_iter().flatten().collect();
        columns.row([
            revision.revision.to_string().into(),
            revision.version.unwrap_or_default().into(),
            revision.scope.into(),
            short(&revision.applied_at).into(),
            revision.applied_by.into(),
            Text::styled(note.join(", "), Style::Good),
        ]);
    }
    columns.print(terminal)?;
    Ok(Exit::Done)
}

pub(crate) fn roll_back(
    arguments: &RollbackArguments,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let api = Api::open(&arguments.api)?;
    let request = api.post(&["policies", &arguments.name, "rollback"]);
    let applied: AppliedPolicy = request.json(&RollbackRequest { to: arguments.to })?.read()?;
    if arguments.format == Format::Json {
        terminal.json(&applied)?;
        return Ok(Exit::Done);
    }
    let Revision { revision, rollback_of, .. } = applied.revision;
    let name = applied.name;
    match rollback_of.filter(|_| applied.changed) {
        Some(of) => terminal.line(format_args!(
            "rolled {name} back: revision {revision} is in force and brings back {of}"
        ))?,
        None => terminal.line(format_args!("unchanged: {name} revision {revision} is in force"))?,
    }
    Ok(Exit::Done)
}

pub(crate) fn remove(
    arguments: &RemoveArguments,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let api = Api::open(&arguments.api)?;
    let request = api.request(reqwest::Method::DELETE, &["policies", &arguments.name]);
    let removed: RemovedPolicy = request.read()?;
    match arguments.format {
        Format::Json => terminal.json(&removed)?,
        Format::Text => terminal.line(format_args!(
            "removed {0}; `aasm policy rollback {0} --to {1}` brings it back",
            removed.name, removed.latest_revision
        ))?,
    }
    Ok(Exit::Done)
}
