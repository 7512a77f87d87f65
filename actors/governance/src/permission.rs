//! The one place that knows permissions.
//!
//! Authorising an operation yields a [`Permit`] for it, and what needs authorisation takes only the
//! permit: forgetting the check does not compile. A permit carries its workspace, and no operation takes
//! another, so a caller cannot reach another tenant.

use std::{fmt, marker::PhantomData, str::FromStr};

use aa_protocol::WorkspaceId;
use serde::{Deserialize, Serialize};

/// Who a request is made by: the holder of an API key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// The only workspace it can act in.
    pub workspace: WorkspaceId,
    /// The id of its key, named in audit entries as `key:<id>`.
    pub key_id: String,
    /// What it may do.
    pub grant: Grant,
}

/// What an API key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grant {
    /// Registering agents, nothing else: the key an application holds.
    Agent,
    /// Registering agents, and secrets that are released for them, nothing else: the key a proxy holds.
    Proxy,
    /// Full administration of the workspace.
    Owner,
    /// Policies, agents and the audit log.
    Admin,
    /// Reads agents and the audit log; manages the keys it created.
    Developer,
    /// Reads agents, the audit log and the list of policies.
    Viewer,
}

/// Leave to carry out operations of one kind in one workspace.
#[derive(Clone, Debug)]
pub struct Permit<O> {
    principal: Principal,
    operation: PhantomData<O>,
}

/// An operation that can be permitted.
pub trait Operation {
    /// Its name in refusals.
    const NAME: &'static str;
    /// Who may do it.
    const GRANTS: &'static [Grant];
}

/// A principal lacks the grant for an operation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// Its role does not have it.
    #[error("key {key_id} has the role {grant}, which may not {operation}; it takes {needed}")]
    Role {
        /// The key.
        key_id: String,
        /// Its role.
        grant: Grant,
        /// What it may not do.
        operation: &'static str,
        /// The roles that may.
        needed: String,
    },
    /// It is of a workspace that only uses the deployment.
    #[error(
        "key {key_id} may not {operation}: that is for keys of the home workspace, which the first start made"
    )]
    NotHome {
        /// The key.
        key_id: String,
        /// What it may not do.
        operation: &'static str,
    },
}

/// A text that names no grant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a role; use agent, proxy, owner, admin, developer or viewer")]
pub struct UnknownGrant(String);

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident: $text:literal for $($grant:ident)|+;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub enum $name {}

        impl Operation for $name {
            const NAME: &'static str = $text;
            const GRANTS: &'static [Grant] = &[$(Grant::$grant),+];
        }
    )+};
}

operations! {
    /// Registering agents and issuing their tokens.
    RegisterAgents: "register agents" for Agent | Proxy | Owner | Admin;
    /// Getting secrets in the clear, for agents and hosts that they are released for. Not even for owners: what a person
    /// set, no person reads back.
    ReleaseSecrets: "have secrets released" for Proxy;
    /// Reading policies, their sources and history.
    ReadPolicies: "read policies" for Owner | Admin | Developer | Viewer;
    /// Applying, rolling back and removing policies.
    ManagePolicies: "change policies" for Owner | Admin;
    /// Reading agents.
    ReadAgents: "read agents" for Owner | Admin | Developer | Viewer;
    /// Suspending and resuming agents.
    ManageAgents: "suspend or resume agents" for Owner | Admin;
    /// Reading, exporting and proving the audit log.
    ReadAudit: "read the audit log" for Owner | Admin | Developer | Viewer;
    /// Taking a backup of the whole workspace, its keys' digests and sealed secrets included.
    BackUp: "take a backup" for Owner;
    /// Reading budgets, prices and what is spent.
    ReadBudgets: "read budgets" for Owner | Admin | Developer | Viewer;
    /// Setting and removing budgets and prices.
    ManageBudgets: "change budgets and prices" for Owner | Admin;
    /// Reading requests for approval, with what agents want to do in full.
    ReadApprovals: "read requests for approval" for Owner | Admin | Developer | Viewer;
    /// Answering requests for approval, of those groups that the key is in.
    AnswerApprovals: "answer requests for approval" for Owner | Admin | Developer | Viewer;
    /// Setting who approves.
    ManageApprovers: "change who approves" for Owner | Admin;
    /// Reading which secrets there are; nobody reads what they are.
    ReadSecrets: "list secrets" for Owner | Admin | Developer;
    /// Setting and deleting secrets, and rotating the keys they are kept under.
    ManageSecrets: "change secrets" for Owner | Admin;
    /// Reading who is told of what, and what was not delivered.
    ReadAlerts: "read alerts" for Owner | Admin | Developer | Viewer;
    /// Setting who is told of what, and sending again what was not delivered.
    ManageAlerts: "change alerts" for Owner | Admin;
    /// Reading which nodes and shards there are. Of the home workspace only: see `Permit::check_home`.
    ReadCluster: "read the cluster" for Owner | Admin;
    /// Draining nodes and moving shards. Of the home workspace only: see `Permit::check_home`.
    ManageCluster: "change the cluster" for Owner;
    /// Creating and revoking API keys. A developer's reach ends at its own: see [`Permit::check_grant`]
    /// and [`Permit::revokes_only_of`].
    ManageKeys: "manage API keys" for Owner | Developer;
}

