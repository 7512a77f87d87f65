//! The grams by which factors are found: four bytes in a row, with case and most digits folded away.

use super::{
    byte_set::ByteSet,
    frequency::{Chance, Shares},
};

/// Four places of a factor, or past one of its ends where it is shorter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Window {
    /// Where it starts in the factor.
    pub(super) offset: isize,
    /// How many grams are in it.
    pub(super) grams: usize,
    /// Whether the gram a step behind it is looked at as well.
    pub(super) is_followed: bool,
    /// What looking for it costs, as the chance of a costly hit.
    pub(super) cost: f32,
}

/// The bytes of a gram.
pub(super) const GRAM: usize = 4;
/// Grams are looked up at every second place, so a factor is registered with two windows: one at an even
/// distance from its start and one at an odd one.
pub(super) const STEP: usize = 2;
/// A window takes at most so many.
const MAX_GRAMS: usize = 1 << 12;
/// What a gram costs that is in the table and not followed as it should be, in hits that are.
const COST_OF_HIT: f32 = 0.25;
/// What one more gram costs, as a chance: a table of so many makes others collide with it.
const COST_OF_GRAM: f32 = 1.0 / (1 << 20) as f32;

/// Folds what the comparison afterwards tells apart: case, pairs of digits, and all that is not ASCII.
#[inline]
pub(super) const fn fold(byte: u8) -> u8 {
    let folded = byte & 0x5f;
    if byte >= 0x80 {
        0x1e
    } else if folded.wrapping_sub(0x10) < 10 {
        folded & 0x1e
    } else {
        folded
    }
}

/// The bit of a folded byte in a mask of them.
pub(super) const fn bit(folded: u8) -> u64 {
    1 << (folded & 0x1f | (folded & 0x40) >> 1)
}

/// The folded bytes of a set.
pub(super) fn mask(set: ByteSet) -> u64 {
    set.iter().fold(0, |mask, byte| mask | bit(fold(byte)))
}

// === impl Window ===

impl Window {
    /// The cheapest windows at even and at odd distances. `None` when all of one kind have too many grams.
    pub(super) fn choose(
        bytes: &[ByteSet],
        shares: &[Shares],
        has_context: bool,
    ) -> Option<[Self; STEP]> {
        let all = Shares::of(ByteSet::all());
        let folded: Vec<usize> = bytes.iter().map(|set| mask(*set).count_ones() as usize).collect();
        let everything = mask(ByteSet::all()).count_ones() as usize;
        let share = |place: isize| {
            let here = usize::try_from(place).ok().and_then(|place| shares.get(place));
            here.copied().unwrap_or(all)
        };
        let count = |offset: isize| {
            (offset..offset + GRAM as isize).try_fold(1_usize, |grams, place| {
                let here = usize::try_from(place).ok().and_then(|place| folded.get(place));
                let grams = grams * here.copied().unwrap_or(everything);
                (grams <= MAX_GRAMS).then_some(grams)
            })
        };
        let best = |offsets: &mut dyn Iterator<Item = isize>| {
            offsets
                .filter_map(|offset| {
                    let grams = count(offset)?;
                    let is_followed = count(offset + STEP as isize).is_some();
                    let hit: [Shares; GRAM] =
                        std::array::from_fn(|place| share(offset + place as isize));
                    let followed: [Shares; GRAM + STEP] =
                        std::array::from_fn(|place| share(offset + place as isize));
                    let hit = Chance::of_run(&hit);
                    let listed = if is_followed { Chance::of_run(&followed) } else { hit };
                    let cost = listed + COST_OF_HIT * hit + COST_OF_GRAM * grams as f32;
                    Some(Self { offset, grams, is_followed, cost })
                })
                .min_by(|a, b| a.cost.total_cmp(&b.cost))
        };
        let last = bytes.len().saturating_sub(GRAM) as isize;
        let even = best(&mut (0..=last.max(0)).step_by(STEP))?;
        // A context byte may be missing, at the start of a text: no window reaches before it. And none may
        // start behind the factor, where the text may end.
        let before = (!has_context).then_some(-1);
        let after = (bytes.len() > 1).then_some(1..=last.max(1));
        let odd = best(&mut before.into_iter().chain(after.into_iter().flatten().step_by(STEP)))?;
        Some([even, odd])
    }

    /// Visits its grams.
    pub(super) fn visit_grams(&self, bytes: &[ByteSet], visit: &mut dyn FnMut(u32)) {
        visit_grams(self.offset, bytes, visit);
    }

    /// Visits the grams a step behind it, if they are looked at.
    pub(super) fn visit_followers(&self, bytes: &[ByteSet], visit: &mut dyn FnMut(u32)) {
        if self.is_followed {
            visit_grams(self.offset + STEP as isize, bytes, visit);
        }
    }
}

fn visit_grams(offset: isize, bytes: &[ByteSet], visit: &mut dyn FnMut(u32)) {
    let mut places = [const { Vec::new() }; GRAM];
    for (place, folded) in (offset..).zip(&mut places) {
        *folded = unmasked(mask_at(bytes, place) & mask(ByteSet::all())).collect();
    }
    let [first, second, third, fourth] = &places;
    for a in first {
        for b in second {
            for c in third {
                for d in fourth {
                    visit(u32::from_le_bytes([*a, *b, *c, *d]));
                }
            }
        }
    }
}

/// The folded bytes that a mask has.
fn unmasked(mask: u64) -> impl Iterator<Item = u8> {
    let folded = (0..32_u8).chain(0x40..0x60);
    folded.filter(move |folded| mask & bit(*folded) != 0)
}

/// What may stand at a place of a factor, or past one of its ends.
pub(super) fn mask_at(bytes: &[ByteSet], place: isize) -> u64 {
    let set = usize::try_from(place).ok().and_then(|place| bytes.get(place));
    set.map_or(u64::MAX, |set| mask(*set))
}
