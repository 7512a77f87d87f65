//! The shard's journal: what its actors changed, made durable in order, many in one transaction.
//!
//! Group commit without a timer: while one transaction is on its way to the disk, records gather for
//! the next. So a lone record goes at once, and a crowd shares a commit.
//!
//! A batch is applied once or not at all, whatever the store says of it: each commit writes a mark of its own and
//! conflicts with every other, so one whose result is unknown is looked for, and tried again if it is not there.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use aa_protocol::WorkspaceId;
use aa_store::{CommitError, KeyRange, Order, Store, StoreError, Transaction, Version};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    clock::Clock,
    fault::{Fault, Reply},
    lease::{self, LeaseError},
    news::NEWS,
    shard::ShardId,
};

/// A transaction is closed once it holds this many bytes of keys and values.
pub const BATCH_BYTES: usize = 1 << 20;

/// Records waiting beyond this many bytes are refused. Admission at the edge keeps well below it.
pub const BACKLOG_BYTES: usize = 64 << 20;

/// A shard's journal. Cheap to clone.
#[derive(Clone)]
pub struct Journal {
    inner: Arc<Inner>,
}

/// What one message changed: all of it is committed, or none.
pub struct Record {
    /// The audit entry to append to the workspace's log of this shard, if any.
    pub entry: Option<LogEntry>,
    /// Other state, keyed by whole keys; a later record's value for a key wins.
    pub writes: Vec<(Bytes, Bytes)>,
    /// Keys of other state that is no more. They go after the record's own writes.
    pub removes: Vec<Bytes>,
    /// What the other nodes of a cluster shall hear of, each at most [`MAX_NEWS`](crate::news::MAX_NEWS) bytes. A
    /// node by itself keeps none.
    pub news: Vec<Bytes>,
    /// The answer to let go after the commit, or to fail.
    pub done: Reply<()>,
}

/// An audit entry on its way to the log.
pub struct LogEntry {
    /// Which log, from [`Journal::open_log`].
    pub log: LogTail,
    /// The stored bytes.
    pub bytes: Bytes,
    /// A state value that must hold the entry's position: 8 bytes, big-endian, are written over its
    /// start. Used for the head of the chain the entry belongs to.
    pub head: Option<(Bytes, Vec<u8>)>,
    /// What a reader of the log would compute from the entry: kept for a while after its commit, see
    /// [`Journal::recent_digests`].
    pub digest: Digest,
}

/// A hash of an entry. What it covers is the writer's and the reader's affair.
pub type Digest = [u8; 32];

/// The end of one workspace's log in this shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogTail(usize);

/// Counts since the tenure began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalStats {
    /// Transactions committed.
    pub commits: u64,
    /// Records committed.
    pub records: u64,
}

/// The journal takes nothing any more; the shard is about to be loaded anew.
#[derive(Debug, thiserror::Error)]
#[error("the journal of shard {0} is closed")]
pub struct Closed(ShardId);

struct Inner {
    shard: ShardId,
    epoch: u64,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    /// Holds which batch was applied last, so that one whose result is unknown can be looked for.
    mark_key: Bytes,
    /// Written by attempts that follow one whose result is unknown.
    doubt_key: Bytes,
    /// The version of the last commit, and when it was answered.
    known: Mutex<Option<(Version, Duration)>>,
    batches: AtomicU64,
    /// Whether there are other nodes, which read news and how far logs go.
    is_shared: bool,
    open: Mutex<Open>,
    wake: Notify,
    closed: AtomicBool,
    commits: AtomicU64,
    records: AtomicU64,
    /// Takes the shard out of service.
    withdraw: Box<dyn Fn() + Send + Sync>,
}

/// The batch that gathers. The lock is held for a push or a swap only.
#[derive(Default)]
struct Open {
    records: Vec<Placed>,
    bytes: usize,
    logs: Vec<Log>,
    by_workspace: HashMap<WorkspaceId, LogTail>,
}

struct Log {
    prefix: Vec<u8>,
    next: u64,
    recent: Recent,
}

/// The digests of the latest entries committed in this tenure, without a gap.
#[derive(Default)]
struct Recent {
    first: u64,
    digests: VecDeque<Digest>,
}

/// A record whose entry has its place in the log.
struct Placed {
    entry: Option<(Bytes, Bytes)>,
    place: Option<Place>,
    head: Option<(Bytes, Bytes)>,
    writes: Vec<(Bytes, Bytes)>,
    removes: Vec<Bytes>,
    news: Vec<Bytes>,
    done: Reply<()>,
}

