//! The native half of the Python package `agent_assembly`: thin classes over [`aa_client::blocking`].
//!
//! It refuses to decide anything, and to know Python's frameworks: those live in the package itself.
//! Calls release the interpreter while they wait. Answers to asynchronous checks are handed to Python by
//! a thread of their own, so that the thread that talks to the gateway never waits for the interpreter.

mod action;
mod agent;
mod answer;

use pyo3::prelude::*;

#[pymodule]
mod _native {
    #[pymodule_export]
    use super::action::Action;
    #[pymodule_export]
    use super::agent::{Agent, Client};
    #[pymodule_export]
    use super::answer::{Checked, Failure};
}
