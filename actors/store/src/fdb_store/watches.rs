//! Watches on FoundationDB's.
//!
//! A FoundationDB watch compares the key's value at the read version of the transaction that sets it with
//! what is written later. To miss nothing, that version must not be above the one at which the caller
//! reads after it set the watch; so it is the latest that the store has seen when the watch is set, or,
//! if that is too long ago, one that is fetched before any transaction of the store begins. What was
//! written between that version and the setting of the watch makes it resolve too, which is allowed.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use foundationdb::{Database, FdbError};
use tokio::{sync::oneshot, task::AbortHandle, time::timeout};

use super::{KIND, Shared, failure, meters::count, versions::Anchor};
use crate::{MAX_WATCHES, StoreError, Version, Watch, limits::check_key};

/// Counts the watches of one store.
#[derive(Debug, Default)]
pub(super) struct Watches(AtomicUsize);

/// A place among the [`MAX_WATCHES`], given back on drop.
#[derive(Debug)]
struct Place(Arc<Watches>);

/// Ends the task that waits for a watch, and with it the watch.
#[derive(Debug)]
struct Waiting {
    task: AbortHandle,
    _place: Place,
}

const TRANSACTION_TOO_OLD: i32 = 1007;

// === impl Place ===

impl Place {
    fn take(watches: &Arc<Watches>) -> Option<Self> {
        let free = |taken| (taken < MAX_WATCHES).then_some(taken + 1);
        watches.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).ok()?;
        Some(Self(Arc::clone(watches)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Waiting ===

impl Drop for Waiting {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Sets a watch.
pub(super) fn watch(shared: &Shared, key: &[u8]) -> Watch {
    if let Err(limit) = check_key(key) {
        return Watch::refused(limit.into());
    }
    let Some(place) = Place::take(&shared.watches) else {
        return Watch::refused(StoreError::TooManyWatches);
    };
    count(&shared.meters.watches);
    let (fire, fired) = oneshot::channel();
    let anchor = shared.versions.anchor();
    let (database, key) = (Arc::clone(&shared.database), shared.keyspace.key(key));
    let (limit, mut open) = (shared.timeout, shared.open.subscribe());
    let versions = shared.versions.clone();
    let task = shared.runtime.spawn(async move {
        let version = match anchor {
            Anchor::Known(version) => Ok(version),
            Anchor::Fetching(fetching) => {
                let version = fetching.await;
                versions.forget_fetched();
                version
            }
        };
        drop(versions);
        let observed = async {
            let changed = timeout(limit, set(database, &key, version?)).await;
            changed.unwrap_or_else(|_| Err(failure::timed_out()))?.await
        };
        tokio::select! {
            observed = observed => {
                // The watch may have been dropped meanwhile.
                let _ = fire.send(observed);
            }
            // The store is closed, which is told by dropping `fire`.
            _ = open.changed() => {}
        }
    });
    Watch::told(fired, Waiting { task: task.abort_handle(), _place: place }, KIND)
}

/// Sets the watch at a version; what it gives resolves when the value changes.
async fn set(
    database: Arc<Database>,
    key: &[u8],
    version: Version,
) -> Result<impl Future<Output = Result<(), StoreError>> + use<>, StoreError> {
    let transaction = database.create_trx().map_err(failure::unavailable)?;
    // Versions are far below 2^63.
    transaction.set_read_version(version.as_u64() as i64);
    let changed = transaction.watch(key);
    // The watch begins with the commit, which asks the cluster nothing: there are no writes.
    let set = transaction.commit().await.map(drop).map_err(FdbError::from);
    Ok(async move {
        match set.and(changed.await) {
            Ok(()) => Ok(()),
            // What was written since is not known any more: look again.
            Err(error) if error.code() == TRANSACTION_TOO_OLD => Ok(()),
            Err(error) => Err(failure::of_read(error, std::time::Duration::ZERO)),
        }
    })
}
