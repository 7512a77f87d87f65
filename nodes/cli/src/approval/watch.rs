//! `aasm approval watch`: pending requests as they come and go.

use std::{collections::BTreeSet, thread, time::Duration};

use aa_control_plane::rest::approvals::{Approval, ApprovalState};

use super::{WatchArguments, left, read_all, short_id, show, style_of, wants};
use crate::{
    api::{Api, ApiError},
    moment::{now, short},
    outcome::{Exit, Failure},
    terminal::{Format, Terminal, printable, printable_json},
};

/// What was seen at one look.
struct Look {
    pending: Vec<Approval>,
    /// Those of before that are decided.
    decided: Vec<Approval>,
}

/// How often is looked.
const POLL: Duration = Duration::from_secs(1);

/// Looks in a row that may fail.
const MAX_FAILURES: u32 = 30;

pub(super) fn run(arguments: &WatchArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let api = Api::open(&arguments.api)?;
    let mut known = BTreeSet::new();
    // What fails at first is not waited for: the address or the key may be wrong.
    let mut look = Look::at(&api, &known)?;
    if look.pending.is_empty() {
        terminal.note("nothing is pending; waiting for requests");
    }
    loop {
        for approval in look.decided {
            known.remove(&approval.id);
            tell(&approval, arguments.format, terminal)?;
        }
        for approval in look.pending {
            if !known.contains(&approval.id) {
                tell(&approval, arguments.format, terminal)?;
            }
            known.insert(approval.id);
        }
        terminal.flush()?;
        look = next(&api, &known, terminal)?;
    }
}

/// The next look that succeeds.
fn next(api: &Api, known: &BTreeSet<String>, terminal: &mut Terminal) -> Result<Look, Failure> {
    let mut failures = 0;
    loop {
        thread::sleep(POLL);
        let error = match Look::at(api, known) {
            Ok(look) => return Ok(look),
            Err(error) => error,
        };
        failures += 1;
        if !error.is_passing() || failures == MAX_FAILURES {
            return Err(error.into());
        }
        if failures == 1 {
            terminal.note(format_args!("{error}; trying again"));
        }
    }
}

fn tell(approval: &Approval, format: Format, terminal: &mut Terminal) -> Result<(), Failure> {
    if format == Format::Json {
        return Ok(terminal.line(printable_json(approval)?)?);
    }
    let (at, rest) = match &approval.outcome {
        None => {
            let now = now();
            let (before, left) = (show::before(approval, now), left(approval, now));
            (&approval.asked_at, format!("  before {before}, {left} left"))
        }
        Some(outcome) => (&outcome.at, show::how(approval)),
    };
    let (name, what) = (&approval.agent.name, wants(approval));
    let state = format!("{:<8}", approval.state.as_str());
    let state = terminal.paint(style_of(approval.state), &state).into_owned();
    let id = short_id(&approval.id);
    let about = format!("{name}  {what}{rest}");
    Ok(terminal.line(format_args!("{}  {state}  {id}  {}", short(at), printable(&about)))?)
}

// === impl Look ===

impl Look {
    fn at(api: &Api, known: &BTreeSet<String>) -> Result<Self, ApiError> {
        let mut pending = read_all(api, "pending")?;
        let mut decided = Vec::new();
        for id in known {
            if pending.iter().any(|approval| approval.id == *id) {
                continue;
            }
            let approval: Approval = api.get(&["approvals", id]).read()?;
            match approval.state {
                ApprovalState::Pending => pending.push(approval),
                _ => decided.push(approval),
            }
        }
        Ok(Self { pending, decided })
    }
}
