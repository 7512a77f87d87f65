//! Which shard should live where: pure functions of what every node carries.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::shard::ShardId;

/// How long a shard that was moved stays where it is.
pub(crate) const REST: Duration = Duration::from_secs(60);

/// Moves ordered at a time.
const MOVES: usize = 16;

/// The same from a node that is about to leave.
const DRAINS: usize = 64;

/// What one node carries.
#[derive(Clone, Debug)]
pub(crate) struct Burden {
    /// The node.
    pub(crate) node: String,
    /// Whether it may be given more.
    pub(crate) takes: bool,
    /// Its shards, with the records per second of each.
    pub(crate) shards: BTreeMap<ShardId, u32>,
    /// Those of them that are still on their way to it.
    pub(crate) arriving: BTreeSet<ShardId>,
}

/// A shard that shall go elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    /// Which.
    pub(crate) shard: ShardId,
    /// To which node.
    pub(crate) to: String,
}

/// Who takes a shard that nobody serves: the same answer on every node, spread evenly, and changed for few
/// shards by a node that comes or goes (rendezvous hashing).
pub(crate) fn heir<'n>(shard: ShardId, nodes: &[&'n str]) -> Option<&'n str> {
    let rank = |node: &&str| {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in node.bytes().chain(shard.0.to_be_bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        // Neighbouring shards differ in the last byte only; this spreads it over all bits.
        hash ^= hash >> 33;
        hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash ^ (hash >> 33)
    };
    nodes.iter().max_by_key(|node| (rank(node), **node)).copied()
}

/// Where the shards of `from` go when it hands all of them over.
pub(crate) fn send_away(burdens: &[Burden], from: &str) -> Vec<Move> {
    let mut weights = Weights::of(burdens);
    let Some(giver) = burdens.iter().find(|burden| burden.node == from) else {
        return Vec::new();
    };
    let mut moves = Vec::new();
    for (shard, load) in giver.shards.iter().filter(|(shard, _)| !giver.arriving.contains(shard)) {
        let Some(to) = weights.lightest() else { break };
        let weight = weights.of_shard(*load);
        weights.add(to, weight);
        moves.push(Move { shard: *shard, to: burdens[to].node.clone() });
        if moves.len() == DRAINS {
            break;
        }
    }
    moves
}

/// The moves that make the load fairer. None unless a node carries a fifth more than its share, and only such
/// as do not make another the heaviest: what is ordered is not ordered back.
pub(crate) fn plan(burdens: &[Burden], resting: &BTreeSet<ShardId>) -> Vec<Move> {
    let mut weights = Weights::of(burdens);
    let mut at: Vec<BTreeMap<ShardId, u32>> =
        burdens.iter().map(|burden| burden.shards.clone()).collect();
    let mut moves = Vec::new();
    while moves.len() < MOVES {
        let (Some(heaviest), Some(lightest)) = (weights.heaviest(), weights.lightest()) else {
            break;
        };
        let (most, least) = (weights.at(heaviest), weights.at(lightest));
        if most <= weights.share() * 6 / 5 || heaviest == lightest {
            break;
        }
        // The largest shard that fits into half of the difference closes it the fastest.
        let fits = at[heaviest].iter().filter(|(shard, load)| {
            let is_free = !resting.contains(shard) && !burdens[heaviest].arriving.contains(shard);
            is_free && weights.of_shard(**load) * 2 <= most - least
        });
        let Some((shard, load)) = fits.max_by_key(|(_, load)| **load).map(|(s, l)| (*s, *l)) else {
            break;
        };
        let weight = weights.of_shard(load);
        at[heaviest].remove(&shard);
        weights.remove(heaviest, weight);
        weights.add(lightest, weight);
        moves.push(Move { shard, to: burdens[lightest].node.clone() });
    }
    moves
}

/// What nodes carry, in one unit: a shard weighs something by itself, as much as an average shard's load.
struct Weights {
    idle: u64,
    nodes: Vec<(bool, u64)>,
}

impl Weights {
    fn of(burdens: &[Burden]) -> Self {
        let shards: u64 = burdens.iter().map(|burden| burden.shards.len() as u64).sum();
        let loads = burdens.iter().flat_map(|burden| burden.shards.values());
        let load: u64 = loads.map(|load| u64::from(*load)).sum();
        let idle = (load / shards.max(1)).max(1);
        let mut weights = Self { idle, nodes: Vec::new() };
        for burden in burdens {
            let weight = burden.shards.values().map(|load| weights.of_shard(*load)).sum();
            weights.nodes.push((burden.takes, weight));
        }
        weights
    }

    fn of_shard(&self, load: u32) -> u64 {
        self.idle + u64::from(load)
    }

    fn at(&self, node: usize) -> u64 {
        self.nodes[node].1
    }

