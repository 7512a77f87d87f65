//! The one thread that writes.

use std::sync::{Arc, atomic::Ordering};

use redb::Durability;
use tokio::sync::{mpsc, oneshot};

use super::{PAIRS, RedbSnapshot, Shared, file::storage_error};
use crate::{
    CommitError, HistoryBounds, MAX_TRANSACTION_BYTES, StoreError, Version,
    resolver::{CommitRequest, Resolver},
};

/// Transactions that may wait for the writer; more wait in their callers.
pub(super) const QUEUE_LENGTH: usize = 1024;
/// Transactions that share one fsync. Larger groups make the first wait longer and gain little.
const MAX_GROUP: usize = 256;
/// Bytes that share one fsync; a single transaction may reach it alone.
const MAX_GROUP_BYTES: usize = MAX_TRANSACTION_BYTES;

/// One transaction on its way.
pub(super) struct Job {
    pub(super) request: CommitRequest,
    pub(super) reply: oneshot::Sender<Result<Version, CommitError>>,
}

/// The writer's state, owned by its thread.
pub(super) struct Writer {
    database: redb::Database,
    shared: Arc<Shared>,
    resolver: Resolver,
    latest: Version,
}

/// A group that was not written whole.
struct Failure {
    error: StoreError,
    /// Whether it may be durable nevertheless.
    unknown: bool,
}

// === impl Writer ===

impl Writer {
    pub(super) fn new(
        database: redb::Database,
        shared: Arc<Shared>,
        history: HistoryBounds,
    ) -> Self {
        let resolver = Resolver::new(history);
        Self { database, shared, resolver, latest: Version::default() }
    }

    /// Writes until the queue is closed and empty.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut waiting = Vec::with_capacity(MAX_GROUP);
        while queue.blocking_recv_many(&mut waiting, MAX_GROUP) > 0 {
            while !waiting.is_empty() {
                let count = group_length(&waiting);
                self.write_group(waiting.drain(..count));
            }
        }
    }

    fn write_group(&mut self, jobs: impl Iterator<Item = Job>) {
        if let Some(stopped) = self.shared.stopped.get() {
            for job in jobs {
                job.answer(Err(stopped.clone().into()));
            }
            return;
        }
        let now = self.shared.clock.elapsed();
        let mut admitted = Vec::with_capacity(MAX_GROUP);
        let mut refused = Vec::new();
        for job in jobs {
            let version = self.latest.next();
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
        self.shared.meters.conflicts.fetch_add(refused.len() as u64, Ordering::Relaxed);
        for job in refused {
            job.answer(Err(CommitError::Conflict));
        }
    }

    fn write_admitted(&self, admitted: Vec<(Job, Version)>) {
        if admitted.is_empty() {
            return;
        }
        if let Err(Failure { error, unknown }) = self.write(&admitted) {
            let stopped = self.stop(error);
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
        match RedbSnapshot::of(&self.database, self.latest, &self.shared.path) {
            Ok(snapshot) => self.shared.latest.store(Arc::new(snapshot)),
            // The group is durable and is answered so, but nobody could read it.
            Err(error) => {
                self.stop(error);
            }
        }
        self.meter(&admitted);
        for (job, version) in admitted {
            let Job { request, reply } = job;
            // The caller may have gone; the transaction stands.
            let _ = reply.send(Ok(version));
            self.shared.watches.fire(&request.writes);
        }
    }

    /// Makes a group durable.
    fn write(&self, group: &[(Job, Version)]) -> Result<(), Failure> {
        let failed = |error: redb::Error, unknown| Failure {
            error: storage_error(&self.shared.path, error),
            unknown,
        };
        let transaction = self.fill(group).map_err(|error| failed(error, false))?;
        transaction.commit().map_err(|error| failed(error.into(), true))
    }

    fn fill(&self, group: &[(Job, Version)]) -> Result<redb::WriteTransaction, redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        {
            let mut pairs = transaction.open_table(PAIRS)?;
            for (job, _) in group {
                for range in job.request.writes.cleared() {
                    pairs.retain_in::<&[u8], _>(range.bounds(), |_, _| false)?;
                }
                for (key, value) in job.request.writes.keys() {
                    match value {
                        Some(value) => pairs.insert(&key[..], &value[..])?,
                        None => pairs.remove(&key[..])?,
                    };
                }
            }
        }
        Ok(transaction)
    }

    /// Ends all writing: after a failed write or fsync, what memory and page cache hold may differ
    /// from the disk, and only reopening tells what is there.
    fn stop(&self, error: StoreError) -> StoreError {
        tracing::error!(path = %self.shared.path.display(), %error, "the store stops");
        let stopped = StoreError::Stopped { cause: Arc::new(error) };
        self.shared.stopped.get_or_init(|| stopped).clone()
    }

    fn meter(&self, group: &[(Job, Version)]) {
        let bytes: usize = group.iter().map(|(job, _)| job.request.bytes).sum();
        let meters = &self.shared.meters;
        meters.commits.fetch_add(1, Ordering::Relaxed);
        meters.transactions.fetch_add(group.len() as u64, Ordering::Relaxed);
        meters.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let path = self.shared.path.clone();
            self.stop(StoreError::Corrupt { path, what: "its pages contradict each other".into() });
        }
        self.shared.watches.close();
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
