//! A map of bounded size that forgets what was not asked for of late.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::RwLock;

/// Values by key, at most so many. Values are handles: cheap to clone, and shared with whoever got one.
pub(crate) struct Recent<K, V> {
    capacity: usize,
    entries: RwLock<HashMap<K, Entry<V>>>,
    /// Counts look-ups; what was looked up last has the highest.
    clock: AtomicU64,
}

struct Entry<V> {
    value: V,
    used: AtomicU64,
}

/// When full, this part of all entries is forgotten together, so that the search for them is paid for by many
/// insertions.
const FORGOTTEN: usize = 8;

// === impl Recent ===

impl<K: Clone + Eq + Hash, V: Clone> Recent<K, V> {
    /// One of at most `capacity` entries, at least one.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            entries: RwLock::new(HashMap::new()),
            clock: AtomicU64::new(0),
        }
    }

    /// The value of `key`; of all who ask for a new key at once, one makes it.
    pub(crate) fn get_or_insert_with(&self, key: &K, make: impl FnOnce() -> V) -> V {
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        if let Some(entry) = self.entries.read().get(key) {
            entry.used.store(now, Ordering::Relaxed);
            return entry.value.clone();
        }
        let mut entries = self.entries.write();
        if !entries.contains_key(key) && entries.len() >= self.capacity {
            forget_oldest(&mut entries);
        }
        let fresh = || Entry { value: make(), used: AtomicU64::new(now) };
        entries.entry(key.clone()).or_insert_with(fresh).value.clone()
    }

    /// Forgets all.
    pub(crate) fn clear(&self) {
        self.entries.write().clear();
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.read().len()
    }
}

fn forget_oldest<K: Clone + Eq + Hash, V>(entries: &mut HashMap<K, Entry<V>>) {
    let mut used: Vec<u64> = entries.values_mut().map(|entry| *entry.used.get_mut()).collect();
    let (_, last, _) = used.select_nth_unstable(entries.len() / FORGOTTEN);
    let last = *last;
    entries.retain(|_, entry| *entry.used.get_mut() > last);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_of_late_is_kept() {
        let recent = Recent::new(16);
        for key in 0..16 {
            recent.get_or_insert_with(&key, || key);
        }
        recent.get_or_insert_with(&0, || unreachable!("it is there"));
        recent.get_or_insert_with(&16, || 16);
        assert!(recent.len() <= 16);
        for kept in [0, 8, 15, 16] {
            recent.get_or_insert_with(&kept, || unreachable!("{kept} is there"));
        }
        assert_eq!(recent.get_or_insert_with(&1, || 100), 100, "the oldest was forgotten");
    }

    #[test]
    fn it_never_holds_more_than_it_may() {
        for capacity in [0, 1, 2, 7, 8, 9, 100] {
            let recent = Recent::new(capacity);
            for key in 0..1_000 {
                assert_eq!(recent.get_or_insert_with(&key, || key), key);
                assert!(recent.len() <= capacity.max(1));
            }
        }
    }
}
