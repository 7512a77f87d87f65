//! Reading events off the log, away from the threads that decide.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use aa_ledger::Entry;
use aa_notify::{Event, fold::MAX_STATE_BYTES};
use aa_protocol::{AgentId, Timestamp, WorkspaceId};
use aa_runtime::{
    Fault, Reply, ShardId,
    journal::{log_prefix, position},
};
use aa_store::{KeyRange, Order, Transaction};
use bytes::Bytes;

use super::{Changes, NotifierActor, NotifierMessage};
use crate::{
    agent_record::AgentRecord,
    audit::Cursor,
    chain::decode_entry,
    keys,
    services::Services,
    stored::{self, ReadError},
};

/// What was read, as far as it is not taken in.
#[derive(Debug)]
pub struct Gathered {
    from: Cursor,
    /// In the order of the shards' logs.
    events: VecDeque<Found>,
    /// Where the reading ended.
    to: Cursor,
    /// Whether the log goes on.
    is_more: bool,
}

/// An event, and the place after it.
#[derive(Debug)]
struct Found {
    event: Event,
    shard: u16,
    next: u64,
}

/// Entries of one shard read at a time.
const READ: usize = 256;

/// Entries of one shard looked at before what they say is taken in.
const RUN: usize = 2_048;

/// Events read at a time, as far as every shard gets its share.
const MAX_EVENTS: usize = 64;

/// The least share of a shard.
const MIN_SHARE: usize = 4;

/// A commit that takes events in is closed past this many bytes. What one event leads to, a message and the counting of
/// each destination, is below 3 MB.
const COMMIT_BYTES: usize = 256 << 10;

impl NotifierActor {
    /// Has the log read on, unless it is being read or nobody wants it.
    pub(super) fn gather(&mut self) {
        let Some(from) = self.cursor.clone().filter(|_| !self.is_gathering) else { return };
        self.is_gathering = true;
        let (services, workspace) = (Arc::clone(&self.services), self.workspace);
        let first = self.first_shard;
        self.first_shard = (first + 1) % services.node.shard_count().max(1);
        tokio::spawn(async move {
            let turn = services.log_readers.queue(workspace).turn().await;
            let reader = Arc::clone(&services);
            let reading = services.node.offload_task(async move {
                let _turn = turn;
                read(&reader, workspace, from, first).await
            });
            let gathered = reading.await.unwrap_or_else(|error| Err(error.to_string()));
            services.send_notifier(&workspace, NotifierMessage::Gathered(Box::new(gathered)));
        });
    }

    /// Makes deliveries of events, and moves the cursor past them, in one commit; the next comes once it is durable,
    /// so that a storm neither fills a transaction nor the journal.
    pub(super) fn take_in(&mut self, gathered: Result<Gathered, String>, now: Timestamp) {
        let mut gathered = match gathered {
            Ok(gathered) => gathered,
            Err(problem) => {
                self.is_gathering = false;
                tracing::warn!(workspace = %self.workspace, problem, "the log was not read for alerts");
                self.problem = Some(problem);
                return;
            }
        };
        self.problem = None;
        // The rules may have gone meanwhile, or an earlier life of this actor asked.
        if self.cursor.as_ref() != Some(&gathered.from) {
            self.is_gathering = false;
            return;
        }
        let (mut changes, mut cursor) = (Changes::default(), gathered.from.clone());
        while let Some(Found { event, shard, next }) = gathered.events.pop_front() {
            self.offer(&event, now, &mut changes);
            cursor.set(shard, next);
            if changes.bytes() + changes.folders.len() * MAX_STATE_BYTES > COMMIT_BYTES {
                break;
            }
        }
        let is_taken = gathered.events.is_empty();
        if is_taken {
            cursor = gathered.to.clone();
        }
        if cursor != gathered.from {
            changes.put(keys::alert_cursor(self.workspace), stored::encode(&cursor));
            self.cursor = Some(cursor.clone());
        }
        if is_taken {
            self.is_gathering = false;
            self.note(changes);
            if gathered.is_more {
                self.gather();
            }
            return;
        }
        gathered.from = cursor;
        let (services, workspace) = (Arc::clone(&self.services), self.workspace);
        let done = Reply::new(move |committed: Result<(), Fault>| {
            // After a failure the next life reads on from what is stored.
            if committed.is_ok() {
                let rest = NotifierMessage::Gathered(Box::new(Ok(gathered)));
                services.send_notifier(&workspace, rest);
            }
        });
        self.note_then(changes, done);
    }
}

