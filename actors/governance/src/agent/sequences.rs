//! Which sequences of policies the results that an agent has seen have armed.
//!
//! What a result arms is written in the commit of the result's entry, and stays for the rest of its session, by the names
//! of the document and of the sequence: a later revision that has both has the sequence armed.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use aa_policy::{ArmedFacts, SequenceRef};
use aa_store::{Order, Subspace, Transaction};
use bytes::Bytes;

use super::{AgentActor, AgentKeyId, Report, SessionId, load::ReadError, particulars::Particulars};
use crate::{keys, stored::Damaged};

/// What is armed, for one agent. Nothing for most.
#[derive(Default)]
pub(super) struct Armed(Option<Box<Sessions>>);

#[derive(Default)]
struct Sessions {
    /// In every session, those to come included.
    everywhere: Sequences,
    by_session: HashMap<Option<SessionId>, Sequences>,
    /// How many there are in `by_session`.
    records: usize,
}

/// Sequences by their document.
#[derive(Default)]
struct Sequences(HashMap<Arc<str>, HashSet<Arc<str>>>);

/// For whom a sequence is armed. Actions without a session share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    Session(Option<SessionId>),
    Everywhere,
}

/// What is armed in one session.
pub(super) struct Within<'a> {
    everywhere: Option<&'a Sequences>,
    session: Option<&'a Sequences>,
}

/// The most sequences that are kept armed for single sessions of an agent. What is armed past it is armed for every
/// session: rather one question too many than a sequence forgotten. Then there is one record for each of those
/// sequences, of which documents name only so many.
const MAX_ARMED: usize = 4_096;

/// Records that are read at a time.
const PAGE: usize = 1_000;

/// The most characters of names in an entry.
const MAX_NAMED: usize = 900;

// === impl AgentActor ===

impl AgentActor {
    /// Notes what a result has armed, and what its entry tells and changes therefore.
    pub(super) fn arm(
        &mut self,
        arms: &[SequenceRef],
        reach: Reach,
        particulars: &mut Particulars,
    ) {
        let space = keys::armed(self.id.workspace, self.id.agent);
        for sequence in arms {
            self.armed.arm(&space, sequence, reach, particulars);
        }
        particulars.detail.push(("armed", named(arms)));
    }

    /// A report tells of what the agent has seen, whatever was decided of it.
    pub(super) fn arm_by_report(&mut self, report: &Report, particulars: &mut Particulars) {
        let Some(record) = &self.record else { return };
        let rules = self.policies.in_force(self.id.workspace, &record.facts);
        let arms = rules.policies.arms(&self.armed.within(report.session), &report.action);
        if !arms.is_empty() {
            self.arm(&arms, Reach::Session(report.session), particulars);
        }
    }
}

fn named(arms: &[SequenceRef]) -> String {
    let mut named = String::new();
    for (index, sequence) in arms.iter().enumerate() {
        let name = sequence.to_string();
        if named.len() + name.len() > MAX_NAMED {
            named.push_str(&format!(", and {} more", arms.len() - index));
            break;
        }
        if index > 0 {
            named.push_str(", ");
        }
        named.push_str(&name);
    }
    named
}

// === impl Armed ===

impl Armed {
    pub(super) async fn read(txn: &mut dyn Transaction, id: AgentKeyId) -> Result<Self, ReadError> {
        let space = keys::armed(id.workspace, id.agent);
        let mut armed = Self::default();
        let mut range = space.range();
        loop {
            let page = txn.range_snapshot(&range, PAGE, Order::Forward).await?;
            let Some((last, _)) = page.last() else { return Ok(armed) };
            let rest = range.clone().after(last);
            for (key, _) in &page {
                let (reach, sequence) = read_key(&space, key).ok_or_else(|| Damaged::at(key))?;
                armed.0.get_or_insert_default().insert(reach, &sequence);
            }
            range = rest;
        }
    }

