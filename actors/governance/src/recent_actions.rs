//! The latest action ids of an agent, so that a repeat is answered with what was recorded.
//!
//! They come back from the store by one read of the **pages** they were saved in, beside the entries, and by a walk back
//! over the few entries since. Without the pages it would be a read for each, one after the other: on a store that
//! answers slowly, an agent whose shard has moved would be silent for seconds, or for longer than a transaction lasts.

use std::collections::VecDeque;

use aa_protocol::ActionId;
use bytes::Bytes;

/// How many actions back a repeat is recognised: twice what the gateway admits in flight for one agent, so
/// an action whose answer was lost is still among them when it is sent again.
pub const REMEMBERED: usize = 512;

/// What a repeat repeats. An event may carry the id of the action it reports on, so the two are told
/// apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActionKey {
    /// An action to be decided.
    Check(ActionId),
    /// An event to be recorded.
    Event(ActionId),
}

/// Where the entries of recent actions stand in the log, newest last.
#[derive(Clone, Debug, Default)]
pub struct RecentActions {
    /// A few bits of each key: nearly every action is new, and is known to be new from these alone.
    marks: VecDeque<u32>,
    keys: VecDeque<ActionKey>,
    positions: VecDeque<u64>,
    /// The number of the page that is being filled.
    page: u64,
    /// How many of the newest actions are in no full page.
    unpaged: usize,
    /// How many entries, of whatever kind, have been written since a page was saved.
    unsaved: usize,
}

/// The stored pages of an agent, from the oldest on.
#[derive(Debug, Default)]
pub struct SavedPages(Vec<SavedPage>);

#[derive(Debug)]
struct SavedPage {
    number: u64,
    /// The position of the agent's last entry when it was saved.
    through: u64,
    actions: Vec<(ActionKey, u64)>,
}

/// Actions in a full page, and the entries after which one is saved: a walk reads that many one by one, at most.
const PAGE: usize = 16;

/// The most pages that are stored: what is remembered, and the one that is being filled.
pub const PAGES: usize = REMEMBERED / PAGE + 1;

/// Of one action: which kind, its id and the position of its entry.
const ACTION_BYTES: usize = 1 + 16 + 8;

impl RecentActions {
    /// The position of the entry of `key`, when it is recent. A linear search: 512 marks are compared
    /// several at a time, faster than a hash map is kept, and take a fraction of its memory.
    pub fn position(&self, key: ActionKey) -> Option<u64> {
        let mark = key.mark();
        let (older, newer) = self.marks.as_slices();
        let known =
            |marks: &[u32]| marks.iter().fold(false, |found, known| found | (*known == mark));
        if !known(older) && !known(newer) {
            return None;
        }
        let index = self.keys.iter().rposition(|known| *known == key)?;
        self.positions.get(index).copied()
    }

    /// Notes the entry of `key`, forgetting the oldest when full.
    pub fn remember(&mut self, key: ActionKey, position: u64) {
        if self.keys.len() == REMEMBERED {
            self.marks.pop_front();
            self.keys.pop_front();
            self.positions.pop_front();
        }
        self.marks.push_back(key.mark());
        self.keys.push_back(key);
        self.positions.push_back(position);
        self.unpaged = (self.unpaged + 1).min(REMEMBERED);
    }

    /// Counts an entry of the agent that is in no page: one that was written, or that a walk came by.
    pub const fn count_entry(&mut self) {
        self.unsaved += 1;
    }

    /// The pages to save with the next entry, by their numbers in the store; `through` is the position of the last
    /// entry so far. None unless enough was written since the last.
    pub fn due_pages(&mut self, through: u64) -> Vec<(u64, Bytes)> {
        let mut due = Vec::new();
        if self.unsaved < PAGE {
            return due;
        }
        self.unsaved = 0;
        // An agent that was stored without pages has many to save.
        while due.is_empty() || self.unpaged > 0 {
            let first = self.keys.len() - self.unpaged;
            let actions = self.keys.range(first..).zip(self.positions.range(first..)).take(PAGE);
            let actions = actions.map(|(key, position)| (*key, *position)).collect();
            let page = SavedPage { number: self.page, through, actions };
            due.push((page.number % PAGES as u64, page.encode()));
            if page.actions.len() < PAGE {
                break;
            }
            self.page += 1;
            self.unpaged -= PAGE;
        }
        due
    }

