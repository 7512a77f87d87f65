//! Reading a workspace's policies back from the store.

use std::{collections::BTreeMap, sync::Arc};

use aa_ledger::Stream;
use aa_protocol::WorkspaceId;
use aa_runtime::LiveShard;
use aa_store::{Order, StoreError, Transaction};

use super::{Known, MAX_POLICIES, PolicySetActor, digest};
use crate::{
    approvers::{Approvers, ApproversError, MAX_APPROVERS},
    budget_book::{BudgetBook, MAX_BUDGETS},
    chain::{Chain, ChainError},
    keys,
    policy_board::PolicySnapshot,
    policy_record::{PolicyHeader, read_source},
    prices::{Prices, PricesError},
    services::Services,
    stored::{self, Damaged},
};

/// What keeps a policy set from loading. Its agents are refused until it loads: they fail closed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error(transparent)]
    Damaged(#[from] Damaged),
    #[error("revision {revision} of policy `{name}` no longer passes validation: {problem}")]
    Invalid { name: String, revision: u64, problem: String },
    #[error(transparent)]
    Record(#[from] stored::ReadError),
    #[error("the prices that were set no longer pass validation: {0}")]
    Prices(#[from] PricesError),
    #[error("the approvers that were set no longer pass validation: {0}")]
    Approvers(#[from] ApproversError),
    #[error("the compiler ended early: {0}")]
    Compiler(#[from] tokio::task::JoinError),
}

impl PolicySetActor {
    pub(super) async fn read(
        workspace: WorkspaceId,
        shard: Arc<LiveShard>,
        services: Arc<Services>,
    ) -> Result<Self, ReadError> {
        let mut txn = services.node.store().begin().await?;
        let chain = Chain::open(&mut *txn, &shard.journal, workspace, Stream::Policies).await?;
        let generation_key = keys::policy_generation(workspace);
        let generation = match txn.get_snapshot(&generation_key).await? {
            None => 0,
            Some(stored) => {
                let bytes = stored.as_ref().try_into().map_err(|_| Damaged::at(&generation_key))?;
                u64::from_be_bytes(bytes)
            }
        };
        let policies = read_policies(&mut *txn, workspace).await?;
        let budgets = Arc::new(read_budgets(&mut *txn, workspace).await?);
        let prices = match stored::read(&mut *txn, &keys::prices(workspace)).await? {
            Some(record) => Prices::new(record)?,
            None => Prices::builtin(),
        };
        let prices = Arc::new(prices);
        let approvers = Arc::new(read_approvers(&mut *txn, workspace).await?);
        let empty = PolicySnapshot {
            generation: 0,
            set: aa_policy::PolicySet::empty(),
            budgets: Arc::clone(&budgets),
            prices: Arc::clone(&prices),
            approvers: Arc::clone(&approvers),
        };
        let mut actor = Self {
            workspace,
            shard,
            generation,
            policies,
            budgets,
            prices,
            approvers,
            cell: Arc::new(arc_swap::ArcSwap::from_pointee(empty)),
            chain,
            services,
        };
        actor.cell = actor.services.board.publish(workspace, actor.snapshot());
        Ok(actor)
    }
}

async fn read_approvers(
    txn: &mut dyn Transaction,
    workspace: WorkspaceId,
) -> Result<Approvers, ReadError> {
    let mut approvers = Approvers::default();
    let space = keys::approvers(workspace);
    let stored = txn.range_snapshot(&space.range(), 2 * MAX_APPROVERS, Order::Forward).await?;
    for (key, value) in stored {
        let mut parts = space.unpack(&key).map_err(|_| Damaged::at(&key))?;
        match parts.str().map_err(|_| Damaged::at(&key))?.as_ref() {
            "group" => approvers.set_group(stored::decode(&key, &value)?)?,
            "chain" => approvers.set_chain(stored::decode(&key, &value)?)?,
            _ => return Err(Damaged::at(&key).into()),
        }
    }
    Ok(approvers)
}

async fn read_budgets(
    txn: &mut dyn Transaction,
    workspace: WorkspaceId,
) -> Result<BudgetBook, ReadError> {
    let mut budgets = BudgetBook::default();
    let stored = txn.range_snapshot(&keys::budgets(workspace), MAX_BUDGETS, Order::Forward).await?;
    for (key, value) in stored {
        budgets.set(stored::decode(&key, &value)?);
    }
    Ok(budgets)
}

async fn read_policies(
    txn: &mut dyn Transaction,
    workspace: WorkspaceId,
) -> Result<BTreeMap<String, Known>, ReadError> {
    let range = keys::policies(workspace);
    let headers = txn.range_snapshot(&range, MAX_POLICIES + 1, Order::Forward).await?;
    let mut policies = BTreeMap::new();
    for (key, value) in headers {
        let header: PolicyHeader = stored::decode(&key, &value)?;
        let name = keys::policy_name(&key).ok_or_else(|| Damaged::at(&key))?;
        let active = match header.active {
            None => None,
            Some(revision) => {
                let source = read_source(txn, workspace, &name, revision).await?;
                Some(compile(&name, revision, source).await?)
            }
        };
        policies.insert(name, Known { header, active });
    }
    Ok(policies)
}

async fn compile(
    name: &str,
    revision: u64,
    source: Vec<u8>,
) -> Result<(Arc<aa_policy::Policy>, String), ReadError> {
    let fallback = name.to_owned();
    let compiling = tokio::task::spawn_blocking(move || {
        (aa_policy::check(&source, &fallback), digest(&source))
    });
    let (checked, sha256) = compiling.await?;
    let problem = checked.errors.first().map(|error| error.message.clone());
    match checked.policy {
        Some(policy) => Ok((Arc::new(policy), sha256)),
        None => Err(ReadError::Invalid {
            name: name.to_owned(),
            revision,
            problem: problem.unwrap_or_default(),
        }),
    }
}
