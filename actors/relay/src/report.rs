//! Says the same thing once in a while, not each time.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Remembers what was said last. What a peer can provoke must not fill a log.
#[derive(Debug, Default)]
pub(crate) struct Report(Mutex<Option<(String, Instant)>>);

const AGAIN_AFTER: Duration = Duration::from_secs(10);

// === impl Report ===

impl Report {
    /// Whether `text` is to be said now; notes that it is.
    pub(crate) fn is_due(&self, text: &str) -> bool {
        let mut last = self.0.lock();
        let is_known =
            last.as_ref().is_some_and(|(said, at)| said == text && at.elapsed() < AGAIN_AFTER);
        if !is_known {
            *last = Some((text.to_owned(), Instant::now()));
        }
        !is_known
    }
}
