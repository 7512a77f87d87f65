//! Moving what the log holds into the database file, in the background.

use std::{
    iter::Peekable,
    ops::Bound,
    sync::{Arc, atomic::Ordering},
    thread,
};

use parking_lot::{Condvar, Mutex};
use redb::{CursorError, Durability};

use super::{
    PAIRS, Shared,
    blobs::{BLOB_BYTES, Blobs, Stored},
    file::{self, storage_error},
    log::LogPosition,
    memtable::{Layer, LayerScan},
    meters,
    segment::Segment,
    segment_pool::SegmentPool,
    snapshot::Base,
};
use crate::StoreError;

/// A layer to be flushed.
#[derive(Debug)]
pub(super) struct FlushJob {
    pub(super) layer: Layer,
    /// Where the log goes on once the layer is in the file.
    pub(super) position: LogPosition,
    /// The segments that are not needed then.
    pub(super) segments: Vec<Segment>,
}

/// Hands jobs to the flusher, one at a time. Clones share one queue.
#[derive(Clone, Debug, Default)]
pub(super) struct FlushQueue(Arc<(Mutex<Queue>, Condvar)>);

#[derive(Debug, Default)]
struct Queue {
    job: Option<FlushJob>,
    busy: bool,
    closed: bool,
}

/// The flushing thread's state. The database file is closed with it.
pub(super) struct Flusher {
    pub(super) database: redb::Database,
    pub(super) blobs: Blobs,
    pub(super) shared: Arc<Shared>,
    pub(super) pool: SegmentPool,
    pub(super) queue: FlushQueue,
}

/// A layer on its way into the table.
struct Filling<'a> {
    pairs: redb::Table<'a, &'static [u8], &'static [u8]>,
    blobs: &'a mut Blobs,
    /// What stands in the table for the value at hand.
    stored: Vec<u8>,
    /// Whether that is for the next pair, which a run could not take.
    is_ahead: bool,
}

// === impl FlushQueue ===

impl FlushQueue {
    /// Whether a job would be begun at once.
    pub(super) fn is_idle(&self) -> bool {
        let queue = self.0.0.lock();
        !queue.busy && queue.job.is_none()
    }

    /// Waits until no job is left, or none will ever be done.
    pub(super) fn wait(&self) {
        let (queue, changed) = &*self.0;
        let mut queue = queue.lock();
        while !queue.closed && (queue.busy || queue.job.is_some()) {
            changed.wait(&mut queue);
        }
    }

    /// Hands over a job. The queue must be idle.
    pub(super) fn submit(&self, job: FlushJob) {
        let (queue, changed) = &*self.0;
        let mut queue = queue.lock();
        debug_assert!(queue.job.is_none(), "one layer is frozen at a time");
        queue.job = Some(job);
        changed.notify_all();
    }

    /// No more jobs will come.
    pub(super) fn close(&self) {
        let (queue, changed) = &*self.0;
        queue.lock().closed = true;
        changed.notify_all();
    }

    /// The next job; none once the queue is closed and empty.
    fn take(&self) -> Option<FlushJob> {
        let (queue, changed) = &*self.0;
        let mut queue = queue.lock();
        queue.busy = false;
        changed.notify_all();
        loop {
            if let Some(job) = queue.job.take() {
                queue.busy = true;
                return Some(job);
            }
            if queue.closed {
                return None;
            }
            changed.wait(&mut queue);
        }
    }
}

// === impl Flusher ===

impl Flusher {
    pub(super) fn spawn(self) -> std::io::Result<thread::JoinHandle<()>> {
        thread::Builder::new().name("store-flush".to_owned()).spawn(move || self.run())
    }

    fn run(mut self) {
        while let Some(job) = self.queue.take() {
            // What was acknowledged is in the log; nothing is lost by not going on.
            if let Err(error) = self.flush(job) {
                self.shared.stop(error);
                return;
            }
        }
    }

