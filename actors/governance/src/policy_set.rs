//! The policy-set actor: checks and compiles what is uploaded, keeps every revision, holds the budgets and prices
//! that operators set, and publishes the snapshot that decisions are made by.

mod approval;
mod load;
mod money;
mod remote;

use std::{collections::BTreeMap, sync::Arc};

use aa_ledger::{Draft, Kind, Stream};
use aa_policy::{Diagnostic, Policy, PolicySet};
use aa_protocol::{Timestamp, WorkspaceId};
use aa_runtime::{Entity, Fault, Flow, LiveShard, LoadError, Record, Reply};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub(crate) use self::load::ReadError;
pub use self::{approval::ApproversMessage, money::MoneyMessage};
use crate::{
    approvers::Approvers,
    budget_book::BudgetBook,
    bulletin::Bulletin,
    chain::Chain,
    keys,
    notice::Notice,
    policy_board::PolicySnapshot,
    policy_record::{PolicyHeader, PolicyRevision, read_source, source_writes},
    prices::Prices,
    services::Services,
    stored,
};

/// The most policies a workspace can have, removed ones included.
pub const MAX_POLICIES: usize = 10_000;

/// What a policy-set actor is asked.
#[derive(Debug)]
pub enum PolicySetMessage {
    /// Checks a document and, unless it is a dry run, puts it in force.
    Apply(Upload, Reply<Result<Applied, PolicyError>>),
    /// Puts an earlier revision in force again, as a new revision.
    Rollback(Rollback, Reply<Result<Applied, PolicyError>>),
    /// Takes a policy out of force; its revisions stay.
    Remove(Removal, Reply<Result<PolicyHeader, PolicyError>>),
    /// Changes budgets or prices.
    Money(MoneyMessage),
    /// Changes who approves.
    Approvers(ApproversMessage),
}

/// A document on its way in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Upload {
    /// The document, as the operator's file has it.
    pub source: Bytes,
    /// The name of a document in the flat format.
    pub fallback_name: String,
    /// Who: `key:<id>`.
    pub actor: String,
    /// Check only.
    pub dry_run: bool,
}

/// Which revision to bring back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rollback {
    /// The policy.
    pub name: String,
    /// The revision; the one before the revision in force when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
    /// Who: `key:<id>`.
    pub actor: String,
}

/// Which policy to take out of force.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Removal {
    /// The policy.
    pub name: String,
    /// Who: `key:<id>`.
    pub actor: String,
}

/// A document that was accepted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Applied {
    /// The revision that is in force now; in a dry run, the one that would be.
    pub revision: PolicyRevision,
    /// What the author should look at.
    pub warnings: Vec<Diagnostic>,
    /// Whether anything changed: the same bytes applied again change nothing.
    pub changed: bool,
}

/// Why a change was refused.
#[derive(Clone, Debug, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum PolicyError {
    /// The document has errors.
    #[error("the document has {} error(s)", errors.len())]
    Invalid {
        /// All of them.
        errors: Vec<Diagnostic>,
        /// The warnings found besides.
        warnings: Vec<Diagnostic>,
    },
    /// There is no such policy.
    #[error("there is no policy `{0}` in this workspace")]
    Unknown(String),
    /// There is no such revision.
    #[error("policy `{name}` has no revision {revision}; its latest is {latest}")]
    UnknownRevision {
        /// The policy.
        name: String,
        /// What was asked for.
        revision: u64,
        /// The highest there is.
        latest: u64,
    },
    /// The policy has no revision before the one in force.
    #[error("policy `{0}` has no earlier revision to roll back to")]
    NoEarlier(String),
    /// The workspace is full.
    #[error("the workspace has {MAX_POLICIES} policies, the most there can be")]
    TooMany,
    /// The store refused a read.
    #[error("the policy could not be read: {0}")]
    Unreadable(String),
}

/// The actor.
pub struct PolicySetActor {
    workspace: WorkspaceId,
    shard: Arc<LiveShard>,
    services: Arc<Services>,
    chain: Chain,
    rules: Rules,
}

/// The rules of a workspace, as the store has them.
pub(crate) struct Rules {
    generation: u64,
    policies: BTreeMap<String, Known>,
    budgets: Arc<BudgetBook>,
    prices: Arc<Prices>,
    approvers: Arc<Approvers>,
}

struct Known {
    header: PolicyHeader,
    /// The compiled document in force and the digest of its source.
    active: Option<(Arc<Policy>, String)>,
}

// === impl PolicySetActor ===

impl Entity for PolicySetActor {
    type Id = WorkspaceId;
    type Message = PolicySetMessage;
    type Context = Arc<Services>;

    const KIND: &'static str = "policy_set";

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

