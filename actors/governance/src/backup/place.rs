//! How many backups are taken at a time.

use std::{collections::BTreeSet, sync::Arc};

use aa_protocol::WorkspaceId;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::BackupError;

/// The backups that a node takes. Each workspace has one at a time, so that no reader who takes long keeps others from
/// theirs; and one snapshot is read at a time, because that takes what the store gives.
#[derive(Debug)]
pub(crate) struct Backups {
    taken: Arc<Mutex<BTreeSet<WorkspaceId>>>,
    cuts: Semaphore,
}

/// The right to take a workspace's backup.
#[derive(Debug)]
pub(super) struct Place {
    taken: Arc<Mutex<BTreeSet<WorkspaceId>>>,
    workspace: WorkspaceId,
}

// === impl Backups ===

impl Default for Backups {
    fn default() -> Self {
        Self { taken: Arc::default(), cuts: Semaphore::new(1) }
    }
}

impl Backups {
    /// Takes the workspace's place.
    ///
    /// # Errors
    /// [`BackupError::Busy`] while another has it.
    pub(super) fn enter(&self, workspace: WorkspaceId) -> Result<Place, BackupError> {
        if !self.taken.lock().insert(workspace) {
            return Err(BackupError::Busy);
        }
        Ok(Place { taken: Arc::clone(&self.taken), workspace })
    }

    /// Waits for the turn to read a snapshot; `None` if there will be none, which only a closed queue could mean.
    pub(super) async fn cut(&self) -> Option<SemaphorePermit<'_>> {
        self.cuts.acquire().await.ok()
    }
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.lock().remove(&self.workspace);
    }
}
