//! The one who commits: the writer's thread, or a caller that is alone.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::{
    Shared,
    file::io_error,
    flush::{FlushJob, FlushQueue},
    log::{AppendError, Log},
    memtable::Layer,
    meters,
};
use crate::{
    CommitError, HistoryBounds, Version,
    resolver::{CommitRequest, Resolver},
    write_set::WriteSet,
};

/// Transactions that may wait for the writer; more wait in their callers.
pub(super) const QUEUE_LENGTH: usize = 4096;
/// Bytes that share one fsync; a single transaction may be larger alone. More would make the first of
/// them wait longer and gain little.
const MAX_GROUP_BYTES: usize = 4 << 20;
/// Ranges that a layer notes as cleared before it is flushed: each commit that clears one copies them.
const MAX_CLEARED: usize = 1024;

/// One transaction on its way.
pub(super) struct Job {
    pub(super) request: CommitRequest,
    pub(super) reply: oneshot::Sender<Result<Version, CommitError>>,
}

/// The writer's state, owned by its thread.
pub(super) struct Writer {
    shared: Arc<Shared>,
    resolver: Resolver,
    latest: Version,
    log: Log,
    /// Takes the commits; readers see what is published of it.
    active: Layer,
    /// When the active layer is to be flushed, in bytes. At twice this, commits wait.
    flush_at: usize,
    flushing: FlushQueue,
    /// The threads that work for this one.
    threads: Vec<JoinHandle<()>>,
    /// Whether to wait for them after each group.
    in_step: bool,
}

/// How commits came of late: whether a caller may make its own.
///
/// Handing a commit to the thread and its answer back costs two wake-ups, about as long as half an fsync
/// of a fast disk. A caller that has been alone for a while is spared them: it blocks its own thread,
/// for an fsync. On a slow disk, and as soon as there is company, everything goes through the thread,
/// where those that wait share an fsync.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Commits that are asked for and not answered.
    outstanding: AtomicUsize,
    /// Groups in a row of one transaction that took no longer than [`BRIEF`].
    lone: AtomicU32,
}

/// A commit that is asked for.
pub(super) struct Outstanding<'a>(&'a Pace);

/// Ends all writing if what it guards panics, which only damage explains.
struct StopOnPanic(Arc<Shared>);

/// A commit longer than this is not for the caller's thread.
const BRIEF: Duration = Duration::from_millis(1);
/// After so many lone and brief commits the next one is expected to be so too.
const LONE: u32 = 16;

/// What a writer begins with.
pub(super) struct WriterParts {
    pub(super) history: HistoryBounds,
    pub(super) latest: Version,
    pub(super) log: Log,
    pub(super) flush_at: usize,
    pub(super) flushing: FlushQueue,
    pub(super) threads: Vec<JoinHandle<()>>,
    pub(super) in_step: bool,
}

