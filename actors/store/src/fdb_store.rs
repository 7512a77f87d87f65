//! The cluster's store: FoundationDB under a prefix of its keyspace.
//!
//! The path of a transaction: [`FdbStore`] asks the cluster for a read version, the snapshot; reads go to
//! the storage servers at that version in bounded pages; writes wait in the client library; the commit goes
//! to the cluster's resolvers. All of it runs over the process's one [`network`] thread. What we add is in
//! [`transaction`]: the limits and errors that all stores share, the [`keyspace`], and an end to waiting
//! for a cluster that does not answer. Nothing is retried here: callers retry, as [`CommitError`] says.
//!
//! [`CommitError`]: crate::CommitError

mod failure;
mod keyspace;
mod meters;
mod network;
mod transaction;
mod versions;
mod watches;

use std::{fmt, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use foundationdb::{Database, options::DatabaseOption};
use tokio::{runtime::Handle, sync::watch};

use self::{
    keyspace::Keyspace, meters::Meters, transaction::FdbTransaction, versions::Versions,
    watches::Watches,
};
pub use self::{meters::FdbStats, network::FdbNetwork};
use crate::{
    FdbUrl, MAX_TRANSACTION_AGE, MAX_WATCHES, OpenError, Store, StoreCounters, StoreError,
    Transaction, Version, Watch,
};

/// A store in a FoundationDB cluster. Clones share one connection, which is closed with the last of them
/// and of its transactions; stores of several clusters, or of several prefixes, may be open at once.
///
/// A process that opened one keeps an [`FdbNetwork`] to its end.
#[derive(Clone)]
pub struct FdbStore {
    shared: Arc<Shared>,
}

/// How to use a cluster.
#[derive(Clone, Debug)]
pub struct FdbOptions {
    /// How long to wait for the cluster, for each begin, read and commit. Longer than it takes a cluster to
    /// replace a process that died, about 5 s at worst.
    pub timeout: Duration,
}

/// What transactions and watches share.
struct Shared {
    database: Arc<Database>,
    url: FdbUrl,
    keyspace: Keyspace,
    timeout: Duration,
    versions: Versions,
    watches: Arc<Watches>,
    meters: Arc<Meters>,
    /// Where watches wait.
    runtime: Handle,
    /// Dropped with the store, which ends the watches.
    open: watch::Sender<()>,
}

const KIND: &str = "foundationdb";
/// The lowest version that the client library takes.
const FIRST_VERSION: u64 = 1;

// === impl FdbOptions ===

impl Default for FdbOptions {
    fn default() -> Self {
        Self { timeout: MAX_TRANSACTION_AGE }
    }
}

// === impl FdbStore ===

impl FdbStore {
    /// Connects to a cluster, and starts the client's network thread if it does not run yet. Needs a
    /// tokio runtime with time enabled, which must last as long as the store.
    ///
    /// # Errors
    /// [`OpenError::Cluster`] if the cluster file or the TLS files cannot be used, if the client was set
    /// up with other TLS files before (they are the process's), or if the cluster does not answer in time.
    pub async fn open(url: FdbUrl, options: FdbOptions) -> Result<Self, OpenError> {
        let failed =
            |why: String| OpenError::Cluster { cluster_file: url.cluster_file.clone(), why };
        let file = readable(&url.cluster_file).map_err(failed)?;
        network::start(&url).map_err(failed)?;
        let database = connect(file).map_err(|error| failed(failure::advice(error)))?;
        let database = Arc::new(database);
        let meters = Arc::new(Meters::default());
        let runtime = Handle::current();
        let versions = Versions::new(
            Arc::clone(&database),
            options.timeout,
            Arc::clone(&meters),
            runtime.clone(),
        );
        versions.fetch().await.map_err(|error| {
            failed(format!(
                "{error}. check that its processes run and that they can be reached from here"
            ))
        })?;
        let shared = Shared {
            database,
            keyspace: Keyspace::new(url.prefix.clone()),
            timeout: options.timeout,
            versions,
            watches: Arc::default(),
            meters,
            runtime,
            open: watch::Sender::new(()),
            url,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What the store has done since it was opened.
    pub fn stats(&self) -> FdbStats {
        self.shared.meters.read()
    }

    /// Where the store is.
    pub fn url(&self) -> &FdbUrl {
        &self.shared.url
    }
}

impl fmt::Debug for FdbStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FdbStore")
            .field("url", &format_args!("{}", self.shared.url))
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for FdbStore {
    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        let (inner, version) = self.shared.versions.fetch_after_watches().await?;
        Ok(Box::new(FdbTransaction::new(Arc::clone(&self.shared), inner, version)))
    }

    async fn begin_after(&self, known: Version) -> Result<Box<dyn Transaction>, StoreError> {
        // Commits share versions: with one that is known may come others, that the resolvers put after
        // it, and that a check from it on would not see.
        let before = Version::from_u64(known.as_u64().saturating_sub(1).max(FIRST_VERSION));
        let inner = self.shared.database.create_trx().map_err(failure::unavailable)?;
        // The cluster refuses a version of the future.
        inner.set_read_version(i64::try_from(before.as_u64()).unwrap_or(i64::MAX));
        Ok(Box::new(FdbTransaction::new(Arc::clone(&self.shared), inner, before)))
    }

    fn watch(&self, key: &[u8]) -> Watch {
        watches::watch(&self.shared, key)
    }

    fn counters(&self) -> StoreCounters {
        let FdbStats { commits, conflicts, unknown, unavailable, bytes, .. } = self.stats();
        StoreCounters { committed: commits, conflicts, unknown, unavailable, bytes }
    }

    fn kind(&self) -> &'static str {
        KIND
    }
}

/// The client waits for ever for a cluster file that is not there.
fn readable(file: &Path) -> Result<&str, String> {
    let file_advice =
        "name the cluster file that the cluster's processes use, readable to this program";
    if let Err(error) = std::fs::read(file) {
        return Err(format!("{error}; {file_advice}"));
    }
    file.to_str().ok_or_else(|| "its path is not UTF-8; use another".to_owned())
}

fn connect(cluster_file: &str) -> Result<Database, foundationdb::FdbError> {
    let database = Database::from_path(cluster_file)?;
    // Ours are counted here; theirs linger a little after they were dropped.
    let watches = i32::try_from(2 * MAX_WATCHES).unwrap_or(i32::MAX);
    database.set_option(DatabaseOption::MaxWatches(watches))?;
    Ok(database)
}