/// One change of the store.
#[derive(Clone)]
enum Write {
    /// Of a key that nobody else writes or reads but from snapshots.
    Quietly(Bytes, Bytes),
    Put(Bytes, Bytes),
    Delete(Bytes),
    News(Bytes),
}

/// A transaction of this tenure.
struct Begun {
    txn: Box<dyn Transaction>,
    /// The mark of the last batch that was applied, where it was read.
    mark_found: Option<Bytes>,
}

/// How a batch is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Attempt {
    /// Upon what the last commit has checked.
    Blind,
    /// Upon what is read anew.
    Careful,
    /// An earlier attempt may have been applied, or still be.
    Doubtful,
}

/// Where an entry goes, with its digest.
struct Place {
    log: LogTail,
    position: u64,
    digest: Digest,
}

const ENTRY: &[u8] = b"entry/";
const LOG_END: &[u8] = b"log_end/";

/// Digests kept for each log: 2 MiB.
const RECENT: usize = 1 << 16;

/// How often a batch is tried that conflicts, or whose result is unknown.
const ATTEMPTS: usize = 6;

/// How long the version of a commit may serve for the next to begin after. Stores forget what was written
/// when, after five seconds at the earliest.
const KNOWN_FOR: Duration = Duration::from_secs(1);

// === impl Record ===

impl Record {
    /// A change of state that no entry tells of.
    pub const fn of_state(writes: Vec<(Bytes, Bytes)>, done: Reply<()>) -> Self {
        Self { entry: None, writes, removes: Vec::new(), news: Vec::new(), done }
    }

    /// An entry with the state that changed with it.
    pub const fn of_entry(entry: LogEntry, writes: Vec<(Bytes, Bytes)>, done: Reply<()>) -> Self {
        Self { entry: Some(entry), writes, removes: Vec::new(), news: Vec::new(), done }
    }
}

// === impl Journal ===

