//! This project's own engine.

use std::{hint::black_box, sync::Arc};

use aa_policy::{AgentPolicies, Facts, Judgement, Outcome, PolicySet, check, judge};
use aa_protocol::{AgentFacts, Timestamp, Verdict};

use super::{Engine, Sample, Scenario};
use crate::Error;

/// `judge()` over the documents of a scenario, as the actor of one agent calls it; or `decide()`, which is
/// the same with an outcome of the caller's own.
pub struct Ours {
    shape: Shape,
    set: PolicySet,
    policies: AgentPolicies,
    agent: AgentFacts,
    samples: Vec<Sample>,
    now: Timestamp,
}

/// In which shape outcomes are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `judge()`: admissions are shared.
    Shared,
    /// `decide()`: every outcome is a copy.
    Owned,
}

// === impl Ours ===

impl Ours {
    /// Checks and compiles the documents.
    ///
    /// # Errors
    /// When a document is not accepted.
    pub fn new(scenario: &Scenario, shape: Shape) -> Result<Self, Error> {
        let mut policies = Vec::new();
        for source in scenario.documents() {
            let checked = check(source.as_bytes(), "benchmark");
            let policy = checked.policy.ok_or_else(|| format!("{:?}", checked.errors))?;
            policies.push((Arc::new(policy), Some(1)));
        }
        let agent = scenario.agent()?;
        let set = PolicySet::new(policies)?;
        Ok(Self {
            shape,
            policies: set.for_agent(&agent),
            set,
            agent,
            samples: scenario.samples()?,
            now: Timestamp::from_micros(1_763_900_000_000_000),
        })
    }

    /// The same rules for an agent of another thread.
    pub fn beside(&self) -> Self {
        let Self { shape, set, agent, samples, now, .. } = self;
        let policies = set.for_agent(agent);
        let (set, agent, samples) = (set.clone(), agent.clone(), samples.clone());
        Self { shape: *shape, set, policies, agent, samples, now: *now }
    }

    fn judge(&self, sample: usize) -> Option<Judgement> {
        let sample = self.samples.get(sample)?;
        Some(judge(&self.policies, &Facts::of(&self.agent), &sample.action, self.now))
    }
}

impl Engine for Ours {
    fn decide(&mut self, sample: usize) -> Result<Verdict, Error> {
        let judgement = self.judge(sample).ok_or("no such sample")?;
        Ok(match self.shape {
            Shape::Shared => black_box(judgement).outcome().decision.verdict,
            Shape::Owned => black_box(Outcome::from(judgement)).decision.verdict,
        })
    }
}
