//! What an agent has spent, as a fact for decisions.

use aa_budget::Standing;
use aa_policy::{AgentPolicies, BudgetFacts, Period, Spend, Spent};
use aa_protocol::{AgentFacts, WorkspaceId};

use super::view::own_window;
use crate::{agent_record::BudgetSuspension, budget_window::Asked, spender::WindowId};

/// What an agent has spent, from its windows' answers and from the suspension that stands.
pub(super) struct SpentBy<'a> {
    pub(super) workspace: WorkspaceId,
    pub(super) facts: &'a AgentFacts,
    pub(super) policies: &'a AgentPolicies,
    pub(super) answers: &'a [(WindowId, Asked)],
    pub(super) suspension: Option<&'a BudgetSuspension>,
}

impl BudgetFacts for SpentBy<'_> {
    fn spend(&self, policy: &str) -> Spend {
        let mut spend = Spend::default();
        if let Some(suspension) = self.suspension.filter(|known| known.policy == policy) {
            let spent = Spent { posted: suspension.spent, reserved: suspension.reserved };
            match suspension.window {
                aa_budget::Period::Monthly => {
                    (spend.month, spend.suspended) = (spent, Some(Period::Month));
                }
                _ => (spend.day, spend.suspended) = (spent, Some(Period::Day)),
            }
        }
        if self.answers.is_empty() {
            return spend;
        }
        let document = self.policies.iter().find(|document| document.policy.name() == policy);
        let Some(budget) = document.and_then(|document| document.policy.budget()) else {
            return spend;
        };
        let of = |period| {
            let id = own_window(self.workspace, self.facts, &budget.calendar(period));
            let (_, asked) = self.answers.iter().find(|(window, _)| *window == id)?;
            let Standing { posted, reserved, .. } = asked.standing;
            Some(Spent { posted: posted.cost(), reserved: reserved.cost() })
        };
        spend.day = of(Period::Day).unwrap_or(spend.day);
        spend.month = of(Period::Month).unwrap_or(spend.month);
        spend
    }
}
