//! Entries by what they are about, newest first, or those that came after a moment.

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use aa_ledger::{Entry, Kind, Stream};
use aa_protocol::{AgentId, EventId, Timestamp, Verdict, WorkspaceId};
use aa_runtime::{
    Fault, ShardId,
    journal::{log_prefix, position},
};
use aa_store::{KeyRange, Order, Store, StoreError, Transaction};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    chain::decode_entry,
    governance::{Governance, GovernanceError},
    permission::{Permit, ReadAudit},
    stored::Damaged,
};

/// Which entries are wanted. Everything absent matches everything.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this agent.
    pub agent: Option<AgentId>,
    /// Of this kind.
    pub kind: Option<Kind>,
    /// With this verdict.
    pub verdict: Option<Verdict>,
    /// Of this time or later.
    pub since: Option<Timestamp>,
    /// Before this time.
    pub until: Option<Timestamp>,
    /// This entry.
    pub event: Option<EventId>,
}

/// Entries as stored, with how to go on.
#[derive(Clone, Debug)]
pub struct Page {
    /// The canonical lines.
    pub lines: Vec<Bytes>,
    /// Where the next page starts; `None` when there is no more.
    pub next: Option<Cursor>,
}

/// A place in every shard's log. Text form: `shard.position` pairs joined by `-`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor(BTreeMap<u16, u64>);

/// A text that is no cursor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not a cursor of the audit log; use the one a previous page gave")]
pub struct CursorError;

/// The most entries a page holds.
pub const MAX_PAGE: usize = 1_000;

/// The most entries one request looks at; a page may come back short with a cursor to go on.
const MAX_SCAN: usize = 20_000;

/// Entries read from a shard at a time.
const READ: usize = 256;

/// A page being read.
struct Reading {
    store: Arc<dyn Store>,
    tapes: Vec<Tape>,
    filter: Filter,
    /// Per shard, the first entry not yet looked at.
    cursor: Cursor,
    limit: usize,
}

/// What a page holds, the place after it, and whether the logs ended there.
type Read = (Vec<Bytes>, Cursor, bool);

/// One shard's log, read step by step.
struct Tape {
    shard: u16,
    range: KeyRange,
    order: Order,
    buffer: std::collections::VecDeque<(u64, Bytes, Entry)>,
    ended: bool,
}

