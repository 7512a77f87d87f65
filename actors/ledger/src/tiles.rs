//! The Merkle tree as stored tiles of 256 hashes (C2SP `tlog-tiles`), and what is computed from them.

use std::{cell::RefCell, collections::BTreeMap, fmt};

use crate::{Hash, tree::perfect_root};

/// Hashes in a full tile.
pub const TILE_WIDTH: u64 = 256;
const HASH_BYTES: usize = 32;
const TILE_HEIGHT: u32 = 8;

/// Which tile of a tree it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TileId {
    /// 0 for leaf hashes; a hash at level n is the root of a full tile at level n − 1.
    pub level: u8,
    /// Its place in its level, from 0.
    pub index: u64,
}

/// A tile to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Which tile it is.
    pub id: TileId,
    /// 1 to 256 hashes of 32 bytes each.
    pub bytes: Vec<u8>,
}

/// Where stored tiles are read.
pub trait TileReader {
    /// Why a read failed.
    type Error;

    /// The newest stored state of a tile, which may be wider than the caller needs; `None` when there
    /// is none.
    ///
    /// # Errors
    /// The store failed.
    fn tile(&self, id: TileId) -> Result<Option<Vec<u8>>, Self::Error>;
}

/// A stored tree, read for roots and proofs at any size up to the stored one.
pub struct TileTree<'r, R> {
    reader: &'r R,
    /// Every tile read so far: the subtrees of one proof share most of theirs.
    seen: RefCell<BTreeMap<TileId, Vec<u8>>>,
}

/// Why a tree could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TileError<E> {
    /// The store failed.
    #[error("tile {id} could not be read: {source}")]
    Read {
        /// The wanted tile.
        id: TileId,
        /// The store's error.
        source: E,
    },
    /// The tile is missing or has fewer hashes than the tree's size demands.
    #[error("tile {id} has {found} hashes; the tree's size demands {needed}")]
    Narrow {
        /// The wanted tile.
        id: TileId,
        /// Hashes in the stored tile.
        found: usize,
        /// Hashes it must have at least.
        needed: usize,
    },
    /// An index or size lies outside the tree.
    #[error("{wanted} is outside the tree of {size} entries")]
    Outside {
        /// What was asked for.
        wanted: u64,
        /// The tree's size.
        size: u64,
    },
}

// === impl TileId ===

impl fmt::Display for TileId {
    /// The path of the full tile in C2SP `tlog-tiles`, such as `tile/0/x001/234`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tile/{}/", self.level)?;
        let mut groups = vec![self.index % 1_000];
        let mut rest = self.index / 1_000;
        while rest > 0 {
            groups.push(rest % 1_000);
            rest /= 1_000;
        }
        for group in groups.iter().skip(1).rev() {
            write!(f, "x{group:03}/")?;
        }
        write!(f, "{:03}", groups[0])
    }
}

// === impl Tile ===

impl Tile {
    pub(crate) fn new(id: TileId, hashes: &[Hash]) -> Self {
        let bytes = hashes.iter().flat_map(|hash| *hash.as_bytes()).collect();
        Self { id, bytes }
    }
}

// === impl TileTree ===

impl<'r, R: TileReader> TileTree<'r, R> {
    /// Reads the tree through `reader`.
    pub const fn new(reader: &'r R) -> Self {
        Self { reader, seen: RefCell::new(BTreeMap::new()) }
    }

    /// The root of the first `size` leaves.
    ///
    /// # Errors
    /// A tile cannot be read, is missing or is too narrow.
    pub fn root(&self, size: u64) -> Result<Hash, TileError<R::Error>> {
        if size == 0 { Ok(Hash::of_empty_tree()) } else { self.range(0, size) }
    }

    /// The roots of the perfect subtrees that make up the first `size` leaves, largest first.
    ///
    /// # Errors
    /// A tile cannot be read, is missing or is too narrow.
    pub fn frontier(&self, size: u64) -> Result<Vec<Hash>, TileError<R::Error>> {
        let mut hashes = Vec::with_capacity(size.count_ones() as usize);
        let mut start = 0;
        while start < size {
            let width = 1 << (size - start).ilog2();
            hashes.push(self.range(start, start + width)?);
            start += width;
        }
        Ok(hashes)
    }

