//! The operations on the cluster. Who runs the deployment has them: the keys of its home workspace.

use std::sync::Arc;

use aa_protocol::WorkspaceId;
use aa_runtime::{ClusterView, LeaseError, NodeStatus, ShardId, cluster};
use aa_store::{CommitError, Store};

use super::{Governance, GovernanceError};
use crate::{
    keys,
    permission::{ManageCluster, Permit, ReadCluster},
    stored,
    tenant::{ClusterChange, TenantMessage},
};

/// What a node knows of its cluster.
#[derive(Clone, Debug)]
pub struct ClusterStatus {
    /// The cluster's name.
    pub name: String,
    /// The node that says so.
    pub told_by: String,
    /// All nodes and shards as it last read them.
    pub view: Arc<ClusterView>,
}

/// Why the cluster was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// There is none.
    #[error(
        "this control plane runs by itself, so there is no cluster; `aasm up --cluster NAME` joins one"
    )]
    Alone,
    /// No node has the name.
    #[error("there is no node `{0}` in this cluster; `aasm cluster nodes` lists them")]
    NoNode(String),
    /// No shard has the number.
    #[error("there is no shard {shard}: they are numbered from 0 to {}", shards.saturating_sub(1))]
    NoShard {
        /// The number.
        shard: u16,
        /// How many there are.
        shards: u16,
    },
    /// Nobody owns the shard just now.
    #[error("shard {0} has no owner at the moment; try again shortly")]
    NoOwner(ShardId),
    /// A shard was to go to a node that does not take any.
    #[error("node `{node}` takes no shards: {why}")]
    TakesNone {
        /// The node.
        node: String,
        /// `it is drained` or `its lease has ended`.
        why: &'static str,
    },
    /// Nobody would be left.
    #[error("no other node takes shards, so `{0}` cannot be drained; start another node first")]
    LastNode(String),
    /// The cluster's records were changed by others at the same time.
    #[error("the cluster's records were changed by others at the same time; try again")]
    Contended,
    /// The change was not committed, or it is unknown whether it was.
    #[error(transparent)]
    NotCommitted(CommitError),
    /// A shard's record does not read.
    #[error(transparent)]
    Shard(LeaseError),
}

/// How often a write that meets another's is begun again.
const ATTEMPTS: usize = 16;

impl Governance {
    /// The home workspace of the deployment, whose owners run it: which that is, whichever node came first. True when
    /// that was this one; whoever calls sees to it that there is such a workspace.
    ///
    /// # Errors
    /// The store does not answer; it is safe to call again.
    pub async fn home_workspace(&self) -> Result<(WorkspaceId, bool), GovernanceError> {
        let store = self.services.node.store();
        let fresh = WorkspaceId::from_uuid(self.services.entropy.uuid());
        for _ in 0..ATTEMPTS {
            if let Some(known) = read_home(&*store).await? {
                return Ok((known, known == fresh));
            }
            // A store of a version that had none.
            let first = self.workspaces().await?.first().copied();
            let mut txn = store.begin().await?;
            if txn.get(&keys::home()).await?.is_some() {
                continue;
            }
            txn.put(keys::home(), stored::encode(&first.unwrap_or(fresh)));
            match txn.commit().await {
                Ok(_) => return Ok((first.unwrap_or(fresh), first.is_none())),
                // What is there now is read next.
                Err(CommitError::Conflict | CommitError::UnknownResult(_)) => {}
                Err(CommitError::Store(error)) => return Err(error.into()),
                Err(error) => return Err(ClusterError::NotCommitted(error).into()),
            }
        }
        Err(ClusterError::Contended.into())
    }

    /// The cluster as this node last read it.
    ///
    /// # Errors
    /// The holder is not of the home workspace, or there is no cluster.
    pub async fn cluster(
        &self,
        permit: &Permit<ReadCluster>,
    ) -> Result<ClusterStatus, GovernanceError> {
        permit.check_home(self.home().await?)?;
        Ok(self.cluster_status()?)
    }

