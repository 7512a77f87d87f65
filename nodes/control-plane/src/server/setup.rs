//! What a start asks of actors: the home workspace, and keys for the files of clients and operators.
//!
//! On a node of a cluster they may live on another node that this one does not reach yet. Nobody is kept waiting for
//! that: the node serves what it can, and this is done as soon as it can be.

use std::{sync::Arc, time::Duration};

use aa_governance::{Governance, GovernanceError};
use aa_protocol::WorkspaceId;
use parking_lot::Mutex;
use tokio::{sync::oneshot, task::JoinHandle};

use super::{FilesError, StartError, Summary, files};

/// What is left to be done for a start.
pub(super) struct Setup {
    pub(super) governance: Governance,
    pub(super) home: WorkspaceId,
    pub(super) summary: Summary,
}

/// Why a start is not complete yet; nothing once it is.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending(Arc<Mutex<Option<String>>>);

/// How long a start waits for other nodes before it goes on without them.
const WAITS: Duration = Duration::from_secs(5);

/// The first pause before it is tried again; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);

const LONGEST_PAUSE: Duration = Duration::from_secs(10);

// === impl Setup ===

impl Setup {
    /// Completes the start. On a node of a cluster that other nodes keep waiting, the task that is returned goes on with
    /// it.
    ///
    /// # Errors
    /// What waiting does not mend; and for a control plane by itself, whatever it is.
    pub(super) async fn begin(
        self,
        pending: &Pending,
    ) -> Result<Option<JoinHandle<()>>, StartError> {
        if !self.governance.services().node.is_clustered() {
            self.complete().await?;
            return Ok(None);
        }
        let (completed, completion) = oneshot::channel();
        // Not given up in the midst of it: a key that nobody waits for any more is nobody's.
        let task = tokio::spawn(self.keep_at_it(completed, pending.clone()));
        match tokio::time::timeout(WAITS, completion).await {
            Ok(Ok(Err(error))) => Err(error),
            Ok(Ok(Ok(()))) => Ok(None),
            // It panicked.
            Ok(Err(_)) => task.await.map(|()| None).map_err(StartError::from),
            Err(_) => Ok(Some(task)),
        }
    }

    async fn keep_at_it(
        self,
        completed: oneshot::Sender<Result<(), StartError>>,
        pending: Pending,
    ) {
        pending.say("the node that has the home workspace has not answered yet".to_owned());
        let mut pause = FIRST_PAUSE;
        let result = loop {
            match self.complete().await {
                Err(error) if may_pass(&error) => {
                    tracing::warn!(
                        %error,
                        "client.env and operator.env are not written yet: they take keys of the home workspace, whose \
                         node does not answer this one; it is tried again, and the rest is served meanwhile"
                    );
                    pending.say(error.to_string());
                }
                result => break result,
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
        };
        match &result {
            Ok(()) => pending.clear(),
            Err(error) => pending.say(error.to_string()),
        }
        if let Err(Err(error)) = completed.send(result) {
            tracing::error!(%error, "client.env and operator.env could not be written");
        }
    }

    async fn complete(&self) -> Result<(), StartError> {
        self.governance.set_up_workspace(self.home, &self.summary.workspace_name).await?;
        Ok(files::write(&self.governance, self.home, &self.summary).await?)
    }
}

/// Whether it may be otherwise once other nodes or the store are reached again.
fn may_pass(error: &StartError) -> bool {
    let (StartError::Workspace(cause) | StartError::Files(FilesError::Key(cause))) = error else {
        return false;
    };
    match cause {
        GovernanceError::Fault(fault) => fault.is_retryable(),
        GovernanceError::Store(error) => error.is_retryable(),
        _ => false,
    }
}

// === impl Pending ===

impl Pending {
    /// Why the start is not complete, when it is not.
    pub(super) fn why(&self) -> Option<String> {
        self.0.lock().clone()
    }

    fn say(&self, why: String) {
        *self.0.lock() = Some(why);
    }

    fn clear(&self) {
        *self.0.lock() = None;
    }
}
