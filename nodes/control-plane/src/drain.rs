//! The end of serving, announced to whoever serves.

use tokio::sync::watch;

/// Completes once the server drains.
pub(crate) async fn drained(draining: &mut watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = draining.wait_for(|draining| *draining).await;
}
