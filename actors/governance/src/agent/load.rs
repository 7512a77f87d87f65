//! Reading an agent back from the store.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use aa_ledger::{Entry, Kind, Stream};
use aa_protocol::{ActionId, WorkspaceId};
use aa_runtime::{LiveShard, ShardId, journal::log_prefix};
use aa_store::{Order, Store, StoreError, Transaction};

use super::{
    AgentActor, AgentKeyId, Rates, SessionId,
    approving::{Approving, read_request},
    metering::{MAX_OPEN_CALLS, Metering},
    quote::OpenCall,
    sequences::Armed,
    view::View,
};
use crate::{
    agent_record::AgentRecord,
    chain::{Chain, ChainError, NOWHERE, decode_entry},
    keys,
    rate_window::{RING, RateWindow, Slot},
    recent_actions::{ActionKey, PAGES, RecentActions, SavedPages},
    services::Services,
    stored::{self, Damaged},
};

/// What keeps an agent from loading.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error(transparent)]
    Damaged(#[from] Damaged),
    #[error(transparent)]
    Record(#[from] stored::ReadError),
    #[error("its policies are not available: {0}")]
    Policies(#[from] aa_runtime::Fault),
}

/// The most pending requests, and grants, of an agent that are read.
const MAX_ASKED: usize = 10_000;

impl AgentActor {
    pub(super) async fn read(
        id: AgentKeyId,
        shard: Arc<LiveShard>,
        services: Arc<Services>,
    ) -> Result<Self, ReadError> {
        let AgentKeyId { workspace, agent } = id;
        let cell = services.policies(workspace).await?;
        let mut txn = services.node.store().begin().await?;
        let stream = Stream::Agent(agent);
        let chain = Chain::open(&mut *txn, &shard.journal, workspace, stream).await?;
        let record: Option<AgentRecord> =
            stored::read(&mut *txn, &keys::agent(workspace, agent)).await?;
        let rates = read_rates(&mut *txn, id).await?;
        let recent = read_recent(&mut *txn, id, shard.id, chain.position()).await?;
        let open = read_calls(&mut *txn, id).await?;
        let approving = read_approving(&mut *txn, id).await?;
        let armed = Armed::read(&mut *txn, id).await?;
        let facts = record.as_ref().map(|record| &record.facts);
        let policies = View::new(cell, workspace, facts);
        Ok(Self {
            id,
            shard,
            services,
            chain,
            record,
            recent,
            rates,
            metering: Box::new(Metering::with_open(open)),
            approving: Box::new(approving),
            armed,
            policies,
            waiting: VecDeque::new(),
        })
    }
}

/// The calls that are not settled. One that has expired was posted by its windows, and is of no more use.
async fn read_calls(
    txn: &mut dyn Transaction,
    id: AgentKeyId,
) -> Result<HashMap<ActionId, OpenCall>, ReadError> {
    let space = keys::calls(id.workspace, id.agent);
    let mut open = HashMap::new();
    let stored = txn.range_snapshot(&space.range(), MAX_OPEN_CALLS, Order::Forward).await?;
    for (key, value) in stored {
        let damaged = || Damaged::at(&key);
        let mut parts = space.unpack(&key).map_err(|_| damaged())?;
        let action = parts.bytes().map_err(|_| damaged())?;
        let action = action.as_ref().try_into().map_err(|_| damaged())?;
        open.insert(ActionId::from_bytes(action), stored::decode(&key, &value)?);
    }
    Ok(open)
}

/// What the agent has asked people, and been granted for sessions.
async fn read_approving(txn: &mut dyn Transaction, id: AgentKeyId) -> Result<Approving, ReadError> {
    let space = keys::asked_by(id.workspace, id.agent);
    let mut asked = HashMap::new();
    for (key, value) in txn.range_snapshot(&space.range(), MAX_ASKED, Order::Forward).await? {
        let damaged = || Damaged::at(&key);
        let digest = space.unpack(&key).and_then(|mut parts| Ok(parts.str()?.into_owned()));
        let pending = read_request(&value).ok_or_else(damaged)?;
        asked.insert(digest.map_err(|_| damaged())?, pending);
    }
    let space = keys::session_grants(id.workspace, id.agent);
    let mut granted = HashSet::new();
    for (key, _) in txn.range_snapshot(&space.range(), MAX_ASKED, Order::Forward).await? {
        let grant = space
            .unpack(&key)
            .and_then(|mut parts| Ok((SessionId(parts.u64()?), parts.str()?.into_owned())));
        granted.insert(grant.map_err(|_| Damaged::at(&key))?);
    }
    Ok(Approving::of(asked, granted))
}

async fn read_rates(txn: &mut dyn Transaction, id: AgentKeyId) -> Result<Rates, ReadError> {
    let space = keys::rates(id.workspace, id.agent);
    let mut slots: HashMap<String, Vec<Slot>> = HashMap::new();
    let mut range = space.range();
    loop {
        let page = txn.range_snapshot(&range, RING as usize, Order::Forward).await?;
        let Some((last, _)) = page.last() else { break };
        let rest = range.clone().after(last);
        for (key, value) in &page {
            let damaged = || Damaged::at(key);
            let mut parts = space.unpack(key).map_err(|_| damaged())?;
            let tool = parts.str().map_err(|_| damaged())?.into_owned();
            let slot = Slot::from_bytes(value).ok_or_else(damaged)?;
            slots.entry(tool).or_default().push(slot);
        }
        range = rest;
    }
    let windows = slots.into_iter().map(|(tool, slots)| (tool, RateWindow::from_slots(slots)));
    Ok(Rates(windows.collect()))
}

/// Reads the pages of the latest actions, and walks the chain back over those since.
async fn read_recent(
    txn: &mut dyn Transaction,
    id: AgentKeyId,
    shard: ShardId,
    head: u64,
) -> Result<RecentActions, ReadError> {
    let AgentKeyId { workspace, agent } = id;
    let space = keys::recent(workspace, agent);
    let stored = txn.range_snapshot(&space.range(), PAGES, Order::Forward).await?;
    let saved = SavedPages::decode(stored.iter().map(|(_, page)| &page[..]));
    let saved = saved.ok_or_else(|| Damaged::at(&space.to_key()))?;
    let mut recent = RecentActions::default();
    let mut position = head;
    while position != NOWHERE && !saved.cover(position) && !recent.is_full() {
        let key = entry_key(workspace, shard, position);
        // Expired entries are gone; what is older than the retention needs no remembering.
        let Some(stored) = txn.get_snapshot(&key).await? else { break };
        let (earlier, line) = decode_entry(&stored).ok_or_else(|| Damaged::at(&key))?;
        let entry = Entry::parse(&line).map_err(|_| Damaged::at(&key))?;
        recent.count_entry();
        if let Some(action) = &entry.action {
            let key = match entry.kind {
                Kind::Event => ActionKey::Event(action.id),
                _ => ActionKey::Check(action.id),
            };
            recent.remember_older(key, position);
        }
        position = earlier;
    }
    recent.put_before(&saved);
    Ok(recent)
}

pub(super) async fn entry_at(
    store: &dyn Store,
    workspace: WorkspaceId,
    shard: ShardId,
    position: u64,
) -> Result<Entry, ReadError> {
    let key = entry_key(workspace, shard, position);
    let mut txn = store.begin().await?;
    let stored = txn.get_snapshot(&key).await?.ok_or_else(|| Damaged::at(&key))?;
    let (_, line) = decode_entry(&stored).ok_or_else(|| Damaged::at(&key))?;
    Ok(Entry::parse(&line).map_err(|_| Damaged::at(&key))?)
}

fn entry_key(workspace: WorkspaceId, shard: ShardId, position: u64) -> Vec<u8> {
    [log_prefix(workspace, shard).as_slice(), &position.to_be_bytes()].concat()
}
