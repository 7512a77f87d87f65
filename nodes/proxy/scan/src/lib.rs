//! Sensitive patterns in text that comes in pieces, and the content codings that such text comes in.
//!
//! It knows no socket, no task and no clock: bytes and text are handed in, what may leave is handed out.
//!
//! - [`Rules`] are patterns as a policy's `data.sensitive_patterns` has them. A [`Scanner`] searches one text
//!   with them piece by piece, and tells how much of it may leave. What it reports is what a policy
//!   decision finds in the whole text.
//! - A [`Redactor`] puts [`REDACTED`] in the place of the matches.
//! - [`decode`] undoes content codings as the bytes come, within bounds.

pub mod decode;
mod program;
mod redactor;
mod rules;
mod scanner;
mod search;

pub use self::{
    redactor::{Part, REDACTED, Redacted, Redactor},
    rules::{Hold, RuleError, RuleProblem, Rules},
    scanner::{Match, Scanned, Scanner},
};
