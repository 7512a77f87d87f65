//! The life of one shard on a node.

use std::time::Duration;

use super::{Node, NodeError};
use crate::{
    lease::{self, LeaseError, NodeLife},
    shard::{Heir, ShardId, Standing},
    tenure::Tenure,
};

/// Keeps one shard on this node: tenure after tenure until the node stops or the shard is another's.
pub(super) struct Keeper {
    pub(super) node: Node,
    pub(super) shard: ShardId,
}

// === impl Keeper ===

impl Keeper {
    pub(super) async fn keep(self, life: Option<NodeLife>, first: Option<Tenure>) {
        let stopping = self.node.stopping();
        let mut tenure = first;
        let mut failures = 0_u32;
        while !stopping.is_raised() {
            let current = match tenure.take() {
                Some(current) => current,
                None => match self.node.begin_tenure(self.shard, life.as_ref()).await {
                    Ok(current) => current,
                    Err(NodeError::Lease(LeaseError::Held { .. })) => return,
                    Err(error) => {
                        failures = failures.saturating_add(1);
                        tracing::error!(shard = self.shard.0, %error, "a shard could not be taken");
                        let pause = Duration::from_millis(50 << failures.min(8));
                        tokio::select! {
                            biased;
                            () = stopping.wait() => {}
                            () = self.node.inner.clock.sleep(pause) => {}
                        }
                        continue;
                    }
                },
            };
            failures = 0;
            // INVARIANT: a look at the owners that came in between is heeded: the answer of the store may have taken
            // so long that the shard is another's by now, and this node's lease has been renewed since.
            let is_mine = life.is_none() || self.node.inner.mine.lock().contains(&self.shard);
            if !is_mine {
                return current.end().await;
            }
            self.node.serve(&current);
            let standing = current.last(&stopping).await;
            self.node.inner.table.leave(self.shard, current.epoch());
            match (standing, &life) {
                (Standing::Lost, _) => return current.end().await,
                (Standing::Leaves(heir), Some(life)) => {
                    current.drain(&*self.node.inner.clock).await;
                    current.end().await;
                    if self.hand_over(life, &heir).await {
                        return;
                    }
                }
                _ => current.end().await,
            }
        }
    }

    /// Writes the heir down as the owner and tells it. False when the shard stays.
    async fn hand_over(&self, life: &NodeLife, heir: &Heir) -> bool {
        let store = &*self.node.inner.store;
        match lease::hand_over(store, self.shard, life, &heir.life).await {
            Ok(()) => {
                self.node.inner.table.expect(self.shard, heir.peer.clone());
                self.node.inner.relay.nudge(&heir.peer);
                true
            }
            Err(LeaseError::Held { .. }) => true,
            Err(error) => {
                tracing::warn!(shard = self.shard.0, %error, "a shard was not handed over");
                false
            }
        }
    }
}

impl Drop for Keeper {
    /// However the task ends, by a panic too.
    fn drop(&mut self) {
        let mut keepers = self.node.inner.keepers.lock();
        keepers.remove(&self.shard);
        self.node.inner.kept.send_replace(keepers.len());
    }
}