impl Governance {
    /// Entries that match, newest first, from `cursor` on; at most `limit`, itself at most [`MAX_PAGE`].
    ///
    /// # Errors
    /// The store does not answer, or an entry is damaged.
    pub async fn entries(
        &self,
        permit: &Permit<ReadAudit>,
        filter: &Filter,
        cursor: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page, GovernanceError> {
        let end = |shard: u16| cursor.and_then(|cursor| cursor.0.get(&shard).copied());
        let tapes = self.tapes(permit.workspace(), Order::Reverse, end);
        let seen = cursor.cloned().unwrap_or_default();
        let (lines, next, ended) =
            self.read(permit.workspace(), tapes, filter, seen, limit).await?;
        Ok(Page { lines, next: (!ended).then_some(next) })
    }

    /// Entries that match and came after `cursor`, oldest first. Without a cursor none come back, but
    /// one to start from: the present end of the log. The next cursor is always there.
    ///
    /// # Errors
    /// The store does not answer, or an entry is damaged.
    pub async fn entries_after(
        &self,
        permit: &Permit<ReadAudit>,
        filter: &Filter,
        cursor: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page, GovernanceError> {
        let workspace = permit.workspace();
        let Some(cursor) = cursor else {
            let next = Some(self.end_of_log(workspace).await?);
            return Ok(Page { lines: Vec::new(), next });
        };
        let start = |shard: u16| Some(cursor.0.get(&shard).copied().unwrap_or(0));
        let tapes = self.tapes(workspace, Order::Forward, start);
        let (lines, next, _) = self.read(workspace, tapes, filter, cursor.clone(), limit).await?;
        Ok(Page { lines, next: Some(next) })
    }

    fn tapes(
        &self,
        workspace: WorkspaceId,
        order: Order,
        bound: impl Fn(u16) -> Option<u64>,
    ) -> Vec<Tape> {
        (0..self.services.node.shard_count())
            .map(|shard| {
                let prefix = log_prefix(workspace, ShardId(shard));
                let all = KeyRange::prefix(&prefix);
                let range = match (bound(shard), order) {
                    (None, _) => all,
                    (Some(at), Order::Forward) => {
                        let from = [prefix.as_slice(), &at.to_be_bytes()].concat();
                        KeyRange::new(Bytes::from(from), Bytes::copy_from_slice(all.end()))
                    }
                    (Some(at), Order::Reverse) => {
                        let to = [prefix.as_slice(), &at.to_be_bytes()].concat();
                        KeyRange::new(Bytes::copy_from_slice(all.begin()), Bytes::from(to))
                    }
                };
                let buffer = std::collections::VecDeque::new();
                Tape { shard, range, order, buffer, ended: false }
            })
            .collect()
    }

    /// Reads a page from `seen` on, away from the threads that decide.
    async fn read(
        &self,
        workspace: WorkspaceId,
        tapes: Vec<Tape>,
        filter: &Filter,
        seen: Cursor,
        limit: usize,
    ) -> Result<Read, GovernanceError> {
        let store = self.services.node.store();
        let limit = limit.clamp(1, MAX_PAGE);
        let reading = Reading { store, tapes, filter: filter.clone(), cursor: seen, limit };
        let turn = self.services.log_readers.queue(workspace).turn().await;
        let read = self.services.node.offload_task(async move {
            let _turn = turn;
            reading.run().await
        });
        read.await.unwrap_or_else(|_| Err(Fault::Crashed.into()))
    }

    async fn end_of_log(&self, workspace: WorkspaceId) -> Result<Cursor, GovernanceError> {
        let mut txn = self.services.node.store().begin().await?;
        Ok(Cursor::at_end(&mut *txn, workspace, self.services.node.shard_count()).await?)
    }
}

// === impl Reading ===

impl Reading {
    /// Merges the shards' logs by time.
    async fn run(self) -> Result<Read, GovernanceError> {
        let Self { store, mut tapes, filter, mut cursor, limit } = self;
        let mut txn = store.begin().await?;
        let mut lines = Vec::new();
        for _ in 0..MAX_SCAN {
            for tape in &mut tapes {
                tape.fill(&mut *txn).await?;
            }
            let Some(tape) = Tape::next(&mut tapes) else {
                return Ok((lines, cursor, true));
            };
            if lines.len() == limit {
                break;
            }
            let shard = tape.shard;
            let Some((at, line, entry)) = tape.buffer.pop_front() else { break };
            // Forward the cursor names the first entry to come, in reverse the end of what is left.
            let (left, is_past) = match tape.order {
                Order::Forward => (at + 1, filter.until.is_some_and(|until| entry.time >= until)),
                Order::Reverse => (at, filter.since.is_some_and(|since| entry.time < since)),
            };
            cursor.0.insert(shard, left);
            if is_past {
                tape.buffer.clear();
                tape.ended = true;
            } else if filter.admits(&entry) {
                lines.push(line);
            }
        }
        for tape in &tapes {
            if let Some(bound) = tape.unread() {
                cursor.0.entry(tape.shard).or_insert(bound);
            }
        }
        Ok((lines, cursor, false))
    }
}

// === impl Tape ===

impl Tape {
    async fn fill(&mut self, txn: &mut dyn Transaction) -> Result<(), GovernanceError> {
        if self.ended || !self.buffer.is_empty() {
            return Ok(());
        }
        let read = txn.range_snapshot(&self.range, READ, self.order).await?;
        let Some((last, _)) = read.last() else {
            self.ended = true;
            return Ok(());
        };
        self.range = match self.order {
            Order::Forward => self.range.clone().after(last),
            Order::Reverse => self.range.clone().before(last),
        };
        for (key, stored) in read {
            let damaged = || Damaged::at(&key);
            let (_, line) = decode_entry(&stored).ok_or_else(damaged)?;
            let entry = Entry::parse(&line).map_err(|_| damaged())?;
            let at = position(&key).ok_or_else(damaged)?;
            self.buffer.push_back((at, line, entry));
        }
        Ok(())
    }

    /// The tape whose next entry comes first in the order.
    fn next(tapes: &mut [Self]) -> Option<&mut Self> {
        let time = |tape: &Self| tape.buffer.front().map(|(_, _, entry)| (entry.time, entry.id));
        let with_entries = tapes.iter_mut().filter(|tape| !tape.buffer.is_empty());
        with_entries.reduce(|first, other| {
            let earlier = match first.order {
                Order::Forward => time(&*other) < time(&*first),
                Order::Reverse => time(&*other) > time(&*first),
            };
            if earlier { other } else { first }
        })
    }

    fn unread(&self) -> Option<u64> {
        let (at, _, _) = self.buffer.front()?;
        Some(match self.order {
            Order::Forward => *at,
            Order::Reverse => at + 1,
        })
    }
}

// === impl Filter ===

impl Filter {
    fn admits(&self, entry: &Entry) -> bool {
        self.agent.is_none_or(|agent| entry.stream == Stream::Agent(agent))
            && self.kind.is_none_or(|kind| entry.kind == kind)
            && self.verdict.is_none_or(|verdict| entry.verdict == Some(verdict))
            && self.since.is_none_or(|since| entry.time >= since)
            && self.until.is_none_or(|until| entry.time < until)
            && self.event.is_none_or(|event| entry.id == event)
    }
}

// === impl Cursor ===

impl Cursor {
    /// Where the logs of a workspace end now.
    pub(crate) async fn at_end(
        txn: &mut dyn Transaction,
        workspace: WorkspaceId,
        shards: u16,
    ) -> Result<Self, StoreError> {
        let mut cursor = Self::default();
        for shard in 0..shards {
            let range = KeyRange::prefix(&log_prefix(workspace, ShardId(shard)));
            let last = txn.range_snapshot(&range, 1, Order::Reverse).await?;
            let end = last.first().and_then(|(key, _)| position(key)).map_or(0, |at| at + 1);
            cursor.set(shard, end);
        }
        Ok(cursor)
    }

    /// The place in a shard's log.
    pub(crate) fn of(&self, shard: u16) -> u64 {
        self.0.get(&shard).copied().unwrap_or(0)
    }

    /// Moves the place in a shard's log.
    pub(crate) fn set(&mut self, shard: u16, position: u64) {
        self.0.insert(shard, position);
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (shard, position)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "-" };
            write!(f, "{separator}{shard}.{position}")?;
        }
        Ok(())
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let pair = |pair: &str| {
            let (shard, position) = pair.split_once('.')?;
            Some((shard.parse().ok()?, position.parse().ok()?))
        };
        let pairs = text.split('-').map(pair).collect::<Option<_>>();
        pairs.map(Self).ok_or(CursorError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back() {
        let cursor = Cursor([(0, 17), (3, 4)].into());
        assert_eq!(cursor.to_string(), "0.17-3.4");
        assert_eq!("0.17-3.4".parse(), Ok(cursor));
        for text in ["", "x", "1", "1.2-", "70000.1"] {
            assert_eq!(text.parse::<Cursor>(), Err(CursorError), "{text}");
        }
    }
}
