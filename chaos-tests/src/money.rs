//! Money under fire: many agents spend from shared windows over a store that fails, on a clock that jumps, while
//! nodes are taken over, clients vanish, and limits change. Everything follows from one seed.
//!
//! [`WatchedStore`] sees every committed state and checks it at once; [`Simulation`] compares at the end what the
//! windows posted with what the log and the clients know.

mod simulation;
mod watched_store;

pub use self::{
    simulation::{Outcome, Simulation},
    watched_store::{Ledger, MoneyViolation, WatchedStore, WindowState},
};
