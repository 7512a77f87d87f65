//! The actor that keeps a workspace's secrets. What it holds is sealed; a secret is in the clear for as long as one
//! use of it.
//!
//! It waits for the master key, which may be a service on the network: then others who want a secret of the same
//! workspace wait, at most as long as the provider's own bounds say.

mod load;
mod releasing;
mod remote;
mod rotating;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use aa_ledger::{Draft, Kind, Stream};
use aa_protocol::{Timestamp, WorkspaceId};
use aa_runtime::{Entity, Fault, Flow, LiveShard, LoadError, Record, Reply};
use aa_vault::{KeyRing, RingChange, SecretName, SecretValue, Vault, VaultError, rotation};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use self::releasing::Told;
pub(crate) use self::rotating::is_behind;
use crate::{
    chain::Chain,
    keys,
    release::{Release, ReleaseError, ReleaseRequest, Released},
    secret_record::{
        DataKeyStatus, MAX_SECRETS, MAX_SECRETS_BYTES, SecretRecord, SecretStatus, VaultStatus,
    },
    services::Services,
    stored,
};

/// What a vault is asked.
#[derive(Debug)]
pub enum VaultMessage {
    /// Keeps a value under a name, in the place of the one there was.
    Set(NewSecret, Reply<Result<SecretStatus, SecretError>>),
    /// Forgets a secret.
    Delete(SecretName, String, Reply<Result<SecretStatus, SecretError>>),
    /// Hands a secret to a part of this process that needs it.
    Open(SecretName, Reply<Result<SecretValue, SecretError>>),
    /// Hands a secret to a proxy, if it is released for it.
    Release(ReleaseRequest, Reply<Result<Released, ReleaseError>>),
    /// Releases a secret to nobody any more.
    Withdraw(SecretName, String, Reply<Result<SecretStatus, SecretError>>),
    /// Tells what there is.
    Read(Reply<VaultStatus>),
    /// Begins to seal everything under a fresh data key. Answered once that key is durable.
    Rotate(String, Reply<Result<VaultStatus, SecretError>>),
    /// Begins to wrap the data keys under the next master key. Answered once that is durable.
    RotateMaster(String, Reply<Result<VaultStatus, SecretError>>),
    /// Goes on with what is under way, and begins what is due.
    Tend,
    /// The last step of a rotation is durable, or the pause after a failed one is over.
    Step,
}

/// A secret to be kept.
#[derive(Debug)]
pub struct NewSecret {
    /// What it is called.
    pub name: SecretName,
    /// What it is.
    pub value: SecretValue,
    /// Where proxies may send it from now on; as before when nothing is said.
    pub release: Option<Release>,
    /// Who sets it: `key:<id>`.
    pub actor: String,
}

/// Why a vault did not do what it was asked.
#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum SecretError {
    /// There is none of this name.
    #[error("there is no secret `{0}` in this workspace; `aasm secret set` makes one")]
    Unknown(SecretName),
    /// The workspace is full.
    #[error("the workspace has {MAX_SECRETS} secrets, the most there can be; delete one")]
    TooMany,
    /// The secrets are too large together.
    #[error(
        "the secrets of the workspace would have {0} bytes together, sealed, and at most {MAX_SECRETS_BYTES} are \
         kept; delete some"
    )]
    TooLarge(usize),
    /// There is nothing to rotate.
    #[error("the workspace has no secrets, and so no keys to rotate")]
    Empty,
    /// The vault or its master key refused, and why.
    #[error("{0}")]
    Vault(String),
    /// The master key refused or did not answer a moment ago.
    #[error("{0} (a moment ago; it is asked again within {seconds} s)", seconds = ASK_AGAIN.as_secs())]
    HeldBack(String),
}