    /// Lets a node hand over all its shards and take none, or take some again. What is under way goes on; the audit
    /// log has who asked.
    ///
    /// # Errors
    /// The holder may not; there is no such node, or no other that takes shards; the store does not answer.
    pub async fn drain_node(
        &self,
        permit: &Permit<ManageCluster>,
        node: &str,
        drain: bool,
    ) -> Result<NodeStatus, GovernanceError> {
        let home = self.home().await?;
        permit.check_home(home)?;
        let view = self.cluster_status()?.view;
        let mut status = node_in(&view, node)?.clone();
        if drain {
            let takes = |other: &NodeStatus| other.record.life.node != node && takes_shards(other);
            if !view.nodes.iter().any(takes) {
                return Err(ClusterError::LastNode(node.to_owned()).into());
            }
        }
        let node = node.to_owned();
        let change =
            if drain { ClusterChange::Drain { node } } else { ClusterChange::Undrain { node } };
        self.note(home, permit.actor(), change.clone()).await?;
        let (ClusterChange::Drain { node } | ClusterChange::Undrain { node }) = change else {
            return Ok(status);
        };
        cluster::order_drain(&*self.services.node.store(), &node, drain).await.map_err(refused)?;
        self.services.node.announce();
        status.record.draining = drain;
        Ok(status)
    }

    /// Lets the owner of a shard hand it over to another node. The audit log has who asked.
    ///
    /// # Errors
    /// The holder may not; there is no such shard or node, or the node takes none; the store does not answer.
    pub async fn move_shard(
        &self,
        permit: &Permit<ManageCluster>,
        shard: u16,
        to: &str,
    ) -> Result<(), GovernanceError> {
        let home = self.home().await?;
        permit.check_home(home)?;
        let view = self.cluster_status()?.view;
        let shards = self.services.node.shard_count();
        if shard >= shards {
            return Err(ClusterError::NoShard { shard, shards }.into());
        }
        let heir = node_in(&view, to)?;
        if !takes_shards(heir) {
            let why = if heir.is_alive { "it is drained" } else { "its lease has ended" };
            return Err(ClusterError::TakesNone { node: to.to_owned(), why }.into());
        }
        let change = ClusterChange::Move { shard, to: to.to_owned() };
        self.note(home, permit.actor(), change).await?;
        let store = self.services.node.store();
        cluster::order_moves(&*store, &[(ShardId(shard), to)]).await.map_err(refused)?;
        self.services.node.announce();
        Ok(())
    }

    fn cluster_status(&self) -> Result<ClusterStatus, ClusterError> {
        let node = &self.services.node;
        let name = node.cluster().ok_or(ClusterError::Alone)?.to_owned();
        Ok(ClusterStatus { name, told_by: node.name().to_owned(), view: node.view() })
    }

    async fn home(&self) -> Result<Option<WorkspaceId>, GovernanceError> {
        read_home(&*self.services.node.store()).await
    }

    async fn note(
        &self,
        home: Option<WorkspaceId>,
        actor: String,
        change: ClusterChange,
    ) -> Result<(), GovernanceError> {
        // The holder of the permit is of the home workspace, so there is one.
        let Some(home) = home else { return Ok(()) };
        Ok(self.ask_tenant(home, |reply| TenantMessage::NoteCluster(actor, change, reply)).await?)
    }
}

async fn read_home(store: &dyn Store) -> Result<Option<WorkspaceId>, GovernanceError> {
    let at = keys::home();
    let stored = store.begin().await?.get_snapshot(&at).await?;
    Ok(stored.map(|stored| stored::decode(&at, &stored)).transpose()?)
}

fn node_in<'v>(view: &'v ClusterView, name: &str) -> Result<&'v NodeStatus, ClusterError> {
    let found = view.nodes.iter().find(|node| node.record.life.node == name);
    // A name as long as a caller likes is not said back.
    found.ok_or_else(|| ClusterError::NoNode(name.chars().take(64).collect()))
}

const fn takes_shards(node: &NodeStatus) -> bool {
    node.is_alive && !node.record.draining
}

fn refused(error: LeaseError) -> GovernanceError {
    match error {
        LeaseError::Held { shard, .. } => ClusterError::NoOwner(shard).into(),
        LeaseError::Store(error) | LeaseError::Commit(CommitError::Store(error)) => error.into(),
        LeaseError::Commit(CommitError::Conflict) => ClusterError::Contended.into(),
        LeaseError::Commit(error) => ClusterError::NotCommitted(error).into(),
        error => ClusterError::Shard(error).into(),
    }
}
