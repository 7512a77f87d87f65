//! `aasm approval`: what agents wait for, and people's answers.

mod propose;
mod show;
mod watch;

use aa_control_plane::rest::approvals::{
    Approval, ApprovalPage, ApprovalScope, ApprovalState, ApproveRequest, DenyRequest,
};
use aa_protocol::{ApprovalId, Timestamp};
use clap::{Args, Subcommand};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    api::{Api, ApiError},
    connection::ApiArguments,
    moment::{in_words, now, short},
    outcome::{Exit, Failure},
    policy::{REMOTE_EXIT_CODES, remote_help},
    table::{Columns, Text},
    terminal::{Format, Style, Terminal, printable},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the requests that nobody has decided, the most urgent first
    List(ListArguments),
    /// Show one request with everything that is needed to judge it
    #[command(visible_alias = "get")]
    Show(ShowArguments),
    /// Let the action go on
    Approve(ApproveArguments),
    /// Refuse the action; the agent is told why
    Deny(DenyArguments),
    /// Propose a rule, so that nobody is asked about the very same again
    Propose(propose::Arguments),
    /// Show pending requests as they come and go
    Watch(WatchArguments),
}

#[derive(Args, Debug)]
#[command(after_help = REMOTE_EXIT_CODES)]
pub(crate) struct ListArguments {
    /// Also those that are decided, the latest last
    #[arg(long)]
    all: bool,
    /// For people, or `{"approvals":[…]}`
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = remote_help("aasm approval show 3fa91c2b"))]
pub(crate) struct ShowArguments {
    /// The request's id, or how it begins: 4 characters or more
    id: String,
    /// For people or programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = ANSWER_HELP)]
pub(crate) struct ApproveArguments {
    /// The request's id, or how it begins: 4 characters or more
    id: String,
    /// Not for this action alone: for calls of the same tool that the same rules ask about, as long as the agent's
    /// process runs
    #[arg(long)]
    session: bool,
    /// Why; it is kept in the audit log
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// For people or programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = ANSWER_HELP)]
pub(crate) struct DenyArguments {
    /// The request's id, or how it begins: 4 characters or more
    id: String,
    /// Why; it is kept in the audit log and told to the agent
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// For people or programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Stop with Ctrl-C.

Exit codes:
  0  the reader went away
  1  the control plane refused, or could not be reached at first or for 30 attempts in a row
  2  bad input: wrong usage, or no operator API is named")]
pub(crate) struct WatchArguments {
    /// For people, or each request on a line, when it comes and when it is decided
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Serialize)]
struct ApprovalList {
    approvals: Vec<Approval>,
}

const ANSWER_HELP: &str = "\
Look at it first: `aasm approval show ID`.

Exit codes:
  0  the answer counts: the request is decided, or others must approve as well
  1  it does not count: the request was decided before, or this key has approved it already, is not
     asked, or registered the agent itself; there is no such request, or the control plane cannot
     be reached
  2  bad input: wrong usage, or no operator API is named";

/// Requests asked for at a time: the API's largest page.
const PAGE: usize = 100;

/// How much of an id people are shown in lists.
const SHORT_ID: usize = 8;

/// The least of an id that people may give.
const MIN_PREFIX: usize = 4;

pub(crate) fn run(command: Command, terminal: &mut Terminal) -> Result<Exit, Failure> {
    match command {
        Command::List(arguments) => list(&arguments, terminal),
        Command::Show(arguments) => show(&arguments, terminal),
        Command::Approve(arguments) => approve(&arguments, terminal),
        Command::Deny(arguments) => deny(&arguments, terminal),
        Command::Propose(arguments) => propose::run(&arguments, terminal),
        Command::Watch(arguments) => watch::run(&arguments, terminal),
    }
}

fn list(arguments: &ListArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let api = Api::open(&arguments.api)?;
    let mut approvals = read_all(&api, if arguments.all { "all" } else { "pending" })?;
    if arguments.all {
        approvals.sort_by(|a, b| (&a.asked_at, &a.id).cmp(&(&b.asked_at, &b.id)));
    }
    if arguments.format == Format::Json {
        terminal.json(&ApprovalList { approvals })?;
        return Ok(Exit::Done);
    }
    if approvals.is_empty() {
        terminal.note(match arguments.all {
            true => "nothing was ever asked",
            false => "nothing is pending",
        });
        return Ok(Exit::Done);
    }
    let headings = ["ID", "STATE", "AGENT", "TEAM", "WANTS", "ASKED", "LEFT", "BEFORE"];
    let mut columns = Columns::new(&headings, terminal.colour());
    let now = now();
    for approval in approvals {
        let pending = approval.state == ApprovalState::Pending;
        columns.row([
            Text::styled(short_id(&approval.id), Style::Strong),
            Text::styled(approval.state.as_str(), style_of(approval.state)),
            approval.agent.name.as_str().into(),
            approval.agent.team.clone().unwrap_or_default().into(),
            wants(&approval).into(),
            short(&approval.asked_at).into(),
            if pending { left(&approval, now) } else { String::new() }.into(),
            if pending { show::before(&approval, now) } else { String::new() }.into(),
        ]);
    }
    columns.print(terminal)?;
    Ok(Exit::Done)
}

fn show(arguments: &ShowArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let api = Api::open(&arguments.api)?;
    let approval: Approval = api.get(&["approvals", &resolve(&api, &arguments.id)?]).read()?;
    if arguments.format == Format::Json {
        terminal.json(&approval)?;
        return Ok(Exit::Done);
    }
    for line in show::lines(&approval, now(), terminal.colour())? {
        terminal.line(line)?;
    }
    Ok(Exit::Done)
}

fn approve(arguments: &ApproveArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let api = Api::open(&arguments.api)?;
    let id = resolve(&api, &arguments.id)?;
    let scope = if arguments.session { ApprovalScope::Session } else { ApprovalScope::Once };
    let request = ApproveRequest { scope, reason: arguments.reason.clone() };
    let approval = api.post(&["approvals", &id, "approve"]).json(&request)?.read()?;
    answered(&approval, arguments.format, terminal)
}

fn deny(arguments: &DenyArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let api = Api::open(&arguments.api)?;
    let id = resolve(&api, &arguments.id)?;
    let request = DenyRequest { reason: arguments.reason.clone() };
    let approval = api.post(&["approvals", &id, "deny"]).json(&request)?.read()?;
    answered(&approval, arguments.format, terminal)
}

fn answered(approval: &Approval, format: Format, terminal: &mut Terminal) -> Result<Exit, Failure> {
    if format == Format::Json {
        terminal.json(approval)?;
        return Ok(Exit::Done);
    }
    let (id, state) = (short_id(&approval.id), approval.state.as_str());
    let what = format!("{} of {}", wants(approval), approval.agent.name);
    let said = match approval.state {
        ApprovalState::Pending => {
            let before = show::before(approval, now());
            format!("your approval of {id} counts: {what} is still before {before}")
        }
        _ => format!("{state} {id}: {what}{}", show::how(approval)),
    };
    terminal.line(printable(&said))?;
    Ok(Exit::Done)
}

/// All requests in a state, the most urgent first.
fn read_all(api: &Api, state: &str) -> Result<Vec<Approval>, ApiError> {
    let mut approvals = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let request = api.get(&["approvals"]).query("state", Some(state));
        let page: ApprovalPage = request.query("limit", Some(PAGE)).query("after", after).read()?;
        approvals.extend(page.approvals);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    approvals.sort_by(|a, b| (&a.deadline, &a.id).cmp(&(&b.deadline, &b.id)));
    Ok(approvals)
}

/// The id of a request that is named by how its id begins. Decided requests count, too: what somebody looked at must
/// never come to mean another request because the first is gone.
fn resolve(api: &Api, given: &str) -> Result<String, Failure> {
    if given.parse::<ApprovalId>().is_ok() {
        return Ok(given.to_owned());
    }
    let (prefix, first) = parse_prefix(given)?;
    // Ids are listed in their order, so that those that begin so come first after the one before them.
    let before = first.checked_sub(1).map(|id| ApprovalId::from_uuid(Uuid::from_u128(id)));
    let request = api.get(&["approvals"]).query("state", Some("all"));
    let page: ApprovalPage = request.query("limit", Some(2)).query("after", before).read()?;
    let begins = |approval: &Approval| approval.id.replace('-', "").starts_with(&prefix);
    let found = page.approvals.into_iter().filter(begins).map(|approval| approval.id);
    match found.collect::<Vec<_>>().as_slice() {
        [id] => Ok(id.clone()),
        [] => Err(Failure::refused(format_args!(
            "there is no request for approval whose id begins with `{given}`; `aasm approval list \
             --all` shows all"
        ))),
        several => Err(Failure::refused(format_args!(
            "several requests' ids begin with `{given}`; give more of the one you mean: {}",
            several.join(", ")
        ))),
    }
}

/// How an id begins, without hyphens, and the first id that begins so.
fn parse_prefix(given: &str) -> Result<(String, u128), Failure> {
    let prefix = given.replace('-', "").to_ascii_lowercase();
    let is_hex = prefix.bytes().all(|byte| byte.is_ascii_hexdigit());
    let first = u128::from_str_radix(&format!("{prefix:0<32}"), 16);
    match (first, prefix.len()) {
        (Ok(first), MIN_PREFIX..=32) if is_hex => Ok((prefix, first)),
        _ => Err(Failure::bad_input(format_args!(
            "`{}` is neither the id of a request nor how one begins: {MIN_PREFIX} or more of its \
             hexadecimal characters",
            printable(given)
        ))),
    }
}

/// As much of an id as tells requests apart.
pub(crate) fn short_id(id: &str) -> &str {
    id.get(..SHORT_ID).unwrap_or(id)
}

/// `tool_call bash`.
fn wants(approval: &Approval) -> String {
    let target = ["tool", "model", "host", "path", "child"]
        .iter()
        .find_map(|name| approval.action.get(name)?.as_str());
    let program = || approval.action.get("argv")?.get(0)?.as_str();
    match target.or_else(program) {
        Some(target) => format!("{} {target}", approval.kind),
        None => approval.kind.clone(),
    }
}

/// How long it can still be answered.
fn left(approval: &Approval, now: Timestamp) -> String {
    let deadline = approval.deadline.parse::<Timestamp>();
    deadline.map(|deadline| in_words(deadline.since(now))).unwrap_or_default()
}

const fn style_of(state: ApprovalState) -> Style {
    match state {
        ApprovalState::Pending => Style::Warning,
        ApprovalState::Approved => Style::Good,
        ApprovalState::Denied | ApprovalState::Expired => Style::Bad,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_can_be_shortened_to_four_of_its_digits() {
        let first = |given: &str| parse_prefix(given).ok().map(|(_, first)| first);
        assert_eq!(first("3fa9"), Some(0x3fa9 << 112));
        assert_eq!(first("3FA91C2B-12"), Some(0x3f_a91c_2b12 << 88));
        assert_eq!(first("0000"), Some(0));
        assert_eq!(first(&"f".repeat(32)), Some(u128::MAX));
        for given in ["", "3fa", "3-f-a", "+3fa9", "3fa9x", "grün", &"f".repeat(33)] {
            assert_eq!(first(given), None, "{given}");
        }
    }
}
