//! Whose export is worked on next.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use aa_protocol::WorkspaceId;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Lets exports of a node work one slice at a time. Within a workspace and among workspaces everyone gets a
/// turn before anyone gets a second, so many exports of one tenant slow each other and nobody else's.
#[derive(Debug)]
pub(crate) struct ExportTurns {
    node: Arc<Semaphore>,
    /// Of the workspaces that are exporting.
    workspaces: Mutex<HashMap<WorkspaceId, Weak<Semaphore>>>,
}

/// A workspace's place in the order, for as long as an export of it is under way.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    workspace: Arc<Semaphore>,
    node: Arc<Semaphore>,
}

/// The right to work on one slice.
#[derive(Debug)]
pub(super) struct Turn {
    _node: OwnedSemaphorePermit,
    _workspace: OwnedSemaphorePermit,
}

// === impl ExportTurns ===

impl Default for ExportTurns {
    fn default() -> Self {
        Self { node: Arc::new(Semaphore::new(1)), workspaces: Mutex::default() }
    }
}

impl ExportTurns {
    pub(super) fn queue(&self, workspace: WorkspaceId) -> Queue {
        let mut workspaces = self.workspaces.lock();
        let known = workspaces.get(&workspace).and_then(Weak::upgrade);
        let own = known.unwrap_or_else(|| {
            workspaces.retain(|_, queue| queue.strong_count() > 0);
            let own = Arc::new(Semaphore::new(1));
            workspaces.insert(workspace, Arc::downgrade(&own));
            own
        });
        Queue { workspace: own, node: Arc::clone(&self.node) }
    }
}

// === impl Queue ===

impl Queue {
    /// Waits for a turn; `None` if there will be none, which only a closed queue could mean.
    pub(super) async fn turn(&self) -> Option<Turn> {
        // The workspace's first: one of its exports at most waits among the others'.
        let workspace = Arc::clone(&self.workspace).acquire_owned().await.ok()?;
        let node = Arc::clone(&self.node).acquire_owned().await.ok()?;
        Some(Turn { _node: node, _workspace: workspace })
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[tokio::test]
    async fn a_workspace_with_many_exports_gets_one_turn_of_two() {
        let turns = Arc::new(ExportTurns::default());
        let taken = Arc::new(Mutex::new(Vec::new()));
        let first = turns.queue(WorkspaceId::from_uuid(Uuid::from_u128(9))).turn().await;
        let mut exports = tokio::task::JoinSet::new();
        for (workspace, count) in [(1_u128, 8), (2, 1)] {
            for _ in 0..count {
                let queue = turns.queue(WorkspaceId::from_uuid(Uuid::from_u128(workspace)));
                let taken = Arc::clone(&taken);
                exports.spawn(async move {
                    for _ in 0..4 {
                        let turn = queue.turn().await;
                        taken.lock().push(workspace);
                        drop(turn);
                    }
                });
            }
        }
        tokio::task::yield_now().await;
        drop(first);
        exports.join_all().await;
        let taken = taken.lock();
        let last = taken.iter().rposition(|workspace| *workspace == 2).unwrap();
        assert!(last < 9, "four turns of the one within nine of all: {taken:?}");
        assert_eq!(taken.len(), 36);
        drop(turns.queue(WorkspaceId::from_uuid(Uuid::from_u128(3))));
        assert!(turns.workspaces.lock().len() <= 1, "who is done is forgotten");
    }
}
