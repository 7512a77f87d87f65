//! The agents whose requests pass here: each registered with the gateway when it first sends one.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use aa_client::{Agent, AgentSpec, Client, ClientError};
use aa_protocol::ApprovalId;
use parking_lot::Mutex;
use tokio::sync::{OnceCell, Semaphore};

use crate::upstream::Upstreams;

/// An agent that is governed here.
pub(crate) struct Governed {
    /// Its name.
    pub(crate) name: Arc<str>,
    /// Its session with the gateway.
    pub(crate) agent: Agent,
    /// Its connections.
    pub(crate) upstreams: Upstreams,
    /// Places for its requests.
    pub(crate) places: Arc<Semaphore>,
    /// What people have been asked about.
    pub(crate) asked: Mutex<AskedPeople>,
}

/// Requests for approval that an action led to: the same action, sent again, takes up its own.
#[derive(Debug, Default)]
pub(crate) struct AskedPeople {
    asked: VecDeque<([u8; 32], ApprovalId, Instant)>,
}

/// All agents of the proxy.
pub(crate) struct Fleet {
    pub(crate) client: Client,
    agents: Mutex<HashMap<Arc<str>, Arc<Registered>>>,
}

/// Filled by whoever asks for the agent first.
type Registered = OnceCell<Arc<Governed>>;

const MAX_ASKED: usize = 256;
/// No request for approval stands longer than a day.
const ASKED_FOR: Duration = Duration::from_secs(24 * 60 * 60);

// === impl Fleet ===

impl Fleet {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, agents: Mutex::default() }
    }

    /// The agent of this specification, registered if it is not yet.
    ///
    /// # Errors
    /// It could not be registered; the next request tries again.
    pub(crate) async fn agent(
        &self,
        spec: &AgentSpec,
        requests: usize,
        upstreams: impl FnOnce() -> Upstreams,
    ) -> Result<Arc<Governed>, ClientError> {
        let name: Arc<str> = spec.name.as_str().into();
        let cell = Arc::clone(self.agents.lock().entry(Arc::clone(&name)).or_default());
        let governed = cell
            .get_or_try_init(|| async {
                let agent = self.client.register(spec.clone()).await?;
                tracing::info!(agent = %name, id = %agent.id(), "agent registered");
                Ok::<_, ClientError>(Arc::new(Governed {
                    name,
                    agent,
                    upstreams: upstreams(),
                    places: Arc::new(Semaphore::new(requests)),
                    asked: Mutex::default(),
                }))
            })
            .await?;
        Ok(Arc::clone(governed))
    }

    /// Every agent registered so far.
    pub(crate) fn registered(&self) -> Vec<Arc<Governed>> {
        self.agents.lock().values().filter_map(|cell| cell.get().cloned()).collect()
    }

    /// Forgets all agents, so that what they are is read anew. Requests under way keep theirs.
    pub(crate) fn forget(&self) {
        self.agents.lock().clear();
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet").field("agents", &self.agents.lock().len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Governed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Governed").field("name", &self.name).finish_non_exhaustive()
    }
}

// === impl AskedPeople ===

impl AskedPeople {
    /// The request for approval that the action led to before.
    pub(crate) fn find(&mut self, action: &[u8; 32], now: Instant) -> Option<ApprovalId> {
        self.asked.retain(|(_, _, at)| now.duration_since(*at) < ASKED_FOR);
        self.asked.iter().find(|(asked, ..)| asked == action).map(|(_, id, _)| *id)
    }

    /// Remembers the request that the action led to.
    pub(crate) fn remember(&mut self, action: [u8; 32], id: ApprovalId, now: Instant) {
        self.forget(&action);
        if self.asked.len() == MAX_ASKED {
            self.asked.pop_front();
        }
        self.asked.push_back((action, id, now));
    }

    /// The request is decided: the same action, sent again, is a new one.
    pub(crate) fn forget(&mut self, action: &[u8; 32]) {
        self.asked.retain(|(asked, ..)| asked != action);
    }
}
