//! Admission: how much may be in flight. Actor mailboxes are unbounded, so the edge refuses.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aa_governance::agent::AgentKeyId;
use aa_protocol::WorkspaceId;
use parking_lot::Mutex;

use crate::{receiving::ReceiveLimits, throttle::FailureRate, tls::ConnectionLimits};

/// How much may be in flight at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Actions on one session, answered or not, until their answers are taken. Past it the session is
    /// not read, so the peer's flow control holds it back.
    pub per_session: usize,
    /// Actions of one agent over all its sessions and calls.
    pub per_agent: usize,
    /// Actions of one workspace.
    pub per_workspace: usize,
    /// Bytes of one agent's actions, as they came in; a single action is admitted whatever its size. What
    /// they take in memory while they wait may be some sixteen times that.
    pub per_agent_bytes: usize,
    /// Bytes of one workspace's actions.
    pub per_workspace_bytes: usize,
    /// Connections of the gateway.
    pub connections: ConnectionLimits,
    /// Messages on their way in.
    pub receiving: ReceiveLimits,
    /// How long the headers of a request to the API may take, and how long its HTTP/1.1 connections may stay
    /// without a request.
    pub headers: Duration,
    /// Failed authentications per peer network, over gateway and API.
    pub failures: FailureRate,
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
    agent: Arc<Load>,
    workspace: Arc<Load>,
}

/// One admitted action. Dropping it makes room for the next.
pub struct Admitted {
    agent: Arc<Load>,
    workspace: Arc<Load>,
    bytes: usize,
}

/// Too much is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{limit} {unit} of this {of} are in flight, the most there may be; wait for answers")]
pub struct Overload {
    of: &'static str,
    unit: &'static str,
    limit: usize,
}

/// How long a refused caller should wait before the same action, in milliseconds.
pub const RETRY_AFTER_MS: u64 = 20;

/// What one owner has in flight.
#[derive(Default)]
struct Load {
    actions: Gauge,
    bytes: Gauge,
}

#[derive(Default)]
struct Gauge(AtomicUsize);

/// Gauges by owner. One that nobody holds is forgotten when the map next doubles.
struct Gauges<K> {
    by_owner: HashMap<K, Weak<Load>>,
    purge_at: usize,
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            per_session: 256,
            per_agent: 256,
            per_workspace: 65_536,
            per_agent_bytes: 8 << 20,
            per_workspace_bytes: 32 << 20,
            connections: ConnectionLimits::of(20_000),
            receiving: ReceiveLimits::default(),
            headers: Duration::from_secs(15),
            failures: FailureRate::default(),
        }
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
    /// Admits one action that came in `bytes` bytes.
    ///
    /// # Errors
    /// [`Overload`] when the agent or its workspace has too much in flight.
    pub fn admit(&self, bytes: usize) -> Result<Admitted, Overload> {
        let Limits { per_agent, per_workspace, per_agent_bytes, per_workspace_bytes, .. } =
            self.limits;
        self.agent.raise("agent", per_agent, per_agent_bytes, bytes)?;
        self.workspace
            .raise("workspace", per_workspace, per_workspace_bytes, bytes)
            .inspect_err(|_| self.agent.lower(bytes))?;
        let (agent, workspace) = (Arc::clone(&self.agent), Arc::clone(&self.workspace));
        Ok(Admitted { agent, workspace, bytes })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.agent.lower(self.bytes);
        self.workspace.lower(self.bytes);
    }
}

// === impl Load ===

impl Load {
    fn raise(
        &self,
        of: &'static str,
        most: usize,
        most_bytes: usize,
        bytes: usize,
    ) -> Result<(), Overload> {
        if !self.actions.raise(1, most) {
            return Err(Overload { of, unit: "actions", limit: most });
        }
        if !self.bytes.raise(bytes, most_bytes) {
            self.actions.lower(1);
            return Err(Overload { of, unit: "bytes of actions", limit: most_bytes });
        }
        Ok(())
    }

    fn lower(&self, bytes: usize) {
        self.actions.lower(1);
        self.bytes.lower(bytes);
    }
}

// === impl Gauge ===

impl Gauge {
    /// Takes `by` when that keeps within `limit`, or when there is nothing yet.
    fn raise(&self, by: usize, limit: usize) -> bool {
        let before = self.0.fetch_add(by, Ordering::Relaxed);
        if before == 0 || before.saturating_add(by) <= limit {
            return true;
        }
        self.lower(by);
        false
    }

    fn lower(&self, by: usize) {
        self.0.fetch_sub(by, Ordering::Relaxed);
    }
}

// === impl Gauges ===

impl<K: Clone + Eq + std::hash::Hash> Gauges<K> {
    fn of(&mut self, owner: &K) -> Arc<Load> {
        if let Some(gauge) = self.by_owner.get(owner).and_then(Weak::upgrade) {
            return gauge;
        }
        if self.by_owner.len() >= self.purge_at {
            self.by_owner.retain(|_, gauge| gauge.strong_count() > 0);
            self.purge_at = (self.by_owner.len() * 2).max(1_024);
        }
        let gauge = Arc::new(Load::default());
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
        let held: Vec<_> = (0..2).map(|_| first.admit(1).ok().unwrap()).collect();
        assert_eq!(admission.caller(&id("a")).admit(1).err().unwrap().of, "agent");
        let other = second.admit(1).ok().unwrap();
        assert_eq!(second.admit(1).err().unwrap().of, "workspace");
        drop(held);
        assert!(first.admit(1).is_ok());
        drop(other);
    }
    #[test]
    fn bytes_in_flight_are_bounded_and_a_lone_action_of_any_size_goes() {
        let workspace: WorkspaceId = "ws-a1b2c3d4-e5f6-7890-abcd-ef1234567890".parse().unwrap();
        let agent = aa_protocol::AgentId::of_name(workspace, "a");
        let limits = Limits { per_agent_bytes: 100, ..Limits::default() };
        let admission = Admission::new(limits);
        let caller = admission.caller(&AgentKeyId { workspace, agent });
        let large = caller.admit(1_000).ok().unwrap();
        assert_eq!(caller.admit(1).err().unwrap().unit, "bytes of actions");
        drop(large);
        let _held = [caller.admit(60).ok().unwrap(), caller.admit(40).ok().unwrap()];
        assert!(caller.admit(1).is_err());
    }
}
