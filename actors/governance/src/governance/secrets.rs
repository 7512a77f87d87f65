//! The operations on secrets. One gives a secret away: to a proxy, for an agent and a host that it is released for.

use std::collections::BTreeSet;

use aa_policy::host::Host;
use aa_protocol::{AgentId, WorkspaceId};
use aa_runtime::{Fault, Reply};
use aa_store::{Order, Store, StoreError};
use aa_vault::{KeyRing, SecretName, SecretValue};

use super::{Governance, GovernanceError};
use crate::{
    agent_record::AgentRecord,
    keys,
    permission::{ManageSecrets, Permit, ReadSecrets, ReleaseSecrets},
    release::{Release, ReleaseRequest, Released, Standing},
    secret_record::{SecretStatus, VaultStatus},
    stored,
    vault::{NewSecret, SecretError, VaultMessage, is_behind},
};

/// Key rings looked at at a time.
const PAGE: usize = 256;

/// How often all vaults are looked at for rotations that are due or were cut off.
const TEND_EVERY: std::time::Duration = std::time::Duration::from_secs(3_600);

impl Governance {
    /// Whether any workspace of the store keeps secrets: then there was a master key.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn has_secrets(store: &dyn Store) -> Result<bool, StoreError> {
        let mut txn = store.begin().await?;
        let rings = txn.range_snapshot(&keys::key_rings(), 1, Order::Forward).await?;
        Ok(!rings.is_empty())
    }

    /// Which secrets there are, and the keys they are kept under.
    ///
    /// # Errors
    /// The actor does not answer.
    pub async fn secrets(
        &self,
        permit: &Permit<ReadSecrets>,
    ) -> Result<VaultStatus, GovernanceError> {
        let (reply, answer) = Reply::channel();
        self.services.send_vault(&permit.workspace(), VaultMessage::Read(reply));
        Ok(answer.await.unwrap_or(Err(Fault::Gone))?)
    }

    /// Keeps a secret, in the place of the one there was. Setting the value it has changes at most where proxies may send
    /// it; where nothing is said of that, it stays as it was.
    ///
    /// # Errors
    /// The vault is full, its master key refuses, or the actor does not answer.
    pub async fn set_secret(
        &self,
        permit: &Permit<ManageSecrets>,
        name: SecretName,
        value: SecretValue,
        release: Option<Release>,
    ) -> Result<SecretStatus, GovernanceError> {
        let new = NewSecret { name, value, release, actor: permit.actor() };
        self.ask_vault(permit.workspace(), |reply| VaultMessage::Set(new, reply)).await
    }

    /// Lets no proxy send a secret anywhere any more.
    ///
    /// # Errors
    /// There is none of this name, or the actor does not answer.
    pub async fn withdraw_secret(
        &self,
        permit: &Permit<ManageSecrets>,
        name: SecretName,
    ) -> Result<SecretStatus, GovernanceError> {
        let actor = permit.actor();
        self.ask_vault(permit.workspace(), |reply| VaultMessage::Withdraw(name, actor, reply)).await
    }

    /// A secret in the clear, for a proxy on the way of `agent` to `host`. Who got which is in the log before it is
    /// answered, and so is who did not.
    ///
    /// # Errors
    /// It is not released for them; [`ReleaseError`](crate::release::ReleaseError) tells as much as the proxy may know.
    /// Or its key is not at hand, or the store or the actor does not answer.
    pub async fn release_secret(
        &self,
        permit: &Permit<ReleaseSecrets>,
        agent: AgentId,
        secret: SecretName,
        host: &Host,
    ) -> Result<Released, GovernanceError> {
        let workspace = permit.workspace();
        let standing = self.standing_of(workspace, agent).await?;
        let (host, actor) = (host.to_string(), permit.actor());
        let request = ReleaseRequest { agent, standing, secret, host, actor };
        let (reply, answer) = Reply::channel();
        self.services.send_vault(&workspace, VaultMessage::Release(request, reply));
        Ok(answer.await.unwrap_or(Err(Fault::Gone))??)
    }

    /// As committed: an agent whose suspension was answered is suspended here, wherever it lives.
    async fn standing_of(
        &self,
        workspace: WorkspaceId,
        agent: AgentId,
    ) -> Result<Standing, GovernanceError> {
        let at = keys::agent(workspace, agent);
        let mut txn = self.services.node.store().begin().await?;
        let Some(stored) = txn.get_snapshot(&at).await? else { return Ok(Standing::Unknown) };
        let record: AgentRecord = stored::decode(&at, &stored)?;
        let now = self.services.clock.now();
        let is_suspended = record.suspended.is_some()
            || record.budget_suspension.is_some_and(|suspension| now < suspension.until);
        Ok(if is_suspended { Standing::Suspended } else { Standing::Active(record.facts.team) })
    }

    /// Forgets a secret.
    ///
    /// # Errors
    /// There is none of this name, or the actor does not answer.
    pub async fn delete_secret(
        &self,
        permit: &Permit<ManageSecrets>,
        name: SecretName,
    ) -> Result<SecretStatus, GovernanceError> {
        let actor = permit.actor();
        self.ask_vault(permit.workspace(), |reply| VaultMessage::Delete(name, actor, reply)).await
    }

    /// Makes a fresh data key and begins to seal all secrets under it.
    ///
    /// # Errors
    /// There is nothing to rotate, the master key refuses, or the actor does not answer.
    pub async fn rotate_data_key(
        &self,
        permit: &Permit<ManageSecrets>,
    ) -> Result<VaultStatus, GovernanceError> {
        let actor = permit.actor();
        self.ask_vault(permit.workspace(), |reply| VaultMessage::Rotate(actor, reply)).await
    }

    /// Renews the master key, where that is this program's, and begins to wrap all data keys under it.
    ///
    /// # Errors
    /// There is nothing to rotate, the master key refuses, or the actor does not answer.
    pub async fn rotate_master_key(
        &self,
        permit: &Permit<ManageSecrets>,
    ) -> Result<VaultStatus, GovernanceError> {
        let actor = permit.actor();
        self.ask_vault(permit.workspace(), |reply| VaultMessage::RotateMaster(actor, reply)).await
    }

    /// A secret in the clear, for a part of this process that uses it where it belongs: to sign, to connect. It is
    /// behind no role, and no request of anybody's is answered with it: what proxies get, [`Governance::release_secret`]
    /// gives.
    ///
    /// # Errors
    /// There is none of this name, its key is not at hand, or the actor does not answer.
    pub async fn open_secret(
        &self,
        workspace: WorkspaceId,
        name: SecretName,
    ) -> Result<SecretValue, GovernanceError> {
        Ok(self.services.open_secret(workspace, name).await??)
    }

    async fn ask_vault<T: Send + 'static>(
        &self,
        workspace: WorkspaceId,
        message: impl FnOnce(Reply<Result<T, SecretError>>) -> VaultMessage,
    ) -> Result<T, GovernanceError> {
        let (reply, answer) = Reply::channel();
        self.services.send_vault(&workspace, message(reply));
        Ok(answer.await.unwrap_or(Err(Fault::Gone))??)
    }

    /// Looks at every vault when a process starts, and every hour.
    pub(super) async fn tend_vaults(self) {
        while !self.services.node.has_stopped() {
            if let Err(error) = self.tend_all().await {
                tracing::warn!(%error, "the key rings could not be looked at; it is tried again");
            }
            self.services.clock.sleep(TEND_EVERY).await;
        }
    }

    /// Has rotations begun that are due and gone on with that were cut off, and master keys forgotten that no
    /// workspace needs.
    async fn tend_all(&self) -> Result<(), GovernanceError> {
        let now = self.services.clock.now();
        let mut in_use = Some(BTreeSet::new());
        let mut range = keys::key_rings();
        loop {
            let mut txn = self.services.node.store().begin().await?;
            let page = txn.range_snapshot(&range, PAGE, Order::Forward).await?;
            let Some((last, _)) = page.last() else { break };
            let rest = range.clone().after(last);
            for (_, stored) in &page {
                // One that does not read is reported when its vault is asked for something. Nobody knows what it needs.
                let Ok(ring) = KeyRing::from_json(stored) else {
                    in_use = None;
                    continue;
                };
                in_use.iter_mut().for_each(|in_use| in_use.extend(ring.master_keys()));
                let master = &*self.services.master_key;
                let is_wanting = ring.is_rotating() || ring.is_due(now) || is_behind(&ring, master);
                let workspace = ring.workspace();
                if is_wanting
                    && self.services.is_vault_here(workspace)
                    && self.services.is_there(workspace).await?
                {
                    self.services.send_vault(&workspace, VaultMessage::Tend);
                }
            }
            range = rest;
        }
        // What was being wrapped an hour ago is in its ring, or never will be.
        let replaced_before = now.saturating_sub(TEND_EVERY);
        let forgotten =
            in_use.map(|in_use| self.services.master_key.forget_unused(&in_use, replaced_before));
        if let Some(Err(error)) = forgotten {
            tracing::warn!(%error, "a master key that nothing uses was not removed");
        }
        Ok(())
    }
}
