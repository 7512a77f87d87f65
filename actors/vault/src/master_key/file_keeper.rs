//! The master key file of a running process: renewed while it is in use.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

use aa_protocol::Timestamp;
use async_trait::async_trait;

use super::{
    MasterKey, MasterKeyError, MasterKeyId, MasterKeyNotRenewed, WrapContext, WrappedKey,
    file::{FileKeyError, FileMasterKey},
};
use crate::DataKey;

/// A [`FileMasterKey`] that takes on the generations that are added to its file.
#[derive(Debug)]
pub struct FileKeeper {
    path: PathBuf,
    key: RwLock<Arc<FileMasterKey>>,
}

// === impl FileKeeper ===

impl FileKeeper {
    /// Keeps the file at `path`, which is there.
    ///
    /// # Errors
    /// As [`FileMasterKey::open`].
    pub fn open(path: PathBuf) -> Result<Self, FileKeyError> {
        let key = FileMasterKey::open(&path)?;
        Ok(Self { path, key: RwLock::new(Arc::new(key)) })
    }

    /// Makes the file at `path`, with its first generation, and keeps it.
    ///
    /// # Errors
    /// As [`FileMasterKey::create`].
    pub fn create(path: PathBuf, now: Timestamp) -> Result<Self, FileKeyError> {
        let key = FileMasterKey::create(&path, now)?;
        Ok(Self { path, key: RwLock::new(Arc::new(key)) })
    }

    fn key(&self) -> Arc<FileMasterKey> {
        Arc::clone(&self.key.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The key as the file has it now: another process may have added to it. What is known stays where it cannot be read.
    fn refreshed(&self) -> Arc<FileMasterKey> {
        // Read under the lock, so that an older content never takes the place of a newer one.
        let mut known = self.key.write().unwrap_or_else(PoisonError::into_inner);
        if let Ok(key) = FileMasterKey::open(&self.path) {
            *known = Arc::new(key);
        }
        Arc::clone(&known)
    }

    /// A key that has the generation, if there is one.
    fn with(&self, id: &MasterKeyId) -> Arc<FileMasterKey> {
        let key = self.key();
        if key.opens(id) { key } else { self.refreshed() }
    }

    fn not_renewed(&self, error: &FileKeyError) -> MasterKeyNotRenewed {
        MasterKeyNotRenewed { provider: self.describe(), problem: error.to_string() }
    }
}

#[async_trait]
impl MasterKey for FileKeeper {
    fn id(&self) -> MasterKeyId {
        self.refreshed().id()
    }

    fn opens(&self, id: &MasterKeyId) -> bool {
        self.with(id).opens(id)
    }

    fn describe(&self) -> String {
        self.key().describe()
    }

    async fn wrap(
        &self,
        key: &DataKey,
        context: &WrapContext,
    ) -> Result<WrappedKey, MasterKeyError> {
        self.refreshed().wrap(key, context).await
    }

    async fn unwrap(
        &self,
        wrapped: &WrappedKey,
        context: &WrapContext,
    ) -> Result<DataKey, MasterKeyError> {
        self.with(&wrapped.master).unwrap(wrapped, context).await
    }

    fn renew(&self, now: Timestamp) -> Result<(), MasterKeyNotRenewed> {
        let added = FileMasterKey::add(&self.path, now);
        added.map_err(|error| self.not_renewed(&error))?;
        self.refreshed();
        Ok(())
    }

    fn forget_unused(
        &self,
        in_use: &BTreeSet<MasterKeyId>,
        replaced_before: Timestamp,
    ) -> Result<(), MasterKeyNotRenewed> {
        let key = self.refreshed();
        let successors = key.generations().skip(1).map(|(_, created_at)| created_at);
        let replaced = key.generations().zip(successors).filter(|(_, at)| *at < replaced_before);
        for ((id, _), _) in replaced.filter(|((id, _), _)| !in_use.contains(*id)) {
            let removed = FileMasterKey::remove(&self.path, id, in_use);
            removed.map_err(|error| self.not_renewed(&error))?;
        }
        self.refreshed();
        Ok(())
    }
}
