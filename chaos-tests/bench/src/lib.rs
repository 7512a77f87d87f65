//! Benchmarks of what the product does most, each beside a baseline from the same run.
//!
//! A benchmark is a program of its own under `src/bin`. It prints the [`Machine`], what stands inside the
//! timed section, and for every figure the median and the spread over its [`Rounds`]; where single
//! operations are timed, their [`Latencies`]. This crate is no default member of the workspace: it
//! compiles other engines only to be measured beside them.

pub mod corpus;
mod cpu;
mod latencies;
pub mod log;
mod machine;
pub mod policies;
mod rounds;

pub use self::{
    cpu::time_on_cpu,
    latencies::Latencies,
    machine::Machine,
    rounds::{Rounds, interleaved},
};

/// What a benchmark may fail with.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