    /// Puts what is in the pages before what a walk has found.
    pub fn put_before(&mut self, saved: &SavedPages) {
        let Some(last) = saved.0.last() else { return };
        let walked = self.unpaged;
        for page in saved.0.iter().rev() {
            for (key, position) in page.actions.iter().rev() {
                self.remember_older(*key, *position);
            }
        }
        let is_full = last.actions.len() == PAGE;
        self.page = last.number + u64::from(is_full);
        self.unpaged = walked + if is_full { 0 } else { last.actions.len() };
        self.unpaged = self.unpaged.min(self.keys.len());
    }

    /// Notes an entry older than all noted; nothing when full.
    pub fn remember_older(&mut self, key: ActionKey, position: u64) {
        if self.keys.len() < REMEMBERED {
            self.marks.push_front(key.mark());
            self.keys.push_front(key);
            self.positions.push_front(position);
            self.unpaged += 1;
        }
    }

    /// Whether no older one would be noted.
    pub fn is_full(&self) -> bool {
        self.keys.len() >= REMEMBERED
    }
}

// === impl SavedPages ===

impl SavedPages {
    /// Takes what is stored, in any order. `None` when it does not read.
    pub fn decode<'s>(stored: impl IntoIterator<Item = &'s [u8]>) -> Option<Self> {
        let mut pages =
            stored.into_iter().map(SavedPage::decode).collect::<Option<Vec<SavedPage>>>()?;
        pages.sort_unstable_by_key(|page| page.number);
        Some(Self(pages))
    }

    /// Whether the actions of the entry at this position, and of all before it, are in the pages.
    pub fn cover(&self, position: u64) -> bool {
        self.0.last().is_some_and(|last| position <= last.through)
    }
}

// === impl SavedPage ===

impl SavedPage {
    fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(16 + self.actions.len() * ACTION_BYTES);
        bytes.extend_from_slice(&self.number.to_be_bytes());
        bytes.extend_from_slice(&self.through.to_be_bytes());
        for (key, position) in &self.actions {
            let (kind, id) = key.parts();
            bytes.push(kind);
            bytes.extend_from_slice(&id.to_bytes());
            bytes.extend_from_slice(&position.to_be_bytes());
        }
        bytes.into()
    }

    fn decode(stored: &[u8]) -> Option<Self> {
        let (number, rest) = stored.split_first_chunk::<8>()?;
        let (through, rest) = rest.split_first_chunk::<8>()?;
        let (actions, rest) = rest.as_chunks::<ACTION_BYTES>();
        if !rest.is_empty() || actions.len() > PAGE {
            return None;
        }
        let action = |bytes: &[u8; ACTION_BYTES]| {
            let (kind, rest) = bytes.split_first()?;
            let (id, position) = rest.split_first_chunk::<16>()?;
            let key = ActionKey::of_parts(*kind, ActionId::from_bytes(*id))?;
            Some((key, u64::from_be_bytes(position.try_into().ok()?)))
        };
        Some(Self {
            number: u64::from_be_bytes(*number),
            through: u64::from_be_bytes(*through),
            actions: actions.iter().map(action).collect::<Option<_>>()?,
        })
    }
}

// === impl ActionKey ===

impl ActionKey {
    /// The kind as stored, and the id.
    const fn parts(self) -> (u8, ActionId) {
        match self {
            Self::Check(id) => (0, id),
            Self::Event(id) => (1, id),
        }
    }

    const fn of_parts(kind: u8, id: ActionId) -> Option<Self> {
        match kind {
            0 => Some(Self::Check(id)),
            1 => Some(Self::Event(id)),
            _ => None,
        }
    }