// === impl Principal ===

impl Principal {
    /// Leave for the operation `O`, if the principal's role has it.
    ///
    /// # Errors
    /// [`Forbidden`], which names the roles that have it.
    pub fn authorize<O: Operation>(&self) -> Result<Permit<O>, Forbidden> {
        if O::GRANTS.contains(&self.grant) {
            return Ok(Permit { principal: self.clone(), operation: PhantomData });
        }
        let needed: Vec<_> = O::GRANTS.iter().map(|grant| grant.as_str()).collect();
        Err(Forbidden::Role {
            key_id: self.key_id.clone(),
            grant: self.grant,
            operation: O::NAME,
            needed: needed.join(" or "),
        })
    }

    /// How audit entries name it.
    pub fn actor(&self) -> String {
        format!("key:{}", self.key_id)
    }
}

// === impl Permit ===

impl<O> Permit<O> {
    /// The workspace it holds in.
    pub const fn workspace(&self) -> WorkspaceId {
        self.principal.workspace
    }

    /// Who it was given to.
    pub const fn principal(&self) -> &Principal {
        &self.principal
    }

    /// How audit entries name its holder.
    pub fn actor(&self) -> String {
        self.principal.actor()
    }
}

impl<O: Operation> Permit<O> {
    /// Whether the holder may do to the deployment what no tenant may: its workspace is the `home` of the deployment.
    ///
    /// # Errors
    /// [`Forbidden`] when it is another, or there is none yet.
    pub(crate) fn check_home(&self, home: Option<WorkspaceId>) -> Result<(), Forbidden> {
        if home == Some(self.workspace()) {
            return Ok(());
        }
        let key_id = self.principal.key_id.clone();
        Err(Forbidden::NotHome { key_id, operation: O::NAME })
    }
}

impl Permit<ManageAlerts> {
    /// Whether the holder may let people answer requests for approval as the API keys that a channel names. Only who
    /// could make keys of every role may hand out their voices.
    ///
    /// # Errors
    /// [`Forbidden`] when it may not.
    pub fn check_voices(&self) -> Result<(), Forbidden> {
        if self.principal.grant == Grant::Owner {
            return Ok(());
        }
        Err(Forbidden::Role {
            key_id: self.principal.key_id.clone(),
            grant: self.principal.grant,
            operation: "let Slack members answer as API keys",
            needed: Grant::Owner.to_string(),
        })
    }
}

impl Permit<ManageKeys> {
    /// Whether the holder may create a key with `grant`: owners any, developers keys no stronger than
    /// their own, which one that gets secrets is.
    ///
    /// # Errors
    /// [`Forbidden`] when it may not.
    pub fn check_grant(&self, grant: Grant) -> Result<(), Forbidden> {
        let may = match self.principal.grant {
            Grant::Owner => true,
            Grant::Developer => {
                matches!(grant, Grant::Agent | Grant::Developer | Grant::Viewer)
            }
            Grant::Agent | Grant::Proxy | Grant::Admin | Grant::Viewer => false,
        };
        if may {
            return Ok(());
        }
        Err(Forbidden::Role {
            key_id: self.principal.key_id.clone(),
            grant: self.principal.grant,
            operation: "create keys of a stronger role",
            needed: Grant::Owner.to_string(),
        })
    }

