//! Money under fire: many agents spend from shared windows over a store that fails, on a clock that jumps, while
//! nodes are taken over, clients vanish, and limits change. Everything follows from one seed.
//!
//! [`WatchedStore`] sees every committed state and checks it at once; [`Simulation`] compares at the end what the
//! windows posted with what the log and the clients know.

mod simulation;
mod watched_store;

pub use self::{
    simulation::{Outcome, Simulation},
    watched_store::{Fences, Ledger, MoneyViolation, WatchedStore, WindowState},
};

/// Where runs begin: days on which clocks change in the zones that are spent in, and an ordinary one.
const STARTS: [&str; 4] = [
    "2026-03-07T20:00:00Z",
    "2026-10-31T20:00:00Z",
    "2026-04-04T10:00:00Z",
    "2026-11-23T12:00:00Z",
];

/// The most actions of one run: all of its log is in memory.
const RUN: u64 = 50_000;

const AGENTS: usize = 2_000;
const AT_ONCE: usize = 64;

/// Runs of consecutive seeds, from `seed` on, until `actions` actions are done. `tell` is told of each.
///
/// # Errors
/// What is wrong, with its seed.
///
/// # Panics
/// When no runtime can be made.
pub fn campaign(actions: u64, seed: u64, tell: fn(String)) -> Result<Vec<Outcome>, String> {
    let runs = actions.div_ceil(RUN).max(STARTS.len() as u64);
    let mut outcomes = Vec::new();
    for (seed, start) in (seed..).zip(STARTS.into_iter().cycle()).take(runs as usize) {
        tell(format!("seed {seed}, from {start}"));
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let start = start.parse().expect("a time");
        let outcome = runtime.block_on(async {
            Simulation::new(seed, AGENTS, actions.div_ceil(runs), start).await.run(AT_ONCE).await
        })?;
        tell(format!("  {outcome:?}"));
        outcomes.push(outcome);
    }
    Ok(outcomes)
}
