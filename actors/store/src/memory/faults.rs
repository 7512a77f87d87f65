//! Faults on purpose: what a distributed store does on a bad day, on demand.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::watch;

/// One fault of a commit that writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Refused as a conflict, though there is none.
    Conflict,
    /// Applied (unless it conflicts), but the answer says that this is unknown.
    UnknownApplied,
    /// Not applied, and the answer says that this is unknown.
    UnknownLost,
    /// Held until [`Faults::release`], then resolved as if it had arrived then.
    Stall,
    /// Held for a time on the store's clock, then resolved as if it had arrived then.
    StallFor(Duration),
    /// Refused: the store does not answer.
    Unavailable,
    /// Refused: no space is left.
    Full,
}

/// How likely each fault is per commit, each from 0 to 1; their sum is at most 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FaultRates {
    /// [`Fault::Conflict`].
    pub conflict: f64,
    /// [`Fault::UnknownApplied`].
    pub unknown_applied: f64,
    /// [`Fault::UnknownLost`].
    pub unknown_lost: f64,
    /// [`Fault::StallFor`] a time up to `stall_for`.
    pub stall: f64,
    /// [`Fault::Unavailable`].
    pub unavailable: f64,
    /// [`Fault::Full`].
    pub full: f64,
    /// The longest random stall, on the store's clock.
    pub stall_for: Duration,
}

/// The faults of one memory store: a script for the next commits, then chance from a seed. Clones
/// steer the same store.
#[derive(Clone, Debug)]
pub struct Faults(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    plan: Mutex<Plan>,
    outage: AtomicBool,
    /// Counts releases; a stalled commit waits for the next one.
    releases: watch::Sender<u64>,
    stalled: AtomicUsize,
}

#[derive(Debug)]
struct Plan {
    script: VecDeque<Option<Fault>>,
    rates: FaultRates,
    chance: fastrand::Rng,
}

/// Counts one stalled commit, also when its future is dropped.
struct Stalled<'a>(&'a AtomicUsize);

// === impl Faults ===

impl Faults {
    /// No faults, until some are asked for.
    pub fn none() -> Self {
        Self::seeded(0, FaultRates::default())
    }

    /// Faults by chance; the same seed and the same order of commits give the same faults.
    pub fn seeded(seed: u64, rates: FaultRates) -> Self {
        let plan = Plan { script: VecDeque::new(), rates, chance: fastrand::Rng::with_seed(seed) };
        Self(Arc::new(Inner {
            plan: Mutex::new(plan),
            outage: AtomicBool::new(false),
            releases: watch::Sender::new(0),
            stalled: AtomicUsize::new(0),
        }))
    }

    /// Appends to the script: what becomes of the next commits that write, in order; `None` lets one
    /// pass. Chance begins when the script ends.
    pub fn script(&self, faults: impl IntoIterator<Item = Option<Fault>>) {
        self.0.plan.lock().script.extend(faults);
    }

    /// Changes the rates.
    pub fn set_rates(&self, rates: FaultRates) {
        self.0.plan.lock().rates = rates;
    }

    /// Makes every call fail with `Unavailable`, or ends that.
    pub fn set_unavailable(&self, unavailable: bool) {
        self.0.outage.store(unavailable, Ordering::SeqCst);
    }

    /// Lets every commit go on that [`Fault::Stall`] holds now.
    pub fn release(&self) {
        self.0.releases.send_modify(|count| *count += 1);
    }

    /// How many commits [`Fault::Stall`] holds now.
    pub fn stalled(&self) -> usize {
        self.0.stalled.load(Ordering::SeqCst)
    }

    pub(super) fn unavailable(&self) -> bool {
        self.0.outage.load(Ordering::SeqCst)
    }

    /// The fault of the next commit.
    pub(super) fn strike(&self) -> Option<Fault> {
        let mut plan = self.0.plan.lock();
        if let Some(scripted) = plan.script.pop_front() {
            return scripted;
        }
        plan.draw()
    }

    pub(super) async fn stall(&self) {
        let mut releases = self.0.releases.subscribe();
        let _stalled = Stalled::count(&self.0.stalled);
        // The sender lives as long as `self`.
        let _ = releases.changed().await;
    }
}

impl Default for Faults {
    fn default() -> Self {
        Self::none()
    }
}

// === impl Plan ===

impl Plan {
    fn draw(&mut self) -> Option<Fault> {
        let rates = self.rates;
        if rates == FaultRates::default() {
            return None;
        }
        let mut point = self.chance.f64();
        // Drawn always, so that one rate does not shift the random numbers of the others.
        let stall = rates.stall_for.mul_f64(self.chance.f64());
        let table = [
            (rates.conflict, Fault::Conflict),
            (rates.unknown_applied, Fault::UnknownApplied),
            (rates.unknown_lost, Fault::UnknownLost),
            (rates.stall, Fault::StallFor(stall)),
            (rates.unavailable, Fault::Unavailable),
            (rates.full, Fault::Full),
        ];
        for (rate, fault) in table {
            if point < rate {
                return Some(fault);
            }
            point -= rate;
        }
        None
    }
}

// === impl Stalled ===

impl<'a> Stalled<'a> {
    fn count(stalled: &'a AtomicUsize) -> Self {
        stalled.fetch_add(1, Ordering::SeqCst);
        Self(stalled)
    }
}

impl Drop for Stalled<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
