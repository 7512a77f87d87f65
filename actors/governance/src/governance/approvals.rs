//! The operations on requests for approval and on who approves.

use std::sync::Arc;

use aa_protocol::{ApprovalId, WorkspaceId};
use aa_runtime::{Fault, Reply};
use aa_store::{Order, StoreError};

use super::{Governance, GovernanceError, MAX_PAGE};
use crate::{
    approval::{Answer, ApprovalKey, ApprovalMessage},
    approval_record::{ApprovalRecord, ApprovalScope},
    approvers::{ApprovalChain, ApproverGroup, Approvers},
    keys,
    permission::{AnswerApprovals, ManageApprovers, Permit, ReadApprovals},
    policy_set::{ApproversMessage, PolicySetMessage},
};

/// Pending requests whose clocks are set at a time.
const PAGE: usize = 1_000;

/// The pause before pending requests are looked through again.
const WAKE_AGAIN: std::time::Duration = std::time::Duration::from_millis(100);

/// The longest reason that is kept with an answer, in characters.
const MAX_REASON: usize = 1_000;

impl Governance {
    /// Requests for approval, those that are pending or all; from the one after `after` in the order of their ids, at
    /// most `limit`, itself at most [`MAX_PAGE`].
    ///
    /// # Errors
    /// The store or an actor does not answer, or a record is damaged.
    pub async fn approvals(
        &self,
        permit: &Permit<ReadApprovals>,
        only_pending: bool,
        after: Option<ApprovalId>,
        limit: usize,
    ) -> Result<Vec<ApprovalRecord>, GovernanceError> {
        let workspace = permit.workspace();
        let (all, key): (_, fn(WorkspaceId, ApprovalId) -> _) = if only_pending {
            (keys::pending_approvals(workspace), keys::pending_approval)
        } else {
            (keys::approvals(workspace), keys::approval)
        };
        let range = match after {
            Some(after) => all.after(&key(workspace, after)),
            None => all,
        };
        let mut txn = self.services.node.store().begin().await?;
        let page = txn.range_snapshot(&range, limit.min(MAX_PAGE), Order::Forward).await?;
        let mut records = Vec::with_capacity(page.len());
        for (key, _) in page {
            let Some(id) = keys::approval_id(&key) else { continue };
            // From the actor: what was due by itself has happened then.
            if let Some(record) = self.read_approval(workspace, id).await? {
                records.push(record);
            }
        }
        Ok(records)
    }

    /// One request.
    ///
    /// # Errors
    /// There is none of this id, or its actor does not answer.
    pub async fn approval(
        &self,
        permit: &Permit<ReadApprovals>,
        id: ApprovalId,
    ) -> Result<ApprovalRecord, GovernanceError> {
        let found = self.read_approval(permit.workspace(), id).await?;
        found.ok_or_else(|| GovernanceError::NotFound { what: "approval", id: id.to_string() })
    }

    /// A request of an agent's own, for the agent itself.
    ///
    /// # Errors
    /// Its actor does not answer.
    pub async fn approval_of(
        &self,
        agent: &crate::agent::AgentKeyId,
        id: ApprovalId,
    ) -> Result<Option<ApprovalRecord>, GovernanceError> {
        let found = self.read_approval(agent.workspace, id).await?;
        Ok(found.filter(|record| record.agent == agent.agent))
    }

    /// Answers a request.
    ///
    /// # Errors
    /// The request does not take the answer, or its actor does not answer.
    pub async fn answer_approval(
        &self,
        permit: &Permit<AnswerApprovals>,
        id: ApprovalId,
        approved: bool,
        scope: ApprovalScope,
        reason: &str,
    ) -> Result<ApprovalRecord, GovernanceError> {
        let reason = reason.chars().take(MAX_REASON).collect();
        let answer = Answer { who: permit.principal().clone(), approved, scope, reason };
        let key = ApprovalKey { workspace: permit.workspace(), id };
        let (reply, answered) = Reply::channel();
        self.services.send_approval(&key, ApprovalMessage::Answer(answer, reply));
        Ok(answered.await.unwrap_or(Err(Fault::Gone))??)
    }

    /// Who is asked for approval.
    ///
    /// # Errors
    /// The actor does not answer.
    pub async fn approvers(
        &self,
        permit: &Permit<ReadApprovals>,
    ) -> Result<Arc<Approvers>, GovernanceError> {
        let cell = self.services.policies(permit.workspace()).await?;
        Ok(Arc::clone(&cell.load().approvers))
    }

