//! What all parts of a storm know.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use aa_protocol::Verdict;
use parking_lot::Mutex;

use super::{Outcome, Size, site::Site};
use crate::invariants::Acknowledged;

/// Everything there is in a storm.
pub(super) struct World {
    pub(super) site: Arc<dyn Site>,
    pub(super) seed: u64,
    pub(super) size: Size,
    pub(super) outcome: Mutex<Outcome>,
    pub(super) told: Mutex<Vec<Told>>,
    /// What operators were told is in force.
    pub(super) in_force: Mutex<Vec<InForce>>,
    /// How many answers each agent had.
    pub(super) answers: Vec<AtomicU64>,
    /// What agents were told that their calls did cost, in billionths of a dollar.
    pub(super) charged: AtomicI64,
    /// The most that may be spent, in cents.
    pub(super) budget: AtomicI64,
    /// When the window of the budget began, as it was told first.
    pub(super) window: Mutex<String>,
    /// What clients and operators wait for, for those who find them stuck.
    pub(super) waiting: Mutex<BTreeMap<String, String>>,
    violation: Mutex<Option<String>>,
    log: Mutex<String>,
    ended: AtomicBool,
    begun: Instant,
}

/// A decision that a client was told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub(super) acknowledged: Acknowledged,
    pub(super) verdict: Verdict,
    /// When the client first asked.
    pub(super) asked: Duration,
    /// The tool that it asked for.
    pub(super) tool: Option<usize>,
}

/// A revision of the policy, as an operator was told.
#[derive(Clone, Copy, Debug)]
pub(super) struct InForce {
    /// When the operator was told.
    pub(super) since: Duration,
    pub(super) revision: u64,
    /// The tool that it forbids.
    pub(super) forbids: usize,
}

/// Tools of which each revision of the policy forbids one.
pub(super) const TOOLS: usize = 4;

// === impl World ===

impl World {
    pub(super) fn new(site: Arc<dyn Site>, seed: u64, size: Size) -> Self {
        Self {
            site,
            seed,
            size,
            outcome: Mutex::default(),
            told: Mutex::default(),
            in_force: Mutex::default(),
            answers: (0..size.agents).map(|_| AtomicU64::new(0)).collect(),
            charged: AtomicI64::new(0),
            budget: AtomicI64::new(0),
            window: Mutex::default(),
            waiting: Mutex::default(),
            violation: Mutex::default(),
            log: Mutex::default(),
            ended: AtomicBool::new(false),
            begun: Instant::now(),
        }
    }

    /// Random numbers of a part's own.
    pub(super) fn chance(&self, part: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// The time since the beginning.
    pub(super) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Adds a line to what was done.
    pub(super) fn note(&self, what: &str) {
        let at = self.elapsed().as_secs_f64();
        // Writing to a text does not fail.
        let _ = writeln!(self.log.lock(), "  {at:8.3} s  {what}");
    }

    pub(super) fn log(&self) -> String {
        self.log.lock().clone()
    }

    pub(super) fn end(&self) {
        self.note("the storm is over");
        self.ended.store(true, Ordering::Relaxed);
    }

    /// Whether nothing new is begun.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed) || self.is_lost()
    }

    /// Whether something was found wrong, so that nothing needs to be finished.
    pub(super) fn is_lost(&self) -> bool {
        self.violation.lock().is_some()
    }

    pub(super) fn report(&self, violation: String) {
        let mut first = self.violation.lock();
        if first.is_none() {
            self.note(&format!("WRONG: {violation}"));
            *first = Some(violation);
        }
    }

    /// What was found wrong.
    pub(super) fn found(&self) -> Option<String> {
        self.violation.lock().clone()
    }

    /// Says what stands still.
    pub(super) fn stuck(&self, what: &str) -> String {
        let waiting = self.waiting.lock();
        let waiting: Vec<_> = waiting.iter().map(|(who, what)| format!("{who}: {what}")).collect();
        format!("{what}. waiting: {}", waiting.join("; "))
    }

    /// How many answers each agent has.
    pub(super) fn answers(&self) -> Vec<u64> {
        self.answers.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }
}