    /// Whose keys the holder may see and revoke: everybody's (`None`) for an owner, its own otherwise.
    pub fn revokes_only_of(&self) -> Option<String> {
        (self.principal.grant != Grant::Owner).then(|| self.actor())
    }
}

// === impl Grant ===

impl Grant {
    /// Every grant.
    pub const ALL: [Self; 6] =
        [Self::Agent, Self::Proxy, Self::Owner, Self::Admin, Self::Developer, Self::Viewer];

    /// The name in the API and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Proxy => "proxy",
            Self::Owner => "owner",
            Self::Admin => "admin",
            Self::Developer => "developer",
            Self::Viewer => "viewer",
        }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Grant {
    type Err = UnknownGrant;

    fn from_str(text: &str) -> Result<Self, UnknownGrant> {
        Self::ALL
            .into_iter()
            .find(|grant| grant.as_str() == text)
            .ok_or_else(|| UnknownGrant(text.chars().take(32).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(grant: Grant) -> Principal {
        let workspace = "ws-a1b2c3d4-e5f6-7890-abcd-ef1234567890".parse().unwrap();
        Principal { workspace, key_id: "k".into(), grant }
    }

    /// The role table of the specification, row by row.
    #[test]
    fn the_roles_are_those_of_the_specification() {
        use Grant::{Admin, Agent, Developer, Owner, Proxy, Viewer};
        let may = |grant| {
            let principal = principal(grant);
            [
                principal.authorize::<ReadPolicies>().is_ok(),
                principal.authorize::<ManagePolicies>().is_ok(),
                principal.authorize::<ReadAgents>().is_ok(),
                principal.authorize::<ManageAgents>().is_ok(),
                principal.authorize::<ReadAudit>().is_ok(),
                principal.authorize::<ManageKeys>().is_ok(),
                principal.authorize::<RegisterAgents>().is_ok(),
                principal.authorize::<ReleaseSecrets>().is_ok(),
            ]
        };
        assert_eq!(may(Owner), [true, true, true, true, true, true, true, false]);
        assert_eq!(may(Admin), [true, true, true, true, true, false, true, false]);
        assert_eq!(may(Developer), [true, false, true, false, true, true, false, false]);
        assert_eq!(may(Viewer), [true, false, true, false, true, false, false, false]);
        assert_eq!(may(Agent), [false, false, false, false, false, false, true, false]);
        assert_eq!(may(Proxy), [false, false, false, false, false, false, true, true]);
    }

    #[test]
    fn a_developer_reaches_its_own_keys_only() {
        let permit = principal(Grant::Developer).authorize::<ManageKeys>().unwrap();
        assert!(permit.check_grant(Grant::Agent).is_ok());
        assert!(permit.check_grant(Grant::Admin).is_err());
        assert!(permit.check_grant(Grant::Proxy).is_err());
        assert_eq!(permit.revokes_only_of().as_deref(), Some("key:k"));
        let owner = principal(Grant::Owner).authorize::<ManageKeys>().unwrap();
        assert_eq!(owner.revokes_only_of(), None);
    }

    #[test]
    fn the_deployment_is_run_from_its_home_workspace_only() {
        let permit = principal(Grant::Owner).authorize::<ManageCluster>().unwrap();
        assert!(permit.check_home(Some(permit.workspace())).is_ok());
        let other = "ws-ffffffff-e5f6-4890-abcd-ef1234567890".parse().unwrap();
        for home in [Some(other), None] {
            let refused = permit.check_home(home).unwrap_err().to_string();
            assert!(refused.contains("may not change the cluster"), "{refused}");
        }
        assert!(principal(Grant::Admin).authorize::<ManageCluster>().is_err());
    }

    #[test]
    fn a_refusal_names_what_it_takes() {
        let refused = principal(Grant::Viewer).authorize::<ManagePolicies>().unwrap_err();
        assert_eq!(
            refused.to_string(),
            "key k has the role viewer, which may not change policies; it takes owner or admin"
        );
    }
}
