//! The rules about approval: who is asked.

use std::sync::Arc;

use aa_ledger::Kind;
use aa_protocol::Timestamp;
use aa_runtime::Reply;

use super::{Change, PolicySetActor};
use crate::{
    approvers::{ApprovalChain, ApproverGroup, ApproversError, Stage},
    keys, stored,
};

/// A change of who is asked for approval.
#[derive(Debug)]
pub enum ApproversMessage {
    /// Sets a group.
    SetGroup(ApproverGroup, String, Reply<Result<ApproverGroup, ApproversError>>),
    /// Takes a group away: it is that of owners and admins then.
    RemoveGroup(String, String, Reply<Result<ApproverGroup, ApproversError>>),
    /// Sets a team's chain, or the workspace's.
    SetChain(ApprovalChain, String, Reply<Result<ApprovalChain, ApproversError>>),
    /// Takes a team's chain away.
    RemoveChain(String, String, Reply<Result<ApprovalChain, ApproversError>>),
}

impl PolicySetActor {
    pub(super) fn change_approvers(&mut self, message: ApproversMessage, now: Timestamp) {
        let mut approvers = (*self.rules.approvers).clone();
        let space = keys::approvers(self.workspace);
        match message {
            ApproversMessage::SetGroup(group, actor, reply) => {
                if let Err(error) = approvers.set_group(group.clone()) {
                    return reply.send(Ok(Err(error)));
                }
                self.rules.approvers = Arc::new(approvers);
                let key = space.with("group").key(&group.name);
                let needed = group.needed.to_string();
                let members = group.members.join(",");
                let detail = [
                    ("change", "group_set"),
                    ("members", members.as_str()),
                    ("name", group.name.as_str()),
                    ("needed", needed.as_str()),
                ];
                let record = (key, stored::encode(&group));
                let change = Change::put(Kind::Approval, &actor, &detail, record);
                self.change(change, now, reply, group.clone());
            }
            ApproversMessage::RemoveGroup(name, actor, reply) => {
                match approvers.remove_group(&name) {
                    Err(error) => reply.send(Ok(Err(error))),
                    Ok(group) => {
                        self.rules.approvers = Arc::new(approvers);
                        let key = space.with("group").key(&name);
                        let detail = [("change", "group_removed"), ("name", name.as_str())];
                        let change = Change::take(Kind::Approval, &actor, &detail, key);
                        self.change(change, now, reply, group);
                    }
                }
            }
            ApproversMessage::SetChain(chain, actor, reply) => {
                if let Err(error) = approvers.set_chain(chain.clone()) {
                    return reply.send(Ok(Err(error)));
                }
                self.rules.approvers = Arc::new(approvers);
                let key = space.with("chain").key(&chain.team);
                let stages = chain.stages.iter();
                let stages: Vec<_> = stages
                    .map(|Stage { group, needed, share }| format!("{group}:{needed}@{share}%"))
                    .collect();
                let stages = stages.join(",");
                let detail = [
                    ("change", "chain_set"),
                    ("stages", stages.as_str()),
                    ("team", chain.team.as_str()),
                ];
                let record = (key, stored::encode(&chain));
                let change = Change::put(Kind::Approval, &actor, &detail, record);
                self.change(change, now, reply, chain.clone());
            }
            ApproversMessage::RemoveChain(team, actor, reply) => {
                match approvers.remove_chain(&team) {
                    Err(error) => reply.send(Ok(Err(error))),
                    Ok(chain) => {
                        self.rules.approvers = Arc::new(approvers);
                        let key = space.with("chain").key(&team);
                        let detail = [("change", "chain_removed"), ("team", team.as_str())];
                        let change = Change::take(Kind::Approval, &actor, &detail, key);
                        self.change(change, now, reply, chain);
                    }
                }
            }
        }
    }
}
