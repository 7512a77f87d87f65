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
    /// False when the rules of this generation could not be read here: then nothing is decided by those of before.
    pub is_readable: bool,
}

/// Holds the snapshot in force. Reading it takes no lock.
pub type PolicyCell = ArcSwap<PolicySnapshot>;

/// The cells of the workspaces that this node has agents of.
#[derive(Default)]
pub struct PolicyBoard {
    slots: Mutex<HashMap<WorkspaceId, Slot>>,
}

#[derive(Default)]
struct Slot {
    cell: Option<Arc<PolicyCell>>,
    /// The least generation that will do: other nodes have told of it.
    due: u64,
    /// Held by whoever reads the rules, so that many who want them read them once.
    reading: Arc<tokio::sync::Mutex<()>>,
}

// === impl PolicyBoard ===

impl PolicyBoard {
    /// The workspace's cell, if its rules were read before.
    pub fn find(&self, workspace: WorkspaceId) -> Option<Arc<PolicyCell>> {
        self.slots.lock().get(&workspace)?.cell.clone()
    }

    /// All workspaces whose rules are held here.
    pub(crate) fn all(&self) -> Vec<WorkspaceId> {
        let mut all: Vec<_> = self.slots.lock().keys().copied().collect();
        all.sort_unstable();
        all
    }

    /// The turn to read the workspace's rules. From here on, changes that other nodes tell of are noted.
    pub(crate) fn turn(&self, workspace: WorkspaceId) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(&self.slots.lock().entry(workspace).or_default().reading)
    }

    /// Another node has changed the rules. False when they are not held here, or are as new as that.
    pub(crate) fn expect(&self, workspace: WorkspaceId, generation: u64) -> bool {
        let mut slots = self.slots.lock();
        let Some(slot) = slots.get_mut(&workspace) else { return false };
        slot.due = slot.due.max(generation);
        slot.is_behind()
    }

    /// Whether the workspace's rules are to be read.
    pub(crate) fn is_behind(&self, workspace: WorkspaceId) -> bool {
        self.slots.lock().get(&workspace).is_none_or(Slot::is_behind)
    }

    /// Puts a snapshot into the workspace's cell, making the cell when there is none. The cell outlives
    /// the actor that fills it, so agents see what a reloaded policy set publishes.
    pub fn publish(&self, workspace: WorkspaceId, snapshot: PolicySnapshot) -> Arc<PolicyCell> {
        let snapshot = Arc::new(snapshot);
        let mut slots = self.slots.lock();
        let slot = slots.entry(workspace).or_default();
        let cell =
            slot.cell.get_or_insert_with(|| Arc::new(PolicyCell::new(Arc::clone(&snapshot))));
        // INVARIANT: a cell never goes back, or an agent could decide by a policy that was replaced.
        if cell.load().generation <= snapshot.generation {
            cell.store(snapshot);
        }
        Arc::clone(cell)
    }

    /// The rules that are due cannot be read: nothing is decided until they can.
    pub(crate) fn close(&self, workspace: WorkspaceId) {
        let slots = self.slots.lock();
        let Some(slot) = slots.get(&workspace) else { return };
        let Some(cell) = &slot.cell else { return };
        let held = cell.load_full();
        if held.generation < slot.due {
            cell.store(Arc::new(PolicySnapshot {
                generation: slot.due,
                is_readable: false,
                set: PolicySet::empty(),
                budgets: Arc::clone(&held.budgets),
                prices: Arc::clone(&held.prices),
                approvers: Arc::clone(&held.approvers),
            }));
        }
    }
}

// === impl Slot ===

impl Slot {
    fn is_behind(&self) -> bool {
        self.cell.as_ref().is_none_or(|cell| {
            let held = cell.load();
            held.generation < self.due || !held.is_readable
        })
    }
}
