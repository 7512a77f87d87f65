//! What all parts of a soak share.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use aa_chaos_tests::{invariants::Acknowledged, latencies::Latencies, process::Environment};
use tokio::sync::watch;
use tonic::{Code, Status};

use crate::actions::Actions;

/// The state of the run.
pub(crate) struct World {
    /// Where everything is.
    pub(crate) env: Environment,
    /// What agents do.
    pub(crate) actions: Actions,
    /// What the run's randomness starts from.
    pub(crate) seed: u64,
    phase: watch::Sender<Phase>,
    acknowledged: Mutex<Vec<Acknowledged>>,
    window: Mutex<Latencies>,
    surprises: Mutex<BTreeMap<String, u64>>,
    /// Answers of every kind.
    pub(crate) counts: Counts,
}

/// Where the run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Phase {
    /// Which process it is, from 1.
    pub(crate) life: u32,
    /// Whether the process serves.
    pub(crate) up: bool,
    /// Whether agents only wait for what they are owed.
    pub(crate) stopping: bool,
}

/// How often what happened.
#[derive(Default)]
pub(crate) struct Counts {
    /// Decisions told.
    pub(crate) decided: AtomicU64,
    /// Events told to be recorded.
    pub(crate) recorded: AtomicU64,
    /// Refusals for want of room.
    pub(crate) overloaded: AtomicU64,
    /// Refusals while the process stops or a shard starts again.
    pub(crate) unavailable: AtomicU64,
    /// Refusals of what was malformed.
    pub(crate) malformed: AtomicU64,
    /// Actions sent again under the same id.
    pub(crate) again: AtomicU64,
    /// Sessions opened.
    pub(crate) sessions: AtomicU64,
    /// Conversations that a restart cut.
    pub(crate) cut: AtomicU64,
    /// Requests of operators that were answered.
    pub(crate) operated: AtomicU64,
}

// === impl World ===

impl World {
    /// A run that begins with the process's first life.
    pub(crate) fn new(env: Environment, actions: Actions, seed: u64) -> Arc<Self> {
        let (phase, _) = watch::channel(Phase { life: 1, up: true, stopping: false });
        Arc::new(Self {
            env,
            actions,
            seed,
            phase,
            acknowledged: Mutex::default(),
            window: Mutex::default(),
            surprises: Mutex::default(),
            counts: Counts::default(),
        })
    }

    /// Randomness of one part's own.
    pub(crate) fn random(&self, part: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Where the run is.
    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Watches where the run is.
    pub(crate) fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// The process is about to end.
    pub(crate) fn goes_down(&self) {
        self.phase.send_modify(|phase| phase.up = false);
    }

    /// Another process serves.
    pub(crate) fn is_up_again(&self) {
        self.phase.send_modify(|phase| {
            phase.up = true;
            phase.life += 1;
        });
    }

    /// Nothing new is asked for.
    pub(crate) fn stop(&self) {
        self.phase.send_modify(|phase| phase.stopping = true);
    }

    /// Waits until the process serves; the phase it is then.
    pub(crate) async fn until_up(&self) -> Phase {
        let mut phases = self.phases();
        // The sender lives in this very value.
        phases.wait_for(|phase| phase.up).await.map_or_else(|_| self.phase(), |phase| *phase)
    }

    /// A decision was told.
    pub(crate) fn acknowledge(&self, told: Acknowledged, latency: Option<Duration>) {
        locked(&self.acknowledged).push(told);
        count(&self.counts.decided);
        if let Some(latency) = latency {
            locked(&self.window).add(latency);
        }
    }

    /// The latencies since the last call.
    pub(crate) fn take_window(&self) -> Latencies {
        std::mem::take(&mut *locked(&self.window))
    }

    /// Everything that was told.
    pub(crate) fn take_acknowledged(&self) -> Vec<Acknowledged> {
        std::mem::take(&mut *locked(&self.acknowledged))
    }

    /// Something that must not happen.
    pub(crate) fn surprise(&self, what: impl Into<String>) {
        let mut surprises = locked(&self.surprises);
        // Messages may hold ids; a few hundred of them tell as much as all.
        if surprises.len() < 200 {
            *surprises.entry(what.into()).or_default() += 1;
        }
    }

    /// What must not happen and did.
    pub(crate) fn surprises(&self) -> BTreeMap<String, u64> {
        locked(&self.surprises).clone()
    }

    /// A conversation that began in `life` ended this way. While the process is replaced that is as it must be.
    pub(crate) fn broke(&self, what: &str, life: u32, status: &Status) {
        let Phase { life: now, up, .. } = self.phase();
        if !up || now != life {
            count(&self.counts.cut);
        } else if status.code() == Code::ResourceExhausted {
            count(&self.counts.overloaded);
        } else {
            self.surprise(format!("{what}: {:?}: {}", status.code(), status.message()));
        }
    }
}

/// Counts one more.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// How long ago, when that says something about the server.
pub(crate) fn latency(sent: Instant, again: bool) -> Option<Duration> {
    (!again).then(|| sent.elapsed())
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is kept are counts and lists, whole after every change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
