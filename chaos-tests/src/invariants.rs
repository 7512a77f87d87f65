//! What must hold after every run, checked on an export as an auditor would.

use std::{collections::HashMap, io::Cursor};

use aa_ledger::{Entry, Export, Kind};
use aa_protocol::{ActionId, EventId};

/// A decision that a client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// The action.
    pub action: ActionId,
    /// The entry it was told.
    pub event: EventId,
}

/// No acknowledged decision without its entry, none twice; every chain verifies.
///
/// # Errors
/// A sentence about the first violation.
pub fn check_export(text: &[u8], acknowledged: &[Acknowledged]) -> Result<usize, String> {
    let mut reader = Cursor::new(text);
    let mut exports = [Export { name: "export", reader: &mut reader }];
    let report = aa_ledger::verify(&mut exports, None, None).map_err(|error| error.to_string())?;
    if !report.intact {
        return Err(format!("the export does not verify:\n{report}"));
    }
    let decisions = decisions(text)?;
    for told in acknowledged {
        match decisions.get(&told.action) {
            Some(event) if *event == told.event => {}
            Some(event) => {
                let Acknowledged { action, event: said } = told;
                return Err(format!("action {action} was told {said} and is recorded as {event}"));
            }
            None => return Err(format!("action {} was acknowledged and is lost", told.action)),
        }
    }
    Ok(decisions.len())
}

fn decisions(text: &[u8]) -> Result<HashMap<ActionId, EventId>, String> {
    let mut decisions = HashMap::new();
    for line in text.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"{\"v\":")) {
        let entry = Entry::parse(line).map_err(|error| error.to_string())?;
        let (Kind::Decision, Some(action)) = (entry.kind, &entry.action) else { continue };
        if let Some(earlier) = decisions.insert(action.id, entry.id) {
            return Err(format!("action {} is in {earlier} and again in {}", action.id, entry.id));
        }
    }
    Ok(decisions)
}
