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

    fn replace(&self, key: FileMasterKey) {
        *self.key.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
    }

    fn not_renewed(&self, error: &FileKeyError) -> MasterKeyNotRenewed {
        MasterKeyNotRenewed { provider: self.describe(), problem: error.to_string() }
    }
}

#[async_trait]
impl MasterKey for FileKeeper {
    fn id(&self) -> MasterKeyId {
        self.key().id()
    }

    fn opens(&self, id: &MasterKeyId) -> bool {
        self.key().opens(id)
    }

    fn describe(&self) -> String {
        self.key().describe()
    }

    async fn wrap(
        &self,
        key: &DataKey,
        context: &WrapContext,
    ) -> Result<WrappedKey, MasterKeyError> {
        self.key().wrap(key, context).await
    }

    async fn unwrap(
        &self,
        wrapped: &WrappedKey,
        context: &WrapContext,
    ) -> Result<DataKey, MasterKeyError> {
        self.key().unwrap(wrapped, context).await
    }

    fn renew(&self, now: Timestamp) -> Result<(), MasterKeyNotRenewed> {
        let key = FileMasterKey::add(&self.path, now).map_err(|error| self.not_renewed(&error))?;
        self.replace(key);
        Ok(())
    }

    fn forget_unused(
        &self,
        in_use: &BTreeSet<MasterKeyId>,
        replaced_before: Timestamp,
    ) -> Result<(), MasterKeyNotRenewed> {
        let key = self.key();
        let successors = key.generations().skip(1).map(|(_, created_at)| created_at);
        let replaced = key.generations().zip(successors).filter(|(_, at)| *at < replaced_before);
        for ((id, _), _) in replaced.filter(|((id, _), _)| !in_use.contains(*id)) {
            let left = FileMasterKey::remove(&self.path, id, in_use);
            self.replace(left.map_err(|error| self.not_renewed(&error))?);
        }
        Ok(())
    }
}