    fn mark(self) -> u32 {
        let (kind, id) = self.parts();
        // Ids are random somewhere: every byte takes part.
        let bytes = id.to_bytes();
        bytes.chunks_exact(4).fold(kind.into(), |mark: u32, word| {
            let word = word.try_into().map_or(0, u32::from_le_bytes);
            mark.rotate_left(7) ^ word
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// What an agent's entries and pages look like in the store, an entry for each position.
    #[derive(Default)]
    struct Stored {
        entries: Vec<Option<ActionKey>>,
        pages: HashMap<u64, Bytes>,
    }

    impl Stored {
        /// An entry, of an action or of anything else, and the pages that go with it.
        fn write(&mut self, recent: &mut RecentActions, key: Option<ActionKey>) {
            let position = self.entries.len() as u64;
            self.pages.extend(recent.due_pages(position.wrapping_sub(1)));
            self.entries.push(key);
            recent.count_entry();
            if let Some(key) = key {
                recent.remember(key, position);
            }
        }

        /// What a reader finds, and how many entries it walks over.
        fn read(&self) -> (RecentActions, usize) {
            let saved = SavedPages::decode(self.pages.values().map(|page| &page[..])).unwrap();
            let mut recent = RecentActions::default();
            let mut walked = 0;
            for (position, key) in self.entries.iter().enumerate().rev() {
                if saved.cover(position as u64) || recent.is_full() {
                    break;
                }
                walked += 1;
                recent.count_entry();
                if let Some(key) = key {
                    recent.remember_older(*key, position as u64);
                }
            }
            recent.put_before(&saved);
            (recent, walked)
        }
    }

    fn id(number: usize) -> ActionKey {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
        let id = ActionId::from_bytes(bytes);
        if number.is_multiple_of(5) { ActionKey::Event(id) } else { ActionKey::Check(id) }
    }

    #[test]
    fn the_oldest_is_forgotten_first() {
        let mut recent = RecentActions::default();
        for number in 0..=REMEMBERED {
            recent.remember(id(number), number as u64);
        }
        assert_eq!(recent.position(id(0)), None);
        assert_eq!(recent.position(id(1)), Some(1));
        assert_eq!(recent.position(id(REMEMBERED)), Some(REMEMBERED as u64));
    }

    #[test]
    fn an_agent_that_was_stored_without_pages_gets_them_with_its_next_entries() {
        let entries = (0..2 * REMEMBERED).map(|number| Some(id(number))).collect();
        let mut stored = Stored { entries, ..Stored::default() };
        let (mut recent, walked) = stored.read();
        assert_eq!(walked, REMEMBERED);
        stored.write(&mut recent, Some(id(2 * REMEMBERED)));
        let (back, walked) = stored.read();
        assert_eq!((back.keys, walked), (recent.keys, 1));
    }

    #[test]
    fn a_page_that_does_not_read_is_not_taken_for_none() {
        let page = SavedPage { number: 0, through: 7, actions: vec![(id(1), 7)] }.encode();
        assert!(SavedPages::decode([&page[..]]).is_some());
        let of_unknown_kind = [&page[..16], &[2], &page[17..]].concat();
        for damaged in [&page[..15], &page[..page.len() - 1], &of_unknown_kind] {
            assert!(SavedPages::decode([damaged]).is_none());
        }
    }

    proptest! {
        #[test]
        fn they_come_back_from_the_store_by_a_short_walk(
            // How many entries are written, of which every so many is an action, before the next reading.
            lives in prop::collection::vec((0_usize..700, 1_usize..40), 1..6),
        ) {
            let mut stored = Stored::default();
            let mut recent = RecentActions::default();
            for (entries, every) in lives {
                for number in 0..entries {
                    let at = stored.entries.len();
                    let is_action = number.is_multiple_of(every);
                    stored.write(&mut recent, is_action.then(|| id(at)));
                }
                prop_assert!(stored.pages.len() <= PAGES);
                let actions: Vec<_> = (0_u64..)
                    .zip(&stored.entries)
                    .filter_map(|(position, key)| Some(((*key)?, position)))
                    .collect();
                let latest = &actions[actions.len().saturating_sub(REMEMBERED)..];
                let (back, walked) = stored.read();
                prop_assert!(walked <= PAGE, "{walked}");
                prop_assert!(back.keys.iter().eq(latest.iter().map(|(key, _)| key)));
                prop_assert!(back.positions.iter().eq(latest.iter().map(|(_, position)| position)));
                prop_assert_eq!(&back.marks, &recent.marks);
                recent = back;
            }
        }
    }
}
