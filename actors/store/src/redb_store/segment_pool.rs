//! Segments at hand: a thread makes the next one when it is about to be needed, from one that is no
//! longer needed or anew.

use std::{
    collections::VecDeque,
    io,
    path::PathBuf,
    sync::Arc,
    thread::{self, JoinHandle},
};

use parking_lot::{Condvar, Mutex};

use super::{disk::Disk, sector::SECTOR, segment::Segment};

/// The size of a log's very first segment: 1 MiB.
const FIRST_SECTORS: u32 = 1 << 11;

/// Where segments come from. Clones share one pool.
#[derive(Clone, Debug)]
pub(super) struct SegmentPool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    log: u64,
    /// Of segments made anew, the least.
    sectors: u32,
    /// Segments that no longer needed are kept for reuse, at most.
    keep: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    next_number: u64,
    /// To be taken at once.
    ready: Option<Segment>,
    /// Whether one shall be made ready.
    due: bool,
    unused: VecDeque<Segment>,
    /// Sectors that a waiting writer needs.
    wanted: Option<u32>,
    failure: Option<io::Error>,
    closing: bool,
}

// === impl SegmentPool ===

impl SegmentPool {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        directory: PathBuf,
        log: u64,
        segment_bytes: usize,
        keep: usize,
        unused: VecDeque<Segment>,
        last_number: u64,
    ) -> Self {
        // A description and a seal need a sector each; and 4 GiB are beyond any need.
        let sectors = (segment_bytes / SECTOR).clamp(4, 1 << 23) as u32;
        let state = State {
            next_number: last_number + 1,
            ready: None,
            due: false,
            unused,
            wanted: None,
            failure: None,
            closing: false,
        };
        Self(Arc::new(Inner {
            disk,
            directory,
            log,
            sectors,
            keep,
            state: Mutex::new(state),
            changed: Condvar::new(),
        }))
    }

    /// Starts the thread that keeps a segment ready.
    pub(super) fn start(&self) -> io::Result<JoinHandle<()>> {
        let pool = self.clone();
        thread::Builder::new().name("store-segments".to_owned()).spawn(move || pool.run())
    }

    fn run(&self) {
        let mut state = self.0.state.lock();
        while !state.closing {
            let wanted = state.wanted;
            let fits = |segment: &Segment| segment.sectors >= wanted.unwrap_or(0);
            if state.ready.as_ref().is_some_and(fits) {
                state.due = false;
            }
            if state.failure.is_some() || !state.due {
                self.0.changed.notify_all();
                self.0.changed.wait(&mut state);
                continue;
            }
            // One that was made ready and is too small goes back; its number is never used.
            let too_small = state.ready.take();
            state.unused.extend(too_small);
            // A new store begins small: many stay so.
            let first = state.next_number == 1;
            let least = if first { FIRST_SECTORS.min(self.0.sectors) } else { self.0.sectors };
            let sectors = wanted.unwrap_or(0).max(least);
            let fitting = state.unused.iter().position(|segment| segment.sectors >= sectors);
            let reused = fitting.and_then(|place| state.unused.remove(place));
            let number = state.next_number;
            state.next_number += 1;
            drop(state);
            let made = self.make(reused, number, sectors);
            state = self.0.state.lock();
            state.due = false;
            match made {
                Ok(segment) => state.ready = Some(segment),
                Err(error) => state.failure = Some(error),
            }
            self.0.changed.notify_all();
        }
    }

    fn make(&self, reused: Option<Segment>, number: u64, sectors: u32) -> io::Result<Segment> {
        let inner = &self.0;
        match reused {
            Some(segment) => segment.renew(inner.log, number),
            None => Segment::create(&*inner.disk, &inner.directory, inner.log, number, sectors),
        }
    }

    /// The next segment, with room for `sectors` at least; waits for it. After a failure there are no
    /// more.
    pub(super) fn take(&self, sectors: u32) -> io::Result<Segment> {
        let mut state = self.0.state.lock();
        state.wanted = Some(sectors);
        let taken = loop {
            if let Some(error) = state.failure.take() {
                state.closing = true;
                break Err(error);
            }
            if state.closing {
                break Err(io::Error::other("the log is closed"));
            }
            if let Some(segment) = state.ready.take_if(|segment| segment.sectors >= sectors) {
                break Ok(segment);
            }
            state.due = true;
            self.0.changed.notify_all();
            self.0.changed.wait(&mut state);
        };
        state.wanted = None;
        state.due = false;
        taken
    }

    /// Makes a segment ready, unless one is.
    pub(super) fn prepare(&self) {
        let mut state = self.0.state.lock();
        if state.ready.is_none() && !state.due {
            state.due = true;
            self.0.changed.notify_all();
        }
    }

    /// Takes back segments whose records are all in the database file.
    pub(super) fn give_back(&self, segments: Vec<Segment>) {
        let mut state = self.0.state.lock();
        for segment in segments {
            if segment.sectors >= self.0.sectors && state.unused.len() < self.0.keep {
                state.unused.push_back(segment);
                continue;
            }
            // A file that stays is found and reused when the store is opened again.
            if let Err(error) = self.0.disk.remove(&segment.path) {
                let path = segment.path.display();
                tracing::warn!(%path, %error, "a segment of the log was not removed");
            }
        }
        self.0.changed.notify_all();
    }

    /// Waits until the segment that is due is ready or making it failed.
    pub(super) fn settle(&self) {
        let mut state = self.0.state.lock();
        while state.due && state.failure.is_none() && !state.closing {
            self.0.changed.wait(&mut state);
        }
    }

    /// Ends the thread.
    pub(super) fn close(&self) {
        self.0.state.lock().closing = true;
        self.0.changed.notify_all();
    }
}
