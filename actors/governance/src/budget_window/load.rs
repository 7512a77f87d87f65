//! Reading a window back from the store.

use std::sync::Arc;

use aa_budget::{Inconsistent, MAX_OPEN, Reservation, ReservationId, Window};
use aa_runtime::LiveShard;
use aa_store::{Order, StoreError, Subspace, Transaction};

use super::{BudgetWindowActor, WindowRecord};
use crate::{
    chain::{Chain, ChainError},
    keys,
    services::Services,
    spender::WindowId,
    stored::{self, Damaged},
};

/// What keeps a window from loading. Calls that need it are refused until it loads: it fails closed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error(transparent)]
    Record(#[from] stored::ReadError),
    #[error(transparent)]
    Damaged(#[from] Damaged),
    #[error("what is stored of it does not add up ({0}); restore the store from a backup")]
    Inconsistent(#[from] Inconsistent),
    #[error("the workspace's budgets are not available: {0}")]
    Policies(#[from] aa_runtime::Fault),
}

/// Reservations read at a time.
const PAGE: usize = 1_000;

impl BudgetWindowActor {
    pub(super) async fn read(
        id: WindowId,
        shard: Arc<LiveShard>,
        services: Arc<Services>,
    ) -> Result<Self, ReadError> {
        let policies = services.policies(id.workspace).await?;
        let mut txn = services.node.store().begin().await?;
        let chain = Chain::open(&mut *txn, &shard.journal, id.workspace, id.stream()).await?;
        let (record_key, reservations) = (keys::window(&id), keys::reservations(&id));
        let record: Option<WindowRecord> = stored::read(&mut *txn, &record_key).await?;
        let open = read_reservations(&mut *txn, &reservations).await?;
        if open.len() > MAX_OPEN {
            return Err(Damaged::at(&record_key).into());
        }
        let WindowRecord { spans, limits, total } = record.unwrap_or_default();
        let now = services.clock.now();
        let window = Window::restore(id.calendar(), spans, open, total, now)?;
        Ok(Self { id, shard, services, chain, record_key, reservations, window, limits, policies })
    }
}

async fn read_reservations(
    txn: &mut dyn Transaction,
    reservations: &Subspace,
) -> Result<Vec<(ReservationId, Reservation)>, ReadError> {
    let mut range = reservations.range();
    let mut open = Vec::new();
    // One page more than there can be shows that there are too many.
    while open.len() <= MAX_OPEN {
        let page = txn.range_snapshot(&range, PAGE, Order::Forward).await?;
        let Some((last, _)) = page.last() else { break };
        let rest = range.clone().after(last);
        for (key, value) in &page {
            let call = keys::reservation_id(reservations, key).ok_or_else(|| Damaged::at(key))?;
            open.push((call, stored::decode(key, value)?));
        }
        range = rest;
    }
    Ok(open)
}
