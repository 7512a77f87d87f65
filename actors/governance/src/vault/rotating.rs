//! Rotations: what is sealed goes under a fresh data key, data keys go under the next master key. Each step is one
//! durable write, the next follows from what is stored, and every secret opens at every point: a rotation that was cut
//! off anywhere goes on when the vault is next looked at.

use std::sync::Arc;

use aa_protocol::Timestamp;
use aa_runtime::{Fault, Record, Reply};
use aa_vault::{
    DATA_KEY_LIFETIME, KeyRing, MasterKey, RingChange, VaultError, rotation::RotationStep,
};

use super::{STEP_AGAIN, SecretError, VaultActor, VaultMessage, ring_write};
use crate::{
    keys,
    secret_record::{SecretRecord, VaultStatus},
    stored,
};

/// Whether a data key is not under the master key that wraps now.
pub(crate) fn is_behind(ring: &KeyRing, master: &dyn MasterKey) -> bool {
    let newest = master.id();
    ring.rewrap().is_some() || ring.live().any(|(_, wrapped)| wrapped.master != newest)
}

impl VaultActor {
    pub(super) async fn rotate(
        &mut self,
        actor: Option<&str>,
        now: Timestamp,
        reply: Reply<Result<VaultStatus, SecretError>>,
    ) {
        let master = Arc::clone(&self.services.master_key);
        let change = match self.vault().await {
            Ok(vault) => vault.rotate(now, &*master).await.map_err(SecretError::from),
            Err(error) => Err(error),
        };
        match change {
            Err(error) => reply.send(Ok(Err(error))),
            Ok(change) => {
                let key = change.ring().active().to_string();
                let detail = [("change", "rotated"), ("key", key.as_str())];
                self.begin(change, actor, &detail, now, reply);
            }
        }
    }

    pub(super) async fn rotate_master(
        &mut self,
        actor: &str,
        now: Timestamp,
        reply: Reply<Result<VaultStatus, SecretError>>,
    ) {
        let master = Arc::clone(&self.services.master_key);
        let change = match self.vault().await {
            // Keys that are on their way, or not under the newest key yet, go there first: however many workspaces
            // rotate, they share the keys that are made for it.
            Ok(vault) if is_behind(vault.ring(), &*master) => Ok(vault.rotate_master(&*master)),
            Ok(vault) => match master.renew(now) {
                Ok(()) => Ok(vault.rotate_master(&*master)),
                Err(error) => Err(VaultError::MasterKey(error.into()).into()),
            },
            Err(error) => Err(error),
        };
        match change {
            Err(error) => reply.send(Ok(Err(error))),
            Ok(change) => {
                let target = master.id().to_string();
                let detail = [("change", "master_rotated"), ("master", target.as_str())];
                self.begin(change, Some(actor), &detail, now, reply);
            }
        }
    }

    fn begin(
        &mut self,
        change: RingChange,
        actor: Option<&str>,
        detail: &[(&str, &str)],
        now: Timestamp,
        reply: Reply<Result<VaultStatus, SecretError>>,
    ) {
        let write = ring_write(self.workspace, change.ring());
        if let Err(error) = self.keys.adopt(change) {
            reply.send(Ok(Err(error.into())));
            return;
        }
        let status = self.status();
        let services = Arc::clone(&self.services);
        let workspace = self.workspace;
        let reply = Reply::new(move |answer: Result<_, Fault>| {
            if answer.is_ok() {
                services.send_vault(&workspace, VaultMessage::Tend);
            }
            reply.send(answer);
        });
        self.commit(actor, detail, (vec![write], Vec::new()), now, reply, Ok(status));
    }

    /// Begins what is due and goes on with what is under way.
    pub(super) async fn tend(&mut self, now: Timestamp) {
        let Some(ring) = self.ring() else { return };
        if ring.is_due(now) && !ring.is_rotating() {
            let days = DATA_KEY_LIFETIME.as_secs() / 86_400;
            tracing::info!(workspace = %self.workspace, days, "the data key has served its time");
            self.rotate(None, now, Reply::ignored()).await;
            return;
        }
        if !self.is_stepping && ring.is_rotating() {
            self.step(now).await;
            return;
        }
        // What another workspace has renewed, or another provider configured, must not hold the former key for ever.
        let master = Arc::clone(&self.services.master_key);
        if !self.is_stepping && is_behind(ring, &*master) {
            match self.vault().await.map(|vault| vault.rotate_master(&*master)) {
                Ok(change) => {
                    let target = master.id().to_string();
                    let detail = [("change", "master_rotated"), ("master", target.as_str())];
                    self.begin(change, None, &detail, now, Reply::ignored());
                }
                Err(error) => tracing::warn!(
                    workspace = %self.workspace, %error, "data keys stay under a former master key"
                ),
            }
        }
    }

