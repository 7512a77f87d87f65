//! Who is asked for approval: groups of people, and each team's chain of groups.

use std::{borrow::Cow, collections::BTreeMap};

use aa_protocol::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{approval_record::answers_by_default, permission::Principal};

/// The groups and chains of a workspace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Approvers {
    groups: BTreeMap<String, ApproverGroup>,
    /// By team; the empty name is the workspace's own chain, for teams without one.
    chains: BTreeMap<String, ApprovalChain>,
}

/// People who approve. A role that a policy names is a group of this name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApproverGroup {
    /// Its name.
    pub name: String,
    /// The ids of the API keys of its members; without any, the workspace's owners and admins.
    #[serde(default)]
    pub members: Vec<String>,
    /// How many of them must approve what only names the group: 2 for four eyes.
    #[serde(default = "one")]
    pub needed: u32,
}

/// The groups that a team's requests go to, one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalChain {
    /// Whose; empty for the workspace's.
    #[serde(default)]
    pub team: String,
    /// Its stages, at least one.
    pub stages: Vec<Stage>,
}

/// A group's part in a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// The group.
    pub group: String,
    /// How many of it must approve.
    #[serde(default = "one")]
    pub needed: u32,
    /// How much of the time until the deadline it has before the next is asked as well, in per cent.
    pub share: u32,
}

/// Why groups or chains were refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum ApproversError {
    /// A name is empty or too long.
    #[error("`{0}` is not a name: 1 to {MAX_NAME} characters")]
    Name(String),
    /// More members, stages, groups or chains than there can be.
    #[error("there are {count} {what}, and at most {most} are kept")]
    TooMany {
        /// Of what.
        what: Cow<'static, str>,
        /// How many.
        count: usize,
        /// How many there can be.
        most: usize,
    },
    /// A quorum of nobody, or of more than there are.
    #[error("{needed} of {members} members cannot approve; a group needs 1 to all of its members")]
    Quorum {
        /// How many are needed.
        needed: u32,
        /// How many there are.
        members: usize,
    },
    /// A chain has no stage.
    #[error("a chain has at least one stage")]
    NoStage,
    /// The shares of a chain do not make up the whole time.
    #[error(
        "the shares of the stages add up to {0} per cent; they must be above 0 and make up 100"
    )]
    Shares(u64),
    /// There is none of this name.
    #[error("there is no {what} `{name}` in this workspace")]
    Unknown {
        /// What was looked for.
        what: Cow<'static, str>,
        /// By which name.
        name: String,
    },
    /// The workspace has no chain of its own.
    #[error(
        "this workspace has no chain of its own: what no team's chain takes is before its owners and admins"
    )]
    NoWorkspaceChain,
}

/// The longest name of a group or team.
pub const MAX_NAME: usize = 128;
/// The most members of a group.
pub const MAX_MEMBERS: usize = 100;
/// The most stages of a chain.
pub const MAX_STAGES: usize = 8;
/// The most groups, and the most chains, of a workspace.
pub const MAX_APPROVERS: usize = 1_000;

const fn one() -> u32 {
    1
}

// === impl Approvers ===

impl Approvers {
    /// Whether a principal is in a group. A group nobody is in is that of owners and admins.
    pub fn is_member(&self, group: &str, who: &Principal) -> bool {
        match self.groups.get(group).filter(|group| !group.members.is_empty()) {
            Some(group) => group.members.contains(&who.key_id),
            None => answers_by_default(who.grant),
        }
    }

