//! Folding a stream of leaves into a root (RFC 6962 §2.1) in memory of the tree's height.

use sha2::{Digest, Sha256};

use crate::format::{LEAF_PREFIX, NODE_PREFIX};

/// The perfect subtrees of the leaves so far.
pub(super) struct Frontier {
    size: u64,
    /// Largest first, one per bit set in `size`.
    roots: Vec<[u8; 32]>,
}

// === impl Frontier ===

impl Frontier {
    /// Starts after `size` leaves; `None` when `roots` are not as many as the size's perfect subtrees.
    pub(super) fn new(size: u64, roots: Vec<[u8; 32]>) -> Option<Self> {
        (roots.len() == size.count_ones() as usize).then_some(Self { size, roots })
    }

    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn push(&mut self, leaf: [u8; 32]) {
        let mut hash = leaf;
        // Adding one carries through as many equal subtrees as the size ends in ones.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.roots.pop() {
                hash = node(&left, &hash);
            }
        }
        self.roots.push(hash);
        self.size += 1;
    }

    pub(super) fn root(&self) -> [u8; 32] {
        let fold = self.roots.iter().rev().copied().reduce(|right, left| node(&left, &right));
        fold.unwrap_or_else(|| Sha256::digest([]).into())
    }
}

pub(super) fn leaf(line: &[u8]) -> [u8; 32] {
    let mut digest = Sha256::new();
    digest.update([LEAF_PREFIX]);
    digest.update(line);
    digest.finalize().into()
}

fn node(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    let mut digest = Sha256::new();
    digest.update([NODE_PREFIX]);
    digest.update(left);
    digest.update(right);
    digest.finalize().into()
}
