//! The door to the actors: every operation there is, each behind its permit.

mod alerts;
mod approvals;
mod cluster;
mod money;
mod proposals;
mod secrets;
mod slack;

use std::{sync::Arc, time::Duration};

use aa_notify::Sender;
use aa_protocol::{AgentFacts, AgentId, EventId, WorkspaceId};
use aa_runtime::{Directory, DirectoryOptions, DirectoryStats, Fault, Node, Reply};
use aa_store::{KeyRange, Order, StoreError};
use aa_vault::MasterKey;
use bytes::Bytes;
use tokio::sync::broadcast;

use crate::{
    agent::{
        AgentActor, AgentKeyId, AgentMessage, Answer, Check, NotRegistered, Refusal, Registration,
        Report, Request, StatusChange,
    },
    agent_record::{AgentRecord, AgentStatus},
    api_key::{ApiKey, KeyRecord, MAX_KEYS_EVER},
    approval::{ApprovalActor, NotAnswered},
    approvers::ApproversError,
    backup::BackupError,
    budget_book::BudgetError,
    budget_window::BudgetWindowActor,
    bulletin, keys,
    notice::Notice,
    notifier::{AlertError, NotifierActor},
    permission::{
        Forbidden, ManageAgents, ManageKeys, ManagePolicies, Permit, Principal, ReadAgents,
        ReadAudit, ReadPolicies, RegisterAgents,
    },
    policy_record::{PolicyHeader, PolicyRevision, read_source},
    policy_set::{
        Applied, MAX_POLICIES, PolicyError, PolicySetActor, PolicySetMessage, Removal, Rollback,
        Upload,
    },
    prices::PricesError,
    release::ReleaseError,
    services::{AuditKeys, Services},
    stored::{self, Damaged},
    tenant::{
        CheckpointFailed, KeyError, NewKey, NewWorkspace, Revocation, SignedCheckpoint,
        TenantActor, TenantMessage, WorkspaceRecord,
    },
    vault::{SecretError, VaultActor},
};

pub use self::{
    cluster::{ClusterError, ClusterStatus},
    money::{AgentSpending, BudgetStatus},
    proposals::{NotProposed, Proposal},
    slack::SlackRefusal,
};

/// The running actors of a node. Cheap to clone.
#[derive(Clone)]
pub struct Governance {
    pub(crate) services: Arc<Services>,
    agents: Arc<Directory<AgentActor>>,
    policy_sets: Arc<Directory<PolicySetActor>>,
    tenants: Arc<Directory<TenantActor>>,
}

/// What the actors reach outside of the store.
#[derive(Clone)]
pub struct Outside {
    /// What the workspaces' data keys are wrapped under.
    pub master_key: Arc<dyn MasterKey>,
    /// What people are told through.
    pub sender: Arc<Sender>,
}

/// How the actors run.
#[derive(Clone, Copy, Debug)]
pub struct GovernanceOptions {
    /// An agent without an action for this long leaves memory.
    pub agent_idle: Duration,
    /// How often the audit logs are checkpointed.
    pub checkpoint_every: Duration,
    /// How often they are verified.
    pub verify_every: Duration,
}