    /// What is armed in a session.
    pub(super) fn within(&self, session: Option<SessionId>) -> Within<'_> {
        let sessions = self.0.as_deref();
        Within {
            everywhere: sessions.map(|sessions| &sessions.everywhere),
            session: sessions.and_then(|sessions| sessions.by_session.get(&session)),
        }
    }

    fn arm(
        &mut self,
        space: &Subspace,
        sequence: &SequenceRef,
        reach: Reach,
        particulars: &mut Particulars,
    ) {
        let sessions = self.0.get_or_insert_default();
        let reach = if sessions.records >= MAX_ARMED { Reach::Everywhere } else { reach };
        if reach == Reach::Everywhere {
            // The one record says what those of the sessions said.
            let removed = sessions.remove(sequence);
            let keys = removed.map(|session| key(space, Reach::Session(session), sequence));
            particulars.removes.extend(keys);
        }
        sessions.insert(reach, sequence);
        particulars.writes.push((key(space, reach, sequence), Bytes::new()));
    }
}

fn key(space: &Subspace, reach: Reach, sequence: &SequenceRef) -> Bytes {
    let space = match reach {
        Reach::Session(Some(session)) => space.with("session").with(session.0),
        Reach::Session(None) => space.with("no_session"),
        Reach::Everywhere => space.with("everywhere"),
    };
    space.with(&*sequence.policy).key(&*sequence.sequence)
}

fn read_key(space: &Subspace, key: &[u8]) -> Option<(Reach, SequenceRef)> {
    let mut parts = space.unpack(key).ok()?;
    let reach = match &*parts.str().ok()? {
        "session" => Reach::Session(Some(SessionId(parts.u64().ok()?))),
        "no_session" => Reach::Session(None),
        "everywhere" => Reach::Everywhere,
        _ => return None,
    };
    let policy = parts.str().ok()?.as_ref().into();
    let sequence = parts.str().ok()?.as_ref().into();
    parts.end().ok()?;
    Some((reach, SequenceRef { policy, sequence }))
}

// === impl Sessions ===

impl Sessions {
    fn insert(&mut self, reach: Reach, sequence: &SequenceRef) {
        match reach {
            Reach::Everywhere => {
                self.everywhere.insert(sequence);
            }
            Reach::Session(session) => {
                let is_new = self.by_session.entry(session).or_default().insert(sequence);
                self.records += usize::from(is_new);
            }
        }
    }

    /// Forgets a sequence in all single sessions; tells in which it was armed.
    fn remove(&mut self, sequence: &SequenceRef) -> impl Iterator<Item = Option<SessionId>> {
        let mut removed = Vec::new();
        for (session, armed) in &mut self.by_session {
            if armed.remove(sequence) {
                removed.push(*session);
            }
        }
        self.by_session.retain(|_, armed| !armed.0.is_empty());
        self.records -= removed.len();
        removed.into_iter()
    }
}

// === impl Sequences ===

impl Sequences {
    fn contains(&self, policy: &str, sequence: &str) -> bool {
        self.0.get(policy).is_some_and(|of_policy| of_policy.contains(sequence))
    }

    fn insert(&mut self, sequence: &SequenceRef) -> bool {
        let of_policy = self.0.entry(Arc::clone(&sequence.policy)).or_default();
        of_policy.insert(Arc::clone(&sequence.sequence))
    }

    fn remove(&mut self, sequence: &SequenceRef) -> bool {
        let Some(of_policy) = self.0.get_mut(&sequence.policy) else { return false };
        let was_there = of_policy.remove(&sequence.sequence);
        if of_policy.is_empty() {
            self.0.remove(&sequence.policy);
        }
        was_there
    }
}

// === impl Within ===

impl ArmedFacts for Within<'_> {
    fn is_armed(&self, policy: &str, sequence: &str) -> bool {
        let parts = [self.everywhere, self.session];
        parts.into_iter().flatten().any(|armed| armed.contains(policy, sequence))
    }
}
