//! The operators of a soak: they change policies, suspend agents and read the log.

use std::{sync::Arc, time::Duration};

use aa_chaos_tests::operator::{Operator, OperatorError};
use aa_protocol::AgentId;
use reqwest::Method;
use serde_json::Value;

use crate::{
    actions::POLICIES,
    agents::pause,
    world::{Phase, World, count},
};

/// Does one thing after the other until the run stops.
pub(crate) async fn operates(world: Arc<World>, operator: Operator, agents: u64, every: Duration) {
    let mut random = world.random(u64::MAX - 1);
    let mut cursor = None;
    while pause(&world, every).await {
        let Phase { life, .. } = world.until_up().await;
        let done = match random.u8(..12) {
            0..=2 => apply(&operator, &mut random).await,
            3 => roll_back(&operator, &mut random).await,
            4 => remove(&operator, &mut random).await,
            5 => suspend_for_a_moment(&world, &operator, random.u64(..agents)).await,
            6 => operator.get("/audit/entries?limit=200&verdict=deny").await.map(drop),
            7 => tail(&operator, &mut cursor).await,
            8 => operator.read(&format!("/audit/export?since={}", a_minute_ago())).await.map(drop),
            9 => operator.get("/agents?limit=100").await.map(drop),
            10 => operator.read("/audit/checkpoint").await.map(drop),
            _ => operator.read("/metrics").await.map(drop),
        };
        note(&world, life, done);
    }
    // Whoever is left suspended would be so for good.
    for number in 0..agents {
        let resumed = status(&world, &operator, number, "resume").await;
        note(&world, world.phase().life, resumed);
    }
}

fn note(world: &World, life: u32, done: Result<(), OperatorError>) {
    let Phase { life: now, up, .. } = world.phase();
    match done {
        Ok(()) => count(&world.counts.operated),
        Err(_) if !up || now != life => count(&world.counts.cut),
        Err(error) => world.surprise(format!("operator: {error}")),
    }
}

/// What is refused because of what was done before is no fault: a policy that is out of force already, a
/// revision that is not there.
fn as_it_happens(done: Result<Value, OperatorError>) -> Result<(), OperatorError> {
    match done {
        Ok(_) => Ok(()),
        Err(OperatorError::Refused { status, .. })
            if matches!(status.as_u16(), 404 | 409 | 422) =>
        {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

async fn apply(operator: &Operator, random: &mut fastrand::Rng) -> Result<(), OperatorError> {
    let (name, contents) = POLICIES[random.usize(..POLICIES.len())];
    let source = contents[random.usize(..contents.len())];
    operator.call(Method::POST, &format!("/policies?name={name}"), source).await.map(drop)
}

async fn roll_back(operator: &Operator, random: &mut fastrand::Rng) -> Result<(), OperatorError> {
    let (name, _) = POLICIES[random.usize(..POLICIES.len())];
    as_it_happens(operator.call(Method::POST, &format!("/policies/{name}/rollback"), "").await)
}

async fn remove(operator: &Operator, random: &mut fastrand::Rng) -> Result<(), OperatorError> {
    let (name, _) = POLICIES[random.usize(..POLICIES.len())];
    as_it_happens(operator.call(Method::DELETE, &format!("/policies/{name}"), "").await)
}

async fn suspend_for_a_moment(
    world: &World,
    operator: &Operator,
    number: u64,
) -> Result<(), OperatorError> {
    status(world, operator, number, "suspend").await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    status(world, operator, number, "resume").await
}

async fn status(
    world: &World,
    operator: &Operator,
    number: u64,
    change: &str,
) -> Result<(), OperatorError> {
    let Ok(workspace) = world.env.workspace_id().parse() else { return Ok(()) };
    let id = AgentId::of_name(workspace, &format!("soak-{number}"));
    // An agent may not have registered yet.
    let reason = r#"{"reason":"a moment's suspension"}"#;
    as_it_happens(operator.call(Method::POST, &format!("/agents/{id}/{change}"), reason).await)
}

async fn tail(operator: &Operator, cursor: &mut Option<String>) -> Result<(), OperatorError> {
    let path = match cursor {
        Some(cursor) => format!("/audit/tail?limit=1000&cursor={cursor}"),
        None => "/audit/tail".to_owned(),
    };
    let page = operator.get(&path).await?;
    *cursor = page["cursor"].as_str().map(ToOwned::to_owned);
    Ok(())
}

fn a_minute_ago() -> String {
    let then = chrono::Utc::now() - chrono::Duration::seconds(60);
    then.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}
