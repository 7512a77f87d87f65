//! The ledger as its callers use it.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test, in its fixture too")]

mod cef;
mod entry;
mod export;
mod falsification;
mod log;
mod tree;
mod verification;
