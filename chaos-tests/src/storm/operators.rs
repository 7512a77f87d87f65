//! The people: they set the cluster up, change policies and budgets, and answer requests for approval.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    MENDED_WITHIN,
    clients::{MODEL, TEAM},
    world::{InForce, TOOLS, World},
};
use crate::operator::{Operator, OperatorError};

/// How long a person waits for an answer before trying again.
const PATIENCE: Duration = Duration::from_secs(5);

/// Requests to whichever node is there.
pub(super) struct People {
    world: Arc<World>,
    operators: Vec<Operator>,
    chance: fastrand::Rng,
}

/// Gives every node its part of the shards.
pub(super) async fn spread(world: &Arc<World>) -> Result<(), String> {
    let mut people = People::new(world, 1)?;
    let nodes = world.site.nodes();
    settled(world, |_| true).await?;
    let shards = people.insist(Method::GET, "/cluster/shards", "").await?;
    let shards = shards["shards"].as_array().map_or(0, Vec::len);
    for shard in 0..shards {
        let path = format!("/cluster/shards/{shard}/move");
        let body = json!({ "to": world.site.name(shard % nodes) }).to_string();
        // Its owner may have it, or is about to give it away already.
        let _ = people.operators[0].call(Method::POST, &path, body).await;
    }
    let has_its_part = |node: &Value| node["shards"].as_u64() > Some(0);
    settled(world, |nodes| nodes.iter().all(has_its_part)).await
}

