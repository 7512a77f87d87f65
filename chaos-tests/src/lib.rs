//! Faults, clusters and load: real processes that are killed, and the invariants that hold all the same.
//!
//! It tests from outside, as a caller: through the client, the API and the exports.

pub mod cluster;
pub mod door;
pub mod fault_proxy;
pub mod fuzz;
pub mod invariants;
pub mod latencies;
pub mod load;
pub mod money;
pub mod operator;
pub mod outside;
pub mod peer;
pub mod process;
pub mod storm;
pub mod vitals;
