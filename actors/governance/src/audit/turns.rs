//! Who reads the log next: exports, and queries by filters, which may look at thousands of entries.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use aa_protocol::WorkspaceId;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Lets the readers of a node work one slice at a time. Within a workspace and among workspaces everyone gets
/// a turn before anyone gets a second, so many readers of one tenant slow each other and nobody else's.
#[derive(Debug)]
pub(crate) struct Turns {
    node: Arc<Semaphore>,
    /// Of the workspaces whose logs are being read.
    workspaces: Mutex<HashMap<WorkspaceId, Weak<Semaphore>>>,
}

/// A workspace's place in the order, for as long as a reader of it is at work.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    workspace: Arc<Semaphore>,
    node: Arc<Semaphore>,
}

/// The right to work on one slice.
#[derive(Debug)]
pub(crate) struct Turn {
    _node: OwnedSemaphorePermit,
    _workspace: OwnedSemaphorePermit,
}

// === impl Turns ===

impl Default for Turns {
    fn default() -> Self {
        Self { node: Arc::new(Semaphore::new(1)), workspaces: Mutex::default() }
    }
}

impl Turns {
    pub(crate) fn queue(&self, workspace: WorkspaceId) -> Queue {
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
    pub(crate) async fn turn(&self) -> Option<Turn> {
        // The workspace's first: one of its readers at most waits among the others'.
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
        let turns = Arc::new(Turns::default());
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
