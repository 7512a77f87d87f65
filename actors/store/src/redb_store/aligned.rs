//! Bytes that begin at a multiple of a block in memory, as writing past the page cache demands.

use std::ops::{Deref, DerefMut};

/// The greatest block that a disk of today asks for.
const BLOCK: usize = 4096;

/// A growing buffer. Its bytes move when it grows, as those of a `Vec`.
#[derive(Debug, Default)]
pub(super) struct AlignedBuffer {
    /// As many bytes as it takes to come to a block, then those of the buffer.
    bytes: Vec<u8>,
    start: usize,
}

// === impl AlignedBuffer ===

impl AlignedBuffer {
    pub(super) fn clear(&mut self) {
        self.bytes.truncate(self.start);
    }

    /// Appends zeros.
    pub(super) fn grow(&mut self, count: usize) {
        let needed = self.bytes.len() + count;
        if needed > self.bytes.capacity() {
            let room = (self.len() + count).max(2 * self.len());
            let mut bytes: Vec<u8> = Vec::with_capacity(BLOCK + room);
            // Where nobody can tell, the bytes are written through the page cache.
            let start = Some(bytes.as_ptr().align_offset(BLOCK)).filter(|start| *start < BLOCK);
            let start = start.unwrap_or_default();
            bytes.resize(start, 0);
            bytes.extend_from_slice(self);
            *self = Self { bytes, start };
        }
        self.bytes.resize(self.bytes.len() + count, 0);
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stay_aligned_and_the_same_while_it_grows() {
        let mut buffer = AlignedBuffer::default();
        let mut expected = Vec::new();
        for round in 0..200_usize {
            buffer.grow(round * 7);
            expected.resize(expected.len() + round * 7, 0);
            for (index, byte) in buffer.iter_mut().enumerate() {
                *byte = (index % 251) as u8;
            }
            for (index, byte) in expected.iter_mut().enumerate() {
                *byte = (index % 251) as u8;
            }
            assert_eq!(&buffer[..], expected);
            assert!(buffer.is_empty() || buffer.as_ptr().align_offset(BLOCK) == 0);
        }
        buffer.clear();
        assert!(buffer.is_empty());
        buffer.grow(8);
        assert_eq!(&buffer[..], [0; 8]);
    }
}
