//! Nodes are replaced by those of the next version, one after the other.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use aa_runtime::{NodeError, Protocols};

use super::world::{World, protocols};

/// How long a node that is stopped has to hand its shards over. A real one has as long.
const STOPS_WITHIN: Duration = Duration::from_secs(15);

/// After how long it is tried again to start a node.
const AGAIN: Duration = Duration::from_millis(500);

/// Replaces nodes by their next versions now and then, until the run ends.
pub(super) async fn live(world: Arc<World>) {
    let mut chance = fastrand::Rng::with_seed(world.seed ^ 0x0005_eed0_fbe7_7e45);
    let names = world.names();
    while !world.has_ended() {
        tokio::time::sleep(Duration::from_millis(chance.u64(500..6_000))).await;
        let node = &names[chance.usize(..names.len())];
        if may_go_on(&world, node) {
            world.count_fault("upgrade");
            replace(&world, node).await;
        }
    }
}

/// Replaces every node by the next version, and then every node by the one after it; then nobody is let in who speaks
/// only what is not spoken any more, or not yet.
pub(super) async fn all(world: &World) -> Result<(), String> {
    for _version in 0..2 {
        for node in world.names() {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if !may_go_on(world, &node) {
                return Err(format!("{node} could not be replaced"));
            }
            world.count_fault("upgrade");
            replace(world, &node).await;
        }
    }
    world.until_served().await?;
    for (protocol, advice) in
        [(1, "too old for the cluster"), (3, "upgrade by one version at a time")]
    {
        let joined = world.start_as("stranger", Protocols { lowest: protocol, highest: protocol });
        match joined.await {
            Err(error @ NodeError::NoCommonProtocol { .. })
                if error.to_string().contains(advice) => {}
            Err(error) => return Err(format!("a stranger was told: {error}")),
            Ok(_) => {
                return Err(format!(
                    "one that speaks {protocol} was let into a cluster that speaks 2"
                ));
            }
        }
    }
    Ok(())
}

/// Whether the next version of the node has a protocol in common with every other, running or not.
fn may_go_on(world: &World, node: &str) -> bool {
    let next = protocols(world.version(node) + 1);
    let others = world.names().into_iter().filter(|other| other != node);
    others.map(|other| protocols(world.version(&other))).all(|other| other.common(next).is_some())
}

/// Stops the node as its operator would, and starts it again in the next version.
async fn replace(world: &World, name: &str) {
    if let Some(running) = world.running(name) {
        running.leaves.store(true, Ordering::Relaxed);
        // One that cannot reach the store is not waited for.
        let _ = tokio::time::timeout(STOPS_WITHIN, running.node.stop()).await;
        let now = world.running(name).map(|now| now.node.incarnation());
        if now == Some(running.node.incarnation()) {
            world.crash(name);
        }
    }
    *world.versions.lock().entry(name.to_owned()).or_default() += 1;
    // The store may be away just now; then it starts when everything is mended.
    while !world.has_ended() && world.running(name).is_none() {
        if world.start(name).await.is_err() {
            tokio::time::sleep(AGAIN).await;
        }
    }
}
