//! Read versions: fetching them, and remembering the latest for watches.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use foundationdb::{Database, Transaction};
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;
use tokio::{runtime::Handle, time::timeout};

use super::{
    failure,
    meters::{Meters, count},
};
use crate::{StoreError, Version};

/// The versions that a store has seen. Clones share them.
#[derive(Clone)]
pub(super) struct Versions(Arc<Inner>);

struct Inner {
    database: Arc<Database>,
    timeout: Duration,
    meters: Arc<Meters>,
    runtime: Handle,
    latest: Mutex<Latest>,
}

#[derive(Default)]
struct Latest {
    /// The latest version seen, and when it was current at the latest.
    seen: Option<(Version, Instant)>,
    /// The fetch that watches wait for.
    fetching: Option<Fetching>,
}

type Fetching = Shared<BoxFuture<'static, Result<Version, StoreError>>>;

/// The version from which a watch compares.
pub(super) enum Anchor {
    Known(Version),
    Fetching(Fetching),
}

/// A version this old may still be watched from: storage servers know five seconds.
const FRESH: Duration = Duration::from_secs(2);

// === impl Versions ===

impl Versions {
    pub(super) fn new(
        database: Arc<Database>,
        timeout: Duration,
        meters: Arc<Meters>,
        runtime: Handle,
    ) -> Self {
        let latest = Mutex::default();
        Self(Arc::new(Inner { database, timeout, meters, runtime, latest }))
    }

    /// Asks the cluster for the version that has everything committed so far, which the transaction given
    /// with it reads at.
    pub(super) async fn fetch(&self) -> Result<(Transaction, Version), StoreError> {
        let asked = Instant::now();
        let fetched = self.ask().await;
        match &fetched {
            Ok((_, version)) => self.saw(*version, asked),
            Err(error) => self.0.meters.failed(error),
        }
        fetched
    }

    async fn ask(&self) -> Result<(Transaction, Version), StoreError> {
        count(&self.0.meters.read_versions);
        let transaction = self.0.database.create_trx().map_err(failure::unavailable)?;
        let fetched = timeout(self.0.timeout, transaction.get_read_version()).await;
        let version = fetched.map_err(|_| failure::timed_out())?.map_err(failure::unavailable)?;
        // Versions count from zero.
        Ok((transaction, Version::from_u64(version as u64)))
    }

    /// As [`Versions::fetch`], and not before the version of any watch that is already set: who reads
    /// after that sees what such a watch does not tell.
    pub(super) async fn fetch_after_watches(&self) -> Result<(Transaction, Version), StoreError> {
        let fetching = self.0.latest.lock().fetching.clone();
        if let Some(fetching) = fetching {
            // The watch tells of a failure itself.
            let _ = fetching.await;
            self.forget_fetched();
        }
        self.fetch().await
    }

    /// A version that is not above that of any transaction begun from now on.
    pub(super) fn anchor(&self) -> Anchor {
        let mut latest = self.0.latest.lock();
        if let Some((version, at)) = latest.seen
            && at.elapsed() < FRESH
        {
            return Anchor::Known(version);
        }
        if let Some(fetching) = &latest.fetching
            && fetching.peek().is_none()
        {
            return Anchor::Fetching(fetching.clone());
        }
        // A task of its own, so that it comes to its end whoever waits for it.
        let versions = self.clone();
        let task = self.0.runtime.spawn(async move { Ok(versions.fetch().await?.1) });
        let fetched = task.map(|fetched| fetched.unwrap_or_else(|_| Err(failure::timed_out())));
        let fetching = fetched.boxed().shared();
        latest.fetching = Some(fetching.clone());
        Anchor::Fetching(fetching)
    }

    /// Notes a version that was current at `at`, or later.
    pub(super) fn saw(&self, version: Version, at: Instant) {
        let mut latest = self.0.latest.lock();
        let newer = latest.seen.is_none_or(|(seen, _)| seen <= version);
        if newer {
            latest.seen = Some((version, at));
        }
    }

    pub(super) fn forget_fetched(&self) {
        let mut latest = self.0.latest.lock();
        if latest.fetching.as_ref().is_some_and(|fetching| fetching.peek().is_some()) {
            latest.fetching = None;
        }
    }
}
