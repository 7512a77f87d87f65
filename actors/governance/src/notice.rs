//! News for those who watch agents: sessions, and later the console.

use std::collections::HashMap;

use aa_protocol::{AgentId, ApprovalId, WorkspaceId};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

/// Something an agent's session is told without asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Notice {
    /// The policies in force changed.
    PolicyChanged {
        /// Counts the changes.
        generation: u64,
    },
    /// An operator suspended or resumed an agent.
    StatusChanged {
        /// Which agent.
        agent: AgentId,
        /// Whether it is suspended now.
        suspended: bool,
    },
    /// A request for approval was decided.
    ApprovalDecided {
        /// Whose request it is.
        agent: AgentId,
        /// Which.
        approval: ApprovalId,
        /// Whether the action may go on.
        approved: bool,
    },
}

/// Where notices are published and subscribed to, by workspace.
#[derive(Default)]
pub struct NoticeBoard {
    channels: Mutex<HashMap<WorkspaceId, broadcast::Sender<Notice>>>,
}

/// A subscriber this far behind misses the oldest notices and is told how many.
const KEPT: usize = 256;

impl NoticeBoard {
    /// Tells all who are subscribed now. Call it only after what it tells is committed.
    pub fn publish(&self, workspace: WorkspaceId, notice: Notice) {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(&workspace)
            && channel.send(notice).is_err()
        {
            // Nobody listens any more.
            channels.remove(&workspace);
        }
    }

    /// From now on, the notices of `workspace`.
    pub fn subscribe(&self, workspace: WorkspaceId) -> broadcast::Receiver<Notice> {
        let mut channels = self.channels.lock();
        let channel = channels.entry(workspace).or_insert_with(|| broadcast::Sender::new(KEPT));
        channel.subscribe()
    }
}
