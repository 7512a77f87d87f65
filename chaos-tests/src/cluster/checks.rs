//! What must hold: while it runs, and once everything is at rest.

use std::{collections::HashMap, sync::Arc, time::Duration};

use aa_governance::audit::ExportFormat;
use aa_ledger::{Entry, Kind};
use aa_protocol::{EventId, Verdict, WorkspaceId};

use super::{
    Outcome,
    world::{Told, World},
};
use crate::invariants::{Acknowledged, check_export, entries};

/// Looks again and again whether two nodes answer for one shard.
pub(super) async fn watch_owners(world: Arc<World>) {
    loop {
        for shard in World::shards() {
            if world.owners(shard) > 1 {
                world.report(world.who_answers(shard));
                return;
            }
        }
        if let Some(violation) = found_in_store(&world) {
            world.report(violation);
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn found_in_store(world: &World) -> Option<String> {
    let ledger = world.store.ledger();
    let money = ledger.violations().first().map(ToString::to_string);
    money.or_else(|| ledger.fences().violations().first().cloned())
}

/// Holds what clients and operators were told against what is recorded.
pub(super) async fn at_rest(world: &World) -> Result<Outcome, String> {
    if let Some(violation) = world.violation.lock().take().or_else(|| found_in_store(world)) {
        return Err(violation);
    }
    let mut outcome = world.outcome.lock().clone();
    for workspace in world.workspaces {
        let text = export(world, workspace).await?;
        let told: Vec<Told> =
            world.told.lock().iter().filter(|told| told.workspace == workspace).cloned().collect();
        let acknowledged: Vec<_> = told
            .iter()
            .map(|told| Acknowledged {
                action: told.action,
                event: told.event,
                verdict: Some(told.verdict),
            })
            .collect();
        let recorded =
            check_export(&text, &acknowledged).map_err(|violation| violation.to_string())?;
        outcome.entries += recorded.entries;
        outcome.untold += recorded.untold;
        check_policies(world, workspace, &text, &told)?;
    }
    let ledger = world.store.ledger();
    (outcome.commits, outcome.digest) = ledger.fences().digest();
    outcome.tenures = ledger.fences().tenures();
    outcome.delivered = world.net.delivered();
    Ok(outcome)
}

async fn export(world: &World, workspace: WorkspaceId) -> Result<Vec<u8>, String> {
    let mut chance = fastrand::Rng::with_seed(world.seed);
    let mut problem = String::new();
    for _ in 0..20 {
        let governance = world.any_governance(&mut chance).ok_or("no node runs")?;
        let permit = world.permit(workspace);
        match governance.export(&permit, ExportFormat::JsonLines, None, "sim").await {
            Ok(mut export) => {
                let mut text = Vec::new();
                while let Some(chunk) = export.chunks.recv().await {
                    text.extend_from_slice(&chunk.map_err(|error| error.to_string())?);
                }
                return Ok(text);
            }
            Err(error) => problem = error.to_string(),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Err(format!("the log of {workspace} could not be exported: {problem}"))
}

/// Whoever asked after a policy was in force was decided by it, or by a later one; and as that one says.
fn check_policies(
    world: &World,
    workspace: WorkspaceId,
    text: &[u8],
    told: &[Told],
) -> Result<(), String> {
    let mut by_event: HashMap<EventId, Entry> = HashMap::new();
    for entry in entries(text) {
        let entry = entry.map_err(|violation| violation.to_string())?;
        if entry.kind == Kind::Decision {
            by_event.insert(entry.id, entry);
        }
    }
    let in_force: Vec<_> = world
        .in_force
        .lock()
        .iter()
        .filter(|known| known.workspace == workspace)
        .copied()
        .collect();
    for told in told {
        let Some(tool) = told.tool else { continue };
        let entry = by_event.get(&told.event).ok_or("a decision is gone")?;
        let named = entry.policies.iter().find(|policy| policy.name == "guard");
        let by = named.map_or(0, |policy| policy.revision);
        let due =
            in_force.iter().filter(|known| known.since <= told.asked).map(|known| known.revision);
        let due = due.max().unwrap_or(0);
        if by < due {
            return Err(format!(
                "{} of {} asked after revision {due} was in force and was decided by {by}",
                told.action,
                entry.agent().map_or_else(String::new, |agent| agent.to_string()),
            ));
        }
        // One that no operator was told of is not known here.
        let Some(known) = in_force.iter().find(|known| known.revision == by) else { continue };
        let allowed = told.verdict == Verdict::Allow;
        if allowed == (known.forbids == tool) {
            return Err(format!(
                "{}: tool {tool} was answered {} by revision {by}, which forbids tool {}",
                told.action, told.verdict, known.forbids,
            ));
        }
    }
    Ok(())
}
