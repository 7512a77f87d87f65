//! Reading a workspace's policies back from the store.

use std::{collections::BTreeMap, sync::Arc};

use aa_ledger::Stream;
use aa_protocol::WorkspaceId;
use aa_runtime::{LiveShard, OffloadError};
use aa_store::{Order, StoreError, Transaction};

use super::{Known, MAX_POLICIES, PolicySetActor, Rules, digest};
use crate::{
    approvers::{Approvers, ApproversError, MAX_APPROVERS},
    budget_book::{BudgetBook, MAX_BUDGETS},
    chain::{Chain, ChainError},
    keys,
    policy_record::{PolicyHeader, read_source},
    prices::{Prices, PricesError},
    services::Services,
    stored::{self, Damaged},
};

/// What keeps a policy set from loading. Its agents are refused until it loads: they fail closed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
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
    Compiler(#[from] OffloadError),
}

impl PolicySetActor {
    pub(super) async fn read(
        workspace: WorkspaceId,
        shard: Arc<LiveShard>,
        services: Arc<Services>,
    ) -> Result<Self, ReadError> {
        let chain = {
            let mut txn = services.node.store().begin().await?;
            Chain::open(&mut *txn, &shard.journal, workspace, Stream::Policies).await?
        };
        let rules = Rules::read(&services, workspace).await?;
        services.board.publish(workspace, rules.snapshot());
        Ok(Self { workspace, shard, rules, chain, services })
    }
}

impl Rules {
    /// The rules in force, as of one moment.
    pub(crate) async fn read(
        services: &Services,
        workspace: WorkspaceId,
    ) -> Result<Self, ReadError> {
        let mut txn = services.node.store().begin().await?;
        let generation_key = keys::policy_generation(workspace);
        let generation = match txn.get_snapshot(&generation_key).await? {
            None => 0,
            Some(stored) => {
                let bytes = stored.as_ref().try_into().map_err(|_| Damaged::at(&generation_key))?;
                u64::from_be_bytes(bytes)
            }
        };
        let sources = read_sources(&mut *txn, workspace).await?;
        let budgets = Arc::new(read_budgets(&mut *txn, workspace).await?);
        let prices = match stored::read(&mut *txn, &keys::prices(workspace)).await? {
            Some(record) => Prices::new(record)?,
            None => Prices::builtin(),
        };
        let approvers = Arc::new(read_approvers(&mut *txn, workspace).await?);
        // Compiling takes longer than a transaction may.
        drop(txn);
        let mut policies = BTreeMap::new();
        for Source { name, header, text } in sources {
            let active = match text {
                Some((revision, text)) => Some(compile(services, &name, revision, text).await?),
                None => None,
            };
            policies.insert(name, Known { header, active });
        }
        Ok(Self { generation, policies, budgets, prices: Arc::new(prices), approvers })
    }
}

/// A policy as stored.
struct Source {
    name: String,
    header: PolicyHeader,
    /// The revision in force, if one is.
    text: Option<(u64, Vec<u8>)>,
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

async fn read_sources(
    txn: &mut dyn Transaction,
    workspace: WorkspaceId,
) -> Result<Vec<Source>, ReadError> {
    let range = keys::policies(workspace);
    let headers = txn.range_snapshot(&range, MAX_POLICIES + 1, Order::Forward).await?;
    let mut sources = Vec::with_capacity(headers.len());
    for (key, value) in headers {
        let header: PolicyHeader = stored::decode(&key, &value)?;
        let name = keys::policy_name(&key).ok_or_else(|| Damaged::at(&key))?;
        let text = match header.active {
            None => None,
            Some(revision) => Some((revision, read_source(txn, workspace, &name, revision).await?)),
        };
        sources.push(Source { name, header, text });
    }
    Ok(sources)
}

async fn compile(
    services: &Services,
    name: &str,
    revision: u64,
    source: Vec<u8>,
) -> Result<(Arc<aa_policy::Policy>, String), ReadError> {
    let fallback = name.to_owned();
    let compiling =
        services.node.offload(move || (aa_policy::check(&source, &fallback), digest(&source)));
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
