//! Watches: being told that a key was written.

use std::{
    any::Any,
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::{MAX_WATCHES, StoreError, write_set::WriteSet};

/// Resolves once the watched key was written; see [`Store::watch`](crate::Store::watch). Fails when the
/// store closes, or at once when it holds too many watches. Dropping it ends the watch.
#[must_use = "a watch does nothing unless awaited"]
pub struct Watch(State);

enum State {
    Waiting {
        fired: oneshot::Receiver<Result<(), StoreError>>,
        /// Ends the watch when dropped.
        _kept: Box<dyn Any + Send + Sync>,
        kind: &'static str,
    },
    Refused(StoreError),
}

/// Where a watch is registered; it leaves on drop.
struct Place {
    watches: Arc<Watches>,
    key: Bytes,
    id: u64,
}

type Fire = oneshot::Sender<Result<(), StoreError>>;

/// The watches of one store.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    /// Mirrors `waiting`, so that a commit that nobody watches takes no lock.
    count: AtomicUsize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next_id: u64,
    closed: bool,
    keys: BTreeMap<Bytes, Vec<(u64, Fire)>>,
}

// === impl Watch ===

#[cfg(feature = "foundationdb")]
impl Watch {
    /// A watch that resolves as told, and fails as closed if nobody can tell any more.
    pub(crate) fn told(
        fired: oneshot::Receiver<Result<(), StoreError>>,
        kept: impl Any + Send + Sync,
        kind: &'static str,
    ) -> Self {
        Self(State::Waiting { fired, _kept: Box::new(kept), kind })
    }

    pub(crate) const fn refused(error: StoreError) -> Self {
        Self(State::Refused(error))
    }
}

impl Future for Watch {
    type Output = Result<(), StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Refused(error) => Poll::Ready(Err(error.clone())),
            State::Waiting { fired, kind, .. } => {
                let kind = *kind;
                Pin::new(fired)
                    .poll(context)
                    .map(|fired| fired.unwrap_or_else(|_| Err(closed(kind))))
            }
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = self.watches.waiting.lock();
        if let Some(watches) = waiting.keys.get_mut(&self.key) {
            let before = watches.len();
            watches.retain(|(id, _)| *id != self.id);
            let left = before - watches.len();
            if watches.is_empty() {
                waiting.keys.remove(&self.key);
            }
            self.watches.count.fetch_sub(left, Ordering::SeqCst);
        }
    }
}

// === impl Watches ===

impl Watches {
    pub(crate) fn register(self: &Arc<Self>, key: &[u8], kind: &'static str) -> Watch {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Watch(State::Refused(closed(kind)));
        }
        if self.count.load(Ordering::SeqCst) >= MAX_WATCHES {
            return Watch(State::Refused(StoreError::TooManyWatches));
        }
        let (fire, fired) = oneshot::channel();
        let key = Bytes::copy_from_slice(key);
        let id = waiting.next_id;
        waiting.next_id += 1;
        waiting.keys.entry(key.clone()).or_default().push((id, fire));
        self.count.fetch_add(1, Ordering::SeqCst);
        drop(waiting);
        let place = Place { watches: Arc::clone(self), key, id };
        Watch(State::Waiting { fired, _kept: Box::new(place), kind })
    }

    /// Fires the watches of everything written. Call after the commit can be seen by readers.
    pub(crate) fn fire(&self, writes: &WriteSet) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut fired = Vec::new();
        let mut waiting = self.waiting.lock();
        for (key, _) in writes.keys() {
            fired.extend(waiting.keys.remove(key));
        }
        for range in writes.cleared() {
            let keys: Vec<Bytes> =
                waiting.keys.range::<[u8], _>(range.bounds()).map(|(key, _)| key.clone()).collect();
            fired.extend(keys.iter().filter_map(|key| waiting.keys.remove(key)));
        }
        self.count.fetch_sub(fired.iter().map(Vec::len).sum(), Ordering::SeqCst);
        drop(waiting);
        for (_, fire) in fired.into_iter().flatten() {
            // The watch may have been dropped meanwhile.
            let _ = fire.send(Ok(()));
        }
    }

    /// Fails all watches, present and to come.
    pub(crate) fn close(&self) {
        let mut waiting = self.waiting.lock();
        waiting.closed = true;
        waiting.keys.clear();
        self.count.store(0, Ordering::SeqCst);
    }
}

const fn closed(kind: &'static str) -> StoreError {
    StoreError::Unavailable { kind, why: Cow::Borrowed("it is closed") }
}
