//! What goes wrong.

use std::{sync::Arc, time::Duration};

use aa_runtime::{ShardId, cluster, sim::Link};
use aa_store::{FaultRates, Store};

use super::world::World;

/// Breaks things and mends them again, until the run ends.
pub(super) async fn live(world: Arc<World>) {
    let mut chance = fastrand::Rng::with_seed(world.seed ^ 0x0bad_cafe);
    let names = world.names();
    while !world.has_ended() {
        tokio::time::sleep(Duration::from_millis(chance.u64(200..3_500))).await;
        let node = names[chance.usize(..names.len())].clone();
        let other = names[chance.usize(..names.len())].clone();
        let lasts = Duration::from_millis(chance.u64(100..9_000));
        match chance.u8(..16) {
            0..=2 => crash(&world, node, lasts),
            3 => cut(&world, &[(node.clone(), other.clone()), (other, node)], lasts, "partition"),
            4 => cut(&world, &[(node, other)], lasts, "one-way partition"),
            5 => flap(&world, node, other, &mut chance),
            6 => isolate(&world, &names, node, lasts),
            7 | 8 => cut_from_store(&world, node, lasts),
            9 => slow_store(&world, node, lasts, &mut chance),
            10 => slow_network(&world, &names, node, lasts, &mut chance),
            11 => set_clock(&world, node, lasts, &mut chance),
            12 => bad_store(&world, lasts, &mut chance),
            13 => outage(&world, lasts.min(Duration::from_secs(4))),
            14 => move_shards(&world, node, &mut chance).await,
            _ => drain(&world, node, lasts).await,
        }
    }
}

