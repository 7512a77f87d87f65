//! Admission: how much may be in flight. Actor mailboxes are unbounded, so the edge refuses.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

use aa_governance::agent::AgentKeyId;
use aa_protocol::WorkspaceId;
use parking_lot::Mutex;

/// How much may be in flight at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Actions on one session, answered or not, until their answers are taken. Past it the session is
    /// not read, so the peer's flow control holds it back.
    pub per_session: usize,
    /// Actions of one agent over all its sessions and calls.
    pub per_agent: u32,
    /// Actions of one workspace.
    pub per_workspace: u32,
    /// Open connections of the gateway.
    pub connections: usize,
}

/// The gauges of all callers.
pub struct Admission {
    limits: Limits,
    agents: Mutex<Gauges<AgentKeyId>>,
    workspaces: Mutex<Gauges<WorkspaceId>>,
}

/// The gauges of one caller.
#[derive(Clone)]
pub struct CallerGauges {
    limits: Limits,
    agent: Arc<Gauge>,
    workspace: Arc<Gauge>,
}

/// One admitted action. Dropping it makes room for the next.
pub struct Admitted {
    agent: Arc<Gauge>,
    workspace: Arc<Gauge>,
}

/// Too much is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{limit} actions of this {of} are in flight, the most there may be; wait for answers")]
pub struct Overload {
    of: &'static str,
    limit: u32,
}

/// How long a refused caller should wait before the same action, in milliseconds.
pub const RETRY_AFTER_MS: u64 = 20;

#[derive(Default)]
struct Gauge(AtomicU32);

/// Gauges by owner. One that nobody holds is forgotten when the map next doubles.
struct Gauges<K> {
    by_owner: HashMap<K, Weak<Gauge>>,
    purge_at: usize,
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self { per_session: 256, per_agent: 256, per_workspace: 65_536, connections: 20_000 }
    }
}

// === impl Admission ===

impl Admission {
    /// Gauges at zero.
    pub fn new(limits: Limits) -> Self {
        Self { limits, agents: Mutex::default(), workspaces: Mutex::default() }
    }

    /// The gauges of an agent, to be held for as long as it is connected.
    pub fn caller(&self, id: &AgentKeyId) -> CallerGauges {
        CallerGauges {
            limits: self.limits,
            agent: self.agents.lock().of(id),
            workspace: self.workspaces.lock().of(&id.workspace),
        }
    }

    /// The limits.
    pub const fn limits(&self) -> Limits {
        self.limits
    }
}

// === impl CallerGauges ===

impl CallerGauges {
    /// Admits one action.
    ///
    /// # Errors
    /// [`Overload`] when the agent or its workspace has too many in flight.
    pub fn admit(&self) -> Result<Admitted, Overload> {
        let Limits { per_agent, per_workspace, .. } = self.limits;
        if !self.agent.raise(per_agent) {
            return Err(Overload { of: "agent", limit: per_agent });
        }
        if !self.workspace.raise(per_workspace) {
            self.agent.lower();
            return Err(Overload { of: "workspace", limit: per_workspace });
        }
        Ok(Admitted { agent: Arc::clone(&self.agent), workspace: Arc::clone(&self.workspace) })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.agent.lower();
        self.workspace.lower();
    }
}

// === impl Gauge ===

impl Gauge {
    fn raise(&self, limit: u32) -> bool {
        if self.0.fetch_add(1, Ordering::Relaxed) < limit {
            return true;
        }
        self.lower();
        false
    }

    fn lower(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Gauges ===

impl<K: Clone + Eq + std::hash::Hash> Gauges<K> {
    fn of(&mut self, owner: &K) -> Arc<Gauge> {
        if let Some(gauge) = self.by_owner.get(owner).and_then(Weak::upgrade) {
            return gauge;
        }
        if self.by_owner.len() >= self.purge_at {
            self.by_owner.retain(|_, gauge| gauge.strong_count() > 0);
            self.purge_at = (self.by_owner.len() * 2).max(1_024);
        }
        let gauge = Arc::new(Gauge::default());
        self.by_owner.insert(owner.clone(), Arc::downgrade(&gauge));
        gauge
    }
}

impl<K> Default for Gauges<K> {
    fn default() -> Self {
        Self { by_owner: HashMap::new(), purge_at: 1_024 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_agent_cannot_take_more_than_its_share() {
        let workspace: WorkspaceId = "ws-a1b2c3d4-e5f6-7890-abcd-ef1234567890".parse().unwrap();
        let id =
            |name| AgentKeyId { workspace, agent: aa_protocol::AgentId::of_name(workspace, name) };
        let limits = Limits { per_agent: 2, per_workspace: 3, ..Limits::default() };
        let admission = Admission::new(limits);
        let (first, second) = (admission.caller(&id("a")), admission.caller(&id("b")));
        let held: Vec<_> = (0..2).map(|_| first.admit().ok().unwrap()).collect();
        assert_eq!(admission.caller(&id("a")).admit().err().unwrap().of, "agent");
        let other = second.admit().ok().unwrap();
        assert_eq!(second.admit().err().unwrap().of, "workspace");
        drop(held);
        assert!(first.admit().is_ok());
        drop(other);
    }
}
