//! A storm of equal events is told in two messages: the first at once, the rest as one.

use std::{collections::BTreeMap, time::Duration};

use aa_protocol::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    event::Event,
    message::{Folded, Message},
};

/// The folding of one destination, as stored.
///
/// The first of equal events ([`Event::fingerprint`]) goes out at once and opens a window; more of them within the
/// window are counted, and told as one at its end. There are at most [`MAX_WINDOWS`] windows for different events; past
/// that, events of one kind are taken for equal, so nothing is lost and nobody is flooded. Events about approvals are
/// always told one by one and at once.
///
/// Its JSON is below [`MAX_STATE_BYTES`]. A window without repeats need not be stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Folder {
    /// By digest of the fingerprint, or by kind.
    windows: BTreeMap<String, Window>,
}

/// Equal events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Window {
    closes_at: Timestamp,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    mixed: bool,
    /// What is still to be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    more: Option<More>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct More {
    folded: Folded,
    last: Event,
}

/// How many sorts of events are kept apart at a time.
pub const MAX_WINDOWS: usize = 48;
/// The bound of the stored form, in bytes.
pub const MAX_STATE_BYTES: usize = 96 * 1024;
/// How long equal events are counted before they are told, unless a destination says otherwise.
pub const DEFAULT_WINDOW: Duration = Duration::from_secs(60);

// === impl Folder ===

impl Folder {
    /// One that has seen nothing.
    pub const fn new() -> Self {
        Self { windows: BTreeMap::new() }
    }

    /// Takes an event. Returns what is to be sent now: the summaries that are due, then the event itself unless it is
    /// counted. With a `window` of zero every event is told by itself.
    pub fn offer(&mut self, event: &Event, now: Timestamp, window: Duration) -> Vec<Message> {
        // A clock that was set back, or a shorter window, must not keep anything waiting for longer than that.
        let latest = now.saturating_add(window);
        let mut out = self.close(|open| open.closes_at <= now || open.closes_at > latest);
        let fingerprint = event.fingerprint().filter(|_| !window.is_zero());
        let Some(fingerprint) = fingerprint else {
            out.push(Message::of_event(event.clone()));
            return out;
        };
        let mut key = digest(&fingerprint);
        let mut mixed = false;
        if !self.windows.contains_key(&key) && self.open_windows() >= MAX_WINDOWS {
            key = event.kind.as_str().to_owned();
            mixed = true;
        }
        match self.windows.get_mut(&key) {
            Some(open) => open.count(event),
            None => {
                self.windows.insert(key, Window { closes_at: latest, mixed, more: None });
                out.push(Message::of_event(event.clone()));
            }
        }
        out
    }

    /// The summaries whose window has ended by `now`, the earliest event first.
    pub fn due(&mut self, now: Timestamp) -> Vec<Message> {
        self.close(|window| window.closes_at <= now)
    }

    /// Ends all windows: everything that was counted, as when the destination is removed or changed.
    pub fn drain(&mut self) -> Vec<Message> {
        self.close(|_| true)
    }

    /// When [`Folder::due`] has something to return; `None` when nothing waits to be told.
    pub fn next_due(&self) -> Option<Timestamp> {
        let waiting = self.windows.values().filter(|window| window.more.is_some());
        waiting.map(|window| window.closes_at).min()
    }

    /// How many events wait to be told.
    pub fn waiting(&self) -> u64 {
        self.windows
            .values()
            .filter_map(|window| window.more.as_ref())
            .fold(0, |sum, more| sum.saturating_add(more.folded.count))
    }

    /// How many windows are open for different events.
    fn open_windows(&self) -> usize {
        self.windows.values().filter(|window| !window.mixed).count()
    }

    fn close(&mut self, is_over: impl Fn(&Window) -> bool) -> Vec<Message> {
        let mut over = Vec::new();
        self.windows.retain(|_, window| {
            let keep = !is_over(window);
            if !keep {
                over.extend(window.more.take());
            }
            keep
        });
        over.sort_by_key(|more| (more.folded.first, more.last.id));
        over.into_iter().map(|More { folded, last }| Message::summary(last, folded)).collect()
    }
}

// === impl Window ===

impl Window {
    fn count(&mut self, event: &Event) {
        let mixed = self.mixed;
        let more = self.more.get_or_insert_with(|| More {
            folded: Folded { count: 0, first: event.at, last: event.at, mixed },
            last: event.brief(),
        });
        let folded = &mut more.folded;
        folded.count = folded.count.saturating_add(1);
        folded.first = folded.first.min(event.at);
        if event.at >= folded.last {
            folded.last = event.at;
            more.last = event.brief();
        }
    }
}

/// 128 bits of it: two sorts of events that are taken for one would be told as one, no more.
fn digest(fingerprint: &str) -> String {
    let hash = Sha256::digest(fingerprint.as_bytes());
    hash[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}
