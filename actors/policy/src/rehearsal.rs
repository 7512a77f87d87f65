//! Decisions of one after the other, as in one session: for asking what comes of a policy before it is in force.

use std::collections::BTreeMap;

use aa_protocol::{Action, AgentFacts, Timestamp};

use crate::{
    decide::{Outcome, decide},
    facts::Facts,
    sequences::SequenceRef,
    set::AgentPolicies,
};

/// What one session of an agent has come to. Nobody approves anything in it, and nothing costs money.
#[derive(Clone, Debug, Default)]
pub struct Rehearsal {
    /// Admitted calls in the last 60 minutes, by tool.
    rates: BTreeMap<String, u64>,
    /// The sequences that results have armed.
    armed: Vec<SequenceRef>,
}

// === impl Rehearsal ===

impl Rehearsal {
    /// A session of an agent with so many admitted calls in the last 60 minutes, by tool.
    pub fn new(rates: BTreeMap<String, u64>) -> Self {
        Self { rates, armed: Vec::new() }
    }

    /// Decides the next action, and keeps what it changes for those that follow.
    pub fn step(
        &mut self,
        policies: &AgentPolicies,
        agent: &AgentFacts,
        action: &Action,
        at: Timestamp,
    ) -> Outcome {
        let facts = Facts { rates: &self.rates, armed: &self.armed, ..Facts::of(agent) };
        let outcome = decide(policies, &facts, action, at);
        if let (Some(_), Action::ToolCall { tool, .. }) = (outcome.counted_limit, action) {
            *self.rates.entry(tool.clone()).or_default() += 1;
        }
        self.armed.extend(outcome.arms.iter().cloned());
        outcome
    }
}