/// The actor.
pub struct VaultActor {
    workspace: WorkspaceId,
    shard: Arc<LiveShard>,
    services: Arc<Services>,
    chain: Chain,
    keys: Keys,
    secrets: BTreeMap<SecretName, SecretRecord>,
    /// The bytes of all of them, as stored.
    bytes: usize,
    /// The highest number any value was ever given.
    version: u64,
    /// When the master key last did not open the keys, and why: those who wait are not each made to wait as long.
    refused: Option<(Timestamp, String)>,
    /// Whether a step of a rotation is on its way.
    is_stepping: bool,
    /// What proxies were answered lately.
    told: Told,
}

/// The keys of a vault.
enum Keys {
    /// There was never a secret.
    None,
    /// As stored: the master key has not been asked.
    Wrapped(KeyRing),
    /// In memory.
    Open(Vault),
}

/// How long a failure to open the keys stands before the master key is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// The pause after a step that the master key refused or did not answer.
const STEP_AGAIN: Duration = Duration::from_secs(30);

// === impl VaultActor ===

impl Entity for VaultActor {
    type Id = WorkspaceId;
    type Message = VaultMessage;
    type Context = Arc<Services>;

    const KIND: &'static str = "vault";

    fn shard_key(id: &WorkspaceId) -> Vec<u8> {
        id.as_uuid().as_bytes().to_vec()
    }

    async fn load(
        id: WorkspaceId,
        shard: Arc<LiveShard>,
        services: Arc<Services>,
    ) -> Result<Self, LoadError> {
        let loaded = Self::read(id, shard, services).await;
        loaded.map_err(|error| LoadError::new::<Self>(&id, error))
    }

    async fn handle(&mut self, message: VaultMessage) -> Flow {
        let now = self.services.clock.now();
        match message {
            VaultMessage::Set(new, reply) => self.set(new, now, reply).await,
            VaultMessage::Delete(name, actor, reply) => self.delete(&name, &actor, now, reply),
            VaultMessage::Open(name, reply) => {
                let opened = self.open(&name).await;
                reply.send(Ok(opened));
            }
            VaultMessage::Release(request, reply) => self.release(request, now, reply).await,
            VaultMessage::Withdraw(name, actor, reply) => self.withdraw(&name, &actor, now, reply),
            VaultMessage::Read(reply) => self.shard.journal.answer_after(reply, self.status()),
            VaultMessage::Rotate(actor, reply) => self.rotate(Some(&actor), now, reply).await,
            VaultMessage::RotateMaster(actor, reply) => {
                self.rotate_master(&actor, now, reply).await;
            }
            VaultMessage::Tend => self.tend(now).await,
            VaultMessage::Step => {
                self.is_stepping = false;
                self.step(now).await;
            }
        }
        Flow::Continue
    }
}

impl VaultActor {
    async fn set(
        &mut self,
        new: NewSecret,
        now: Timestamp,
        reply: Reply<Result<SecretStatus, SecretError>>,
    ) {
        match self.sealed(new, now).await {
            Err(error) => reply.send(Ok(Err(error))),
            Ok(Sealed { record, .. })
                if self.secrets.get(record.sealed.name()) == Some(&record) =>
            {
                self.shard.journal.answer_after(reply, Ok(record.status()));
            }
            Ok(Sealed { record, mut writes, adopt }) => {
                let name = record.sealed.name().clone();
                let stored = stored::encode(&record);
                self.bytes = self.bytes + stored.len() - self.stored_bytes(&name);
                // What only changes where a value may be sent leaves it its number.
                self.version = self.version.max(record.sealed.version());
                writes.push((keys::secret(self.workspace, name.as_str()), stored));
                let version = self.version.to_be_bytes();
                writes
                    .push((keys::secret_version(self.workspace), Bytes::copy_from_slice(&version)));
                let status = record.status();
                let (number, actor) = (status.version.to_string(), record.updated_by.clone());
                let before = self.secrets.get(&name).and_then(|record| record.release.as_ref());
                let changed = record.release.as_ref().filter(|release| Some(*release) != before);
                let release = changed.map(Release::detail).unwrap_or_default();
                self.secrets.insert(name.clone(), record);
                if let Some(keys) = adopt {
                    self.keys = keys;
                }
                let mut detail =
                    vec![("change", "set"), ("name", name.as_str()), ("version", number.as_str())];
                detail.extend(release.iter().map(|(key, listed)| (*key, listed.as_str())));
                self.commit(Some(&actor), &detail, (writes, Vec::new()), now, reply, Ok(status));
            }
        }
    }

