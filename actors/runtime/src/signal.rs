//! A flag that is raised once, and waking those who wait for something in the order in which they came.
//!
//! tokio's `watch` wakes its receivers in an order drawn by chance; a simulation that shall repeat cannot have that.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Raised once, for good.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    raised: AtomicBool,
    waiters: Notify,
}

/// Tells all who wait that something has changed, in their order.
#[derive(Debug, Default)]
pub(crate) struct Changes(Notify);

impl Signal {
    pub(crate) fn raise(&self) {
        self.raised.store(true, Ordering::Release);
        self.waiters.notify_waiters();
    }

    pub(crate) fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Acquire)
    }

    /// Completes once it is raised.
    pub(crate) async fn wait(&self) {
        let notified = self.waiters.notified();
        tokio::pin!(notified);
        // First in line, then the look: nothing falls between.
        notified.as_mut().enable();
        if !self.is_raised() {
            notified.await;
        }
    }
}

impl Changes {
    pub(crate) fn tell(&self) {
        self.0.notify_waiters();
    }

    /// Completes once `find` finds something, looking again after every change.
    pub(crate) async fn until<T>(&self, find: impl Fn() -> Option<T>) -> T {
        loop {
            let changed = self.0.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(found) = find() {
                return found;
            }
            changed.await;
        }
    }
}
