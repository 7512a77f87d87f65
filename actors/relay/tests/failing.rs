//! What happens when nodes go, as planned or not, while they are called.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod world;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use aa_runtime::{Fault, cluster};
use futures::future::join_all;
use tokio::task::JoinHandle;
use world::{Asker, LEASE, Member, PATIENCE, SHARDS, World, counter::Ask, ids, shard_of, until};

/// Callers that add to counters without pause.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    callers: Vec<JoinHandle<(String, u64, Option<Fault>)>>,
}

impl Load {
    /// One caller for each counter on each of `nodes`, that tries again when `is_patient`, and stops at the first
    /// fault otherwise.
    fn begin(nodes: &[&Member], ids: &[String], is_patient: bool) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let callers = nodes.iter().enumerate().flat_map(|(node, member)| {
            ids.iter().map(move |id| (node as u64 * 1_000_000, member.asker(), id.clone()))
        });
        let callers = callers.map(|(first, asker, id)| {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            tokio::spawn(async move {
                let mut done = 0;
                while !stop.load(Ordering::Relaxed) {
                    if let Err(fault) = add(&asker, &id, first + done, is_patient).await {
                        return (id, done, Some(fault));
                    }
                    done += 1;
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                (id, done, None)
            })
        });
        let callers = callers.collect();
        Self { stop, answered, callers }
    }

    /// Waits for some more answers.
    async fn go_on(&self) {
        let target = self.answered.load(Ordering::Relaxed) + 10 * self.callers.len() as u64;
        until("the load goes on", || {
            self.answered.load(Ordering::Relaxed) >= target
                || self.callers.iter().any(JoinHandle::is_finished)
        })
        .await;
    }

    /// Ends the load: what was acknowledged, by counter.
    async fn end(self) -> BTreeMap<String, u64> {
        self.stop.store(true, Ordering::Relaxed);
        let mut sums = BTreeMap::new();
        for caller in self.callers {
            let (id, done, fault) =
                tokio::time::timeout(PATIENCE, caller).await.expect("callers end").unwrap();
            assert_eq!(fault, None, "after {done} additions to {id}");
            *sums.entry(id).or_insert(0) += done;
        }
        sums
    }
}

async fn add(asker: &Asker, id: &str, op: u64, is_patient: bool) -> Result<u64, Fault> {
    if is_patient {
        return Ok(asker.add_surely(id, op).await);
    }
    asker.ask(id, move |reply| Ask::Add(op, reply)).await
}

async fn assert_counted(by: &Member, sums: &BTreeMap<String, u64>) {
    for (id, sum) in sums {
        assert_eq!(by.asker().ask(id, Ask::Get).await, Ok(*sum), "counter {id}");
    }
}

#[tokio::test]
async fn a_killed_nodes_shards_are_taken_over_and_no_addition_is_lost_or_counted_twice() {
    let (world, mut nodes) = World::of(&["a", "b", "c"]).await;
    let ids = ids(usize::from(SHARDS));
    for (at, id) in ids.iter().enumerate() {
        world.give(id, ["a", "b", "c"][at % 3], &nodes).await;
    }
    let load = Load::begin(&[&nodes[0], &nodes[1]], &ids, true);
    load.go_on().await;
    let killed = nodes.pop().unwrap();
    let since = Instant::now();
    killed.kill();
    let lost = &ids[2];
    nodes[0].asker().add_surely(lost, u64::MAX).await;
    let took = since.elapsed();
    assert!(took < LEASE * 4, "taken over after {took:?}");
    load.go_on().await;
    let mut sums = load.end().await;
    *sums.get_mut(lost).unwrap() += 1;
    assert_counted(&nodes[0], &sums).await;
    assert_counted(&nodes[1], &sums).await;
}

#[tokio::test]
async fn callers_of_a_killed_node_are_told_that_their_message_may_have_been_handled() {
    let (world, mut nodes) = World::of(&["a", "b"]).await;
    let id = ids(1).remove(0);
    world.give(&id, "b", &nodes).await;
    let held: Vec<_> = (0..10)
        .map(|_| {
            let (asker, id) = (nodes[0].asker(), id.clone());
            tokio::spawn(async move { asker.ask(&id, Ask::Hold).await })
        })
        .collect();
    until("all are held", || nodes[1].held.lock().len() == 10).await;
    nodes.pop().unwrap().kill();
    for answer in join_all(held).await {
        let fault = answer.unwrap().unwrap_err();
        assert!(matches!(&fault, Fault::Unreachable { node, .. } if node == "b"), "{fault}");
    }
    assert_eq!(nodes[0].asker().add_surely(&id, 1).await, 1);
}

#[tokio::test]
async fn shards_move_under_load_without_a_failed_call() {
    let (world, nodes) = World::of(&["a", "b"]).await;
    let ids = ids(usize::from(SHARDS));
    let load = Load::begin(&[&nodes[0], &nodes[1]], &ids, false);
    for to in ["b", "a", "b"] {
        load.go_on().await;
        for id in &ids {
            cluster::order_moves(&world.store, &[(shard_of(id), to)]).await.unwrap();
        }
        let owner = nodes.iter().find(|node| node.name == to).unwrap();
        until("all are moved", || ids.iter().all(|id| owner.directory.is_here(id))).await;
    }
    load.go_on().await;
    let sums = load.end().await;
    assert_counted(&nodes[0], &sums).await;
}

#[tokio::test]
async fn a_node_stops_under_load_without_a_failed_call() {
    let (world, mut nodes) = World::of(&["a", "b"]).await;
    let ids = ids(usize::from(SHARDS));
    for (at, id) in ids.iter().enumerate() {
        world.give(id, ["a", "b"][at % 2], &nodes).await;
    }
    let load = Load::begin(&[&nodes[0]], &ids, false);
    load.go_on().await;
    nodes.pop().unwrap().stop().await;
    load.go_on().await;
    let sums = load.end().await;
    assert_counted(&nodes[0], &sums).await;
}

#[tokio::test]
async fn a_node_that_starts_again_is_called_again() {
    let (world, mut nodes) = World::of(&["a", "b"]).await;
    let id = ids(1).remove(0);
    world.give(&id, "b", &nodes).await;
    assert_eq!(nodes[0].add(&id, 1).await, Ok(1));
    nodes.pop().unwrap().stop().await;
    nodes.push(world.join("b").await);
    world.settle(&nodes).await;
    world.give(&id, "b", &nodes).await;
    assert_eq!(nodes[0].add(&id, 2).await, Ok(2));
    assert_eq!(nodes[1].node.relay().stats().taken, 1);
}
