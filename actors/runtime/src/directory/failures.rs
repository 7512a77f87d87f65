//! How often an actor failed in a row, and how long that holds it back.

use std::{any::Any, time::Duration};

use aa_protocol::Timestamp;

use super::DirectoryOptions;

/// The failures of one actor, in a row: none of its lives between them was long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failures {
    /// Of every kind.
    pub(super) in_a_row: u32,
    /// Panics among them.
    panics: u32,
    last: Timestamp,
}

/// What follows from an actor's failures so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It may start.
    Free,
    /// It starts again after this long.
    BackingOff(Duration),
    /// It is down, and tried again after this long.
    Held(Duration),
    /// It has been well, or nobody asked for it, for so long that its failures no longer count.
    Forgotten,
}

/// An actor panicked: while it loaded, or on a message.
#[derive(Debug, thiserror::Error)]
#[error("it panicked: {0}")]
pub(super) struct Panicked(String);

// === impl Failures ===

impl Failures {
    pub(super) const fn none(now: Timestamp) -> Self {
        Self { in_a_row: 0, panics: 0, last: now }
    }

    pub(super) const fn add(&mut self, panicked: bool, now: Timestamp) {
        self.in_a_row = self.in_a_row.saturating_add(1);
        if panicked {
            self.panics = self.panics.saturating_add(1);
        }
        self.last = now;
    }

    pub(super) fn standing(&self, options: &DirectoryOptions, now: Timestamp) -> Standing {
        let since = now.since(self.last);
        let hold = self.hold(options);
        // Counted from the end of the hold: being down is not being well.
        if since >= hold.saturating_add(options.longest_backoff) {
            return Standing::Forgotten;
        }
        match hold.checked_sub(since) {
            None | Some(Duration::ZERO) => Standing::Free,
            Some(left) if self.is_past_limit(options) => Standing::Held(left),
            Some(left) => Standing::BackingOff(left),
        }
    }

    /// Whether the panics are past what back-off is for. A store that does not answer keeps every actor from
    /// loading, and all of them are well once it does: that is no reason to stay down.
    pub(super) const fn is_past_limit(&self, options: &DirectoryOptions) -> bool {
        self.panics >= options.panics_until_held
    }

    fn hold(&self, options: &DirectoryOptions) -> Duration {
        if self.is_past_limit(options) {
            return options.held_for.max(options.longest_backoff);
        }
        let past = self.in_a_row.saturating_sub(options.free_restarts);
        if past == 0 {
            return Duration::ZERO;
        }
        let doublings = (past - 1).min(16);
        options.first_backoff.saturating_mul(1 << doublings).min(options.longest_backoff)
    }
}

// === impl Panicked ===

impl Panicked {
    /// What the panic said.
    pub(super) fn new(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Self(text.unwrap_or("no message").to_owned())
    }
}
