//! What goes wrong, and what must come back after it.

use std::{sync::Arc, time::Duration};

use reqwest::Method;
use serde_json::json;

use super::{
    LEASE, checks,
    operators::People,
    site::{Fault, Kind},
    world::World,
};
use crate::operator::Operator;

/// The shortest that a fault lasts.
const SHORTEST: Duration = Duration::from_millis(200);

/// How long it is calm between a fault that was mended and the next.
const CALM: Duration = Duration::from_millis(200);

/// Breaks things and mends them again until it is enough. After each round, every agent has to be answered.
pub(super) async fn rage(world: &Arc<World>) -> Result<(), String> {
    let mut chance = world.chance(5);
    let began = world.elapsed();
    let mut kinds: Vec<Kind> = Vec::new();
    while world.elapsed().saturating_sub(began) < world.size.lasts && !world.is_lost() {
        let mut faults: Vec<Fault> = Vec::new();
        for _ in 0..1 + usize::from(chance.u8(..3) == 0) {
            // Every kind has its turn before any comes again.
            if kinds.is_empty() {
                kinds = world.site.kinds().to_vec();
                chance.shuffle(&mut kinds);
            }
            let Some(kind) = kinds.pop() else { return Err("nothing can go wrong".to_owned()) };
            let fault = draw(world, kind, &mut chance);
            if faults.iter().all(|other| other.node != fault.node) {
                faults.push(fault);
            } else {
                kinds.push(kind);
            }
        }
        strike_all(world, &faults, &mut chance).await?;
        tokio::time::sleep(CALM).await;
    }
    Ok(())
}

fn draw(world: &World, kind: Kind, chance: &mut fastrand::Rng) -> Fault {
    let nodes = world.site.nodes();
    let node = chance.usize(..nodes);
    let other = (node + 1 + chance.usize(..nodes - 1)) % nodes;
    Fault { kind, node, other }
}

async fn strike_all(
    world: &Arc<World>,
    faults: &[Fault],
    chance: &mut fastrand::Rng,
) -> Result<(), String> {
    let longest = 2 * LEASE + LEASE / 2;
    let spread = longest.saturating_sub(SHORTEST);
    let lasts = SHORTEST + spread.mul_f64(chance.f64());
    for fault in faults {
        world.note(&format!("{} for {lasts:?}", told(world, *fault)));
        *world.outcome.lock().faults.entry(fault.kind.name()).or_default() += 1;
        strike(world, *fault).await?;
    }
    let struck = world.elapsed();
    // A node serves for no longer than its lease after it last reached the store.
    let without_lease = faults.iter().filter(|fault| fault.kind.ends_lease());
    let without_lease: Vec<_> = without_lease.filter(|_| lasts > LEASE).collect();
    if !without_lease.is_empty() {
        tokio::time::sleep(LEASE).await;
        for fault in &without_lease {
            checks::is_out_of_service(world, fault.node).await?;
        }
    }
    let passed = world.elapsed().saturating_sub(struck);
    tokio::time::sleep(lasts.saturating_sub(passed)).await;
    for fault in without_lease {
        checks::is_out_of_service(world, fault.node).await?;
    }
    // What a node needs to start is mended before it is waited for.
    let mut faults = faults.to_vec();
    faults.sort_by_key(|fault| fault.kind.ends_node());
    for fault in &faults {
        mend(world, *fault).await?;
        world.note(&format!("mended: {}", told(world, *fault)));
    }
    let back = faults.iter().map(|fault| checks::is_back(world, fault.node));
    let back = futures::future::try_join_all(back);
    futures::future::try_join(back, checks::all_answered(world)).await.map(drop)
}

fn told(world: &World, fault: Fault) -> String {
    let (node, other) = (world.site.name(fault.node), world.site.name(fault.other));
    match fault.kind {
        Kind::Partition => format!("{} of {node} and {other}", fault.kind.name()),
        Kind::OneWay => format!("{} from {node} to {other}", fault.kind.name()),
        kind => format!("{} at {node}", kind.name()),
    }
}

async fn strike(world: &Arc<World>, fault: Fault) -> Result<(), String> {
    let name = world.site.name(fault.node);
    match fault.kind {
        Kind::Moves => {
            let operator = someone(world, fault.other)?;
            let shards = operator.get("/cluster/shards").await;
            let shards = shards.map_or(0, |shards| shards["shards"].as_array().map_or(0, Vec::len));
            let body = json!({ "to": name }).to_string();
            for shard in (0..shards).step_by(2).take(32) {
                // Some are there already, and under faults a move may be refused; another will not.
                let path = format!("/cluster/shards/{shard}/move");
                let _ = operator.call(Method::POST, &path, body.as_str()).await;
            }
            Ok(())
        }
        Kind::Drain => {
            let path = format!("/cluster/nodes/{name}/drain");
            // The last node that takes shards is not drained.
            let _ = someone(world, fault.other)?.call(Method::POST, &path, "").await;
            Ok(())
        }
        _ => world.site.strike(fault).await,
    }
}

async fn mend(world: &Arc<World>, fault: Fault) -> Result<(), String> {
    match fault.kind {
        Kind::Moves => Ok(()),
        Kind::Drain => {
            let path = format!("/cluster/nodes/{}/undrain", world.site.name(fault.node));
            People::new(world, 6)?.insist(Method::POST, &path, "").await.map(drop)
        }
        _ => world.site.mend(fault).await,
    }
}

fn someone(world: &World, node: usize) -> Result<Operator, String> {
    let patience = Duration::from_secs(2);
    Operator::owner(&world.site.environment(node), patience).map_err(|error| error.to_string())
}