    /// Who is asked about an action of an agent of `team`: every role that the policies name or, without one, the
    /// stages of the team's chain, of the workspace's, or its owners and admins. And whether all of them must approve.
    pub fn stages(
        &self,
        roles: &[String],
        team: Option<&str>,
        from: Timestamp,
        until: Timestamp,
    ) -> (Vec<crate::approval_record::OpenStage>, bool) {
        use crate::approval_record::OpenStage;
        if !roles.is_empty() {
            let stage = |role: &String| OpenStage {
                group: role.clone(),
                needed: self.groups.get(role).map_or(1, |group| group.needed),
                opens_at: from,
            };
            return (roles.iter().map(stage).collect(), true);
        }
        let chain = team.and_then(|team| self.chains.get(team)).or_else(|| self.chains.get(""));
        let stages = match chain {
            Some(chain) => OpenStage::chain(&chain.stages, from, until),
            None => vec![OpenStage { group: String::new(), needed: 1, opens_at: from }],
        };
        (stages, false)
    }

    /// Sets a group, in the place of the one there was.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn set_group(&mut self, group: ApproverGroup) -> Result<(), ApproversError> {
        name_ok(&group.name)?;
        let members = group.members.len();
        within("members", members, MAX_MEMBERS)?;
        let most = if members == 0 { MAX_MEMBERS } else { members };
        if group.needed == 0 || group.needed as usize > most {
            return Err(ApproversError::Quorum { needed: group.needed, members });
        }
        let count = self.groups.len() + usize::from(!self.groups.contains_key(&group.name));
        within("groups", count, MAX_APPROVERS)?;
        self.groups.insert(group.name.clone(), group);
        Ok(())
    }

    /// Sets a chain, in the place of the one there was.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn set_chain(&mut self, chain: ApprovalChain) -> Result<(), ApproversError> {
        if !chain.team.is_empty() {
            name_ok(&chain.team)?;
        }
        if chain.stages.is_empty() {
            return Err(ApproversError::NoStage);
        }
        within("stages", chain.stages.len(), MAX_STAGES)?;
        for stage in &chain.stages {
            if !stage.group.is_empty() {
                name_ok(&stage.group)?;
            }
            if stage.needed == 0 || stage.needed as usize > MAX_MEMBERS {
                return Err(ApproversError::Quorum { needed: stage.needed, members: MAX_MEMBERS });
            }
        }
        let shares: u64 = chain.stages.iter().map(|stage| u64::from(stage.share)).sum();
        if shares != 100 || chain.stages.iter().any(|stage| stage.share == 0) {
            return Err(ApproversError::Shares(shares));
        }
        let count = self.chains.len() + usize::from(!self.chains.contains_key(&chain.team));
        within("chains", count, MAX_APPROVERS)?;
        self.chains.insert(chain.team.clone(), chain);
        Ok(())
    }

    /// Takes a group away.
    ///
    /// # Errors
    /// There is none.
    pub fn remove_group(&mut self, name: &str) -> Result<ApproverGroup, ApproversError> {
        let unknown = || ApproversError::Unknown { what: "group".into(), name: name.to_owned() };
        self.groups.remove(name).ok_or_else(unknown)
    }

    /// Takes a team's chain away.
    ///
    /// # Errors
    /// There is none.
    pub fn remove_chain(&mut self, team: &str) -> Result<ApprovalChain, ApproversError> {
        let unknown = || match team {
            "" => ApproversError::NoWorkspaceChain,
            team => ApproversError::Unknown { what: "chain of team".into(), name: team.to_owned() },
        };
        self.chains.remove(team).ok_or_else(unknown)
    }

    /// Every group, by name.
    pub fn groups(&self) -> impl Iterator<Item = &ApproverGroup> {
        self.groups.values()
    }

    /// Every chain, by team.
    pub fn chains(&self) -> impl Iterator<Item = &ApprovalChain> {
        self.chains.values()
    }
}

fn name_ok(name: &str) -> Result<(), ApproversError> {
    let fits =
        (1..=MAX_NAME).contains(&name.chars().count()) && !name.chars().any(char::is_control);
    if fits { Ok(()) } else { Err(ApproversError::Name(name.chars().take(MAX_NAME).collect())) }
}

fn within(what: &'static str, count: usize, most: usize) -> Result<(), ApproversError> {
    let what = what.into();
    if count > most { Err(ApproversError::TooMany { what, count, most }) } else { Ok(()) }
}
