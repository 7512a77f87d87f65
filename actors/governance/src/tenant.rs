//! The tenant actor: the workspace itself, its API keys, and the checkpoints of its audit log.

mod checkpoint;
mod load;
mod remote;
mod tiles;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use aa_ledger::{Checkpoint, Draft, Kind, LogKey, Stream, TreeEdge};
use aa_protocol::{Timestamp, WorkspaceId};
use aa_runtime::{Entity, Fault, Flow, LiveShard, LoadError, Record, Reply};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub(crate) use self::{
    checkpoint::{Segment, SegmentOf},
    tiles::with_tiles,
};
use crate::{
    api_key::{ApiKey, KeyRecord, MAX_KEYS},
    chain::Chain,
    keys,
    permission::Grant,
    services::Services,
    stored,
};

/// What a tenant actor is asked.
#[derive(Debug)]
pub enum TenantMessage {
    /// Makes the workspace, unless it exists. Answers its record.
    Create(NewWorkspace, Reply<WorkspaceRecord>),
    /// Makes an API key.
    CreateKey(NewKey, Reply<Result<(KeyRecord, ApiKey), KeyError>>),
    /// Revokes an API key.
    RevokeKey(Revocation, Reply<Result<KeyRecord, KeyError>>),
    /// Notes that the log does not verify, and why.
    NoteBroken(String, Reply<()>),
    /// Notes who changed what of the cluster.
    NoteCluster(String, ClusterChange, Reply<()>),
    /// Notes that a backup is being taken, and by whom: `key:<id>`.
    NoteBackup(String, Reply<()>),
    /// Takes what the shards have logged into the tree and signs a checkpoint over it.
    Checkpoint(Reply<Result<SignedCheckpoint, CheckpointFailed>>),
}

/// A workspace to be made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewWorkspace {
    /// Shown to people.
    pub name: String,
    /// Who: `setup` on first start.
    pub actor: String,
}

/// An API key to be made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewKey {
    /// What it is for, in the operator's words.
    pub name: String,
    /// What it may do.
    pub grant: Grant,
    /// Who makes it: `key:<id>`.
    pub actor: String,
}

/// What is asked of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum ClusterChange {
    /// A node shall hand over all its shards.
    Drain {
        /// Its name.
        node: String,
    },
    /// A node shall take shards again.
    Undrain {
        /// Its name.
        node: String,
    },
    /// A shard shall go to another node.
    Move {
        /// Its number.
        shard: u16,
        /// The node's name.
        to: String,
    },
}

/// An API key to be revoked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Revocation {
    /// The key's id.
    pub id: String,
    /// Who revokes it: `key:<id>`.
    pub actor: String,
    /// Revoke it only if it was created by this one; anybody's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
}

/// A workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceRecord {
    /// Its id.
    pub id: WorkspaceId,
    /// Shown to people.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
}

/// The backup that a workspace came from, until its log tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RestoredFrom {
    /// Which file, see [`Contents::sha256`](crate::backup::Contents::sha256).
    pub(crate) sha256: String,
    /// The moment it showed.
    pub(crate) taken_at: Timestamp,
}

/// Why a key operation was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum KeyError {
    /// The workspace is full.
    #[error("the workspace has {MAX_KEYS} API keys, the most there can be; revoke one")]
    TooMany,
    /// There is no such key.
    #[error("there is no API key `{0}` in this workspace")]
    Unknown(String),
    /// Somebody else created it.
    #[error("API key `{0}` was created by somebody else; an owner can revoke it")]
    NotYours(String),
    /// Revoking it would leave nobody who can administer the workspace.
    #[error("API key `{0}` is the last owner's; create another owner key first")]
    LastOwner(String),
}

/// A checkpoint could not be made.
#[derive(Clone, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("no checkpoint could be made: {0}")]
pub struct CheckpointFailed(pub String);

/// A checkpoint and its note.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SignedCheckpoint {
    /// What is signed.
    pub checkpoint: Checkpoint,
    /// The C2SP signed note.
    pub note: String,
}

