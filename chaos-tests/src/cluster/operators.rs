//! The people: they change policies and budgets, and answer requests for approval.

use std::{sync::Arc, time::Duration};

use aa_budget::{Limits, Period};
use aa_governance::{
    Governance, GovernanceError,
    approval_record::ApprovalScope,
    budget_book::{BudgetTerms, OnExceeded},
    prices::PriceTerms,
    spender::Spender,
};
use aa_protocol::{NanoUsd, WorkspaceId};

use super::{
    clients::MODEL,
    world::{InForce, TOOLS, World},
};

/// How long a person waits for an answer before trying again.
const PATIENCE: Duration = Duration::from_secs(15);

/// What a workspace needs before its agents act.
pub(super) async fn set_up(
    world: &World,
    governance: &Governance,
    workspace: WorkspaceId,
) -> Result<(), String> {
    let prices = serde_json::json!({"overrides": [
        {"model": MODEL, "price": {"input": "0", "output": "100"}},
    ]});
    let terms: PriceTerms = serde_json::from_value(prices).map_err(|error| error.to_string())?;
    let set = governance.set_prices(&world.permit(workspace), terms).await;
    set.map_err(|error| error.to_string())?;
    for team in 0..2 {
        let set = governance.set_budget(&world.permit(workspace), budget(team, 400)).await;
        set.map_err(|error| error.to_string())?;
    }
    let source = policy(0, 0);
    let applied =
        governance.apply_policy(&world.permit(workspace), source.into(), "p".into(), false).await;
    let revision = applied.map_err(|error| error.to_string())?.revision.revision;
    let since = world.elapsed();
    world.in_force.lock().push(InForce { workspace, since, revision, forbids: 0 });
    Ok(())
}

/// What people do until the run ends.
pub(super) async fn live(world: Arc<World>) -> Result<(), String> {
    let mut chance = fastrand::Rng::with_seed(world.seed ^ 0x0be7_a705);
    let mut version = 0;
    while !world.has_ended() {
        tokio::time::sleep(Duration::from_millis(chance.u64(200..3_000))).await;
        let workspace = world.workspaces[chance.usize(..world.workspaces.len())];
        match chance.u8(..10) {
            0..=3 => {
                version += 1;
                change_policy(&world, &mut chance, workspace, version).await?;
            }
            4 => {
                let terms = budget(chance.usize(..2), chance.i64(10..600));
                insist(&world, &mut chance, "a budget", |governance| {
                    let (permit, terms) = (world.permit(workspace), terms.clone());
                    async move { governance.set_budget(&permit, terms).await.map(drop) }
                })
                .await?;
                world.outcome.lock().changes += 1;
            }
            _ => answer_some(&world, &mut chance, workspace).await,
        }
    }
    // Nobody waits for an answer when all has ended.
    for workspace in world.workspaces {
        answer_some(&world, &mut chance, workspace).await;
    }
    Ok(())
}

async fn change_policy(
    world: &World,
    chance: &mut fastrand::Rng,
    workspace: WorkspaceId,
    version: u64,
) -> Result<(), String> {
    let forbids = chance.usize(..TOOLS);
    let source = policy(forbids, version);
    let applied = insist(world, chance, "a policy", |governance| {
        let (permit, source) = (world.permit(workspace), source.clone());
        async move { governance.apply_policy(&permit, source.into(), "p".into(), false).await }
    });
    let revision = applied.await?.revision.revision;
    let since = world.elapsed();
    world.in_force.lock().push(InForce { workspace, since, revision, forbids });
    world.outcome.lock().changes += 1;
    Ok(())
}

/// Answers what is pending, as far as it can be reached.
async fn answer_some(world: &World, chance: &mut fastrand::Rng, workspace: WorkspaceId) {
    let Some(governance) = world.any_governance(chance) else { return };
    let permit = world.permit(workspace);
    let pending = tokio::time::timeout(PATIENCE, governance.approvals(&permit, true, None, 50));
    let Ok(Ok(pending)) = pending.await else { return };
    for request in pending {
        world.waiting.lock().insert("approver".to_owned(), request.id.to_string());
        let approved = chance.bool();
        // By another node each time: the one before may be gone by now.
        let Some(governance) = world.any_governance(chance) else { return };
        // Not whoever registered the agents: nobody approves for himself.
        let permit = world.permit_of("approver", workspace);
        let answer =
            governance.answer_approval(&permit, request.id, approved, ApprovalScope::Once, "");
        if let Ok(Ok(_)) = tokio::time::timeout(PATIENCE, answer).await {
            world.outcome.lock().approvals += 1;
        }
        world.waiting.lock().remove("approver");
    }
}

/// Tries until it is done, by one node or another.
async fn insist<T, F: Future<Output = Result<T, GovernanceError>>>(
    world: &World,
    chance: &mut fastrand::Rng,
    what: &str,
    attempt: impl Fn(Governance) -> F,
) -> Result<T, String> {
    loop {
        if let Some(governance) = world.any_governance(chance) {
            let problem = match tokio::time::timeout(PATIENCE, attempt(governance)).await {
                Ok(Ok(done)) => {
                    world.waiting.lock().remove("operator");
                    return Ok(done);
                }
                Ok(Err(GovernanceError::Fault(fault))) => fault.to_string(),
                Ok(Err(GovernanceError::Store(error))) => error.to_string(),
                Ok(Err(other)) => return Err(format!("{what} was refused: {other}")),
                Err(_) => "no answer".to_owned(),
            };
            world.waiting.lock().insert("operator".to_owned(), format!("{what}: {problem}"));
        }
        tokio::time::sleep(Duration::from_millis(chance.u64(20..500))).await;
        if world.violation.lock().is_some() {
            return Err("the run is over".to_owned());
        }
    }
}

fn policy(forbids: usize, version: u64) -> String {
    format!(
        "apiVersion: agent-assembly/v1\nkind: Policy\nmetadata: {{name: guard, version: 'v{version}'}}\n\
         spec:\n  tools:\n    tool_{forbids}: {{allow: false}}\n    deploy: {{requires_approval_if: 'true'}}\n  \
         approval: {{timeout_seconds: 30}}\n"
    )
}

fn budget(team: usize, cents: i64) -> BudgetTerms {
    BudgetTerms {
        spender: Spender::Team(format!("team-{team}").into()),
        period: Period::Daily,
        limits: Limits::of_cost(NanoUsd(cents * 10_000_000)),
        action: OnExceeded::Deny,
        alert_at: None,
    }
}
