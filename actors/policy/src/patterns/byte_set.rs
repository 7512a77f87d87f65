//! Sets of bytes.

/// The bytes that may stand at one place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ByteSet([u64; 4]);

// === impl ByteSet ===

impl ByteSet {
    pub(super) fn of(byte: u8) -> Self {
        let mut set = Self::default();
        set.extend(byte, byte);
        set
    }

    pub(super) fn all() -> Self {
        Self([u64::MAX; 4])
    }

    /// Digits, letters and the underscore: what RE2's `\w` and `\b` take for a word.
    pub(super) fn word() -> Self {
        let mut set = Self::of(b'_');
        set.extend(b'0', b'9');
        set.extend(b'A', b'Z');
        set.extend(b'a', b'z');
        set
    }

    pub(super) fn extend(&mut self, first: u8, last: u8) {
        for byte in first..=last {
            self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
        }
    }

    pub(super) fn or(self, other: Self) -> Self {
        let [a, b, c, d] = self.0;
        let [e, f, g, h] = other.0;
        Self([a | e, b | f, c | g, d | h])
    }

    pub(super) fn not(self) -> Self {
        Self(self.0.map(|word| !word))
    }

    pub(super) fn is_within(self, other: Self) -> bool {
        self.or(other) == other
    }

    pub(super) const fn contains(self, byte: u8) -> bool {
        self.0[(byte >> 6) as usize] >> (byte & 63) & 1 == 1
    }

    pub(super) fn len(self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    pub(super) fn iter(self) -> impl Iterator<Item = u8> {
        (0..4_u8).flat_map(move |number| {
            let mut word = self.0[usize::from(number)];
            std::iter::from_fn(move || {
                let bit = (word != 0).then(|| word.trailing_zeros() as u8)?;
                word &= word - 1;
                Some(number << 6 | bit)
            })
        })
    }
}
