//! Fuzz targets: what must hold for every input, whoever made it.
//!
//! Each target is one function over bytes that panics when its property does not hold. `fuzz/` runs them
//! under libFuzzer, `tests/corpus.rs` replays the inputs that were kept. The paths are spelled out since
//! `fuzz/` includes this file by its own path, to build without the servers.

#[path = "fuzz/action.rs"]
pub mod action;
#[path = "fuzz/condition.rs"]
pub mod condition;
#[path = "fuzz/decision.rs"]
pub mod decision;
#[path = "fuzz/decode.rs"]
pub mod decode;
#[path = "fuzz/dialect.rs"]
pub mod dialect;
#[path = "fuzz/export.rs"]
pub mod export;
#[path = "fuzz/key.rs"]
pub mod key;
#[path = "fuzz/ledger.rs"]
pub mod ledger;
#[path = "fuzz/pattern.rs"]
pub mod pattern;
#[path = "fuzz/policy.rs"]
pub mod policy;
#[path = "fuzz/sample_log.rs"]
mod sample_log;
#[path = "fuzz/scan.rs"]
pub mod scan;
#[path = "fuzz/subject.rs"]
mod subject;
#[path = "fuzz/token.rs"]
pub mod token;

/// A target: panics when the property it stands for does not hold for these bytes.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also the name of its corpus.
pub const TARGETS: [(&str, Target); 13] = [
    ("action", action::target),
    ("condition", condition::target),
    ("decision", decision::target),
    ("decode", decode::target),
    ("dialect_answer", dialect::answer),
    ("dialect_request", dialect::request),
    ("export", export::target),
    ("key", key::target),
    ("ledger", ledger::target),
    ("pattern", pattern::target),
    ("policy", policy::target),
    ("scan", scan::target),
    ("token", token::target),
];