    /// The value under the active key. The very value that is kept already stays sealed as it is.
    async fn sealed(&mut self, new: NewSecret, now: Timestamp) -> Result<Sealed, SecretError> {
        let NewSecret { name, value, release, actor } = new;
        let known = self.secrets.get(&name).cloned();
        let kept = known.as_ref().and_then(|known| known.release.clone());
        let release = release.or(kept);
        if known.is_none() && self.secrets.len() >= MAX_SECRETS {
            return Err(SecretError::TooMany);
        }
        let master = Arc::clone(&self.services.master_key);
        let (mut writes, mut adopt) = (Vec::new(), None);
        if matches!(self.keys, Keys::None) {
            let first = Vault::create(self.workspace, now, &*master).await?;
            writes.push(ring_write(self.workspace, first.ring()));
            adopt = Some(Vault::found(first));
        }
        let vault = match &adopt {
            Some(vault) => vault,
            None => self.vault().await?,
        };
        if let Some(known) = known.as_ref() {
            let present = vault.open(&name, known.sealed.version(), &known.sealed);
            // One that does not open is replaced: that is how it is mended.
            if present.is_ok_and(|present| present == value) {
                if release == known.release {
                    return Ok(Sealed { record: known.clone(), writes, adopt: None });
                }
                let known = known.clone();
                let record = SecretRecord { release, updated_at: now, updated_by: actor, ..known };
                self.check_room(&name, &record)?;
                return Ok(Sealed { record, writes, adopt: None });
            }
        }
        if !vault.is_locked() {
            tracing::warn!(
                workspace = %self.workspace,
                "the keys of the vault cannot be kept out of swap; raise RLIMIT_MEMLOCK"
            );
        }
        let version = self.version + 1;
        let vault = adopt.as_ref().or(match &self.keys {
            Keys::Open(vault) => Some(vault),
            Keys::None | Keys::Wrapped(_) => None,
        });
        let vault = vault.expect("INVARIANT: the keys were opened above, or made");
        let sealed = vault.seal(&name, version, &value)?;
        let created_at = known.map_or(now, |known| known.created_at);
        let record =
            SecretRecord { sealed, created_at, updated_at: now, updated_by: actor, release };
        self.check_room(&name, &record)?;
        Ok(Sealed { record, writes, adopt: adopt.map(Keys::Open) })
    }

    /// Whether the record fits in the place of the one there is.
    fn check_room(&self, name: &SecretName, record: &SecretRecord) -> Result<(), SecretError> {
        let bytes = self.bytes + stored::encode(record).len() - self.stored_bytes(name);
        if bytes > MAX_SECRETS_BYTES {
            return Err(SecretError::TooLarge(bytes));
        }
        Ok(())
    }

    fn delete(
        &mut self,
        name: &SecretName,
        actor: &str,
        now: Timestamp,
        reply: Reply<Result<SecretStatus, SecretError>>,
    ) {
        let bytes = self.stored_bytes(name);
        let Some(record) = self.secrets.remove(name) else {
            reply.send(Ok(Err(SecretError::Unknown(name.clone()))));
            return;
        };
        self.bytes -= bytes;
        let removes = vec![keys::secret(self.workspace, name.as_str())];
        let detail = [("change", "deleted"), ("name", name.as_str())];
        let status = record.status();
        self.commit(Some(actor), &detail, (Vec::new(), removes), now, reply, Ok(status));
    }

    async fn open(&mut self, name: &SecretName) -> Result<SecretValue, SecretError> {
        let unknown = || SecretError::Unknown(name.clone());
        let sealed = self.secrets.get(name).ok_or_else(unknown)?.sealed.clone();
        Ok(self.vault().await?.open(name, sealed.version(), &sealed)?)
    }