    /// One step of the rotations that are under way; the next comes once it is durable.
    pub(super) async fn step(&mut self, now: Timestamp) {
        let Some(ring) = self.ring() else { return };
        if !ring.is_rotating() {
            return;
        }
        let next = aa_vault::rotation::next_step(ring, self.sealed_secrets());
        let Some(next) = next else { return };
        match self.take_step(next, now).await {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(
                    workspace = %self.workspace, %error,
                    "a rotation of the vault's keys is held up; it is tried again"
                );
                self.is_stepping = true;
                let (services, workspace) = (Arc::clone(&self.services), self.workspace);
                tokio::spawn(async move {
                    services.clock.sleep(STEP_AGAIN).await;
                    services.send_vault(&workspace, VaultMessage::Step);
                });
            }
        }
    }

    async fn take_step(&mut self, step: RotationStep, now: Timestamp) -> Result<(), SecretError> {
        let master = Arc::clone(&self.services.master_key);
        match step {
            RotationStep::Rewrap(id) => {
                let vault = self.vault().await?;
                // The master key was renewed once more since, for another workspace.
                let is_elsewhere =
                    vault.ring().rewrap().is_some_and(|rewrap| rewrap.target != master.id());
                let change = if is_elsewhere {
                    Some(vault.rotate_master(&*master))
                } else {
                    vault.rewrap(id, &*master).await?
                };
                let Some(change) = change else { return Ok(()) };
                let is_last = change.ring().rewrap().is_none();
                self.ring_step(change, is_last, now)?;
            }
            RotationStep::Reseal { name, .. } => {
                let Some(record) = self.secrets.get(&name).cloned() else { return Ok(()) };
                let Some(sealed) = self.vault().await?.reseal(&record.sealed)? else {
                    return Ok(());
                };
                let record = SecretRecord { sealed, ..record };
                let key = keys::secret(self.workspace, name.as_str());
                let write = (key, stored::encode(&record));
                self.bytes = self.bytes + write.1.len() - self.stored_bytes(&name);
                self.secrets.insert(name, record);
                let done = self.stepping();
                self.chain.commit(&self.shard, Record::of_state(vec![write], done));
            }
            RotationStep::Retire(_) => {
                self.vault().await?;
                let super::Keys::Open(vault) = &self.keys else { return Ok(()) };
                let Some(change) = vault.retire(now, self.sealed_secrets())? else { return Ok(()) };
                self.ring_step(change, true, now)?;
            }
        }
        Ok(())
    }

    /// A step that changes the ring. The last of a rotation is told.
    fn ring_step(
        &mut self,
        change: RingChange,
        is_last: bool,
        now: Timestamp,
    ) -> Result<(), SecretError> {
        let write = ring_write(self.workspace, change.ring());
        let is_retired = change.ring().rewrap().is_none() && !change.ring().is_rotating();
        self.keys.adopt(change)?;
        let done = self.stepping();
        if !is_last {
            self.chain.commit(&self.shard, Record::of_state(vec![write], done));
            return Ok(());
        }
        let change = if is_retired { "rotation_finished" } else { "master_rotation_finished" };
        self.commit(None, &[("change", change)], (vec![write], Vec::new()), now, done, ());
        Ok(())
    }

    /// Asks for the next step once this one is durable.
    fn stepping(&mut self) -> Reply<()> {
        self.is_stepping = true;
        let (services, workspace) = (Arc::clone(&self.services), self.workspace);
        Reply::new(move |committed: Result<(), Fault>| match committed {
            Ok(()) => services.send_vault(&workspace, VaultMessage::Step),
            // The shard is being loaded anew.
            Err(_) => drop(tokio::spawn(async move {
                services.clock.sleep(STEP_AGAIN).await;
                services.send_vault(&workspace, VaultMessage::Tend);
            })),
        })
    }
}