    fn flush(&mut self, job: FlushJob) -> Result<(), StoreError> {
        let path = &self.shared.path;
        let failed = |error| storage_error(path, error);
        let pairs = write(&self.database, &mut self.blobs, &job).map_err(failed)?;
        let base = Base::of(&self.database, path, self.blobs.files()).map_err(failed)?;
        self.shared.publish(|snapshot| {
            snapshot.base = Arc::new(base);
            snapshot.frozen = None;
        });
        let meters = &self.shared.meters;
        meters.flushes.fetch_add(1, Ordering::Relaxed);
        meters::add(&meters.flushed_pairs, pairs);
        self.pool.give_back(job.segments);
        Ok(())
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        if thread::panicking() {
            self.shared.stop_damaged();
        }
        self.queue.close();
    }
}

/// Makes a layer durable in the database file, and gives the pairs written.
pub(super) fn write(
    database: &redb::Database,
    blobs: &mut Blobs,
    job: &FlushJob,
) -> Result<usize, redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    // Spares the walk over the whole file after a crash; and by syncing pages before the slot that
    // names them, it keeps a failed sync from leaving a slot in the page cache over lost pages.
    transaction.set_quick_repair(true);
    let pairs = transaction.open_table(PAIRS)?;
    let filling = Filling { pairs, blobs: &mut *blobs, stored: Vec::new(), is_ahead: false };
    let written = filling.fill(&job.layer)?;
    // Before the references to them.
    blobs.sync()?;
    blobs.note(&transaction)?;
    file::write_position(&transaction, &job.position)?;
    transaction.commit()?;
    blobs.committed();
    Ok(written)
}

// === impl Filling ===

impl Filling<'_> {
    /// Brings what a layer says into the table, and gives the pairs written or removed.
    fn fill(mut self, layer: &Layer) -> Result<usize, redb::Error> {
        for range in layer.cleared.ranges() {
            let blobs = &mut *self.blobs;
            self.pairs.retain_in::<&[u8], _>(range.bounds(), |_, stored| {
                blobs.release(stored);
                false
            })?;
        }
        let mut written = 0;
        let mut outcome = layer.outcome().peekable();
        while let Some((key, value)) = outcome.next() {
            written += 1;
            let before = match value {
                Some(value) => {
                    if !std::mem::take(&mut self.is_ahead) {
                        place(self.blobs, &key, &value, &mut self.stored)?;
                    }
                    self.pairs.insert(&key[..], &self.stored[..])?
                }
                None => self.pairs.remove(&key[..])?,
            };
            let was_there = before.is_some();
            if let Some(before) = &before {
                self.blobs.release(before.value());
            }
            drop(before);
            // New keys come in runs: journals grow at their ends.
            if !was_there {
                written += self.insert_run(&key, &mut outcome)?;
            }
        }
        Ok(written)
    }

    /// Inserts as many of the next pairs as follow `after` without a pair of the table between them, which
    /// costs less than half of inserting each on its own: their pages are built once.
    fn insert_run(
        &mut self,
        after: &[u8],
        outcome: &mut Peekable<LayerScan<'_>>,
    ) -> Result<usize, redb::Error> {
        let Some((_, Some(_))) = outcome.peek() else { return Ok(0) };
        let mut inserted = 0;
        let mut gap = self.pairs.lower_bound_mut(Bound::Excluded(after))?;
        while let Some((key, Some(value))) = outcome.peek() {
            place(self.blobs, key, value, &mut self.stored)?;
            match gap.insert_before(&key[..], &self.stored[..]) {
                Ok(()) => {
                    outcome.next();
                    inserted += 1;
                }
                Err(CursorError::UnorderedKey) => {
                    self.is_ahead = true;
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        gap.close()?;
        Ok(inserted)
    }
}

/// Makes of a value what stands for it in the table.
fn place(blobs: &mut Blobs, key: &[u8], value: &[u8], stored: &mut Vec<u8>) -> std::io::Result<()> {
    let reference = if value.len() < BLOB_BYTES {
        Stored::Inline(value)
    } else {
        Stored::Blob(blobs.append(key, value)?)
    };
    reference.write(stored);
    Ok(())
}
