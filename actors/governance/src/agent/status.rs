//! When an agent is suspended and resumed: by an operator, by a budget, by the end of a budget's window.

use aa_ledger::{Draft, Kind};
use aa_protocol::{Decision, ReasonCode, Timestamp};
use aa_runtime::{Fault, Record, Reply};

use super::{AgentActor, NotRegistered, StatusChange};
use crate::{
    agent_record::{AgentRecord, BudgetSuspension, Suspension},
    bulletin::Bulletin,
    notice::Notice,
};

impl AgentActor {
    pub(super) fn set_status(
        &mut self,
        change: StatusChange,
        now: Timestamp,
        reply: Reply<Result<AgentRecord, NotRegistered>>,
    ) {
        let Some(mut record) = self.record.clone() else {
            reply.send(Ok(Err(NotRegistered(self.id.agent))));
            return;
        };
        let by_budget = record.budget_suspension.is_some();
        if record.suspended.is_some() == change.suspend && (change.suspend || !by_budget) {
            self.shard.journal.answer_after(reply, Ok(record));
            return;
        }
        // An operator's word lifts what a budget did, until the next call that would pass it.
        record.budget_suspension = record.budget_suspension.filter(|_| change.suspend);
        record.suspended = change.suspend.then(|| Suspension {
            at: now,
            by: change.actor.clone(),
            reason: change.reason.clone(),
        });
        let status = if change.suspend { "suspended" } else { "active" };
        let mut detail = vec![("status", status)];
        if !change.reason.is_empty() {
            detail.insert(0, ("reason", change.reason.as_str()));
        }
        let event = self.services.entropy.event_id(now);
        let entry = self.seal(&Draft {
            kind: Kind::Status,
            actor: Some(&change.actor),
            detail: &detail,
            ..self.draft(event, now)
        });
        let write = self.record_write(&record);
        self.record = Some(record.clone());
        let notice = Notice::StatusChanged { agent: self.id.agent, suspended: change.suspend };
        let bulletin = Bulletin::new(&self.services, self.id.workspace, notice);
        let news = bulletin.news();
        let done = Reply::new(move |committed: Result<(), Fault>| {
            if committed.is_ok() {
                bulletin.tell();
            }
            reply.send(committed.map(|()| Ok(record)));
        });
        self.append_record(Record { news, ..Record::of_entry(entry, vec![write], done) });
    }

    /// What a refusal by a budget that suspends means for the agent.
    pub(super) fn suspension_of(
        &self,
        decision: &Decision,
        now: Timestamp,
    ) -> Option<BudgetSuspension> {
        let suspends = |code| code == ReasonCode::BudgetSuspended;
        let reason = decision.reasons.iter().find(|reason| suspends(reason.code))?;
        let standing = reason.budget.as_deref()?;
        Some(BudgetSuspension {
            policy: reason.policy.clone()?,
            revision: reason.revision,
            window: aa_budget::Period::from_name(&standing.window)?,
            at: now,
            until: standing.resets_at,
            spent: standing.spent,
            reserved: standing.reserved,
        })
    }

    /// Notes that a budget suspends the agent, unless it does already.
    pub(super) fn suspend_by_budget(&mut self, suspension: BudgetSuspension, now: Timestamp) {
        let Some(record) = &mut self.record else { return };
        if record.budget_suspension.as_ref().is_some_and(|known| known.until >= suspension.until) {
            return;
        }
        let (policy, until) = (suspension.policy.clone(), suspension.until.to_string());
        record.budget_suspension = Some(suspension);
        let detail = [
            ("policy", policy.as_str()),
            ("reason", "budget"),
            ("status", "suspended"),
            ("until", &until),
        ];
        self.status_changed(true, &detail, now);
    }

    /// Ends a suspension by a budget whose window has begun anew, or whose policy changed.
    pub(super) fn lift_suspension(&mut self, now: Timestamp) {
        let Some(record) = &mut self.record else { return };
        let Some(known) = &record.budget_suspension else { return };
        let rules = self.policies.in_force(self.id.workspace, &record.facts);
        let stands = rules.policies.iter().any(|document| {
            document.policy.name() == known.policy && document.revision == known.revision
        });
        if stands && now < known.until {
            return;
        }
        let reason = if stands { "budget_reset" } else { "policy_changed" };
        record.budget_suspension = None;
        self.status_changed(false, &[("reason", reason), ("status", "active")], now);
    }

    fn status_changed(&mut self, suspended: bool, detail: &[(&str, &str)], now: Timestamp) {
        let Some(record) = &self.record else { return };
        let write = self.record_write(record);
        let event = self.services.entropy.event_id(now);
        let entry = self.seal(&Draft { kind: Kind::Status, detail, ..self.draft(event, now) });
        let notice = Notice::StatusChanged { agent: self.id.agent, suspended };
        let bulletin = Bulletin::new(&self.services, self.id.workspace, notice);
        let news = bulletin.news();
        let done = Reply::new(move |committed: Result<(), Fault>| {
            if committed.is_ok() {
                bulletin.tell();
            }
        });
        self.append_record(Record { news, ..Record::of_entry(entry, vec![write], done) });
    }
}
