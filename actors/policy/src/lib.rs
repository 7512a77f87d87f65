//! Policies of Agent Assembly: from a source document to a decision.
//!
//! It refuses to know time, storage, sockets and threads: everything a decision depends on is an argument,
//! so that gateway, proxy, sensor, SDK, command line and replay share one function.
//!
//! The path of a document: [`check()`] reads the source into a tree of positioned nodes (`tree`), walks it
//! along the one table of fields (`shape`, `conform`), and compiles each section into a [`Policy`].
//! Documents in force make a [`PolicySet`]; what can apply to one agent is its [`AgentPolicies`];
//! [`decide()`] climbs one ladder of checks over them and returns an [`Outcome`]; [`judge()`] is the same in a
//! shape that copies nothing where nothing is refused.

mod admission;
pub mod approval;
pub mod budget;
pub mod capabilities;
pub mod cases;
mod check;
mod condition;
mod conform;
mod data;
mod decide;
mod decoded;
pub mod diagnostic;
mod exemption;
mod facts;
pub mod host;
mod lint;
mod network;
mod patterns;
mod policy;
mod re2;
mod rehearsal;
mod schedule;
mod schema;
mod scope;
mod sensitive_pattern;
mod sequences;
mod set;
mod shape;
mod stream_rules;
mod tree;

pub use aa_budget::{Amount, Limits, Standing};

pub use self::{
    admission::Admission,
    budget::{ActionOnExceed, Budget, Period},
    check::{Checked, check},
    decide::{Judgement, Outcome, PolicyRef, decide, judge},
    diagnostic::{Diagnostic, DiagnosticCode},
    exemption::{CannotPropose, Exemption, exempt},
    facts::{
        ArmedFacts, BudgetFacts, Cost, Facts, RateFacts, SharedBudget, Spend, Spent, Suspension,
        Unmetered,
    },
    lint::{Lint, lint},
    policy::Policy,
    re2::PatternError,
    rehearsal::Rehearsal,
    schema::json_schema,
    scope::{Scope, ScopeError},
    sensitive_pattern::SensitivePattern,
    sequences::SequenceRef,
    set::{AgentPolicies, Document, DuplicatePolicy, PolicySet},
    stream_rules::{OnStreamMatch, StreamPattern, StreamRules},
};

/// The policy a new workspace starts with: it allows everything, and everything is audited.
pub const STARTER: &str = include_str!("starter.yaml");