    async fn handle(&mut self, message: PolicySetMessage) -> Flow {
        let now = self.services.clock.now();
        match message {
            PolicySetMessage::Apply(upload, reply) => match self.check(upload, None).await {
                Ok(checked) => self.put_in_force(checked, now, reply),
                Err(error) => reply.send(Ok(Err(error))),
            },
            PolicySetMessage::Rollback(rollback, reply) => {
                match self.find_earlier(rollback).await {
                    Ok(checked) => self.put_in_force(checked, now, reply),
                    Err(error) => reply.send(Ok(Err(error))),
                }
            }
            PolicySetMessage::Remove(removal, reply) => self.remove(removal, now, reply),
            PolicySetMessage::Money(message) => self.change_money(message, now),
            PolicySetMessage::Approvers(message) => self.change_approvers(message, now),
        }
        Flow::Continue
    }
}

/// A document that may be put in force.
struct CheckedUpload {
    upload: Upload,
    policy: Arc<Policy>,
    warnings: Vec<Diagnostic>,
    sha256: String,
    rollback_of: Option<u64>,
}

/// A change of the rules on its way to the journal.
struct Change<'c> {
    kind: Kind,
    actor: &'c str,
    detail: &'c [(&'c str, &'c str)],
    writes: Vec<(Bytes, Bytes)>,
    removes: Vec<Bytes>,
}

impl<'c> Change<'c> {
    /// One record is written, in the place of the one there was.
    fn put(
        kind: Kind,
        actor: &'c str,
        detail: &'c [(&'c str, &'c str)],
        record: (Bytes, Bytes),
    ) -> Self {
        Self { kind, actor, detail, writes: vec![record], removes: Vec::new() }
    }

    /// One record is taken away.
    fn take(kind: Kind, actor: &'c str, detail: &'c [(&'c str, &'c str)], key: Bytes) -> Self {
        Self { kind, actor, detail, writes: Vec::new(), removes: vec![key] }
    }
}

impl PolicySetActor {
    /// Compiling a large document takes a while: it happens aside, and decisions go on meanwhile by the
    /// snapshot in force.
    async fn check(
        &self,
        upload: Upload,
        rollback_of: Option<u64>,
    ) -> Result<CheckedUpload, PolicyError> {
        let (source, name) = (upload.source.clone(), upload.fallback_name.clone());
        // The semaphore is never closed; without a permit there is no harm but less room for others.
        let _turn = self.services.compiler.acquire().await;
        let compiling =
            self.services.node.offload(move || (aa_policy::check(&source, &name), digest(&source)));
        let (checked, sha256) =
            compiling.await.map_err(|error| PolicyError::Unreadable(error.to_string()))?;
        let Some(policy) = checked.policy else {
            let (errors, warnings) = (checked.errors, checked.warnings);
            return Err(PolicyError::Invalid { errors, warnings });
        };
        if !self.rules.policies.contains_key(policy.name())
            && self.rules.policies.len() >= MAX_POLICIES
        {
            return Err(PolicyError::TooMany);
        }
        let warnings = checked.warnings;
        Ok(CheckedUpload { upload, policy: Arc::new(policy), warnings, sha256, rollback_of })
    }

    async fn find_earlier(&self, rollback: Rollback) -> Result<CheckedUpload, PolicyError> {
        let Rollback { name, to, actor } = rollback;
        let known =
            self.rules.policies.get(&name).ok_or_else(|| PolicyError::Unknown(name.clone()))?;
        let latest = known.header.latest;
        let revision = match to {
            Some(revision) => revision,
            None => {
                let before = known.header.active.unwrap_or(latest + 1) - 1;
                if before == 0 {
                    return Err(PolicyError::NoEarlier(name));
                }
                before
            }
        };
        if revision == 0 || revision > latest {
            return Err(PolicyError::UnknownRevision { name, revision, latest });
        }
        let unreadable = |error: aa_store::StoreError| PolicyError::Unreadable(error.to_string());
        let mut txn = self.services.node.store().begin().await.map_err(unreadable)?;
        let source = read_source(&mut *txn, self.workspace, &name, revision).await;
        let source = source.map_err(unreadable)?.into();
        let upload = Upload { source, fallback_name: name, actor, dry_run: false };
        self.check(upload, Some(revision)).await
    }