/// The actor.
pub struct TenantActor {
    workspace: WorkspaceId,
    shard: Arc<LiveShard>,
    services: Arc<Services>,
    chain: Chain,
    record: Option<WorkspaceRecord>,
    keys: BTreeMap<String, KeyRecord>,
    log_key: LogKey,
    tree: TreeState,
    edge: TreeEdge,
    latest: Option<SignedCheckpoint>,
    /// When the logs of all shards were last looked at, by [`aa_runtime::Clock::elapsed`].
    looked_at_all: Option<Duration>,
}

/// How far the tree has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TreeState {
    /// Leaves in the tree.
    pub(crate) size: u64,
    /// The position after the last entry taken from each shard's log.
    pub(crate) next: BTreeMap<u16, u64>,
}

// === impl TenantActor ===

impl Entity for TenantActor {
    type Id = WorkspaceId;
    type Message = TenantMessage;
    type Context = Arc<Services>;

    const KIND: &'static str = "tenant";

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

    async fn handle(&mut self, message: TenantMessage) -> Flow {
        let now = self.services.clock.now();
        match message {
            TenantMessage::Create(new, reply) => self.create(&new, now, reply),
            TenantMessage::CreateKey(new, reply) => self.create_key(&new, now, reply),
            TenantMessage::RevokeKey(revocation, reply) => {
                self.revoke_key(&revocation, now, reply);
            }
            TenantMessage::NoteBroken(problem, reply) => {
                let detail = [("change", "verification_failed"), ("problem", problem.as_str())];
                let actor = "self-check";
                self.commit(Kind::Workspace, actor, &detail, Vec::new(), now, reply, ());
            }
            TenantMessage::NoteCluster(actor, change, reply) => {
                let shard = change.shard();
                let (what, node) = change.what();
                let mut detail = vec![("change", what), ("node", node)];
                detail.extend(shard.as_deref().map(|shard| ("shard", shard)));
                self.commit(Kind::Workspace, &actor, &detail, Vec::new(), now, reply, ());
            }
            TenantMessage::NoteBackup(actor, reply) => {
                let detail = [("change", "backed_up")];
                self.commit(Kind::Workspace, &actor, &detail, Vec::new(), now, reply, ());
            }
            TenantMessage::Checkpoint(reply) => return self.checkpoint(now, reply).await,
        }
        Flow::Continue
    }
}

impl ClusterChange {
    /// What the audit log calls it, and the node.
    fn what(&self) -> (&'static str, &str) {
        match self {
            Self::Drain { node } => ("node_drained", node),
            Self::Undrain { node } => ("node_undrained", node),
            Self::Move { to, .. } => ("shard_moved", to),
        }
    }

    fn shard(&self) -> Option<String> {
        match self {
            Self::Move { shard, .. } => Some(shard.to_string()),
            Self::Drain { .. } | Self::Undrain { .. } => None,
        }
    }
}

impl TenantActor {
    fn create(&mut self, new: &NewWorkspace, now: Timestamp, reply: Reply<WorkspaceRecord>) {
        if let Some(record) = &self.record {
            self.shard.journal.answer_after(reply, record.clone());
            return;
        }
        let record =
            WorkspaceRecord { id: self.workspace, name: new.name.clone(), created_at: now };
        let write = (keys::workspace(self.workspace), stored::encode(&record));
        self.record = Some(record.clone());
        let detail = [("name", new.name.as_str())];
        self.commit(Kind::Workspace, &new.actor, &detail, vec![write], now, reply, record);
    }

    fn create_key(
        &mut self,
        new: &NewKey,
        now: Timestamp,
        reply: Reply<Result<(KeyRecord, ApiKey), KeyError>>,
    ) {
        if self.keys.values().filter(|key| key.revoked_at.is_none()).count() >= MAX_KEYS {
            reply.send(Ok(Err(KeyError::TooMany)));
            return;
        }
        let (id, secret) = ApiKey::generate(&*self.services.entropy);
        let record = KeyRecord {
            id: id.clone(),
            workspace: self.workspace,
            name: new.name.clone(),
            grant: new.grant,
            created_at: now,
            created_by: new.actor.clone(),
            revoked_at: None,
            digest: secret.digest_hex(),
        };
        let writes = self.key_writes(&record);
        self.keys.insert(id.clone(), record.clone());
        let detail = [
            ("change", "created"),
            ("id", id.as_str()),
            ("name", new.name.as_str()),
            ("role", new.grant.as_str()),
        ];
        self.commit(Kind::Key, &new.actor, &detail, writes, now, reply, Ok((record, secret)));
    }