fn crash(world: &Arc<World>, node: String, away: Duration) {
    if world.nodes.lock().len() < 2 {
        return;
    }
    world.count_fault("crash");
    world.crash(&node);
    let world = Arc::clone(world);
    tokio::spawn(async move {
        tokio::time::sleep(away).await;
        // The store may be away just now; then it starts when everything is mended.
        while !world.has_ended() && world.running(&node).is_none() {
            let _ = world.start(&node).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
}

fn cut(world: &Arc<World>, ways: &[(String, String)], lasts: Duration, kind: &'static str) {
    world.count_fault(kind);
    set_links(world, ways, Link { is_cut: true, ..Link::default() });
    let (world, ways) = (Arc::clone(world), ways.to_vec());
    tokio::spawn(async move {
        tokio::time::sleep(lasts).await;
        set_links(&world, &ways, Link::default());
    });
}

fn set_links(world: &World, ways: &[(String, String)], link: Link) {
    for (from, to) in ways {
        world.net.set_link(from, to, link);
    }
}

fn flap(world: &Arc<World>, node: String, other: String, chance: &mut fastrand::Rng) {
    world.count_fault("flapping link");
    let (world, mut chance) = (Arc::clone(world), chance.fork());
    tokio::spawn(async move {
        let ways = [(node.clone(), other.clone()), (other, node)];
        for _ in 0..chance.usize(2..12) {
            set_links(&world, &ways, Link { is_cut: true, ..Link::default() });
            tokio::time::sleep(Duration::from_millis(chance.u64(20..700))).await;
            set_links(&world, &ways, Link::default());
            tokio::time::sleep(Duration::from_millis(chance.u64(20..700))).await;
        }
    });
}

/// Nobody reaches the node, nor it the store: as if its process were stopped.
fn isolate(world: &Arc<World>, names: &[String], node: String, lasts: Duration) {
    let ways: Vec<_> = names
        .iter()
        .flat_map(|other| [(node.clone(), other.clone()), (other.clone(), node.clone())])
        .collect();
    cut(world, &ways, lasts, "isolation");
    cut_from_store(world, node, lasts);
}

fn cut_from_store(world: &Arc<World>, node: String, lasts: Duration) {
    let Some(running) = world.running(&node) else { return };
    world.count_fault("cut from the store");
    running.store.set_cut(true);
    let world = Arc::clone(world);
    tokio::spawn(async move {
        tokio::time::sleep(lasts).await;
        // Unless it has crashed meanwhile: then it is another's way.
        if let Some(now) = world.running(&node)
            && now.node.incarnation() == running.node.incarnation()
        {
            now.store.set_cut(false);
        }
    });
}

fn slow_store(world: &Arc<World>, node: String, lasts: Duration, chance: &mut fastrand::Rng) {
    let Some(running) = world.running(&node) else { return };
    world.count_fault("slow store");
    running.store.set_round_trip(Duration::from_millis(chance.u64(20..900)));
    tokio::spawn(async move {
        tokio::time::sleep(lasts).await;
        running.store.set_round_trip(Duration::from_millis(2));
    });
}

fn slow_network(
    world: &Arc<World>,
    names: &[String],
    node: String,
    lasts: Duration,
    chance: &mut fastrand::Rng,
) {
    world.count_fault("slow network");
    let longest = Duration::from_millis(chance.u64(5..800));
    let link = Link { longest, ..Link::default() };
    let ways: Vec<_> = names.iter().map(|other| (node.clone(), other.clone())).collect();
    set_links(world, &ways, link);
    let world = Arc::clone(world);
    tokio::spawn(async move {
        tokio::time::sleep(lasts).await;
        set_links(&world, &ways, Link::default());
    });
}

fn set_clock(world: &Arc<World>, node: String, lasts: Duration, chance: &mut fastrand::Rng) {
    let Some(running) = world.running(&node) else { return };
    world.count_fault("clock");
    match chance.u8(..3) {
        0 => running.clock.set_skew(chance.i64(-3_000_000..3_000_000)),
        1 => running.clock.set_skew(chance.i64(-7_200_000_000..7_200_000_000)),
        _ => running.clock.set_drift(chance.i64(-30_000..30_000)),
    }
    let truth = world.clock.clone();
    tokio::spawn(async move {
        tokio::time::sleep(lasts).await;
        running.clock.set_drift(0);
        running.clock.set_right(&truth);
    });
}

fn bad_store(world: &Arc<World>, lasts: Duration, chance: &mut fastrand::Rng) {
    world.count_fault("lying store");
    let rates = FaultRates {
        conflict: chance.f64() * 0.1,
        unknown_applied: chance.f64() * 0.1,
        unknown_lost: chance.f64() * 0.1,
        stall: chance.f64() * 0.1,
        unavailable: chance.f64() * 0.05,
        full: chance.f64() * 0.02,
        stall_for: Duration::from_millis(chance.u64(10..1_500)),
    };
    world.faults.set_rates(rates);
    let world = Arc::clone(world);
    tokio::spawn(async move {
        tokio::time::sleep(lasts).await;
        world.faults.set_rates(FaultRates::default());
    });
}

fn outage(world: &Arc<World>, lasts: Duration) {
    world.count_fault("store outage");
    world.faults.set_unavailable(true);
    let world = Arc::clone(world);
    tokio::spawn(async move {
        tokio::time::sleep(lasts).await;
        world.faults.set_unavailable(false);
    });
}

async fn move_shards(world: &World, to: String, chance: &mut fastrand::Rng) {
    world.count_fault("moves");
    let shards: Vec<ShardId> = World::shards().filter(|_| chance.u8(..3) == 0).collect();
    let moves: Vec<_> = shards.iter().map(|shard| (*shard, to.as_str())).collect();
    let store: Arc<dyn Store> = Arc::new(world.store.clone());
    // Under faults a move may not be ordered; another one will.
    let _ = cluster::order_moves(&*store, &moves).await;
}

async fn drain(world: &Arc<World>, node: String, lasts: Duration) {
    world.count_fault("drain");
    let store: Arc<dyn Store> = Arc::new(world.store.clone());
    let _ = cluster::order_drain(&*store, &node, true).await;
    tokio::spawn(async move {
        tokio::time::sleep(lasts).await;
        let _ = cluster::order_drain(&*store, &node, false).await;
    });
}