/// Waits until every node says that the cluster is whole, at rest, and its nodes as wanted.
pub(super) async fn settled(
    world: &Arc<World>,
    wanted: impl Fn(&[Value]) -> bool,
) -> Result<(), String> {
    let people = People::new(world, 2)?;
    let mut said = String::new();
    let settling = async {
        for operator in &people.operators {
            loop {
                let summary = operator.get("/cluster").await;
                let nodes = operator.get("/cluster/nodes").await;
                said = format!("{summary:?} {nodes:?}");
                if let (Ok(summary), Ok(nodes)) = (summary, nodes) {
                    let is_whole = summary["status"] == "ok"
                        && summary["shards_moving"] == 0
                        && summary["nodes_alive"] == people.operators.len();
                    let nodes = nodes["nodes"].as_array().map_or(&[][..], Vec::as_slice);
                    if is_whole && wanted(nodes) {
                        break;
                    }
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    let settled = tokio::time::timeout(MENDED_WITHIN, settling).await;
    settled
        .map_err(|_| format!("the cluster does not come to rest within {MENDED_WITHIN:?}: {said}"))
}

/// What agents need before they act.
pub(super) async fn set_up(world: &Arc<World>) -> Result<(), String> {
    let mut people = People::new(world, 3)?;
    let prices = json!({
        "overrides": [{"model": MODEL, "price": {"input": "0", "output": "100"}}],
        "unknown": "deny",
    });
    people.insist(Method::PUT, "/prices", &prices.to_string()).await?;
    people.raise_budget(500).await?;
    people.change_policy(0).await
}

/// What people do until the storm is over.
pub(super) async fn live(world: Arc<World>) -> Result<(), String> {
    let mut people = People::new(&world, 4)?;
    let lived = people.act().await;
    if let Err(problem) = &lived {
        world.report(problem.clone());
    }
    lived
}

// === impl People ===

impl People {
    pub(super) fn new(world: &Arc<World>, part: u64) -> Result<Self, String> {
        let nodes = 0..world.site.nodes();
        let operators = nodes.map(|node| Operator::owner(&world.site.environment(node), PATIENCE));
        let operators: Result<_, OperatorError> = operators.collect();
        let operators = operators.map_err(|error| error.to_string())?;
        Ok(Self { world: Arc::clone(world), operators, chance: world.chance(part) })
    }

    async fn act(&mut self) -> Result<(), String> {
        let mut version = 0;
        while !self.world.has_ended() {
            let pause = self.chance.u64(100..700);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            match self.chance.u8(..10) {
                0..=2 => {
                    version += 1;
                    self.change_policy(version).await?;
                }
                3 => {
                    let more = self.chance.i64(200..900);
                    self.raise_budget(more).await?;
                }
                _ => self.answer_some().await,
            }
        }
        Ok(())
    }

    /// Forbids another tool.
    async fn change_policy(&mut self, version: u64) -> Result<(), String> {
        let forbids = self.chance.usize(..TOOLS);
        let source = policy(forbids, version);
        let applied = self.insist(Method::POST, "/policies", &source).await?;
        let since = self.world.elapsed();
        let revision = applied["revision"].as_u64();
        let revision = revision.ok_or_else(|| format!("no revision was told: {applied}"))?;
        self.world.in_force.lock().push(InForce { since, revision, forbids });
        self.world.outcome.lock().changes += 1;
        Ok(())
    }

    /// Lets the team spend so many cents more.
    async fn raise_budget(&mut self, more: i64) -> Result<(), String> {
        let cents = self.world.budget.load(Ordering::Relaxed) + more;
        let limit = format!("{}.{:02}", cents / 100, cents % 100);
        let body = json!({ "cost_limit_usd": limit }).to_string();
        let path = format!("/budgets/teams/{TEAM}/monthly");
        let set = self.insist(Method::PUT, &path, &body).await?;
        {
            let mut window = self.world.window.lock();
            if window.is_empty() {
                *window = set["current"]["starts_at"].as_str().unwrap_or_default().to_owned();
            }
        }
        self.world.budget.store(cents, Ordering::Relaxed);
        self.world.outcome.lock().changes += 1;
        Ok(())
    }

    /// Answers what is pending, as far as it can be reached.
    async fn answer_some(&mut self) {
        let Ok(pending) = self.any().get("/approvals?limit=50").await else { return };
        for request in pending["approvals"].as_array().into_iter().flatten() {
            let Some(id) = request["id"].as_str() else { continue };
            let verb = if self.chance.bool() { "approve" } else { "deny" };
            let path = format!("/approvals/{id}/{verb}");
            // By another node each time: the one before may be gone by now.
            if self.any().call(Method::POST, &path, "{}").await.is_ok() {
                self.world.outcome.lock().approvals += 1;
            }
        }
    }

    /// Some node's operator.
    fn any(&mut self) -> Operator {
        let at = self.chance.usize(..self.operators.len());
        self.operators[at].clone()
    }

    /// Tries until it is done, by one node or another.
    pub(super) async fn insist(
        &mut self,
        method: Method,
        path: &str,
        body: &str,
    ) -> Result<Value, String> {
        loop {
            match self.any().call(method.clone(), path, body).await {
                Ok(done) => {
                    self.world.waiting.lock().remove("operator");
                    return Ok(done);
                }
                Err(error) if is_worth_another_try(&error) => {
                    let waits = format!("{method} {path}: {error}");
                    self.world.waiting.lock().insert("operator".to_owned(), waits);
                }
                Err(error) => return Err(format!("an operator was refused: {error}")),
            }
            if self.world.is_lost() {
                return Err("the storm is lost".to_owned());
            }
            let pause = self.chance.u64(20..300);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }
}

fn is_worth_another_try(error: &OperatorError) -> bool {
    match error {
        OperatorError::Unanswered(_) => true,
        OperatorError::Refused { status, .. } => {
            [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS].contains(status)
        }
        OperatorError::Io(_) => false,
    }
}

fn policy(forbids: usize, version: u64) -> String {
    format!(
        "apiVersion: agent-assembly/v1\nkind: Policy\nmetadata: {{name: guard, version: 'v{version}'}}\n\
         spec:\n  tools:\n    tool_{forbids}: {{allow: false}}\n    deploy: {{requires_approval_if: 'true'}}\n  \
         approval: {{timeout_seconds: 30}}\n"
    )
}