    fn revoke_key(
        &mut self,
        revocation: &Revocation,
        now: Timestamp,
        reply: Reply<Result<KeyRecord, KeyError>>,
    ) {
        match self.may_revoke(revocation) {
            Err(error) => reply.send(Ok(Err(error))),
            Ok(record) if record.revoked_at.is_some() => {
                self.shard.journal.answer_after(reply, Ok(record));
            }
            Ok(mut record) => {
                record.revoked_at = Some(now);
                let writes = self.key_writes(&record);
                self.keys.insert(record.id.clone(), record.clone());
                let detail = [("change", "revoked"), ("id", record.id.as_str())];
                let answer = Ok(record.clone());
                self.commit(Kind::Key, &revocation.actor, &detail, writes, now, reply, answer);
            }
        }
    }

    fn may_revoke(&self, revocation: &Revocation) -> Result<KeyRecord, KeyError> {
        let id = &revocation.id;
        let record = self.keys.get(id).ok_or_else(|| KeyError::Unknown(id.clone()))?;
        if revocation.created_by.as_ref().is_some_and(|creator| *creator != record.created_by) {
            return Err(KeyError::NotYours(id.clone()));
        }
        let is_live_owner =
            |key: &&KeyRecord| key.grant == Grant::Owner && key.revoked_at.is_none();
        if is_live_owner(&record) && self.keys.values().filter(is_live_owner).count() == 1 {
            return Err(KeyError::LastOwner(id.clone()));
        }
        Ok(record.clone())
    }

    fn key_writes(&self, record: &KeyRecord) -> Vec<(Bytes, Bytes)> {
        let by_id = (keys::api_key_id(self.workspace, &record.id), stored::encode(record));
        let Some(digest) = record.digest_bytes() else { return vec![by_id] };
        vec![(keys::api_key(&digest), stored::encode(record)), by_id]
    }

    /// Makes an entry of where the workspace came from: what was logged after the backup was taken is not here, and
    /// whoever reads the log shall know.
    fn note_restored(&mut self, from: &RestoredFrom, now: Timestamp) {
        let taken_at = from.taken_at.to_string();
        let detail =
            [("change", "restored"), ("backup", from.sha256.as_str()), ("taken_at", &taken_at)];
        let event = self.services.entropy.event_id(now);
        let draft = Draft {
            actor: Some("restore"),
            detail: &detail,
            ..Draft::new(event, self.workspace, Stream::Workspace, now, Kind::Workspace)
        };
        let entry = self.chain.seal(&draft, &self.services.mac_key());
        let record = Record {
            removes: vec![keys::restored(self.workspace)],
            ..Record::of_entry(entry, Vec::new(), Reply::ignored())
        };
        self.chain.commit(&self.shard, record);
    }

    /// The one way a change of the workspace becomes real: its entry and its state in one commit.
    #[expect(clippy::too_many_arguments, reason = "the parts of one commit")]
    fn commit<T: Send + 'static>(
        &mut self,
        kind: Kind,
        actor: &str,
        detail: &[(&str, &str)],
        writes: Vec<(Bytes, Bytes)>,
        now: Timestamp,
        reply: Reply<T>,
        answer: T,
    ) {
        let event = self.services.entropy.event_id(now);
        let draft = Draft {
            actor: Some(actor),
            detail,
            ..Draft::new(event, self.workspace, Stream::Workspace, now, kind)
        };
        let entry = self.chain.seal(&draft, &self.services.mac_key());
        let done =
            Reply::new(move |committed: Result<(), Fault>| reply.send(committed.map(|()| answer)));
        self.chain.commit(&self.shard, Record::of_entry(entry, writes, done));
    }
}
