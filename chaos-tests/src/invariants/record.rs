//! What clients were told, held against what is recorded.

use std::{
    fs::File,
    io::{BufRead, BufReader, Cursor},
    path::Path,
};

use aa_ledger::{Entry, Export, Kind, Source};
use aa_protocol::{ActionId, EventId, Verdict};

use super::Violation;

/// A decision that a client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Acknowledged {
    /// The action.
    pub action: ActionId,
    /// The entry it was told.
    pub event: EventId,
    /// The verdict it was told, when that was kept.
    pub verdict: Option<Verdict>,
}

/// What an export that holds has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Entries of all kinds.
    pub entries: u64,
    /// Decisions among them.
    pub decisions: u64,
    /// Decisions that nobody was told: their clients were cut off before the answer.
    pub untold: u64,
}

/// The decisions of an export, ordered by action. Small records in one vector: a long run has millions.
struct Decisions {
    entries: u64,
    by_action: Vec<(ActionId, EventId, Option<Verdict>)>,
}

/// No acknowledged decision without its entry, none twice; every chain verifies.
///
/// # Errors
/// The first violation.
pub fn check_export(text: &[u8], acknowledged: &[Acknowledged]) -> Result<Recorded, Violation> {
    verify(&mut Cursor::new(text))?;
    compare(Decisions::read(Cursor::new(text))?, acknowledged)
}

/// [`check_export`] of a file, which is read twice and never held in memory as a whole.
///
/// # Errors
/// The first violation.
pub fn check_export_file(
    path: &Path,
    acknowledged: &[Acknowledged],
) -> Result<Recorded, Violation> {
    verify(&mut BufReader::with_capacity(1 << 20, open(path)?))?;
    compare(Decisions::read(BufReader::with_capacity(1 << 20, open(path)?))?, acknowledged)
}

/// Every entry of an export, in its order, with its line; header and closing are passed over.
pub fn entries(export: impl BufRead) -> impl Iterator<Item = Result<Entry, Violation>> {
    let lines = export.split(b'\n').zip(1_u64..);
    lines.filter_map(|(text, line)| match text {
        Err(error) => Some(Err(Violation::Unreadable(error.to_string()))),
        Ok(text) if text.starts_with(b"{\"v\":") => {
            let problem = |error: aa_ledger::EntryError| error.to_string();
            Some(
                Entry::parse(&text)
                    .map_err(|error| Violation::NoEntry { line, problem: problem(error) }),
            )
        }
        Ok(_) => None,
    })
}

pub(super) fn open(path: &Path) -> Result<File, Violation> {
    File::open(path).map_err(|error| Violation::Unreadable(format!("{}: {error}", path.display())))
}

fn verify(reader: &mut dyn Source) -> Result<(), Violation> {
    let mut exports = [Export { name: "export", reader }];
    let report = aa_ledger::verify(&mut exports, None, None)
        .map_err(|error| Violation::Unreadable(error.to_string()))?;
    if report.intact { Ok(()) } else { Err(Violation::NotIntact(report.to_string())) }
}

fn compare(decisions: Decisions, acknowledged: &[Acknowledged]) -> Result<Recorded, Violation> {
    let mut told = acknowledged.to_vec();
    told.sort_unstable();
    // A repeat of an action is answered with what was told before.
    told.dedup_by_key(|told| (told.action, told.event, told.verdict));
    let mut twins = told.iter().zip(told.iter().skip(1));
    if let Some((one, other)) =
        twins.find(|(one, other)| one.action == other.action && one.event != other.event)
    {
        return Err(Violation::ToldTwice {
            action: one.action,
            first: one.event,
            second: other.event,
        });
    }
    for Acknowledged { action, event, verdict } in told.iter().copied() {
        let Some((_, recorded, recorded_verdict)) = decisions.of(action) else {
            return Err(Violation::Lost { action, event });
        };
        if recorded != event {
            return Err(Violation::OtherEvent { action, told: event, recorded });
        }
        if let (Some(told), Some(recorded)) = (verdict, recorded_verdict)
            && told != recorded
        {
            return Err(Violation::OtherVerdict { event, told, recorded });
        }
    }
    told.dedup_by_key(|told| told.action);
    let count = decisions.by_action.len() as u64;
    Ok(Recorded {
        entries: decisions.entries,
        decisions: count,
        untold: count.saturating_sub(told.len() as u64),
    })
}

// === impl Decisions ===

impl Decisions {
    fn read(export: impl BufRead) -> Result<Self, Violation> {
        let mut by_action = Vec::new();
        let mut count = 0;
        for entry in entries(export) {
            let entry = entry?;
            count += 1;
            if let (Kind::Decision, Some(action)) = (entry.kind, &entry.action) {
                by_action.push((action.id, entry.id, entry.verdict));
            }
        }
        by_action.sort_unstable_by_key(|(action, event, _)| (*action, *event));
        let mut twins = by_action.iter().zip(by_action.iter().skip(1));
        if let Some((one, other)) = twins.find(|(one, other)| one.0 == other.0) {
            let (action, first, second) = (one.0, one.1, other.1);
            return Err(Violation::RecordedTwice { action, first, second });
        }
        Ok(Self { entries: count, by_action })
    }

    fn of(&self, action: ActionId) -> Option<(ActionId, EventId, Option<Verdict>)> {
        let found = self.by_action.binary_search_by_key(&action, |(action, _, _)| *action);
        found.ok().and_then(|index| self.by_action.get(index).copied())
    }
}
