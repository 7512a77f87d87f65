//! What the nodes of a cluster tell each other: rules that changed, agents suspended, approvals decided.
//!
//! It is committed with what it tells. Here it is told at once; other nodes read it off the store, in one order, and
//! have the changed rules in memory before they say that they know ([`aa_runtime::Node::know`]).

use std::{collections::HashMap, sync::Arc};

use aa_protocol::WorkspaceId;
use aa_runtime::{Heard, Stamp};
use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::{notice::Notice, services::Services};

/// A notice to be told once what it tells is committed.
pub(crate) struct Bulletin {
    services: Arc<Services>,
    body: Body,
    /// Resolves with the notice's place in the order of all.
    placed: Option<oneshot::Receiver<Stamp>>,
}

/// A bulletin as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Body {
    /// Tells it from all others.
    id: u64,
    /// The life of the node that tells.
    from: u64,
    workspace: WorkspaceId,
    notice: Notice,
}

/// This node's bulletins whose places are waited for, by their ids.
#[derive(Default)]
pub(crate) struct Placing(Mutex<HashMap<u64, oneshot::Sender<Stamp>>>);

// === impl Bulletin ===

impl Bulletin {
    /// A notice about something that is about to be committed.
    pub(crate) fn new(services: &Arc<Services>, workspace: WorkspaceId, notice: Notice) -> Self {
        let mut random = [0; 8];
        services.entropy.fill(&mut random);
        let body = Body {
            id: u64::from_be_bytes(random),
            from: services.node.incarnation(),
            workspace,
            notice,
        };
        Self { services: Arc::clone(services), body, placed: None }
    }

    /// The same, whose teller wants to wait until all know ([`Self::all_know`]).
    pub(crate) fn awaited(mut self) -> Self {
        if self.services.node.is_clustered() {
            let (sender, placed) = oneshot::channel();
            self.services.placing.0.lock().insert(self.body.id, sender);
            self.placed = Some(placed);
        }
        self
    }

    /// Whether there are other nodes that have to know.
    pub(crate) fn has_others(&self) -> bool {
        self.placed.is_some()
    }

    /// What is committed with what it tells; nothing where there are no other nodes.
    pub(crate) fn news(&self) -> Vec<Bytes> {
        if !self.services.node.is_clustered() {
            return Vec::new();
        }
        // A struct of ids and numbers always serializes.
        vec![serde_json::to_vec(&self.body).unwrap_or_default().into()]
    }

    /// Tells it on this node, and lets the others look.
    pub(crate) fn tell(&self) {
        let Self { services, body, .. } = self;
        services.notices.publish(body.workspace, body.notice);
        if services.node.is_clustered() {
            services.node.announce();
        }
    }

    /// Waits until every node that serves knows it.
    pub(crate) async fn all_know(mut self) {
        // Without other nodes there is no place to wait for.
        let Some(placed) = self.placed.take() else { return };
        if let Ok(stamp) = placed.await {
            self.services.node.until_all_know(stamp).await;
        }
    }
}

impl Drop for Bulletin {
    /// What was not committed has no place.
    fn drop(&mut self) {
        self.services.placing.0.lock().remove(&self.body.id);
    }
}

/// Takes note of what other nodes tell, for as long as this one runs.
pub(crate) async fn read(services: Arc<Services>, mut news: mpsc::UnboundedReceiver<Heard>) {
    let own = services.node.incarnation();
    while let Some(heard) = news.recv().await {
        let (stamp, body) = match heard {
            Heard::News { stamp, body } => (stamp, body),
            Heard::Missed => {
                services.refresh_all_policies().await;
                continue;
            }
        };
        match serde_json::from_slice::<Body>(&body) {
            Ok(body) if body.from == own => {
                if let Some(waits) = services.placing.0.lock().remove(&body.id) {
                    // Who waited may have gone.
                    let _ = waits.send(stamp);
                }
            }
            Ok(Body { workspace, notice, .. }) => {
                if let Notice::PolicyChanged { generation } = notice {
                    services.refresh_policies(workspace, generation).await;
                }
                services.notices.publish(workspace, notice);
            }
            // Of a later version: what this one does not know it does not hold.
            Err(error) => tracing::warn!(%error, "news of another node do not read"),
        }
        services.node.know(stamp);
    }
}
