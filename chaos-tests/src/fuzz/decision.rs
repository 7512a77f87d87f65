//! Decisions: the engine answers as an evaluator does that is too simple to be wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use aa_policy::{
    AgentPolicies, Amount, ArmedFacts, BudgetFacts, Facts, Outcome, Period, PolicySet, Spend,
    Suspension, check, decide,
};
use aa_protocol::{Action, AgentFacts, NanoUsd, ReasonCode, Timestamp, Verdict};
use arbitrary::Unstructured;

pub(super) use self::naive::condition::evaluate as evaluate_naively;
use self::{
    naive::{Answer, Question, Reason, Spending},
    world::World,
};

#[path = "decision/naive.rs"]
mod naive;
#[path = "decision/world.rs"]
mod world;

struct Armed<'a>(&'a BTreeSet<String>);

struct Budgets<'a>(&'a BTreeMap<String, Spending>);

/// Reads a small world and asks both evaluators.
///
/// # Panics
/// When they disagree.
pub fn target(data: &[u8]) {
    if let Ok(world) = World::read(&mut Unstructured::new(data)) {
        compare(&world);
    }
}

fn compare(world: &World) {
    let agent: AgentFacts = parsed(&world.agent);
    let policies = policies(world, &agent);
    // The first again at last: what was decided in between is no reason to decide otherwise.
    for question in world.questions.iter().chain(world.questions.first()) {
        let outcome = ask(&policies, &agent, question);
        let approval = outcome.decision.approval.as_ref();
        let told = Answer {
            verdict: outcome.decision.verdict,
            reasons: reasons(&outcome),
            approval: approval
                .map(|terms| (terms.timeout_seconds, terms.roles.iter().cloned().collect())),
            arms: outcome.arms.iter().map(ToString::to_string).collect(),
            applied: outcome.applied.iter().map(|policy| policy.name.to_string()).collect(),
            counted_limit: outcome.counted_limit,
        };
        let expected = naive::answer(&world.documents, &world.agent, question);
        if let Some(difference) = difference(&told, &expected) {
            panic!(
                "{difference}\n{}\n{question:#?}\nengine: {told:#?}\nexpected: {expected:#?}",
                describe(world)
            );
        }
    }
}

fn policies(world: &World, agent: &AgentFacts) -> AgentPolicies {
    let policies = world.documents.iter().map(|document| {
        let source = document.source.to_string();
        let checked = check(source.as_bytes(), &document.name);
        let policy = checked.policy.unwrap_or_else(|| panic!("{source}: {:#?}", checked.errors));
        (Arc::new(policy), None)
    });
    PolicySet::new(policies).expect("the names differ").for_agent(agent)
}

fn ask(policies: &AgentPolicies, agent: &AgentFacts, question: &Question) -> Outcome {
    let suspension = Suspension::default();
    let facts = Facts {
        agent,
        suspended: question.suspended.then_some(&suspension),
        rates: &question.rates,
        budgets: &Budgets(&question.spending),
        shared_budgets: &[],
        is_approved: false,
        armed: &Armed(&question.armed),
        cost: Amount::new(NanoUsd(question.cost), 0).unwrap_or_default().into(),
    };
    let action: Action = parsed(&question.action);
    decide(policies, &facts, &action, Timestamp::from_micros(question.now))
}

fn parsed<T: serde::de::DeserializeOwned>(json: &serde_json::Value) -> T {
    serde_json::from_value(json.clone()).unwrap_or_else(|error| panic!("{json}: {error}"))
}

/// The reasons that led to the verdict: a denial may also say what would have needed approval.
fn reasons(outcome: &Outcome) -> Vec<Reason> {
    let belongs = |code: ReasonCode| match outcome.decision.verdict {
        Verdict::Allow => code == ReasonCode::Allowed,
        Verdict::RequireApproval => asks(code),
        Verdict::Deny => !asks(code) && code != ReasonCode::Allowed,
    };
    let of_verdict = outcome.decision.reasons.iter().filter(|reason| belongs(reason.code));
    of_verdict
        .map(|reason| {
            // An admission is by the whole document.
            let path = reason.path.clone().filter(|_| reason.code != ReasonCode::Allowed);
            (reason.code, reason.policy.clone(), path)
        })
        .collect()
}

fn asks(code: ReasonCode) -> bool {
    code.asks_for_approval()
}

fn difference(told: &Answer, expected: &Answer) -> Option<&'static str> {
    let set = |answer: &Answer| answer.reasons.iter().cloned().collect::<BTreeSet<_>>();
    match () {
        () if told.verdict != expected.verdict => Some("the verdicts differ"),
        () if told.reasons.first() != expected.reasons.first() => Some("other reasons come first"),
        () if set(told) != set(expected) => Some("the reasons differ"),
        () if told.approval != expected.approval => Some("the terms of approval differ"),
        () if told.applied != expected.applied => Some("other documents applied"),
        () if told.arms != expected.arms => Some("other sequences are armed"),
        () if told.counted_limit != expected.counted_limit => Some("the counted limits differ"),
        () => None,
    }
}

fn describe(world: &World) -> String {
    let documents = world.documents.iter();
    let documents = documents.map(|document| format!("{}: {}", document.name, document.source));
    let documents: Vec<_> = documents.collect();
    format!("agent {}\n{}", world.agent, documents.join("\n"))
}

// === impl Armed ===

impl ArmedFacts for Armed<'_> {
    fn is_armed(&self, policy: &str, sequence: &str) -> bool {
        self.0.contains(&format!("{policy}/{sequence}"))
    }
}

// === impl Budgets ===

impl BudgetFacts for Budgets<'_> {
    fn spend(&self, policy: &str) -> Spend {
        let Spending { day, month, suspended } = self.0.get(policy).copied().unwrap_or_default();
        let suspended =
            suspended.map(|window| if window == "day" { Period::Day } else { Period::Month });
        Spend { day: NanoUsd(day).into(), month: NanoUsd(month).into(), suspended }
    }
}