    fn put_in_force(
        &mut self,
        checked: CheckedUpload,
        now: Timestamp,
        reply: Reply<Result<Applied, PolicyError>>,
    ) {
        let CheckedUpload { upload, policy, warnings, sha256, rollback_of } = checked;
        let name = policy.name().to_owned();
        let known = self.rules.policies.get(&name);
        let latest = known.map_or(0, |known| known.header.latest);
        let unchanged =
            known.is_some_and(|known| known.active.as_ref().is_some_and(|(_, old)| *old == sha256));
        let revision = PolicyRevision {
            name: name.clone(),
            revision: if unchanged { latest } else { latest + 1 },
            version: policy.version().map(ToOwned::to_owned),
            description: policy.description().map(ToOwned::to_owned),
            scope: policy.scope().to_string(),
            applied_at: now,
            applied_by: upload.actor.clone(),
            rollback_of,
            sha256: sha256.clone(),
            bytes: upload.source.len() as u64,
            warnings: warnings.len(),
        };
        if unchanged || upload.dry_run {
            let applied = Applied { revision, warnings, changed: !unchanged };
            self.shard.journal.answer_after(reply, Ok(applied));
            return;
        }
        let number = revision.revision;
        let header = PolicyHeader { active: Some(number), latest: number };
        let mut writes = source_writes(self.workspace, &name, number, &upload.source);
        writes.push((
            keys::policy_revision(self.workspace, &name, number),
            stored::encode(&revision),
        ));
        self.rules.policies.insert(name.clone(), Known { header, active: Some((policy, sha256)) });

        let (number, rollback) = (number.to_string(), rollback_of.map(|number| number.to_string()));
        let change = if rollback.is_some() { "rolled_back" } else { "applied" };
        let mut detail = vec![
            ("change", change),
            ("name", name.as_str()),
            ("revision", number.as_str()),
            ("sha256", revision.sha256.as_str()),
        ];
        if let Some(rollback) = &rollback {
            detail.push(("rollback_of", rollback));
        }
        let applied = Applied { revision: revision.clone(), warnings, changed: true };
        writes.push((keys::policy(self.workspace, &name), stored::encode(&header)));
        let change = Change {
            kind: Kind::Policy,
            actor: &upload.actor,
            detail: &detail,
            writes,
            removes: Vec::new(),
        };
        self.change(change, now, reply, applied);
    }

    fn remove(
        &mut self,
        removal: Removal,
        now: Timestamp,
        reply: Reply<Result<PolicyHeader, PolicyError>>,
    ) {
        let Removal { name, actor } = removal;
        let known = self.rules.policies.get_mut(&name).filter(|known| known.active.is_some());
        let Some(known) = known else {
            reply.send(Ok(Err(PolicyError::Unknown(name))));
            return;
        };
        known.active = None;
        known.header.active = None;
        let header = known.header;
        let detail = [("change", "removed"), ("name", name.as_str())];
        let record = (keys::policy(self.workspace, &name), stored::encode(&header));
        let change = Change::put(Kind::Policy, &actor, &detail, record);
        self.change(change, now, reply, header);
    }

    /// The one way a change becomes real: entry and state in one commit; then the snapshot.
    fn change<T: Send + 'static, E: Send + 'static>(
        &mut self,
        change: Change<'_>,
        now: Timestamp,
        reply: Reply<Result<T, E>>,
        answer: T,
    ) {
        let Change { kind, actor, detail, mut writes, removes } = change;
        self.rules.generation += 1;
        let generation = Bytes::copy_from_slice(&self.rules.generation.to_be_bytes());
        writes.push((keys::policy_generation(self.workspace), generation));
        let event = self.services.entropy.event_id(now);
        let draft = Draft {
            actor: Some(actor),
            detail,
            ..Draft::new(event, self.workspace, Stream::Policies, now, kind)
        };
        let entry = self.chain.seal(&draft, &self.services.mac_key());
        let snapshot = self.rules.snapshot();
        let services = Arc::clone(&self.services);
        let workspace = self.workspace;
        let notice = Notice::PolicyChanged { generation: snapshot.generation };
        let bulletin = Bulletin::new(&self.services, workspace, notice).awaited();
        let news = bulletin.news();
        let done = Reply::new(move |committed: Result<(), Fault>| match committed {
            Ok(()) => {
                services.board.publish(workspace, snapshot);
                bulletin.tell();
                in_force_everywhere(bulletin, reply, answer);
            }
            Err(fault) => {
                // The change may be in the store all the same; then it must come into force.
                tokio::spawn(async move { services.reload_policies(workspace).await });
                reply.send(Err(fault));
            }
        });
        self.chain.commit(&self.shard, Record { entry: Some(entry), writes, removes, news, done });
    }
}

// === impl Rules ===

impl Rules {
    pub(crate) fn snapshot(&self) -> PolicySnapshot {
        let active = self.policies.values().filter_map(|known| {
            let (policy, _) = known.active.as_ref()?;
            Some((Arc::clone(policy), known.header.active))
        });
        // The map is keyed by the documents' names, so no two of them share one.
        let set = PolicySet::new(active).expect("names are unique");
        PolicySnapshot {
            generation: self.generation,
            set,
            budgets: Arc::clone(&self.budgets),
            prices: Arc::clone(&self.prices),
            approvers: Arc::clone(&self.approvers),
            is_readable: true,
        }
    }
}

/// Answers once no node decides by the rules of before.
fn in_force_everywhere<T: Send + 'static, E: Send + 'static>(
    bulletin: Bulletin,
    reply: Reply<Result<T, E>>,
    answer: T,
) {
    if !bulletin.has_others() {
        reply.send(Ok(Ok(answer)));
        return;
    }
    tokio::spawn(async move {
        bulletin.all_know().await;
        reply.send(Ok(Ok(answer)));
    });
}

/// SHA-256 in lower-case hex.
pub(crate) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
