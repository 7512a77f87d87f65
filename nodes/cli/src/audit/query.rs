//! `aasm audit query` and `aasm audit tail`.

use std::{collections::HashSet, thread, time::Duration};

use aa_control_plane::rest::audit::{EntryPage, EntryTail};
use aa_ledger::{Entry, Kind};
use aa_protocol::{EventId, Verdict};
use clap::Args;
use serde::Serialize;
use serde_json::value::RawValue;

use super::entry_line::EntryLines;
use crate::{
    agent,
    api::{Api, Request},
    connection::ApiArguments,
    moment::{Moment, now},
    outcome::{Exit, Failure},
    policy::REMOTE_EXIT_CODES,
    terminal::{Format, Terminal},
};

/// Which entries are wanted.
#[derive(Args, Debug)]
struct Selection {
    /// Of this agent: its id or name
    #[arg(long)]
    agent: Option<String>,
    /// Of this kind: decision, event, registration, refusal, status, policy, key,
    /// workspace, budget, approval, secret, alert
    #[arg(long, value_parser = parse_kind)]
    kind: Option<Kind>,
    /// With this verdict: allow, deny, require_approval
    #[arg(long, value_parser = parse_verdict)]
    verdict: Option<Verdict>,
}

#[derive(Args, Debug)]
#[command(after_help = REMOTE_EXIT_CODES)]
pub(crate) struct QueryArguments {
    #[command(flatten)]
    selection: Selection,
    /// Of this time or later: RFC 3339, or how long ago (30m, 12h, 7d)
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Before this time
    #[arg(long, value_name = "TIME")]
    until: Option<Moment>,
    /// The entry of this id
    #[arg(long, value_name = "ID")]
    event: Option<EventId>,
    /// At most this many
    #[arg(long, short = 'n', default_value_t = 50, value_name = "N")]
    limit: usize,
    /// For people, or `{"entries":[…]}` with the entries as they are sealed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Stop with Ctrl-C.

Exit codes:
  0  done: with --no-follow, or because the reader went away
  1  the control plane refused or cannot be reached
  2  bad input: wrong usage, or no operator API is named")]
pub(crate) struct TailArguments {
    #[command(flatten)]
    selection: Selection,
    /// How many entries from before now
    #[arg(long, short = 'n', default_value_t = 10, value_name = "N")]
    lines: usize,
    /// Only those, without waiting for more
    #[arg(long)]
    no_follow: bool,
    /// For people, or one sealed entry per line
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Serialize)]
struct Entries {
    entries: Vec<Box<RawValue>>,
}

/// The API's largest page.
const MAX_PAGE: usize = 1_000;

/// How often a followed log is asked for more.
const POLL: Duration = Duration::from_millis(500);

pub(crate) fn query(arguments: &QueryArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let api = Api::open(&arguments.api)?;
    let agent = arguments.selection.agent_id(&api)?;
    let now = now();
    let since = arguments.since.map(|moment| moment.resolve(now));
    let until = arguments.until.map(|moment| moment.resolve(now));
    let entries = newest(&api, arguments.limit, |request| {
        let request = arguments.selection.narrow(request, agent.as_deref());
        request.query("since", since).query("until", until).query("event", arguments.event)
    })?;
    if arguments.format == Format::Json {
        terminal.json_line(&Entries { entries })?;
        return Ok(Exit::Done);
    }
    if entries.is_empty() {
        terminal.note("no entry matches");
        return Ok(Exit::Done);
    }
    let lines = EntryLines::new(agent::names(&api), terminal.colour());
    for entry in entries {
        terminal.line(lines.render(entry.get()))?;
    }
    Ok(Exit::Done)
}

pub(crate) fn tail(arguments: &TailArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let api = Api::open(&arguments.api)?;
    let agent = arguments.selection.agent_id(&api)?;
    let selection = &arguments.selection;
    // The cursor comes first: what is committed between the two requests is then seen twice, and told
    // by its id, instead of never.
    let mut cursor = api.get(&["audit", "tail"]).read::<EntryTail>()?.cursor;
    let narrow = |request| selection.narrow(request, agent.as_deref());
    let mut latest = newest(&api, arguments.lines, narrow)?;
    latest.reverse();
    let mut lines = None;
    let mut show = |entries: &[Box<RawValue>], terminal: &mut Terminal| -> Result<(), Failure> {
        for entry in entries {
            match arguments.format {
                Format::Json => terminal.line(entry.get())?,
                Format::Text => {
                    let colour = terminal.colour();
                    let lines =
                        lines.get_or_insert_with(|| EntryLines::new(agent::names(&api), colour));
                    terminal.line(lines.render(entry.get()))?;
                }
            }
        }
        Ok(terminal.flush()?)
    };
    show(&latest, terminal)?;
    if arguments.no_follow {
        return Ok(Exit::Done);
    }
    let mut seen: HashSet<EventId> = latest.iter().filter_map(|entry| event_id(entry)).collect();
    loop {
        let request = api.get(&["audit", "tail"]).query("limit", Some(MAX_PAGE));
        let page: EntryTail = narrow(request).query("cursor", Some(&cursor)).read()?;
        let mut fresh = page.entries;
        fresh.retain(|entry| event_id(entry).is_none_or(|id| !seen.contains(&id)));
        show(&fresh, terminal)?;
        // The cursor moves on even when nothing matched; when it stands still, the log has ended.
        if page.cursor == cursor {
            seen.clear();
            thread::sleep(POLL);
        }
        cursor = page.cursor;
    }
}

/// The newest entries that match, newest first.
fn newest<'a>(
    api: &'a Api,
    limit: usize,
    narrow: impl Fn(Request<'a>) -> Request<'a>,
) -> Result<Vec<Box<RawValue>>, Failure> {
    let mut entries = Vec::new();
    let mut cursor: Option<String> = None;
    while entries.len() < limit {
        let wanted = (limit - entries.len()).min(MAX_PAGE);
        let request = api.get(&["audit", "entries"]).query("limit", Some(wanted));
        let page: EntryPage = narrow(request).query("cursor", cursor).read()?;
        entries.extend(page.entries);
        match page.next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    Ok(entries)
}

fn event_id(entry: &RawValue) -> Option<EventId> {
    Entry::parse(entry.get().as_bytes()).ok().map(|entry| entry.id)
}

fn parse_kind(text: &str) -> Result<Kind, String> {
    Kind::from_name(text).ok_or_else(|| {
        let names: Vec<_> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
        format!("use one of {}", names.join(", "))
    })
}

fn parse_verdict(text: &str) -> Result<Verdict, String> {
    [Verdict::Allow, Verdict::Deny, Verdict::RequireApproval]
        .into_iter()
        .find(|verdict| verdict.as_str() == text)
        .ok_or_else(|| "use allow, deny or require_approval".to_owned())
}

// === impl Selection ===

impl Selection {
    fn agent_id(&self, api: &Api) -> Result<Option<String>, Failure> {
        self.agent.as_deref().map(|given| agent::resolve(api, given)).transpose()
    }

    fn narrow<'a>(&self, request: Request<'a>, agent: Option<&str>) -> Request<'a> {
        request
            .query("agent", agent)
            .query("kind", self.kind.map(Kind::as_str))
            .query("verdict", self.verdict)
    }
}