    /// The proof that leaf `index` is in the tree of the first `size` leaves (RFC 9162 §2.1.3.1).
    ///
    /// # Errors
    /// The index is outside that tree, or a tile cannot be read, is missing or is too narrow.
    pub fn inclusion(&self, index: u64, size: u64) -> Result<Vec<Hash>, TileError<R::Error>> {
        if index >= size {
            return Err(TileError::Outside { wanted: index, size });
        }
        let (mut start, mut end) = (0, size);
        let mut proof = Vec::new();
        while end - start > 1 {
            let middle = split(start, end);
            if index < middle {
                proof.push(self.range(middle, end)?);
                end = middle;
            } else {
                proof.push(self.range(start, middle)?);
                start = middle;
            }
        }
        proof.reverse();
        Ok(proof)
    }

    /// The proof that the tree of `old` leaves is a prefix of the tree of `new` (RFC 9162 §2.1.4.1);
    /// empty when `old` is 0 or `new`.
    ///
    /// # Errors
    /// `old` is larger than `new`, or a tile cannot be read, is missing or is too narrow.
    pub fn consistency(&self, old: u64, new: u64) -> Result<Vec<Hash>, TileError<R::Error>> {
        if old > new {
            return Err(TileError::Outside { wanted: old, size: new });
        }
        if old == 0 || old == new {
            return Ok(Vec::new());
        }
        let (mut start, mut end) = (0, new);
        let mut proof = Vec::new();
        while end != old {
            let middle = split(start, end);
            if old <= middle {
                proof.push(self.range(middle, end)?);
                end = middle;
            } else {
                proof.push(self.range(start, middle)?);
                start = middle;
            }
        }
        // The old root itself is known to the verifier; a subtree further right is not.
        if start > 0 {
            proof.push(self.range(start, end)?);
        }
        proof.reverse();
        Ok(proof)
    }

    /// The hash over `start..end`, a range that the tree's recursion yields.
    fn range(&self, start: u64, end: u64) -> Result<Hash, TileError<R::Error>> {
        let width = end - start;
        if width.is_power_of_two() {
            return self.perfect(start, width.ilog2());
        }
        let middle = split(start, end);
        Ok(Hash::of_node(&self.range(start, middle)?, &self.range(middle, end)?))
    }

    /// The root of the perfect subtree of `2^height` leaves that starts at `start`.
    fn perfect(&self, start: u64, height: u32) -> Result<Hash, TileError<R::Error>> {
        let level = height / TILE_HEIGHT;
        let first = start >> (level * TILE_HEIGHT);
        let count = 1_usize << (height % TILE_HEIGHT);
        let id = TileId { level: level as u8, index: first / TILE_WIDTH };
        let offset = (first % TILE_WIDTH) as usize;
        let needed = offset + count;

        let mut seen = self.seen.borrow_mut();
        let bytes = match seen.entry(id) {
            std::collections::btree_map::Entry::Occupied(tile) => tile.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(read(self.reader, id)?)
            }
        };
        let hashes = hashes(bytes, id, needed)?;
        Ok(perfect_root(&hashes[offset..]))
    }
}

/// Where RFC 6962 splits a range: the largest power of two below its width.
const fn split(start: u64, end: u64) -> u64 {
    start + (1 << (end - start - 1).ilog2())
}

/// The first `width` hashes of a tile; nothing is read for none.
pub(crate) fn read_partial<R: TileReader>(
    reader: &R,
    id: TileId,
    width: usize,
) -> Result<Vec<Hash>, TileError<R::Error>> {
    if width == 0 { Ok(Vec::new()) } else { hashes(&read(reader, id)?, id, width) }
}

fn read<R: TileReader>(reader: &R, id: TileId) -> Result<Vec<u8>, TileError<R::Error>> {
    let tile = reader.tile(id).map_err(|source| TileError::Read { id, source })?;
    Ok(tile.unwrap_or_default())
}

fn hashes<E>(bytes: &[u8], id: TileId, needed: usize) -> Result<Vec<Hash>, TileError<E>> {
    let (all, _) = bytes.as_chunks::<HASH_BYTES>();
    let wanted = all.get(..needed).ok_or(TileError::Narrow { id, found: all.len(), needed })?;
    Ok(wanted.iter().copied().map(Hash::from_bytes).collect())
}