/// Why an operation did not happen.
#[derive(Debug, thiserror::Error)]
pub enum GovernanceError {
    /// The caller may not.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// The actor did not answer.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A stored record does not read.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// There is no such thing in the caller's workspace.
    #[error("there is no {what} `{id}` in this workspace")]
    NotFound {
        /// What was looked for.
        what: &'static str,
        /// By which name.
        id: String,
    },
    /// The policy operation was refused.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The key operation was refused.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The budget was refused.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// The prices were refused.
    #[error(transparent)]
    Prices(#[from] PricesError),
    /// The answer to a request for approval was not taken.
    #[error(transparent)]
    NotAnswered(#[from] NotAnswered),
    /// The approvers were refused.
    #[error(transparent)]
    Approvers(#[from] ApproversError),
    /// No rule is proposed.
    #[error(transparent)]
    NotProposed(#[from] NotProposed),
    /// Alerts are not as asked.
    #[error(transparent)]
    Alert(#[from] AlertError),
    /// The vault refused.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A secret is not released to a proxy.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// The audit log could not be read or closed.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointFailed),
    /// The cluster is not as asked.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// No backup was taken.
    #[error(transparent)]
    Backup(#[from] BackupError),
}

/// A policy as operators see it.
#[derive(Clone, Debug)]
pub struct PolicyStatus {
    /// Which revision is in force.
    pub header: PolicyHeader,
    /// That revision, or the latest when none is in force.
    pub revision: PolicyRevision,
}

/// The most agents or policies one page lists.
pub const MAX_PAGE: usize = 1_000;

// === impl GovernanceOptions ===

impl Default for GovernanceOptions {
    fn default() -> Self {
        Self {
            agent_idle: Duration::from_secs(300),
            checkpoint_every: Duration::from_secs(1),
            verify_every: Duration::from_secs(24 * 3_600),
        }
    }
}

// === impl Governance ===

impl Governance {
    /// Starts the actors' directories on `node` and what is done for every workspace from time to time.
    pub fn start(
        node: Node,
        keys: AuditKeys,
        outside: Outside,
        options: GovernanceOptions,
    ) -> Self {
        let services = Arc::new(Services::new(node.clone(), keys, outside));
        let resident = DirectoryOptions { idle_after: None, ..DirectoryOptions::default() };
        let passing = DirectoryOptions {
            idle_after: Some(options.agent_idle),
            ..DirectoryOptions::default()
        };
        let policy_sets = Directory::new(node.clone(), Arc::clone(&services), resident);
        let agents = Directory::new(node.clone(), Arc::clone(&services), passing);
        let windows: Arc<Directory<BudgetWindowActor>> =
            Directory::new(node.clone(), Arc::clone(&services), passing);
        // The actors reach each other through the services, which exist before any of them.
        let _ = services.agents.set(Arc::downgrade(&agents));
        let _ = services.windows.set(windows);
        let approvals: Arc<Directory<ApprovalActor>> =
            Directory::new(node.clone(), Arc::clone(&services), passing);
        let _ = services.approvals.set(approvals);
        let vaults: Arc<Directory<VaultActor>> =
            Directory::new(node.clone(), Arc::clone(&services), passing);
        let _ = services.vaults.set(vaults);
        let notifiers: Arc<Directory<NotifierActor>> =
            Directory::new(node.clone(), Arc::clone(&services), passing);
        let _ = services.notifiers.set(notifiers);
        tokio::spawn(bulletin::read(Arc::clone(&services), node.read_news()));
        let governance = Self {
            agents,
            tenants: Directory::new(node, Arc::clone(&services), resident),
            policy_sets,
            services,
        };
        tokio::spawn(governance.clone().keep_checkpoints(options.checkpoint_every));
        tokio::spawn(governance.clone().keep_verifying(options.verify_every));
        tokio::spawn(governance.clone().wake_approvals());
        tokio::spawn(governance.clone().tend_vaults());
        tokio::spawn(governance.clone().keep_notifiers_looking());
        governance
    }

    /// What the actors share, for those who serve them to the outside.
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// The agents' directory counts.
    pub fn agent_stats(&self) -> DirectoryStats {
        self.agents.stats()
    }

    /// Makes a workspace with the starter policy, unless it exists. Only the process that sets a
    /// machine up calls this; it is behind no role of a workspace. Of one that exists, no actor is asked: it may live on a
    /// node that this one does not reach.
    ///
    /// # Errors
    /// The actors or the store do not answer; it is safe to call again.
    pub async fn set_up_workspace(
        &self,
        workspace: WorkspaceId,
        name: &str,
    ) -> Result<WorkspaceRecord, GovernanceError> {
        let record = match self.workspace_record(workspace).await? {
            Some(record) => record,
            None => self.found_workspace(workspace, name).await?,
        };
        let mut txn = self.services.node.store().begin().await?;
        let any = txn.range_snapshot(&keys::policies(workspace), 1, Order::Forward).await?;
        if any.is_empty() {
            let upload = Upload {
                source: Bytes::from_static(aa_policy::STARTER.as_bytes()),
                fallback_name: "starter".to_owned(),
                actor: "setup".to_owned(),
                dry_run: false,
            };
            let apply = |reply| PolicySetMessage::Apply(upload, reply);
            self.ask_policies(workspace, apply).await??;
        }
        Ok(record)
    }

    /// Has the workspace's actor make it, unless it exists: without a policy, which [`Self::set_up_workspace`] adds.
    ///
    /// # Errors
    /// The actor does not answer; it is safe to call again.
    pub async fn found_workspace(
        &self,
        workspace: WorkspaceId,
        name: &str,
    ) -> Result<WorkspaceRecord, GovernanceError> {
        let new = NewWorkspace { name: name.to_owned(), actor: "setup".to_owned() };
        Ok(self.ask_tenant(workspace, |reply| TenantMessage::Create(new, reply)).await?)
    }

    /// The workspace as it is stored; `None` when there is none.
    ///
    /// # Errors
    /// The store does not answer, or the record is damaged.
    pub async fn workspace_record(
        &self,
        workspace: WorkspaceId,
    ) -> Result<Option<WorkspaceRecord>, GovernanceError> {
        let at = keys::workspace(workspace);
        let stored = self.services.node.store().begin().await?.get_snapshot(&at).await?;
        Ok(stored.map(|stored| stored::decode(&at, &stored)).transpose()?)
    }

    /// Makes a key of a workspace that is being set up.
    ///
    /// # Errors
    /// The tenant does not answer, or has too many keys.
    pub async fn set_up_key(
        &self,
        workspace: WorkspaceId,
        name: &str,
        grant: crate::Grant,
    ) -> Result<(KeyRecord, ApiKey), GovernanceError> {
        let new = NewKey { name: name.to_owned(), grant, actor: "setup".to_owned() };
        Ok(self.ask_tenant(workspace, |reply| TenantMessage::CreateKey(new, reply)).await??)
    }

    /// Who holds an API key; `None` when it is unknown or revoked.
    ///
    /// # Errors
    /// The store does not answer, or the key's record is damaged.
    pub async fn authenticate(&self, key: &ApiKey) -> Result<Option<Principal>, GovernanceError> {
        let at = keys::api_key(&key.digest());
        let mut txn = self.services.node.store().begin().await?;
        let Some(stored) = txn.get_snapshot(&at).await? else { return Ok(None) };
        let record: KeyRecord = stored::decode(&at, &stored)?;
        if record.revoked_at.is_some() {
            return Ok(None);
        }
        let KeyRecord { workspace, id, grant, .. } = record;
        Ok(Some(Principal { workspace, key_id: id, grant }))
    }

    // --- agents

    /// Registers an agent whose possession of its key is proven.
    ///
    /// # Errors
    /// The actor does not answer; the same registration can be sent again.
    pub async fn register(
        &self,
        permit: &Permit<RegisterAgents>,
        facts: AgentFacts,
        public_key: String,
    ) -> Result<AgentFacts, Fault> {
        let id = AgentKeyId { workspace: permit.workspace(), agent: facts.id };
        let registration = Registration { facts, public_key, actor: permit.actor() };
        let (reply, answer) = Reply::channel();
        self.agents.send(&id, AgentMessage::Register(registration, reply));
        answer.await.unwrap_or(Err(Fault::Gone))
    }

    /// Sends an action to its agent's actor. The reply comes once the decision is durable.
    pub fn check(
        &self,
        id: &AgentKeyId,
        request: Request,
        reply: Reply<Result<Answer, NotRegistered>>,
    ) {
        self.check_all(id, vec![Check { request, reply }]);
    }

    /// Sends actions of one agent to its actor, as one message: what every action costs on the way there
    /// is paid once for all.
    pub fn check_all(&self, id: &AgentKeyId, checks: Vec<Check>) {
        self.agents.send(id, AgentMessage::Check(checks));
    }

    /// Sends an event to its agent's actor. The reply comes once the entry is durable.
    pub fn record(
        &self,
        id: &AgentKeyId,
        report: Report,
        reply: Reply<Result<EventId, NotRegistered>>,
    ) {
        self.agents.send(id, AgentMessage::Record(report, reply));
    }

    /// Records that input of a known agent was refused.
    pub fn refuse(&self, id: &AgentKeyId, refusal: Refusal, reply: Reply<()>) {
        self.agents.send(id, AgentMessage::Refuse(refusal, reply));
    }

    /// From now on, the notices of a workspace.
    pub fn notices(&self, workspace: WorkspaceId) -> broadcast::Receiver<Notice> {
        self.services.notices.subscribe(workspace)
    }

    /// One agent.
    ///
    /// # Errors
    /// There is none of this id, or the store does not answer.
    pub async fn agent(
        &self,
        permit: &Permit<ReadAgents>,
        agent: AgentId,
    ) -> Result<AgentStatus, GovernanceError> {
        let workspace = permit.workspace();
        let at = keys::agent(workspace, agent);
        let mut txn = self.services.node.store().begin().await?;
        let Some(stored) = txn.get_snapshot(&at).await? else {
            return Err(GovernanceError::NotFound { what: "agent", id: agent.to_string() });
        };
        let record = stored::decode(&at, &stored)?;
        AgentStatus::read(&mut *txn, workspace, record).await
    }

    /// Agents in the order of their ids, from the one after `after`; at most `limit`, itself at most
    /// [`MAX_PAGE`].
    ///
    /// # Errors
    /// The store does not answer, or a record is damaged.
    pub async fn agents(
        &self,
        permit: &Permit<ReadAgents>,
        after: Option<AgentId>,
        limit: usize,
    ) -> Result<Vec<AgentStatus>, GovernanceError> {
        let workspace = permit.workspace();
        let all = keys::agents(workspace);
        let range: KeyRange = match after {
            Some(after) => all.after(&keys::agent(workspace, after)),
            None => all,
        };
        let mut txn = self.services.node.store().begin().await?;
        let page = txn.range_snapshot(&range, limit.min(MAX_PAGE), Order::Forward).await?;
        let mut agents = Vec::with_capacity(page.len());
        for (key, value) in page {
            let record = stored::decode(&key, &value)?;
            agents.push(AgentStatus::read(&mut *txn, workspace, record).await?);
        }
        Ok(agents)
    }

    /// Suspends or resumes an agent.
    ///
    /// # Errors
    /// There is none of this id, or its actor does not answer.
    pub async fn set_agent_status(
        &self,
        permit: &Permit<ManageAgents>,
        agent: AgentId,
        suspend: bool,
        reason: String,
    ) -> Result<AgentRecord, GovernanceError> {
        let id = AgentKeyId { workspace: permit.workspace(), agent };
        let change = StatusChange { suspend, actor: permit.actor(), reason };
        let (reply, answer) = Reply::channel();
        self.agents.send(&id, AgentMessage::SetStatus(change, reply));
        let changed = answer.await.unwrap_or(Err(Fault::Gone))?;
        changed.map_err(|NotRegistered(agent)| GovernanceError::NotFound {
            what: "agent",
            id: agent.to_string(),
        })
    }

    // --- policies

    /// Checks a document and, unless it is a dry run, puts it in force.
    ///
    /// # Errors
    /// The document has errors, or the actor does not answer.
    pub async fn apply_policy(
        &self,
        permit: &Permit<ManagePolicies>,
        source: Bytes,
        fallback_name: String,
        dry_run: bool,
    ) -> Result<Applied, GovernanceError> {
        let upload = Upload { source, fallback_name, actor: permit.actor(), dry_run };
        let apply = |reply| PolicySetMessage::Apply(upload, reply);
        Ok(self.ask_policies(permit.workspace(), apply).await??)
    }

    /// Puts an earlier revision in force again.
    ///
    /// # Errors
    /// There is no such policy or revision, or the actor does not answer.
    pub async fn rollback_policy(
        &self,
        permit: &Permit<ManagePolicies>,
        name: String,
        to: Option<u64>,
    ) -> Result<Applied, GovernanceError> {
        let rollback = Rollback { name, to, actor: permit.actor() };
        let ask = |reply| PolicySetMessage::Rollback(rollback, reply);
        Ok(self.ask_policies(permit.workspace(), ask).await??)
    }

    /// Takes a policy out of force.
    ///
    /// # Errors
    /// There is no such policy in force, or the actor does not answer.
    pub async fn remove_policy(
        &self,
        permit: &Permit<ManagePolicies>,
        name: String,
    ) -> Result<PolicyHeader, GovernanceError> {
        let removal = Removal { name, actor: permit.actor() };
        let ask = |reply| PolicySetMessage::Remove(removal, reply);
        Ok(self.ask_policies(permit.workspace(), ask).await??)
    }

    /// All policies by name, those out of force included.
    ///
    /// # Errors
    /// The store does not answer, or a record is damaged.
    pub async fn policies(
        &self,
        permit: &Permit<ReadPolicies>,
    ) -> Result<Vec<PolicyStatus>, GovernanceError> {
        let workspace = permit.workspace();
        let mut txn = self.services.node.store().begin().await?;
        let range = keys::policies(workspace);
        let headers = txn.range_snapshot(&range, MAX_POLICIES, Order::Forward).await?;
        let mut policies = Vec::with_capacity(headers.len());
        for (key, value) in headers {
            let header: PolicyHeader = stored::decode(&key, &value)?;
            let name = keys::policy_name(&key).ok_or_else(|| Damaged::at(&key))?;
            let number = header.active.unwrap_or(header.latest);
            let at = keys::policy_revision(workspace, &name, number);
            let stored = txn.get_snapshot(&at).await?.ok_or_else(|| Damaged::at(&at))?;
            policies.push(PolicyStatus { header, revision: stored::decode(&at, &stored)? });
        }
        Ok(policies)
    }

    /// A revision of a policy with its source: the one in force, or the latest, when none is named.
    ///
    /// # Errors
    /// There is no such policy or revision, or the store does not answer.
    pub async fn policy(
        &self,
        permit: &Permit<ReadPolicies>,
        name: &str,
        revision: Option<u64>,
    ) -> Result<(PolicyStatus, Vec<u8>), GovernanceError> {
        let workspace = permit.workspace();
        let mut txn = self.services.node.store().begin().await?;
        let at = keys::policy(workspace, name);
        let Some(stored) = txn.get_snapshot(&at).await? else {
            return Err(PolicyError::Unknown(name.to_owned()).into());
        };
        let header: PolicyHeader = stored::decode(&at, &stored)?;
        let number = revision.or(header.active).unwrap_or(header.latest);
        let at = keys::policy_revision(workspace, name, number);
        let Some(stored) = txn.get_snapshot(&at).await? else {
            let (name, latest) = (name.to_owned(), header.latest);
            return Err(PolicyError::UnknownRevision { name, revision: number, latest }.into());
        };
        let revision = stored::decode(&at, &stored)?;
        let source = read_source(&mut *txn, workspace, name, number).await?;
        Ok((PolicyStatus { header, revision }, source))
    }

    /// The revisions of a policy, newest first; at most [`MAX_PAGE`].
    ///
    /// # Errors
    /// There is no such policy, or the store does not answer.
    pub async fn policy_history(
        &self,
        permit: &Permit<ReadPolicies>,
        name: &str,
    ) -> Result<Vec<PolicyRevision>, GovernanceError> {
        let range = keys::policy_revisions(permit.workspace(), name);
        let mut txn = self.services.node.store().begin().await?;
        let stored = txn.range_snapshot(&range, MAX_PAGE, Order::Reverse).await?;
        if stored.is_empty() {
            return Err(PolicyError::Unknown(name.to_owned()).into());
        }
        let revisions = stored.iter().map(|(key, value)| stored::decode(key, value));
        Ok(revisions.collect::<Result<_, _>>()?)
    }

    // --- keys

    /// Makes an API key.
    ///
    /// # Errors
    /// The role is beyond the caller's, there are too many keys, or the tenant does not answer.
    pub async fn create_key(
        &self,
        permit: &Permit<ManageKeys>,
        name: String,
        grant: crate::Grant,
    ) -> Result<(KeyRecord, ApiKey), GovernanceError> {
        permit.check_grant(grant)?;
        let new = NewKey { name, grant, actor: permit.actor() };
        let workspace = permit.workspace();
        Ok(self.ask_tenant(workspace, |reply| TenantMessage::CreateKey(new, reply)).await??)
    }

    /// Revokes an API key.
    ///
    /// # Errors
    /// There is none of this id, it is beyond the caller's reach, or the tenant does not answer.
    pub async fn revoke_key(
        &self,
        permit: &Permit<ManageKeys>,
        id: String,
    ) -> Result<KeyRecord, GovernanceError> {
        let revocation =
            Revocation { id, actor: permit.actor(), created_by: permit.revokes_only_of() };
        let workspace = permit.workspace();
        let ask = |reply| TenantMessage::RevokeKey(revocation, reply);
        Ok(self.ask_tenant(workspace, ask).await??)
    }

    /// The keys of the workspace, revoked ones included. A developer sees its own.
    ///
    /// # Errors
    /// The store does not answer, or a record is damaged.
    pub async fn keys(
        &self,
        permit: &Permit<ManageKeys>,
    ) -> Result<Vec<KeyRecord>, GovernanceError> {
        let range = keys::api_key_ids(permit.workspace());
        let mut txn = self.services.node.store().begin().await?;
        let stored = txn.range_snapshot(&range, MAX_KEYS_EVER, Order::Forward).await?;
        let mut records = Vec::with_capacity(stored.len());
        for (key, value) in stored {
            let record: KeyRecord = stored::decode(&key, &value)?;
            if permit.revokes_only_of().is_none_or(|creator| creator == record.created_by) {
                records.push(record);
            }
        }
        Ok(records)
    }

    // --- audit

    /// Signs a checkpoint over everything committed so far.
    ///
    /// # Errors
    /// The tenant or the store does not answer.
    pub async fn checkpoint(
        &self,
        permit: &Permit<ReadAudit>,
    ) -> Result<SignedCheckpoint, GovernanceError> {
        Ok(self.ask_tenant(permit.workspace(), TenantMessage::Checkpoint).await??)
    }

    /// Whether the workspace's tenant lives on this node.
    pub(crate) fn is_tenant_here(&self, workspace: WorkspaceId) -> bool {
        self.tenants.is_here(&workspace)
    }

    async fn keep_checkpoints(self, every: Duration) {
        while !self.services.node.has_stopped() {
            self.services.clock.sleep(every).await;
            let workspaces = match self.workspaces().await {
                Ok(workspaces) => workspaces,
                Err(error) => {
                    tracing::warn!(%error, "the workspaces to checkpoint could not be listed");
                    continue;
                }
            };
            // Each node sees to the tenants that live on it.
            let here = workspaces.into_iter().filter(|workspace| self.is_tenant_here(*workspace));
            for workspace in here {
                let made = self.ask_tenant(workspace, TenantMessage::Checkpoint).await;
                let problem = match made {
                    Ok(Ok(_)) => continue,
                    Ok(Err(failed)) => failed.to_string(),
                    Err(fault) => fault.to_string(),
                };
                tracing::warn!(%workspace, problem, "no checkpoint was made; it is tried again");
            }
        }
    }

    /// The workspaces in this store.
    ///
    /// # Errors
    /// The store does not answer, or a record is damaged.
    pub async fn workspaces(&self) -> Result<Vec<WorkspaceId>, GovernanceError> {
        let mut txn = self.services.node.store().begin().await?;
        let stored = txn.range_snapshot(&keys::workspaces(), MAX_KEYS_EVER, Order::Forward).await?;
        let ids = stored.iter().map(|(key, value)| {
            stored::decode::<WorkspaceRecord>(key, value).map(|record| record.id)
        });
        Ok(ids.collect::<Result<_, _>>()?)
    }

    pub(crate) async fn ask_tenant<T: Send + 'static>(
        &self,
        workspace: WorkspaceId,
        message: impl FnOnce(Reply<T>) -> TenantMessage,
    ) -> Result<T, Fault> {
        let (reply, answer) = Reply::channel();
        self.tenants.send(&workspace, message(reply));
        answer.await.unwrap_or(Err(Fault::Gone))
    }

    async fn ask_policies<T: Send + 'static>(
        &self,
        workspace: WorkspaceId,
        message: impl FnOnce(Reply<T>) -> PolicySetMessage,
    ) -> Result<T, Fault> {
        let (reply, answer) = Reply::channel();
        self.policy_sets.send(&workspace, message(reply));
        answer.await.unwrap_or(Err(Fault::Gone))
    }
}
