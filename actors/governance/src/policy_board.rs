//! Where the rules in force are read from: an immutable snapshot per workspace, replaced as a whole.

use std::{collections::HashMap, sync::Arc};

use aa_policy::PolicySet;
use aa_protocol::WorkspaceId;
use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::{approvers::Approvers, budget_book::BudgetBook, prices::Prices};

/// The rules of a workspace at one moment.
#[derive(Debug)]
pub struct PolicySnapshot {
    /// Counts the changes.
    pub generation: u64,
    /// The compiled documents.
    pub set: PolicySet,
    /// The budgets of teams and of the workspace.
    pub budgets: Arc<BudgetBook>,
    /// What models cost.
    pub prices: Arc<Prices>,
    /// Who is asked for approval.
    pub approvers: Arc<Approvers>,
}

/// Holds the snapshot in force. Reading it takes no lock.
pub type PolicyCell = ArcSwap<PolicySnapshot>;

/// The cells of the workspaces served here.
#[derive(Default)]
pub struct PolicyBoard {
    cells: Mutex<HashMap<WorkspaceId, Arc<PolicyCell>>>,
}

impl PolicyBoard {
    /// The workspace's cell, if its policy set was loaded before.
    pub fn find(&self, workspace: WorkspaceId) -> Option<Arc<PolicyCell>> {
        self.cells.lock().get(&workspace).cloned()
    }

    /// Puts a snapshot into the workspace's cell, making the cell when there is none. The cell outlives
    /// the actor that fills it, so agents see what a reloaded policy set publishes.
    pub fn publish(&self, workspace: WorkspaceId, snapshot: PolicySnapshot) -> Arc<PolicyCell> {
        let snapshot = Arc::new(snapshot);
        let mut cells = self.cells.lock();
        let cell = cells
            .entry(workspace)
            .or_insert_with(|| Arc::new(PolicyCell::new(Arc::clone(&snapshot))));
        // INVARIANT: a cell never goes back, or an agent could decide by a policy that was replaced.
        if cell.load().generation <= snapshot.generation {
            cell.store(snapshot);
        }
        Arc::clone(cell)
    }
}