    fn add(&mut self, node: usize, weight: u64) {
        self.nodes[node].1 += weight;
    }

    fn remove(&mut self, node: usize, weight: u64) {
        self.nodes[node].1 -= weight;
    }

    /// What each node that takes shards would carry if all carried the same.
    fn share(&self) -> u64 {
        let takers = self.nodes.iter().filter(|(takes, _)| *takes).count() as u64;
        self.nodes.iter().map(|(_, weight)| weight).sum::<u64>() / takers.max(1)
    }

    fn heaviest(&self) -> Option<usize> {
        (0..self.nodes.len()).max_by_key(|node| self.nodes[*node].1)
    }

    fn lightest(&self) -> Option<usize> {
        (0..self.nodes.len())
            .filter(|node| self.nodes[*node].0)
            .min_by_key(|node| self.nodes[*node].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn burden(node: &str, shards: impl IntoIterator<Item = (u16, u32)>) -> Burden {
        let shards = shards.into_iter().map(|(shard, load)| (ShardId(shard), load)).collect();
        Burden { node: node.to_owned(), takes: true, shards, arriving: BTreeSet::new() }
    }

    /// Carries the moves out.
    fn after(burdens: &[Burden], moves: &[Move]) -> Vec<Burden> {
        let mut burdens = burdens.to_vec();
        for Move { shard, to } in moves {
            let load = burdens.iter_mut().find_map(|burden| burden.shards.remove(shard)).unwrap();
            let at = burdens.iter_mut().find(|burden| burden.node == *to).unwrap();
            at.shards.insert(*shard, load);
        }
        burdens
    }

    #[test]
    fn orphans_spread_evenly_and_few_move_when_a_node_comes() {
        let three = ["a", "b", "c"];
        let four = ["a", "b", "c", "d"];
        let mut counts = BTreeMap::new();
        let mut moved = 0;
        for shard in (0..256).map(ShardId) {
            let of_three = heir(shard, &three).unwrap();
            let of_four = heir(shard, &four).unwrap();
            *counts.entry(of_three).or_insert(0) += 1;
            assert!(of_four == of_three || of_four == "d");
            moved += usize::from(of_four == "d");
        }
        assert!(counts.values().all(|count| (60..=110).contains(count)), "{counts:?}");
        assert!((40..=90).contains(&moved), "{moved}");
        assert_eq!(heir(ShardId(0), &[]), None);
    }

    #[test]
    fn a_node_that_comes_is_given_its_share_and_then_all_is_still() {
        let mut burdens = vec![burden("a", (0..256).map(|shard| (shard, 0))), burden("b", [])];
        for _ in 0..8 {
            let moves = plan(&burdens, &BTreeSet::new());
            burdens = after(&burdens, &moves);
        }
        assert!((103..=128).contains(&burdens[1].shards.len()), "{}", burdens[1].shards.len());
        assert_eq!(plan(&burdens, &BTreeSet::new()), []);
    }

    #[test]
    fn a_hot_shard_is_not_thrown_to_and_fro() {
        // Wherever the hot one is, that node is the heaviest: the others move away from it, and it stays.
        let mut burdens = vec![
            burden("a", (0..8).map(|shard| (shard, if shard == 0 { 10_000 } else { 10 }))),
            burden("b", (8..16).map(|shard| (shard, 10))),
        ];
        for _ in 0..20 {
            let moves = plan(&burdens, &BTreeSet::new());
            assert!(moves.iter().all(|order| order.shard != ShardId(0)), "{moves:?}");
            burdens = after(&burdens, &moves);
        }
        assert_eq!(plan(&burdens, &BTreeSet::new()), []);
    }

    #[test]
    fn what_rests_or_is_on_its_way_stays() {
        let mut full = burden("a", (0..10).map(|shard| (shard, 0)));
        full.arriving = (0..5).map(ShardId).collect();
        let burdens = [full, burden("b", [])];
        let resting = (5..10).map(ShardId).collect();
        assert_eq!(plan(&burdens, &resting), []);
    }

    #[test]
    fn a_draining_node_gives_all_away_and_is_given_nothing() {
        let mut burdens = vec![
            burden("a", (0..20).map(|shard| (shard, 5))),
            burden("b", (20..25).map(|shard| (shard, 5))),
            burden("c", []),
        ];
        burdens[0].takes = false;
        for _ in 0..2 {
            let moves = send_away(&burdens, "a");
            burdens = after(&burdens, &moves);
        }
        assert_eq!(burdens[0].shards.len(), 0);
        assert!(burdens[1].shards.len().abs_diff(burdens[2].shards.len()) <= 1);
        assert_eq!(plan(&burdens, &BTreeSet::new()), []);
        let alone = [burdens[0].clone()];
        assert_eq!(send_away(&alone, "a"), []);
    }
}
