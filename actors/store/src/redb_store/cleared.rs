//! Ranges that were removed, each with the commit that did: deleting a range costs the same however
//! many pairs it holds, until the flush visits them.

use std::{collections::BTreeMap, ops::Bound};

use bytes::Bytes;

use crate::{KeyRange, Version};

/// Disjoint ranges with the latest version that cleared each.
#[derive(Clone, Debug, Default)]
pub(super) struct Cleared(BTreeMap<Bytes, (Bytes, Version)>);

// === impl Cleared ===

impl Cleared {
    /// Notes that `range` was cleared at `version`, which is not below any noted before.
    pub(super) fn insert(&mut self, range: &KeyRange, version: Version) {
        let (begin, end) = (range.begin(), range.end());
        // Ranges are disjoint: those that overlap the new one are neighbours, the last first.
        while let Some((known, (known_end, known_version))) =
            self.0.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(&end[..]))).next_back()
        {
            if *known_end <= *begin {
                break;
            }
            let (known, known_end, known_version) =
                (known.clone(), known_end.clone(), *known_version);
            self.0.remove(&known);
            if known_end > *end {
                self.0.insert(end.clone(), (known_end, known_version));
            }
            if known < *begin {
                self.0.insert(known, (begin.clone(), known_version));
                break;
            }
        }
        self.0.insert(begin.clone(), (end.clone(), version));
    }

    /// The latest version that cleared `key`.
    pub(super) fn version_of(&self, key: &[u8]) -> Option<Version> {
        if self.0.is_empty() {
            return None;
        }
        let up_to_key = (Bound::Unbounded, Bound::Included(key));
        let (_, (end, version)) = self.0.range::<[u8], _>(up_to_key).next_back()?;
        (key < &end[..]).then_some(*version)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn ranges(&self) -> impl Iterator<Item = KeyRange> {
        self.0.iter().map(|(begin, (end, _))| KeyRange::new(begin.clone(), end.clone()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_key_has_the_last_version_that_cleared_it(
            ranges in prop::collection::vec((0..30u8, 0..30u8), 0..40),
        ) {
            let mut cleared = Cleared::default();
            let mut expected = [None; 30];
            for (version, (begin, end)) in (1..).map(Version::from_u64).zip(ranges) {
                let range = KeyRange::new(vec![begin], vec![end]);
                if range.is_empty() {
                    continue;
                }
                cleared.insert(&range, version);
                expected[usize::from(begin)..usize::from(end)].fill(Some(version));
            }
            for (key, version) in (0..).zip(expected) {
                prop_assert_eq!(cleared.version_of(&[key]), version);
            }
            let ranges: Vec<KeyRange> = cleared.ranges().collect();
            prop_assert!(ranges.windows(2).all(|pair| pair[0].end() <= pair[1].begin()));
        }
    }
}
