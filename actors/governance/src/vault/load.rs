//! Reading a vault back from the store. The master key is asked only once a secret is wanted.

use std::{collections::BTreeMap, sync::Arc};

use aa_ledger::Stream;
use aa_protocol::WorkspaceId;
use aa_runtime::LiveShard;
use aa_store::{Order, StoreError};
use aa_vault::{KeyRing, KeyRingError};

use super::{Keys, VaultActor, releasing::Told};
use crate::{
    chain::{Chain, ChainError},
    keys,
    secret_record::{MAX_SECRETS, SecretRecord},
    services::Services,
    stored::{self, Damaged},
};

/// What keeps a vault from loading.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error(transparent)]
    Damaged(#[from] Damaged),
    #[error(transparent)]
    Ring(#[from] KeyRingError),
}

/// Secrets read at a time.
const PAGE: usize = 100;

impl VaultActor {
    pub(super) async fn read(
        workspace: WorkspaceId,
        shard: Arc<LiveShard>,
        services: Arc<Services>,
    ) -> Result<Self, ReadError> {
        let mut txn = services.node.store().begin().await?;
        let chain = Chain::open(&mut *txn, &shard.journal, workspace, Stream::Vault).await?;
        let keys = match txn.get_snapshot(&keys::key_ring(workspace)).await? {
            Some(stored) => Keys::Wrapped(KeyRing::from_json(&stored)?),
            None => Keys::None,
        };
        let version_key = keys::secret_version(workspace);
        let version = match txn.get_snapshot(&version_key).await? {
            None => 0,
            Some(stored) => {
                let bytes = stored.as_ref().try_into().map_err(|_| Damaged::at(&version_key))?;
                u64::from_be_bytes(bytes)
            }
        };
        let (mut secrets, mut bytes) = (BTreeMap::new(), 0);
        let mut range = keys::secrets(workspace);
        while secrets.len() <= MAX_SECRETS {
            let page = txn.range_snapshot(&range, PAGE, Order::Forward).await?;
            let Some((last, _)) = page.last() else { break };
            let rest = range.clone().after(last);
            for (key, value) in &page {
                let record: SecretRecord = stored::decode(key, value)?;
                // A record under another name or of another workspace was moved there.
                let is_own = *key == keys::secret(workspace, record.sealed.name().as_str());
                if !is_own || record.sealed.workspace() != workspace {
                    return Err(Damaged::at(key).into());
                }
                bytes += value.len();
                secrets.insert(record.sealed.name().clone(), record);
            }
            range = rest;
        }
        Ok(Self {
            workspace,
            shard,
            services,
            chain,
            keys,
            secrets,
            bytes,
            version,
            refused: None,
            is_stepping: false,
            told: Told::default(),
        })
    }
}