// === impl Writer ===

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, active: Layer, parts: WriterParts) -> Self {
        let WriterParts { history, latest, log, flush_at, flushing, threads, in_step } = parts;
        let resolver = Resolver::new(history, latest);
        Self { shared, resolver, latest, log, active, flush_at, flushing, threads, in_step }
    }

    /// Writes until the queue is closed and empty, then moves everything into the database file.
    pub(super) fn run(writer: &Mutex<Self>, mut queue: mpsc::Receiver<Job>) {
        let mut waiting = Vec::with_capacity(QUEUE_LENGTH);
        while queue.blocking_recv_many(&mut waiting, QUEUE_LENGTH) > 0 {
            let mut writer = writer.lock();
            while !waiting.is_empty() {
                let count = group_length(&waiting);
                writer.write_group(waiting.drain(..count));
            }
        }
        writer.lock().finish();
    }

    /// Whether a commit takes one write and nothing else.
    pub(super) fn is_brief(&self, request: &CommitRequest) -> bool {
        self.active.table.bytes() < self.flush_at / 2
            && self.active.cleared.len() < MAX_CLEARED / 2
            && request.writes.cleared().next().is_none()
            // Lengths and framing are less than the keys and values themselves.
            && self.log.has_room_for(2 * request.bytes)
            && !self.in_step
    }

    /// Commits on the caller's thread.
    pub(super) fn write_alone(&mut self, request: CommitRequest) -> Result<Version, CommitError> {
        let (reply, mut answer) = oneshot::channel();
        self.shared.meters.by_caller.fetch_add(1, Ordering::Relaxed);
        self.write_group(std::iter::once(Job { request, reply }));
        let unanswered = |_| Err(CommitError::UnknownResult(self.shared.gone()));
        answer.try_recv().unwrap_or_else(unanswered)
    }

    fn write_group(&mut self, jobs: impl ExactSizeIterator<Item = Job>) {
        let _stop = StopOnPanic(Arc::clone(&self.shared));
        self.wait_for_room();
        if let Some(stopped) = self.shared.stopped.get() {
            for job in jobs {
                job.answer(Err(stopped.clone().into()));
            }
            return;
        }
        let now = self.shared.clock.elapsed();
        let mut admitted = Vec::with_capacity(jobs.len());
        let mut refused = Vec::new();
        for mut job in jobs {
            let version = self.latest.next();
            job.request.writes.stamp(version);
            match self.resolver.resolve(&job.request, version, now) {
                Ok(()) => {
                    self.latest = version;
                    admitted.push((job, version));
                }
                Err(_conflict) => refused.push(job),
            }
        }
        self.write_admitted(admitted);
        // Told only now, so that another try sees what it conflicted with.
        meters::add(&self.shared.meters.conflicts, refused.len());
        for job in refused {
            job.answer(Err(CommitError::Conflict));
        }
        self.flush_when_due();
    }

    fn write_admitted(&mut self, admitted: Vec<(Job, Version)>) {
        if admitted.is_empty() {
            return;
        }
        let group = admitted.iter().map(|(job, _)| &job.request.writes);
        let begun = Instant::now();
        let appended = self.log.append(group);
        self.shared.pace.note(admitted.len(), begun.elapsed());
        if let Err(AppendError { error, unknown }) = appended {
            let stopped = self.shared.stop(io_error(&self.shared.path, error));
            for (job, _) in admitted {
                let stopped = stopped.clone();
                job.answer(Err(if unknown {
                    CommitError::UnknownResult(stopped)
                } else {
                    CommitError::Store(stopped)
                }));
            }
            return;
        }
        for (job, version) in &admitted {
            apply(&mut self.active, &job.request.writes, *version);
        }
        let (latest, active) = (self.latest, &self.active);
        self.shared.publish(|snapshot| {
            snapshot.version = latest;
            snapshot.active = active.clone();
        });
        self.meter(&admitted);
        for (job, version) in admitted {
            let Job { request, reply } = job;
            // The caller may have gone; the transaction stands.
            let _ = reply.send(Ok(version));
            self.shared.watches.fire(&request.writes);
        }
    }

    /// Bounds memory: no commit while one layer is full and the one before it is not flushed.
    fn wait_for_room(&mut self) {
        let full = self.active.table.bytes() >= 2 * self.flush_at
            || self.active.cleared.len() >= MAX_CLEARED;
        if full && !self.flushing.is_idle() {
            self.shared.meters.waits.fetch_add(1, Ordering::Relaxed);
            self.flushing.wait();
            self.flush_when_due();
        }
    }

    fn flush_when_due(&mut self) {
        let due =
            self.active.table.bytes() >= self.flush_at || self.active.cleared.len() >= MAX_CLEARED;
        if due && self.shared.stopped.get().is_none() && self.flushing.is_idle() {
            self.flush();
        } else if self.active.table.bytes() >= self.flush_at / 2 {
            self.log.prepare();
        }
        if self.in_step {
            self.flushing.wait();
            self.log.settle();
        }
    }

    /// Freezes the active layer and has it flushed.
    fn flush(&mut self) {
        let (position, segments) = match self.log.cut(self.latest) {
            Ok(cut) => cut,
            Err(error) => {
                self.shared.stop(io_error(&self.shared.path, error));
                return;
            }
        };
        let layer = std::mem::take(&mut self.active);
        let active = &self.active;
        self.shared.publish(|snapshot| {
            snapshot.frozen = Some(std::mem::replace(&mut snapshot.active, active.clone()));
        });
        self.flushing.submit(FlushJob { layer, position, segments });
    }

    /// Leaves nothing in the log, so that the next opening has nothing to read.
    fn finish(&mut self) {
        self.flushing.wait();
        if self.shared.stopped.get().is_none() {
            let layer = std::mem::take(&mut self.active);
            let position = self.log.position(false, self.latest);
            self.flushing.submit(FlushJob { layer, position, segments: Vec::new() });
            self.flushing.wait();
        }
    }

    fn meter(&self, group: &[(Job, Version)]) {
        let bytes: usize = group.iter().map(|(job, _)| job.request.bytes).sum();
        let meters = &self.shared.meters;
        meters.commits.fetch_add(1, Ordering::Relaxed);
        meters::add(&meters.transactions, group.len());
        meters::add(&meters.bytes, bytes);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.flushing.close();
        self.log.close();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!(path = %self.shared.path.display(), "a thread of the store panicked");
            }
        }
        self.shared.watches.close();
    }
}

// === impl Pace ===

impl Pace {
    /// A commit is asked for. Says whether the caller may make it.
    pub(super) fn enter(&self) -> (Outstanding<'_>, bool) {
        let is_alone = self.outstanding.fetch_add(1, Ordering::Relaxed) == 0;
        (Outstanding(self), is_alone && self.lone.load(Ordering::Relaxed) >= LONE)
    }

    pub(super) fn note(&self, transactions: usize, taken: Duration) {
        if transactions == 1 && taken <= BRIEF {
            let lone = self.lone.load(Ordering::Relaxed);
            self.lone.store(lone.saturating_add(1), Ordering::Relaxed);
        } else {
            self.lone.store(0, Ordering::Relaxed);
        }
    }
}

impl Drop for Outstanding<'_> {
    fn drop(&mut self) {
        self.0.outstanding.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl StopOnPanic ===

impl Drop for StopOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop_damaged();
            // Nothing more will fire.
            self.0.watches.close();
        }
    }
}

/// Applies a transaction to the layer that takes the commits.
fn apply(layer: &mut Layer, writes: &WriteSet, version: Version) {
    for range in writes.cleared() {
        layer.clear(&range, version);
    }
    for (key, value) in writes.keys() {
        layer.table.insert(key.clone(), version, value.cloned());
    }
}

/// How many of the waiting jobs go together: the first, and more while they fit.
fn group_length(waiting: &[Job]) -> usize {
    let mut bytes = 0;
    let fitting = waiting.iter().take_while(|job| {
        bytes += job.request.bytes;
        bytes <= MAX_GROUP_BYTES
    });
    fitting.count().max(1)
}

// === impl Job ===

impl Job {
    fn answer(self, result: Result<Version, CommitError>) {
        // The caller may have gone.
        let _ = self.reply.send(result);
    }
}
