//! The tile tree against the definitions of RFC 6962 §2.1, computed naively.

use std::{collections::BTreeMap, convert::Infallible};

use aa_ledger::{
    Hash, TileError, TileId, TileReader, TileTree, TreeEdge, verify_consistency, verify_inclusion,
};
use proptest::prelude::*;

#[derive(Default)]
struct Tiles(BTreeMap<TileId, Vec<u8>>);

impl TileReader for Tiles {
    type Error = Infallible;

    fn tile(&self, id: TileId) -> Result<Option<Vec<u8>>, Infallible> {
        Ok(self.0.get(&id).cloned())
    }
}

fn leaves(count: u64) -> Vec<Hash> {
    (0..count).map(|index| Hash::of_leaf(&index.to_be_bytes())).collect()
}

/// MTH of RFC 6962 §2.1.
fn naive_root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Hash::of_empty_tree(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            Hash::of_node(&naive_root(left), &naive_root(right))
        }
    }
}

fn grow(edge: &mut TreeEdge, tiles: &mut Tiles, batch: &[Hash]) {
    for tile in edge.append(batch) {
        tiles.0.insert(tile.id, tile.bytes);
    }
}

fn tree(count: u64) -> (TreeEdge, Tiles) {
    let (mut edge, mut tiles) = (TreeEdge::new(), Tiles::default());
    grow(&mut edge, &mut tiles, &leaves(count));
    (edge, tiles)
}

#[test]
fn roots_are_those_of_the_published_test_tree() {
    // The leaves and roots of certificate-transparency's `merkle_tree_test.cc`.
    let data: [&[u8]; 8] = [
        b"",
        b"\x00",
        b"\x10",
        b"\x20\x21",
        b"\x30\x31",
        b"\x40\x41\x42\x43",
        b"\x50\x51\x52\x53\x54\x55\x56\x57",
        b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
    ];
    let roots = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    let mut edge = TreeEdge::new();
    for (data, root) in data.iter().zip(roots) {
        edge.append(&[Hash::of_leaf(data)]);
        assert_eq!(edge.root().to_string(), root);
    }
}

#[test]
fn a_tree_of_70000_has_the_tiles_of_the_tlog_tiles_example() {
    let (_, tiles) = tree(70_000);
    let width = |level, index| tiles.0.get(&TileId { level, index }).map(|tile| tile.len() / 32);
    assert_eq!(width(0, 272), Some(256));
    assert_eq!(width(0, 273), Some(112));
    assert_eq!(width(1, 0), Some(256));
    assert_eq!(width(1, 1), Some(17));
    assert_eq!(width(2, 0), Some(1));
    assert_eq!(tiles.0.len(), 273 + 1 + 1 + 1 + 1);
}

#[test]
fn tile_paths_are_those_of_tlog_tiles() {
    let path = |level, index| TileId { level, index }.to_string();
    assert_eq!(path(0, 1_234_067), "tile/0/x001/x234/067");
    assert_eq!(path(3, 7), "tile/3/007");
}

#[test]
fn a_missing_tile_is_named_with_what_the_size_demands() {
    let (_, mut tiles) = tree(300);
    tiles.0.remove(&TileId { level: 0, index: 1 });
    let error = TileTree::new(&tiles).root(300).unwrap_err();
    let id = TileId { level: 0, index: 1 };
    assert!(matches!(error, TileError::Narrow { id: missing, found: 0, .. } if missing == id));
    assert!(TreeEdge::load(300, &tiles).is_err());
    assert_eq!(TileTree::new(&tiles).root(256).unwrap(), naive_root(&leaves(256)));
}

#[test]
fn every_proof_in_small_trees_verifies_and_no_other_does() {
    const SIZE: u64 = 34;
    let all = leaves(SIZE);
    let (_, tiles) = tree(SIZE);
    let tree = TileTree::new(&tiles);
    for size in 1..=SIZE {
        let root = tree.root(size).unwrap();
        assert_eq!(root, naive_root(&all[..size as usize]));
        for index in 0..size {
            let proof = tree.inclusion(index, size).unwrap();
            let leaf = &all[index as usize];
            verify_inclusion(leaf, index, size, &root, &proof).unwrap();
            let other = Hash::of_leaf(b"other");
            assert!(verify_inclusion(&other, index, size, &root, &proof).is_err());
            let mut longer = proof.clone();
            longer.push(other);
            assert!(verify_inclusion(leaf, index, size, &root, &longer).is_err());
            if let Some((_, shorter)) = proof.split_last() {
                assert!(verify_inclusion(leaf, index, size, &root, shorter).is_err());
            }
        }
        for old in 0..=size {
            let old_root = tree.root(old).unwrap();
            let proof = tree.consistency(old, size).unwrap();
            verify_consistency(old, &old_root, size, &root, &proof).unwrap();
            let other = Hash::of_leaf(b"other");
            assert!(verify_consistency(old, &other, size, &root, &proof).is_err());
            let mut longer = proof;
            longer.push(other);
            assert!(verify_consistency(old, &old_root, size, &root, &longer).is_err());
        }
    }
    assert!(tree.inclusion(5, 5).is_err());
    assert!(tree.consistency(6, 5).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn any_batching_yields_the_tree_of_the_definition(
        batches in prop::collection::vec(0_u64..400, 1..6),
    ) {
        let total = batches.iter().sum();
        let all = leaves(total);
        let (mut edge, mut tiles) = (TreeEdge::new(), Tiles::default());
        let mut rest = all.as_slice();
        for batch in batches {
            let (now, later) = rest.split_at(batch as usize);
            grow(&mut edge, &mut tiles, now);
            rest = later;
            let size = edge.size();
            prop_assert_eq!(edge.root(), naive_root(&all[..size as usize]));
            prop_assert_eq!(TreeEdge::load(size, &tiles).unwrap(), edge.clone());
        }
        let (_, at_once) = tree(total);
        prop_assert_eq!(&tiles.0, &at_once.0);
    }

    #[test]
    fn proofs_across_tiles_verify(size in 1_u64..70_000, a in any::<u64>(), b in any::<u64>()) {
        let (edge, tiles) = tree(size);
        let tree = TileTree::new(&tiles);
        let root = tree.root(size).unwrap();
        prop_assert_eq!(root, edge.root());
        let index = a % size;
        let proof = tree.inclusion(index, size).unwrap();
        let leaf = Hash::of_leaf(&index.to_be_bytes());
        prop_assert_eq!(verify_inclusion(&leaf, index, size, &root, &proof), Ok(()));
        let old = b % (size + 1);
        let old_root = tree.root(old).unwrap();
        let proof = tree.consistency(old, size).unwrap();
        prop_assert_eq!(verify_consistency(old, &old_root, size, &root, &proof), Ok(()));
        let folded = tree.frontier(old).unwrap().into_iter().rev();
        let folded = folded.reduce(|right, left| Hash::of_node(&left, &right));
        prop_assert_eq!(folded.unwrap_or_else(Hash::of_empty_tree), old_root);
    }
}
