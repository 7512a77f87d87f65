//! What the rules of the workspace say of one agent, as of one snapshot.

use std::sync::Arc;

use aa_budget::Limits;
use aa_policy::{AgentPolicies, Period};
use aa_protocol::{AgentFacts, WorkspaceId};

use crate::{
    approvers::Approvers,
    budget_book::{BudgetRecord, OnExceeded},
    policy_board::{PolicyCell, PolicySnapshot},
    prices::Prices,
    spender::{Spender, WindowId},
};

/// The agent's part of the snapshot in force. Only a changed snapshot costs anything.
pub(super) struct View {
    cell: Arc<PolicyCell>,
    generation: u64,
    /// None before the agent has registered: then nothing can be decided.
    rules: Option<Rules>,
}

/// What applies to the agent.
pub(super) struct Rules {
    pub(super) policies: AgentPolicies,
    /// The windows in which its calls of models are paid; none where nothing limits what it spends.
    pub(super) windows: Arc<[MeteredWindow]>,
    pub(super) prices: Arc<Prices>,
    /// Who is asked for approval.
    pub(super) approvers: Arc<Approvers>,
}

/// A window that an agent's calls are paid in.
#[derive(Clone, Debug)]
pub(super) struct MeteredWindow {
    pub(super) id: WindowId,
    /// The tightest limit of the agent's policies on its own window; of a shared one, its budget's limits.
    pub(super) limits: Limits,
    /// Whether it refuses what would pass its limits.
    pub(super) enforced: bool,
}

// === impl View ===

impl View {
    pub(super) fn new(
        cell: Arc<PolicyCell>,
        workspace: WorkspaceId,
        facts: Option<&AgentFacts>,
    ) -> Self {
        let snapshot = cell.load_full();
        let rules = facts.map(|facts| Rules::of(&snapshot, workspace, facts));
        Self { generation: snapshot.generation, rules, cell }
    }

    /// The rules in force.
    pub(super) fn in_force(&mut self, workspace: WorkspaceId, facts: &AgentFacts) -> &Rules {
        if self.cell.load().generation != self.generation {
            self.rules = None;
        }
        let Self { cell, generation, rules } = self;
        rules.get_or_insert_with(|| {
            let snapshot = cell.load_full();
            *generation = snapshot.generation;
            Rules::of(&snapshot, workspace, facts)
        })
    }

    /// Whether the rules in force could be read.
    pub(super) fn is_readable(&self) -> bool {
        self.cell.load().is_readable
    }

    /// Forgets what depends on the agent's facts.
    pub(super) fn facts_changed(&mut self) {
        self.rules = None;
    }
}

// === impl Rules ===

impl Rules {
    fn of(snapshot: &PolicySnapshot, workspace: WorkspaceId, facts: &AgentFacts) -> Self {
        let policies = snapshot.set.for_agent(facts);
        let mut windows = own_windows(&policies, workspace, facts);
        windows.extend(snapshot.budgets.of_agent(facts).map(|budget| MeteredWindow {
            id: shared_window(workspace, budget),
            limits: budget.limits,
            enforced: budget.action == OnExceeded::Deny,
        }));
        Self {
            policies,
            windows: windows.into(),
            prices: Arc::clone(&snapshot.prices),
            approvers: Arc::clone(&snapshot.approvers),
        }
    }
}

/// The agent's own windows: one for each period and zone in which a policy limits its spending.
fn own_windows(
    policies: &AgentPolicies,
    workspace: WorkspaceId,
    facts: &AgentFacts,
) -> Vec<MeteredWindow> {
    let mut windows: Vec<MeteredWindow> = Vec::new();
    for document in policies.iter() {
        let Some(budget) = document.policy.budget() else { continue };
        for period in [Period::Day, Period::Month] {
            let Some(limit) = budget.limit(period) else { continue };
            let id = own_window(workspace, facts, &budget.calendar(period));
            match windows.iter_mut().find(|window| window.id == id) {
                Some(known) => known.limits.cost = known.limits.cost.min(Some(limit)),
                None => {
                    let limits = Limits::of_cost(limit);
                    windows.push(MeteredWindow { id, limits, enforced: true });
                }
            }
        }
    }
    windows
}

/// The agent's own window of a calendar.
pub(super) fn own_window(
    workspace: WorkspaceId,
    facts: &AgentFacts,
    calendar: &aa_budget::Calendar,
) -> WindowId {
    WindowId {
        workspace,
        spender: Spender::Agent(facts.id),
        period: calendar.period(),
        zone: calendar.zone_name().into(),
    }
}

fn shared_window(workspace: WorkspaceId, budget: &BudgetRecord) -> WindowId {
    WindowId::utc(workspace, budget.spender.clone(), budget.period)
}
