//! The latest action ids of an agent, so that a repeat is answered with what was recorded.

use std::collections::VecDeque;

use aa_protocol::ActionId;

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
}

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
    }

    /// Notes an entry older than all noted; nothing when full.
    pub fn remember_older(&mut self, key: ActionKey, position: u64) {
        if self.keys.len() < REMEMBERED {
            self.marks.push_front(key.mark());
            self.keys.push_front(key);
            self.positions.push_front(position);
        }
    }

    /// Whether no older one would be noted.
    pub fn is_full(&self) -> bool {
        self.keys.len() >= REMEMBERED
    }
}

// === impl ActionKey ===

impl ActionKey {
    fn mark(self) -> u32 {
        let (kind, id) = match self {
            Self::Check(id) => (0, id),
            Self::Event(id) => (1, id),
        };
        // Ids are random somewhere: every byte takes part.
        let bytes = id.to_bytes();
        bytes.chunks_exact(4).fold(kind, |mark: u32, word| {
            let word = word.try_into().map_or(0, u32::from_le_bytes);
            mark.rotate_left(7) ^ word
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_first() {
        let id = |number: u16| {
            let mut bytes = [0; 16];
            bytes[..2].copy_from_slice(&number.to_be_bytes());
            ActionKey::Check(ActionId::from_bytes(bytes))
        };
        let mut recent = RecentActions::default();
        for number in 0..=REMEMBERED as u16 {
            recent.remember(id(number), u64::from(number));
        }
        assert_eq!(recent.position(id(0)), None);
        assert_eq!(recent.position(id(1)), Some(1));
        assert_eq!(recent.position(id(REMEMBERED as u16)), Some(REMEMBERED as u64));
    }
}
