//! One tenure of a shard: the tasks that serve it, from taking its epoch to losing it.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinHandle;

use crate::{
    clock::Clock,
    shard::{LiveShard, Standing},
    signal::Signal,
};

/// A shard while this node holds it, with the tasks that serve it.
pub(crate) struct Tenure {
    live: Arc<LiveShard>,
    supervision: JoinHandle<()>,
    committer: JoinHandle<()>,
}

/// Ends the tenure however its task ends, by a panic too.
struct FailOnDrop<'l>(&'l LiveShard);

/// How long the actors of a shard that is handed over may take to finish what they have begun. What they hold
/// longer is answered with a fault, and tried again by who asked.
const DRAIN_WITHIN: Duration = Duration::from_secs(2);

/// How often it is looked whether they have.
const DRAIN_LOOK: Duration = Duration::from_millis(2);

impl Drop for FailOnDrop<'_> {
    fn drop(&mut self) {
        self.0.fail();
    }
}

// === impl Tenure ===

impl Tenure {
    pub(crate) fn begin(live: Arc<LiveShard>, supervision: JoinHandle<()>) -> Self {
        // A supervisor or a committer that ends takes the tenure with it.
        let supervision = tokio::spawn({
            let live = Arc::clone(&live);
            async move {
                let _guard = FailOnDrop(&live);
                if let Err(error) = supervision.await {
                    tracing::error!(shard = live.id.0, %error, "a supervisor panicked");
                }
            }
        });
        let committer = tokio::spawn({
            let live = Arc::clone(&live);
            async move {
                let _guard = FailOnDrop(&live);
                if let Err(fault) = live.journal.clone().run().await {
                    tracing::error!(shard = live.id.0, %fault, "a journal failed");
                }
            }
        });
        Self { live, supervision, committer }
    }

    pub(crate) fn live(&self) -> Arc<LiveShard> {
        Arc::clone(&self.live)
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.live.epoch
    }

    /// Lasts until the tenure is over, and tells how it stands then.
    pub(crate) async fn last(&self, stopping: &Signal) -> Standing {
        let mut standing = self.live.standing.subscribe();
        tokio::select! {
            biased;
            ended = standing.wait_for(|standing| *standing != Standing::Serves) => {
                ended.map_or(Standing::Failed, |standing| standing.clone())
            }
            () = stopping.wait() => Standing::Failed,
        }
    }

    /// Lets the actors finish what they were sent, now that nothing more reaches them, and commits it.
    pub(crate) async fn drain(&self, clock: &dyn Clock) {
        let begun = clock.elapsed();
        while self.live.children.are_busy() && clock.elapsed().saturating_sub(begun) < DRAIN_WITHIN
        {
            clock.sleep(DRAIN_LOOK).await;
        }
        // A journal that has failed has nothing left to commit.
        let _ = self.live.journal.barrier().await;
    }

    pub(crate) async fn end(self) {
        self.live.journal.close();
        self.live.supervisor.stop_children(None);
        self.live.supervisor.stop(None);
        for task in [self.committer, self.supervision] {
            if let Err(error) = task.await {
                tracing::error!(shard = self.live.id.0, %error, "a task of a shard panicked");
            }
        }
    }
}