    /// The keys, opened. There are some.
    async fn vault(&mut self) -> Result<&mut Vault, SecretError> {
        if let Keys::Wrapped(ring) = &self.keys {
            let now = self.services.clock.now();
            if let Some((at, problem)) = &self.refused
                && now.since(*at) < ASK_AGAIN
            {
                return Err(SecretError::HeldBack(problem.clone()));
            }
            match Vault::open_ring(ring.clone(), &*self.services.master_key).await {
                Ok(opened) => (self.keys, self.refused) = (Keys::Open(opened), None),
                Err(error) => {
                    self.refused = Some((self.services.clock.now(), error.to_string()));
                    return Err(error.into());
                }
            }
        }
        match &mut self.keys {
            Keys::Open(vault) => Ok(vault),
            Keys::None | Keys::Wrapped(_) => Err(SecretError::Empty),
        }
    }

    const fn ring(&self) -> Option<&KeyRing> {
        match &self.keys {
            Keys::None => None,
            Keys::Wrapped(ring) => Some(ring),
            Keys::Open(vault) => Some(vault.ring()),
        }
    }

    fn sealed_secrets(&self) -> impl Iterator<Item = &aa_vault::SealedSecret> {
        self.secrets.values().map(|record| &record.sealed)
    }

    fn stored_bytes(&self, name: &SecretName) -> usize {
        self.secrets.get(name).map_or(0, |record| stored::encode(record).len())
    }

    fn status(&self) -> VaultStatus {
        let keys = self.ring().into_iter().flat_map(KeyRing::keys).map(|(id, key)| DataKeyStatus {
            id,
            state: key.state.as_str().into(),
            created_at: key.created_at,
            master: key.state.wrapped().map(|wrapped| wrapped.master.clone()),
        });
        let nothing = rotation::RotationProgress { to_rewrap: 0, to_reseal: 0, to_retire: 0 };
        VaultStatus {
            secrets: self.secrets.values().map(SecretRecord::status).collect(),
            keys: keys.collect(),
            progress: self
                .ring()
                .map_or(nothing, |ring| rotation::progress(ring, self.sealed_secrets())),
            master: self.services.master_key.describe(),
        }
    }

    /// The one way a change of a vault becomes real: its entry and its state in one commit.
    fn commit<T: Send + 'static>(
        &mut self,
        actor: Option<&str>,
        detail: &[(&str, &str)],
        (writes, removes): (Vec<(Bytes, Bytes)>, Vec<Bytes>),
        now: Timestamp,
        reply: Reply<T>,
        answer: T,
    ) {
        let event = self.services.entropy.event_id(now);
        let draft = Draft {
            actor,
            detail,
            ..Draft::new(event, self.workspace, Stream::Vault, now, Kind::Secret)
        };
        let entry = self.chain.seal(&draft, &self.services.mac_key());
        let done =
            Reply::new(move |committed: Result<(), Fault>| reply.send(committed.map(|()| answer)));
        self.chain.commit(
            &self.shard,
            Record { entry: Some(entry), writes, removes, news: Vec::new(), done },
        );
    }
}

/// A secret that is to be stored, with the keys that it is the first under.
struct Sealed {
    record: SecretRecord,
    writes: Vec<(Bytes, Bytes)>,
    adopt: Option<Keys>,
}

fn ring_write(workspace: WorkspaceId, ring: &KeyRing) -> (Bytes, Bytes) {
    (keys::key_ring(workspace), ring.to_json().into())
}

// === impl Keys ===

impl Keys {
    /// Goes on with a changed ring. What is sealed under its keys comes after it in the journal, so no crash can
    /// leave a secret without its key.
    fn adopt(&mut self, change: RingChange) -> Result<(), VaultError> {
        match self {
            Self::Open(vault) => vault.adopt(change),
            Self::None | Self::Wrapped(_) => Ok(()),
        }
    }
}

// === impl SecretError ===

impl From<VaultError> for SecretError {
    fn from(error: VaultError) -> Self {
        Self::Vault(error.to_string())
    }
}
