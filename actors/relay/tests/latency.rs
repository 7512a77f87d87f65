//! Measures what the way to another node adds. Run it alone, and optimised:
//! `cargo test --release -p aa-relay --test latency -- --ignored --nocapture`

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod world;

use std::time::{Duration, Instant};

use aa_runtime::Reply;
use futures::future::join_all;
use world::{Member, World, counter::Ask, ids};

const ROUNDS: usize = 20_000;

#[tokio::test]
#[ignore = "it measures, and proves nothing"]
async fn what_a_hop_costs() {
    let (world, nodes) = World::of(&["a", "b"]).await;
    let ids = ids(2);
    let (near, far) = (&ids[0], &ids[1]);
    world.give(far, "b", &nodes).await;
    for callers in [1, 64] {
        for (place, id) in [("on this node", near), ("on another", far)] {
            measure(&nodes[0], id, callers, ROUNDS / 20).await;
            let (took, all) = measure(&nodes[0], id, callers, ROUNDS).await;
            let at = |share: f64| took[(share * (took.len() - 1) as f64) as usize];
            let rate = took.len() as f64 / all.as_secs_f64();
            println!(
                "{callers:>3} callers, actor {place:<12}  p50 {:>8.1?}  p99 {:>8.1?}  {rate:>8.0}/s",
                at(0.5),
                at(0.99)
            );
        }
    }
}

/// Asks for what the actor has in memory, and returns how long each answer took, sorted, and all together.
async fn measure(
    node: &Member,
    id: &str,
    callers: usize,
    rounds: usize,
) -> (Vec<Duration>, Duration) {
    let directory = node.directory.clone();
    let id = id.to_owned();
    let begun = Instant::now();
    let callers = (0..callers).map(|_| {
        let (directory, id) = (directory.clone(), id.clone());
        node.handle().spawn(async move {
            let mut took = Vec::with_capacity(rounds / callers);
            for _ in 0..rounds / callers {
                let since = Instant::now();
                let (reply, answer) = Reply::channel();
                directory.send(&id, Ask::Get(reply));
                answer.await.unwrap().unwrap();
                took.push(since.elapsed());
            }
            took
        })
    });
    let took = join_all(callers.collect::<Vec<_>>()).await;
    let mut took: Vec<_> = took.into_iter().flat_map(Result::unwrap).collect();
    took.sort_unstable();
    (took, begun.elapsed())
}
