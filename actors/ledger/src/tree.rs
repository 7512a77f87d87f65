//! The growing right edge of a workspace's Merkle tree (RFC 6962), kept in memory so that an append
//! reads nothing.

use crate::{
    Hash, Tile, TileError, TileId, TileReader,
    tiles::{TILE_WIDTH, read_partial},
};

/// A tree's partial tiles: all that appending and the root need. At most 255 hashes per level.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TreeEdge {
    size: u64,
    /// The partial tile of each level, lowest first; the last is not empty.
    levels: Vec<Vec<Hash>>,
}

// === impl TreeEdge ===

impl TreeEdge {
    /// The edge of a tree without leaves.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the edge of a stored tree of `size` leaves.
    ///
    /// # Errors
    /// A tile cannot be read, is missing or is too narrow for the size.
    pub fn load<R: TileReader>(size: u64, reader: &R) -> Result<Self, TileError<R::Error>> {
        let mut levels = Vec::new();
        let mut width = size;
        for level in 0.. {
            if width == 0 {
                break;
            }
            let partial = (width % TILE_WIDTH) as usize;
            let id = TileId { level, index: width / TILE_WIDTH };
            levels.push(read_partial(reader, id, partial)?);
            width /= TILE_WIDTH;
        }
        Ok(Self { size, levels })
    }

    /// The number of leaves.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Appends leaves and returns the tiles that changed, each once in its newest state, to be stored
    /// in place of their narrower selves.
    pub fn append(&mut self, leaves: &[Hash]) -> Vec<Tile> {
        let mut tiles = Vec::new();
        let mut changed = 0;
        for leaf in leaves {
            changed = changed.max(self.push(*leaf, &mut tiles));
        }
        for (level, hashes) in self.levels.iter().enumerate().take(changed) {
            if !hashes.is_empty() {
                let index = self.tile_index(level);
                tiles.push(Tile::new(TileId { level: level as u8, index }, hashes));
            }
        }
        tiles
    }

    /// The root over all leaves.
    pub fn root(&self) -> Hash {
        let mut right: Option<Hash> = None;
        for hashes in &self.levels {
            let mut rest = hashes.as_slice();
            // The perfect subtrees of a level stand largest first; the root folds them from the right.
            while !rest.is_empty() {
                let (before, subtree) =
                    rest.split_at(rest.len() - (1 << rest.len().trailing_zeros()));
                let left = perfect_root(subtree);
                right = Some(right.map_or(left, |right| Hash::of_node(&left, &right)));
                rest = before;
            }
        }
        right.unwrap_or_else(Hash::of_empty_tree)
    }

    /// Adds one leaf, passing full tiles to `full`; returns how many levels it touched.
    fn push(&mut self, leaf: Hash, full: &mut Vec<Tile>) -> usize {
        let mut hash = leaf;
        let mut level = 0;
        loop {
            if level == self.levels.len() {
                self.levels.push(Vec::with_capacity(TILE_WIDTH as usize));
            }
            self.levels[level].push(hash);
            if self.levels[level].len() < TILE_WIDTH as usize {
                break;
            }
            // `size` does not count this leaf yet, so the index is still that of the tile it fills.
            let id = TileId { level: level as u8, index: self.tile_index(level) };
            full.push(Tile::new(id, &self.levels[level]));
            hash = perfect_root(&self.levels[level]);
            self.levels[level].clear();
            level += 1;
        }
        self.size += 1;
        level + 1
    }

    /// The index of the level's rightmost tile.
    const fn tile_index(&self, level: usize) -> u64 {
        self.size.unbounded_shr(8 * (level as u32 + 1))
    }
}

/// The root over a power of two of hashes.
pub(crate) fn perfect_root(hashes: &[Hash]) -> Hash {
    debug_assert!(hashes.len().is_power_of_two(), "only perfect subtrees have such a root");
    let mut nodes = [Hash::ZERO; TILE_WIDTH as usize];
    let nodes = &mut nodes[..hashes.len()];
    nodes.copy_from_slice(hashes);
    let mut width = hashes.len();
    while width > 1 {
        width /= 2;
        for index in 0..width {
            nodes[index] = Hash::of_node(&nodes[2 * index], &nodes[2 * index + 1]);
        }
    }
    nodes[0]
}
