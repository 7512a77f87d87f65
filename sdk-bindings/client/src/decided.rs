//! Which requests for approval were decided of late: the gateway says so once, to whoever is connected.

use std::{collections::VecDeque, sync::Arc};

use aa_protocol::ApprovalId;
use parking_lot::Mutex;
use tokio::sync::watch;

/// The latest decisions that were heard of. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Decided {
    latest: Arc<Mutex<VecDeque<ApprovalId>>>,
    count: watch::Sender<u64>,
}

/// How many are kept, for those who ask after the news came.
const KEPT: usize = 256;

// === impl Decided ===

impl Decided {
    /// Notes that a request was decided.
    pub(crate) fn note(&self, id: ApprovalId) {
        {
            let mut latest = self.latest.lock();
            if latest.len() == KEPT {
                latest.pop_front();
            }
            latest.push_back(id);
        }
        self.count.send_modify(|count| *count += 1);
    }

    /// Completes once a decision on the request has been heard of; at once when it was before.
    pub(crate) async fn heard_of(&self, id: ApprovalId) {
        let mut count = self.count.subscribe();
        while !self.latest.lock().contains(&id) {
            // The sender lives in `self`.
            let _ = count.changed().await;
        }
    }
}

impl Default for Decided {
    fn default() -> Self {
        Self { latest: Arc::default(), count: watch::Sender::new(0) }
    }
}
