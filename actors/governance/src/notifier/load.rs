//! Reading a notifier back from the store.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use aa_ledger::Stream;
use aa_notify::{AlertBook, BookError, Destination, Folder, Rule};
use aa_protocol::WorkspaceId;
use aa_runtime::LiveShard;
use aa_store::{KeyRange, Order, StoreError, Transaction};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::NotifierActor;
use crate::{
    alert_record::Delivery,
    chain::{Chain, ChainError},
    keys,
    services::Services,
    stored::{self, Damaged},
};

/// What keeps a notifier from loading.
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
    #[error("what was set of alerts no longer passes validation: {0}")]
    Book(#[from] BookError),
}

/// Records read at a time.
const PAGE: usize = 256;

impl NotifierActor {
    pub(super) async fn read(
        workspace: WorkspaceId,
        shard: Arc<LiveShard>,
        services: Arc<Services>,
    ) -> Result<Self, ReadError> {
        let mut txn = services.node.store().begin().await?;
        let chain = Chain::open(&mut *txn, &shard.journal, workspace, Stream::Alerts).await?;
        let destinations: Vec<Destination> =
            read_all(&mut *txn, keys::alert_destinations(workspace)).await?;
        let rules: Vec<Rule> = read_all(&mut *txn, keys::alert_rules(workspace)).await?;
        let book = AlertBook::restore(destinations, rules)?;
        let cursor = stored::read(&mut *txn, &keys::alert_cursor(workspace)).await?;
        let mut folders = BTreeMap::new();
        for destination in book.destinations() {
            let key = keys::alert_folder(workspace, &destination.name);
            let folder: Option<Folder> = stored::read(&mut *txn, &key).await?;
            folders.extend(folder.map(|folder| (destination.name.clone(), folder)));
        }
        // What may be much is read in a transaction of its own.
        let mut txn = services.node.store().begin().await?;
        let deliveries: Vec<Delivery> = read_all(&mut *txn, keys::deliveries(workspace)).await?;
        let deliveries: BTreeMap<_, _> =
            deliveries.into_iter().map(|delivery| (delivery.id, delivery)).collect();
        let mut waiting: HashMap<String, usize> = HashMap::new();
        for delivery in deliveries.values() {
            *waiting.entry(delivery.destination.clone()).or_default() += 1;
        }
        let dead_letters = read_dead_letters(&mut *txn, workspace).await?;
        let next_key = keys::next_delivery(workspace);
        let next_delivery = match txn.get_snapshot(&next_key).await? {
            None => 0,
            Some(stored) => {
                let bytes = stored.as_ref().try_into().map_err(|_| Damaged::at(&next_key))?;
                u64::from_be_bytes(bytes)
            }
        };
        if !book.is_idle() || !deliveries.is_empty() || !folders.is_empty() {
            services.alerting.lock().insert(workspace);
        }
        Ok(Self {
            workspace,
            shard,
            services,
            chain,
            book,
            cursor,
            folders,
            deliveries,
            waiting,
            next_delivery,
            dead_letters,
            in_flight: HashSet::new(),
            health: HashMap::new(),
            is_gathering: false,
            first_shard: 0,
            problem: None,
        })
    }
}

async fn read_all<T: DeserializeOwned>(
    txn: &mut dyn Transaction,
    range: KeyRange,
) -> Result<Vec<T>, ReadError> {
    let mut records = Vec::new();
    for_each(txn, range, |key, value| {
        records.push(stored::decode(key, value)?);
        Ok(())
    })
    .await?;
    Ok(records)
}

/// The ids of the dead letters, the oldest first. The letters stay where they are.
async fn read_dead_letters(
    txn: &mut dyn Transaction,
    workspace: WorkspaceId,
) -> Result<VecDeque<u64>, ReadError> {
    let mut ids = VecDeque::new();
    for_each(txn, keys::dead_letters(workspace), |key, _| {
        ids.push_back(keys::dead_letter_id(key).ok_or_else(|| Damaged::at(key))?);
        Ok(())
    })
    .await?;
    Ok(ids)
}

async fn for_each(
    txn: &mut dyn Transaction,
    mut range: KeyRange,
    mut take: impl FnMut(&Bytes, &Bytes) -> Result<(), Damaged>,
) -> Result<(), ReadError> {
    loop {
        let page = txn.range_snapshot(&range, PAGE, Order::Forward).await?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        let rest = range.clone().after(last);
        for (key, value) in &page {
            take(key, value)?;
        }
        range = rest;
    }
}