    /// Sets a group of approvers.
    ///
    /// # Errors
    /// What is wrong with it, or the actor does not answer.
    pub async fn set_approver_group(
        &self,
        permit: &Permit<ManageApprovers>,
        group: ApproverGroup,
    ) -> Result<ApproverGroup, GovernanceError> {
        let actor = permit.actor();
        let set = |reply| ApproversMessage::SetGroup(group, actor, reply);
        self.ask_approvers(permit.workspace(), set).await
    }

    /// Takes a group of approvers away: its requests are before the owners and admins then.
    ///
    /// # Errors
    /// There is none, or the actor does not answer.
    pub async fn remove_approver_group(
        &self,
        permit: &Permit<ManageApprovers>,
        name: String,
    ) -> Result<ApproverGroup, GovernanceError> {
        let actor = permit.actor();
        let remove = |reply| ApproversMessage::RemoveGroup(name, actor, reply);
        self.ask_approvers(permit.workspace(), remove).await
    }

    /// Sets the chain of groups that a team's requests go to, or the workspace's.
    ///
    /// # Errors
    /// What is wrong with it, or the actor does not answer.
    pub async fn set_approval_chain(
        &self,
        permit: &Permit<ManageApprovers>,
        chain: ApprovalChain,
    ) -> Result<ApprovalChain, GovernanceError> {
        let actor = permit.actor();
        let set = |reply| ApproversMessage::SetChain(chain, actor, reply);
        self.ask_approvers(permit.workspace(), set).await
    }

    /// Takes a team's chain away.
    ///
    /// # Errors
    /// There is none, or the actor does not answer.
    pub async fn remove_approval_chain(
        &self,
        permit: &Permit<ManageApprovers>,
        team: String,
    ) -> Result<ApprovalChain, GovernanceError> {
        let actor = permit.actor();
        let remove = |reply| ApproversMessage::RemoveChain(team, actor, reply);
        self.ask_approvers(permit.workspace(), remove).await
    }

    async fn ask_approvers<T: Send + 'static>(
        &self,
        workspace: WorkspaceId,
        message: impl FnOnce(Reply<Result<T, crate::approvers::ApproversError>>) -> ApproversMessage,
    ) -> Result<T, GovernanceError> {
        let ask = |reply| PolicySetMessage::Approvers(message(reply));
        Ok(self.ask_policies(workspace, ask).await??)
    }

    async fn read_approval(
        &self,
        workspace: WorkspaceId,
        id: ApprovalId,
    ) -> Result<Option<ApprovalRecord>, GovernanceError> {
        let (reply, answer) = Reply::channel();
        let key = ApprovalKey { workspace, id };
        self.services.send_approval(&key, ApprovalMessage::Read(reply));
        Ok(answer.await.unwrap_or(Err(Fault::Gone))?)
    }

    /// Sets the clocks of all pending requests that live here: when a process starts, and when shards come to it.
    pub(super) async fn wake_approvals(self) {
        let node = &self.services.node;
        while !node.has_stopped() {
            let tenures = node.tenures();
            if let Err(error) = self.wake_pending().await {
                tracing::warn!(%error, "the pending requests for approval could not be read yet");
                self.services.clock.sleep(WAKE_AGAIN).await;
                continue;
            }
            node.wait_for_tenure(tenures).await;
            // Shards come in crowds.
            self.services.clock.sleep(WAKE_AGAIN).await;
        }
    }

    async fn wake_pending(&self) -> Result<(), StoreError> {
        let mut range = keys::all_pending_approvals();
        let mut known = None;
        loop {
            let mut txn = self.services.node.store().begin().await?;
            let page = txn.range_snapshot(&range, PAGE, Order::Forward).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            let rest = range.clone().after(last);
            for (workspace, id) in page.iter().filter_map(|(key, _)| keys::pending_approval_id(key))
            {
                // Their keys are in the order of workspaces.
                if known.is_none_or(|(of, _)| of != workspace) {
                    known = Some((workspace, self.services.is_there(workspace).await?));
                }
                if known == Some((workspace, true)) {
                    let key = ApprovalKey { workspace, id };
                    self.services.wake_approval_here(&key);
                }
            }
            range = rest;
        }
    }
}
