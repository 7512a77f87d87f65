//! Checking inclusion and consistency proofs (RFC 9162 §2.1.3.2 and §2.1.4.2).

use crate::Hash;

/// Why a proof proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The index or old size lies outside the tree.
    #[error("{wanted} is outside the tree of {size} entries")]
    Outside {
        /// What the proof is about.
        wanted: u64,
        /// The tree's size.
        size: u64,
    },
    /// The proof has too few or too many hashes for these sizes.
    #[error("the proof has {0} hashes, which does not fit the sizes")]
    Length(usize),
    /// The proof leads to another root.
    #[error("the proof leads to the root {computed}, not to {expected}")]
    Root {
        /// What it leads to.
        computed: Hash,
        /// What it should lead to.
        expected: Hash,
    },
}

/// Checks that `leaf` is entry `index` of the tree of `size` entries with `root`.
///
/// # Errors
/// The proof does not show it.
pub fn verify_inclusion(
    leaf: &Hash,
    index: u64,
    size: u64,
    root: &Hash,
    proof: &[Hash],
) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::Outside { wanted: index, size });
    }
    let length = ProofError::Length(proof.len());
    let (mut node, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for sibling in proof {
        if last == 0 {
            return Err(length);
        }
        if node & 1 == 1 || node == last {
            hash = Hash::of_node(sibling, &hash);
            climb_to_left_edge(&mut node, &mut last);
        } else {
            hash = Hash::of_node(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(length);
    }
    same_root(hash, root)
}

/// Checks that the tree of `old` entries with `old_root` is a prefix of that of `new` with `new_root`.
///
/// # Errors
/// The proof does not show it.
pub fn verify_consistency(
    old: u64,
    old_root: &Hash,
    new: u64,
    new_root: &Hash,
    proof: &[Hash],
) -> Result<(), ProofError> {
    if old > new {
        return Err(ProofError::Outside { wanted: old, size: new });
    }
    let length = ProofError::Length(proof.len());
    if old == 0 || old == new {
        let expected = if old == 0 { &Hash::of_empty_tree() } else { new_root };
        return if proof.is_empty() { same_root(*old_root, expected) } else { Err(length) };
    }
    // A perfect old tree is a node of the new one, so the proof leaves it out.
    let (first, rest) = if old.is_power_of_two() {
        (*old_root, proof)
    } else {
        let (first, rest) = proof.split_first().ok_or(length)?;
        (*first, rest)
    };
    let (mut node, mut last) = (old - 1, new - 1);
    while node & 1 == 1 {
        node >>= 1;
        last >>= 1;
    }
    let (mut old_hash, mut new_hash) = (first, first);
    for sibling in rest {
        if last == 0 {
            return Err(length);
        }
        if node & 1 == 1 || node == last {
            old_hash = Hash::of_node(sibling, &old_hash);
            new_hash = Hash::of_node(sibling, &new_hash);
            climb_to_left_edge(&mut node, &mut last);
        } else {
            new_hash = Hash::of_node(&new_hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(length);
    }
    same_root(old_hash, old_root)?;
    same_root(new_hash, new_root)
}

/// Skips the levels on which the rightmost node has no sibling.
fn climb_to_left_edge(node: &mut u64, last: &mut u64) {
    while *node & 1 == 0 && *node != 0 {
        *node >>= 1;
        *last >>= 1;
    }
}

fn same_root(computed: Hash, expected: &Hash) -> Result<(), ProofError> {
    if computed == *expected {
        Ok(())
    } else {
        Err(ProofError::Root { computed, expected: *expected })
    }
}
