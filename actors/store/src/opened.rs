//! The durable store that a URL names, opened.

use std::{path::Path, sync::Arc};

#[cfg(feature = "foundationdb")]
use crate::{FdbOptions, FdbStore};
use crate::{
    FdbUrl, OpenError, RedbOptions, RedbStore, Store, StoreCounters, StoreError, StoreUrl,
    Transaction, Version, Watch,
};

/// The file of an embedded store in its directory; its log and large values are beside it.
pub const STORE_FILE: &str = "store.redb";

/// An embedded store or a cluster's. Clones share one.
#[derive(Clone, Debug)]
pub enum OpenedStore {
    /// The embedded one.
    Redb(RedbStore),
    /// The cluster's.
    #[cfg(feature = "foundationdb")]
    Fdb(FdbStore),
}

// === impl OpenedStore ===

impl OpenedStore {
    /// Opens the store at a URL. An embedded one is created in its directory, which must exist, if there
    /// is none yet.
    ///
    /// # Errors
    /// See [`OpenError`]; [`OpenError::NotBuilt`] for a cluster if the program cannot speak to one.
    pub async fn open(url: &StoreUrl) -> Result<Self, OpenError> {
        match url {
            StoreUrl::Redb(directory) => Self::open_redb(directory, RedbOptions::default()).await,
            StoreUrl::Fdb(url) => Self::open_fdb(url).await,
        }
    }

    /// Opens the embedded store in a directory.
    ///
    /// # Errors
    /// As [`RedbStore::open`].
    pub async fn open_redb(directory: &Path, options: RedbOptions) -> Result<Self, OpenError> {
        let path = directory.join(STORE_FILE);
        let at = path.clone();
        // Opening reads the log, and of an older store that was not closed the whole file.
        let (told, opened) = tokio::sync::oneshot::channel();
        let failed = |source| OpenError::Io { path: path.clone(), source };
        std::thread::Builder::new()
            .name("store-open".to_owned())
            .spawn(move || told.send(RedbStore::open(at, options)))
            .map_err(failed)?;
        let panicked = |_| failed(std::io::Error::other("opening it panicked"));
        Ok(Self::Redb(opened.await.map_err(panicked)??))
    }

    #[cfg(feature = "foundationdb")]
    async fn open_fdb(url: &FdbUrl) -> Result<Self, OpenError> {
        Ok(Self::Fdb(FdbStore::open(url.clone(), FdbOptions::default()).await?))
    }

    #[cfg(not(feature = "foundationdb"))]
    async fn open_fdb(_url: &FdbUrl) -> Result<Self, OpenError> {
        Err(OpenError::NotBuilt)
    }

    /// The store behind its contract.
    pub fn shared(&self) -> Arc<dyn Store> {
        Arc::new(self.clone())
    }

    fn store(&self) -> &dyn Store {
        match self {
            Self::Redb(store) => store,
            #[cfg(feature = "foundationdb")]
            Self::Fdb(store) => store,
        }
    }
}

#[async_trait::async_trait]
impl Store for OpenedStore {
    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        self.store().begin().await
    }

    async fn begin_after(&self, known: Version) -> Result<Box<dyn Transaction>, StoreError> {
        self.store().begin_after(known).await
    }

    fn watch(&self, key: &[u8]) -> Watch {
        self.store().watch(key)
    }

    fn counters(&self) -> StoreCounters {
        self.store().counters()
    }

    fn health(&self) -> Result<(), StoreError> {
        self.store().health()
    }

    fn kind(&self) -> &'static str {
        self.store().kind()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_directory_is_opened_as_an_embedded_store() {
        let directory = tempfile::tempdir().unwrap();
        let url = StoreUrl::Redb(directory.path().to_owned());
        let store = OpenedStore::open(&url).await.unwrap();
        assert_eq!(store.kind(), "redb");
        store.health().unwrap();
        assert!(directory.path().join(STORE_FILE).exists());
        let error = OpenedStore::open(&url).await.unwrap_err();
        assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    }

    #[cfg(not(feature = "foundationdb"))]
    #[tokio::test]
    async fn a_program_without_foundationdb_says_so() {
        let url = "fdb:///etc/foundationdb/fdb.cluster".parse().unwrap();
        let error = OpenedStore::open(&url).await.unwrap_err();
        assert!(error.to_string().contains("--features foundationdb"), "{error}");
    }
}