impl Journal {
    pub(crate) fn new(
        shard: ShardId,
        epoch: u64,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        is_shared: bool,
        withdraw: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let inner = Inner {
            shard,
            epoch,
            store,
            clock,
            mark_key: lease::mark_key(shard),
            doubt_key: lease::doubt_key(shard),
            known: Mutex::default(),
            batches: AtomicU64::new(0),
            is_shared,
            open: Mutex::default(),
            wake: Notify::new(),
            closed: AtomicBool::new(false),
            commits: AtomicU64::new(0),
            records: AtomicU64::new(0),
            withdraw: Box::new(withdraw),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Opens the log of `workspace` in this shard.
    ///
    /// # Errors
    /// What the store says when the end of the log is looked up.
    pub async fn open_log(&self, workspace: WorkspaceId) -> Result<LogTail, StoreError> {
        if let Some(known) = self.inner.open.lock().by_workspace.get(&workspace) {
            return Ok(*known);
        }
        let prefix = log_prefix(workspace, self.inner.shard);
        let mut txn = self.inner.store.begin().await?;
        let last = txn.range_snapshot(&KeyRange::prefix(&prefix), 1, Order::Reverse).await?;
        let next = match last.first() {
            Some((key, _)) => position(key).map_or(0, |last| last + 1),
            None => 0,
        };
        let mut open = self.inner.open.lock();
        // Nothing can have been appended in between: appending needs the tail this inserts.
        let tail = LogTail(open.logs.len());
        if let Some(known) = open.by_workspace.get(&workspace) {
            return Ok(*known);
        }
        open.logs.push(Log { prefix, next, recent: Recent::default() });
        open.by_workspace.insert(workspace, tail);
        Ok(tail)
    }

    /// Takes a record for the next commit and returns the position its entry gets in the log.
    ///
    /// # Errors
    /// [`Closed`] after a failure, or when too much is waiting; the record's reply is failed then.
    pub fn append(&self, record: Record) -> Result<Option<u64>, Closed> {
        let Record { entry, writes, removes, mut news, done } = record;
        if !self.inner.is_shared {
            news.clear();
        }
        if self.inner.closed.load(Ordering::Acquire) {
            done.send(Err(Fault::Gone));
            return Err(Closed(self.inner.shard));
        }
        let mut open = self.inner.open.lock();
        if open.bytes > BACKLOG_BYTES {
            drop(open);
            done.send(Err(Fault::NotDurable("the journal's backlog is full".to_owned())));
            return Err(Closed(self.inner.shard));
        }
        let mut placed =
            Placed { entry: None, place: None, head: None, writes, removes, news, done };
        let mut at = None;
        if let Some(LogEntry { log: tail, bytes, head, digest }) = entry {
            let log = &mut open.logs[tail.0];
            let position = log.next;
            log.next += 1;
            let mut key = Vec::with_capacity(log.prefix.len() + 8);
            key.extend_from_slice(&log.prefix);
            key.extend_from_slice(&position.to_be_bytes());
            placed.entry = Some((key.into(), bytes));
            placed.place = Some(Place { log: tail, position, digest });
            placed.head = head.map(|(key, mut value)| {
                value[..8].copy_from_slice(&position.to_be_bytes());
                (key, value.into())
            });
            at = Some(position);
        }
        open.bytes += placed.size();
        open.records.push(placed);
        let is_first = open.records.len() == 1;
        drop(open);
        if is_first {
            self.inner.wake.notify_one();
        }
        Ok(at)
    }

    /// Completes once everything appended before it is committed.
    ///
    /// # Errors
    /// The fault that kept it from being committed.
    pub async fn barrier(&self) -> Result<(), Fault> {
        let (done, answer) = Reply::channel();
        self.append(Record::of_state(Vec::new(), done)).map_err(|_| Fault::Gone)?;
        answer.await.unwrap_or(Err(Fault::Gone))
    }

    /// Answers once everything appended before is committed: for what an actor already holds in memory,
    /// of which the last part may still be on its way.
    pub fn answer_after<T: Send + 'static>(&self, reply: Reply<T>, answer: T) {
        let done = Reply::new(move |committed: Result<(), Fault>| {
            reply.send(committed.map(|()| answer));
        });
        // A closed journal has failed the reply.
        let _ = self.append(Record::of_state(Vec::new(), done));
    }

    /// The digests of the entries committed to the log of `workspace` from `position` on, at most `limit`.
    /// `None` when that reaches back too far: then the store must be read.
    pub fn recent_digests(
        &self,
        workspace: WorkspaceId,
        position: u64,
        limit: usize,
    ) -> Option<Vec<Digest>> {
        let open = self.inner.open.lock();
        let log = open.by_workspace.get(&workspace)?;
        open.logs[log.0].recent.from(position, limit)
    }

    /// What has been committed in this tenure.
    pub fn stats(&self) -> JournalStats {
        JournalStats {
            commits: self.inner.commits.load(Ordering::Relaxed),
            records: self.inner.records.load(Ordering::Relaxed),
        }
    }

    /// Refuses new records and fails those that wait; what is being committed still ends.
    pub(crate) fn close(&self) {
        self.inner.closed.store(true, Ordering::Release);
        self.inner.wake.notify_one();
    }

    /// Commits until the journal is closed or a commit fails. Returns why it ended.
    pub(crate) async fn run(self) -> Result<(), Fault> {
        let ended = self.commit_batches().await;
        self.inner.closed.store(true, Ordering::Release);
        let fault = ended.as_ref().err().cloned().unwrap_or(Fault::Gone);
        let left = std::mem::take(&mut self.inner.open.lock().records);
        for record in left {
            record.done.send(Err(fault.clone()));
        }
        ended
    }

    async fn commit_batches(&self) -> Result<(), Fault> {
        loop {
            let batch = {
                let mut open = self.inner.open.lock();
                open.bytes = 0;
                std::mem::take(&mut open.records)
            };
            if batch.is_empty() {
                if self.inner.closed.load(Ordering::Acquire) {
                    return Ok(());
                }
                self.inner.wake.notified().await;
                continue;
            }
            let mut waiting = batch.into_iter();
            while !waiting.as_slice().is_empty() {
                let fits = fitting(waiting.as_slice());
                let batch: Vec<_> = waiting.by_ref().take(fits).collect();
                if let Err(fault) = self.commit(batch).await {
                    waiting.for_each(|record| record.done.send(Err(fault.clone())));
                    return Err(fault);
                }
            }
        }
    }

    async fn commit(&self, batch: Vec<Placed>) -> Result<(), Fault> {
        let mut replies = Vec::with_capacity(batch.len());
        let mut places = Vec::new();
        let mut writes = Vec::new();
        for record in batch {
            places.extend(record.place);
            // Entries are written once, here, and read from snapshots only.
            writes.extend(record.entry.map(|(key, value)| Write::Quietly(key, value)));
            let state = record.head.into_iter().chain(record.writes);
            writes.extend(state.map(|(key, value)| Write::Put(key, value)));
            writes.extend(record.removes.into_iter().map(Write::Delete));
            writes.extend(record.news.into_iter().map(Write::News));
            replies.push(record.done);
        }
        if self.inner.is_shared {
            writes.extend(self.ends(&places));
        }
        let committed = if writes.is_empty() { Ok(()) } else { self.commit_writes(&writes).await };
        match committed {
            Ok(()) => {
                self.keep_digests(places);
                self.inner.commits.fetch_add(1, Ordering::Relaxed);
                self.inner.records.fetch_add(replies.len() as u64, Ordering::Relaxed);
                replies.into_iter().for_each(|reply| reply.send(Ok(())));
                Ok(())
            }
            Err(reason) => {
                let fault = Fault::NotDurable(reason);
                // First out of service, then the news: who hears of the failure must not find the
                // actors whose state is ahead of the store.
                self.inner.closed.store(true, Ordering::Release);
                (self.inner.withdraw)();
                replies.into_iter().for_each(|reply| reply.send(Err(fault.clone())));
                Err(fault)
            }
        }
    }

    /// How far the logs go with these entries, for those on other nodes who follow them.
    fn ends(&self, places: &[Place]) -> Vec<Write> {
        let ends: BTreeMap<usize, u64> =
            places.iter().map(|place| (place.log.0, place.position + 1)).collect();
        let open = self.inner.open.lock();
        let end = |(log, end): (usize, u64)| {
            let key = [LOG_END, &open.logs[log].prefix[ENTRY.len()..]].concat();
            Write::Quietly(key.into(), Bytes::copy_from_slice(&end.to_be_bytes()))
        };
        ends.into_iter().map(end).collect()
    }

    fn keep_digests(&self, places: Vec<Place>) {
        let mut open = self.inner.open.lock();
        for Place { log, position, digest } in places {
            open.logs[log.0].recent.push(position, digest);
        }
    }

    /// Commits the writes once, however often that has to be tried.
    async fn commit_writes(&self, writes: &[Write]) -> Result<(), String> {
        let number = self.inner.batches.fetch_add(1, Ordering::Relaxed) + 1;
        let mark = Bytes::from([self.inner.epoch.to_be_bytes(), number.to_be_bytes()].concat());
        let mut attempt = if self.is_known() { Attempt::Blind } else { Attempt::Careful };
        let mut problem = String::new();
        for _ in 0..ATTEMPTS {
            let Begun { mut txn, mark_found } =
                self.begin(attempt).await.map_err(|error| error.to_string())?;
            if mark_found.is_some_and(|found| found == mark) {
                // An earlier attempt was applied after all.
                return Ok(());
            }
            for write in writes {
                match write.clone() {
                    Write::Quietly(key, value) => txn.put_without_conflict(key, value),
                    Write::Put(key, value) => txn.put(key, value),
                    Write::Delete(key) => txn.delete(key),
                    Write::News(body) => txn.put_stamped(Bytes::from_static(NEWS), body),
                }
            }
            txn.put(self.inner.mark_key.clone(), mark.clone());
            if attempt == Attempt::Doubtful {
                txn.put(self.inner.doubt_key.clone(), mark.clone());
            }
            let committed = txn.commit().await;
            let known = committed.as_ref().ok().filter(|_| attempt != Attempt::Doubtful);
            *self.inner.known.lock() = known.map(|version| (*version, self.inner.clock.elapsed()));
            match committed {
                Ok(_) => return Ok(()),
                // Nothing was applied: perhaps what was known is too old.
                Err(error @ CommitError::Conflict) => {
                    attempt = attempt.max(Attempt::Careful);
                    problem = error.to_string();
                }
                Err(error @ CommitError::UnknownResult(_)) => {
                    attempt = Attempt::Doubtful;
                    problem = error.to_string();
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        Err(problem)
    }

    /// Whether what the last commit checked need not be read again.
    fn is_known(&self) -> bool {
        let known = *self.inner.known.lock();
        known.is_some_and(|(_, at)| self.inner.clock.elapsed().saturating_sub(at) < KNOWN_FOR)
    }

    /// Begins a transaction that commits only while this tenure's epoch stands, and only if no later attempt at
    /// the same batch has been made.
    async fn begin(&self, attempt: Attempt) -> Result<Begun, LeaseError> {
        let Inner { shard, epoch, store, mark_key, doubt_key, known, .. } = &*self.inner;
        let version = known.lock().map(|(version, _)| version);
        // INVARIANT: every commit conflicts with whoever bumps the epoch. What an earlier commit of this journal
        // has checked need not be read again: it is enough that nothing was written since.
        if let (Attempt::Blind, Some(version)) = (attempt, version) {
            let mut txn = store.begin_after(version).await?;
            txn.add_read_conflict(KeyRange::single(&lease::epoch_key(*shard)));
            txn.add_read_conflict(KeyRange::single(doubt_key));
            return Ok(Begun { txn, mark_found: None });
        }
        let mut txn = store.begin().await?;
        let mark_found = txn.get(mark_key).await?;
        let found = lease::read_epoch(&mut *txn, *shard).await?;
        if found != *epoch {
            return Err(LeaseError::Deposed { shard: *shard, epoch: *epoch, found });
        }
        // INVARIANT: an attempt whose result is unknown may still be on its way. Every attempt conflicts with a
        // doubtful one that commits before it, so at most one of them is ever applied.
        txn.add_read_conflict(KeyRange::single(doubt_key));
        Ok(Begun { txn, mark_found })
    }
}

/// How many of `records` fit one transaction: at least one.
fn fitting(records: &[Placed]) -> usize {
    let mut bytes = 0;
    let fits = records.iter().take_while(|record| {
        bytes += record.size();
        bytes <= BATCH_BYTES
    });
    fits.count().max(1)
}

/// Where it is said how far the logs of `workspace` go, on which shard ever they are. Only what was committed by a
/// node of a cluster is told there.
pub fn log_ends(workspace: WorkspaceId) -> KeyRange {
    KeyRange::prefix(&[LOG_END, workspace.as_uuid().as_bytes()].concat())
}

/// The shard of a key of [`log_ends`], and the position after the last entry.
pub fn log_end(key: &[u8], value: &[u8]) -> Option<(ShardId, u64)> {
    let shard = key.strip_prefix(LOG_END)?.get(16..)?.try_into().ok()?;
    Some((ShardId(u16::from_be_bytes(shard)), u64::from_be_bytes(value.try_into().ok()?)))
}

/// Where the entries of `workspace` in `shard` are stored: this, then the position, big-endian.
pub fn log_prefix(workspace: WorkspaceId, shard: ShardId) -> Vec<u8> {
    [logs_prefix(workspace).as_slice(), &shard.0.to_be_bytes()].concat()
}

/// Where the entries of `workspace` in all shards are stored.
pub fn logs_prefix(workspace: WorkspaceId) -> Vec<u8> {
    [ENTRY, workspace.as_uuid().as_bytes()].concat()
}

/// The position at the end of an entry's key.
pub fn position(key: &[u8]) -> Option<u64> {
    key.last_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes))
}

// === impl Recent ===

impl Recent {
    fn push(&mut self, position: u64, digest: Digest) {
        if self.end() != position {
            *self = Self { first: position, digests: VecDeque::new() };
        }
        if self.digests.len() == RECENT {
            self.digests.pop_front();
            self.first += 1;
        }
        self.digests.push_back(digest);
    }

    fn end(&self) -> u64 {
        self.first + self.digests.len() as u64
    }

    fn from(&self, position: u64, limit: usize) -> Option<Vec<Digest>> {
        let known = !self.digests.is_empty() && position <= self.end();
        let skipped = usize::try_from(position.checked_sub(self.first).filter(|_| known)?).ok()?;
        Some(self.digests.iter().skip(skipped).take(limit).copied().collect())
    }
}

// === impl Placed ===

impl Placed {
    fn size(&self) -> usize {
        let pairs = self.entry.iter().chain(&self.head).chain(&self.writes);
        let written: usize = pairs.map(|(key, value)| key.len() + value.len()).sum();
        let single = self.removes.iter().chain(&self.news);
        written + single.map(Bytes::len).sum::<usize>()
    }
}

// === impl Journal ===

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Journal(shard {}, epoch {})", self.inner.shard, self.inner.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(position: u64) -> Digest {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&position.to_be_bytes());
        digest
    }

    #[test]
    fn recent_digests_are_those_from_a_position_on_or_none_at_all() {
        let mut recent = Recent::default();
        assert_eq!(recent.from(0, 10), None, "nothing is known before the first commit");
        let last = 7 + RECENT as u64 + 4;
        (7..=last).for_each(|position| recent.push(position, digest(position)));
        assert_eq!(recent.from(11, 10), None, "the oldest have gone");
        assert_eq!(recent.from(12, 2), Some(vec![digest(12), digest(13)]));
        assert_eq!(recent.from(last, 10), Some(vec![digest(last)]));
        assert_eq!(recent.from(last + 1, 10), Some(vec![]));
        assert_eq!(recent.from(last + 2, 10), None, "what is to come is not known");
    }
}
