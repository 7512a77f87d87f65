//! What must hold: while it storms, and once everything is at rest.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use aa_ledger::{Entry, Kind};
use aa_protocol::{EventId, NanoUsd, Verdict};

use super::{
    LEASE, MARGIN, MENDED_WITHIN, Outcome,
    clients::TEAM,
    operators,
    world::{Told, World},
};
use crate::{
    invariants::{check_export, entries},
    operator::Operator,
};

/// How long a node may take to answer for its health, which it does without the store.
const HEALTH: Duration = Duration::from_secs(10);

/// What can be seen from within the site is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Looks again and again.
pub(super) async fn watch(world: Arc<World>) {
    loop {
        if let Some(violation) = world.site.violation() {
            world.report(violation);
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits until every agent was answered once more than now.
pub(super) async fn all_answered(world: &World) -> Result<(), String> {
    let (before, since) = (world.answers(), world.elapsed());
    let behind = || {
        let now = world.answers().into_iter();
        let behind = now.zip(&before).enumerate().filter(|(_, (now, before))| now == *before);
        behind.map(|(agent, _)| format!("agent-{agent}")).collect::<Vec<_>>()
    };
    let all = async {
        while !behind().is_empty() && !world.is_lost() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let within = 3 * LEASE + MARGIN;
    if tokio::time::timeout(within, all).await.is_err() {
        let who = behind().join(", ");
        return Err(
            world.stuck(&format!("{who} had no answer for {within:?} after all was mended"))
        );
    }
    let took = world.elapsed().saturating_sub(since);
    let mut outcome = world.outcome.lock();
    outcome.slowest = outcome.slowest.max(took);
    Ok(())
}

/// A node whose lease has ended says so when it is asked for its health.
pub(super) async fn is_out_of_service(world: &World, node: usize) -> Result<(), String> {
    let name = world.site.name(node);
    let operator = operator(world, node, HEALTH)?;
    match operator.get("/health").await {
        Err(crate::operator::OperatorError::Refused { status, .. })
            if status == reqwest::StatusCode::SERVICE_UNAVAILABLE =>
        {
            world.outcome.lock().unhealthy += 1;
            Ok(())
        }
        Ok(said) => Err(format!("{name} calls itself healthy after its lease has ended: {said}")),
        Err(other) => Err(format!("{name} says nothing about its health: {other}")),
    }
}

/// Waits until a node is healthy again.
pub(super) async fn is_back(world: &World, node: usize) -> Result<(), String> {
    let operator = operator(world, node, HEALTH)?;
    let mut said = String::new();
    let coming = async {
        while let Err(error) = operator.get("/health").await {
            said = error.to_string();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let within = 3 * LEASE + MARGIN;
    let came = tokio::time::timeout(within, coming).await;
    let name = world.site.name(node);
    came.map_err(|_| {
        format!("{name} is not healthy within {within:?} after all was mended: {said}")
    })
}

/// Holds what clients and operators were told against what is recorded.
pub(super) async fn at_rest(world: &Arc<World>) -> Result<Outcome, String> {
    operators::settled(world, |_| true).await?;
    check_money(world).await?;
    let told = world.told.lock().clone();
    let acknowledged: Vec<_> = told.iter().map(|told| told.acknowledged).collect();
    let mut outcome = world.outcome.lock().clone();
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut earlier: Vec<u8> = Vec::new();
    // The first node once more at the end: what the last one has, it has too.
    for node in (0..world.site.nodes()).chain([0]) {
        let name = world.site.name(node);
        let text = export(world, node, &directory.path().join("export.jsonl")).await?;
        let recorded = check_export(&text, &acknowledged)
            .map_err(|violation| format!("the log as {name} exports it: {violation}"))?;
        (outcome.entries, outcome.untold) = (recorded.entries, recorded.untold);
        check_same(&earlier, &text)
            .map_err(|line| format!("{name} does not export what another node did: {line}"))?;
        earlier = text;
    }
    check_policies(world, &earlier, &told)?;
    if let Some(violation) = world.site.violation_at_rest().await {
        return Err(violation);
    }
    Ok(outcome)
}

fn operator(world: &World, node: usize, patience: Duration) -> Result<Operator, String> {
    Operator::owner(&world.site.environment(node), patience).map_err(|error| error.to_string())
}

async fn export(world: &World, node: usize, file: &Path) -> Result<Vec<u8>, String> {
    let operator = operator(world, node, MENDED_WITHIN)?;
    let exported = tokio::time::timeout(MENDED_WITHIN, operator.export(file)).await;
    let exported = exported.map_err(|_| "an export takes too long")?;
    exported.map_err(|error| format!("the log is not exported: {error}"))?;
    std::fs::read(file).map_err(|error| error.to_string())
}

/// Every entry of an earlier export is in a later one, byte by byte. What comes by time, such as a request for
/// approval that expires, may have come in between.
fn check_same(earlier: &[u8], later: &[u8]) -> Result<(), String> {
    let lines = |text| <[u8]>::split(text, |byte| *byte == b'\n');
    let is_entry = |line: &&[u8]| line.starts_with(b"{\"v\":");
    let later: HashSet<&[u8]> = lines(later).filter(is_entry).collect();
    match lines(earlier).filter(is_entry).find(|line| !later.contains(line)) {
        Some(missing) => Err(String::from_utf8_lossy(missing).into_owned()),
        None => Ok(()),
    }
}

/// Every node says the same of the budget: what agents were told is spent, and no more than may be.
async fn check_money(world: &World) -> Result<(), String> {
    let limit = NanoUsd(world.budget.load(Ordering::Relaxed) * 10_000_000);
    let charged = NanoUsd(world.charged.load(Ordering::Relaxed));
    for node in 0..world.site.nodes() {
        let operator = operator(world, node, MARGIN)?;
        let budget = operator.get(&format!("/budgets/teams/{TEAM}/monthly")).await;
        let budget = budget.map_err(|error| format!("the budget cannot be read: {error}"))?;
        let amount = |name: &str| {
            let usd = budget["current"][name].as_str().and_then(|text| text.parse().ok());
            usd.and_then(NanoUsd::from_usd)
                .ok_or_else(|| format!("the budget has no `{name}`: {budget}"))
        };
        let (spent, reserved) = (amount("spent_usd")?, amount("reserved_usd")?);
        if spent.0 + reserved.0 > limit.0 {
            return Err(format!("{spent} spent and {reserved} reserved are more than {limit}"));
        }
        // What was spent before the month turned is no part of it.
        let is_same = budget["current"]["starts_at"] == world.window.lock().as_str();
        if is_same && charged.0 > spent.0 {
            return Err(format!("agents were told of {charged}, and {spent} are spent"));
        }
    }
    Ok(())
}

/// Whoever asked after a policy was in force was decided by it, or by a later one; and as that one says.
fn check_policies(world: &World, text: &[u8], told: &[Told]) -> Result<(), String> {
    let mut by_event: HashMap<EventId, Entry> = HashMap::new();
    for entry in entries(text) {
        let entry = entry.map_err(|violation| violation.to_string())?;
        if entry.kind == Kind::Decision {
            by_event.insert(entry.id, entry);
        }
    }
    let in_force = world.in_force.lock().clone();
    for told in told {
        let Some(tool) = told.tool else { continue };
        let action = told.acknowledged.action;
        let entry = by_event.get(&told.acknowledged.event).ok_or("a decision is gone")?;
        let named = entry.policies.iter().find(|policy| policy.name == "guard");
        let by = named.map_or(0, |policy| policy.revision);
        let due = in_force.iter().filter(|known| known.since <= told.asked);
        let due = due.map(|known| known.revision).max().unwrap_or(0);
        if by < due {
            return Err(format!(
                "{action} was asked for at {:?}, after revision {due} was in force, and was decided by {by}",
                told.asked,
            ));
        }
        // One that no operator was told of is not known here.
        let Some(known) = in_force.iter().find(|known| known.revision == by) else { continue };
        if (told.verdict == Verdict::Allow) == (known.forbids == tool) {
            return Err(format!(
                "{action}: tool {tool} was answered {} by revision {by}, which forbids tool {}",
                told.verdict, known.forbids,
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_that_lacks_what_another_has_is_found_out() {
        let earlier = b"{\"header\":1}\n{\"v\":1,\"a\":1}\n{\"v\":1,\"a\":2}\n";
        let later = b"{\"header\":2}\n{\"v\":1,\"a\":3}\n{\"v\":1,\"a\":2}\n{\"v\":1,\"a\":1}\n";
        assert_eq!(check_same(earlier, later), Ok(()));
        assert_eq!(check_same(later, earlier), Err(r#"{"v":1,"a":3}"#.to_owned()));
    }
}