/// Where the log ends now.
pub(super) async fn end_of_log(
    services: &Services,
    workspace: WorkspaceId,
) -> Result<Cursor, String> {
    let text = |error: aa_store::StoreError| error.to_string();
    let mut txn = services.node.store().begin().await.map_err(text)?;
    Cursor::at_end(&mut *txn, workspace, services.node.shard_count()).await.map_err(text)
}

async fn read(
    services: &Services,
    workspace: WorkspaceId,
    from: Cursor,
    first: u16,
) -> Result<Gathered, String> {
    let text = |error: aa_store::StoreError| error.to_string();
    let (mut to, mut events, mut is_more) = (from.clone(), VecDeque::new(), false);
    let shards = services.node.shard_count().max(1);
    for shard in (first..shards).chain(0..first) {
        // A transaction of its own, whose age is that of one shard's share.
        let mut txn = services.node.store().begin().await.map_err(text)?;
        let share = events.len() + (MAX_EVENTS / usize::from(shards)).max(MIN_SHARE);
        let mut next = from.of(shard);
        let prefix = log_prefix(workspace, ShardId(shard));
        let end = KeyRange::prefix(&prefix);
        for _ in 0..RUN / READ {
            let begin = [prefix.as_slice(), &next.to_be_bytes()].concat();
            let range = KeyRange::new(Bytes::from(begin), Bytes::copy_from_slice(end.end()));
            let page = txn.range_snapshot(&range, READ, Order::Forward).await.map_err(text)?;
            is_more |= page.len() == READ;
            for (key, stored) in &page {
                if events.len() >= share {
                    is_more = true;
                    break;
                }
                let Some(at) = position(key) else { continue };
                next = at + 1;
                let line = decode_entry(stored).map(|(_, line)| line);
                if line.as_ref().is_some_and(|line| !Event::may_be_in(line)) {
                    continue;
                }
                let event = match line.and_then(|line| Entry::parse(&line).ok()) {
                    Some(entry) => Event::of_entry(&entry),
                    // A damaged entry keeps nobody from being told of the others, and is itself news.
                    None => {
                        let now = services.clock.now();
                        let place = format!("position {at} of shard {shard}");
                        let id = services.entropy.event_id(now);
                        Some(Event::unreadable(id, workspace, now, &place))
                    }
                };
                events.extend(event.map(|event| Found { event, shard, next }));
            }
            if page.len() < READ || events.len() >= share {
                break;
            }
        }
        to.set(shard, next);
    }
    let mut txn = services.node.store().begin().await.map_err(text)?;
    let mut names = HashMap::new();
    for found in &mut events {
        name_agent(&mut *txn, workspace, &mut found.event, &mut names).await?;
    }
    Ok(Gathered { from, events, to, is_more })
}

/// Adds the name and team of the agent, which entries do not hold.
async fn name_agent(
    txn: &mut dyn Transaction,
    workspace: WorkspaceId,
    event: &mut Event,
    names: &mut HashMap<AgentId, Option<AgentRecord>>,
) -> Result<(), String> {
    let Some(agent) = event.agent else { return Ok(()) };
    let record = match names.entry(agent) {
        std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
        std::collections::hash_map::Entry::Vacant(slot) => {
            let record = stored::read(txn, &keys::agent(workspace, agent)).await;
            slot.insert(match record {
                Ok(record) => record,
                // Its id is told instead.
                Err(ReadError::Damaged(_)) => None,
                Err(ReadError::Store(error)) => return Err(error.to_string()),
            })
        }
    };
    if let Some(AgentRecord { facts, .. }) = record {
        *event = event.clone().with_agent(&facts.name, facts.team.as_deref());
    }
    Ok(())
}
