//! The kinds of keys that a workspace has: whoever takes it away, or away with it, takes all of them.

use aa_protocol::WorkspaceId;
use aa_store::{KeyRange, Subspace};
use bytes::Bytes;

macro_rules! spaces {
    ($($(#[$doc:meta])* $space:ident: $name:literal,)+) => {
        /// The parts that a workspace's data has, each with all keys of one kind. The entries of its log are beside
        /// them, in the shards' logs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Space {
            $($(#[$doc])* $space,)+
        }

        impl Space {
            /// Every space, in the order of the enumeration.
            pub const ALL: &'static [Self] = &[$(Self::$space),+];

            /// What its keys begin with.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$space => $name,)+
                }
            }
        }
    };
}

spaces! {
    /// The workspace's record.
    Workspace: "workspace",
    /// Agents.
    Agent: "agent",
    /// Ends of chains.
    Head: "head",
    /// Rate windows.
    Rate: "rate",
    /// The ids of agents' recent actions, and where their entries stand.
    Recent: "recent",
    /// Which revisions of policies are in force.
    Policy: "policy",
    /// Their sources.
    PolicySource: "policy_source",
    /// The count of changes of the policy set.
    PolicyGeneration: "policy_generation",
    /// What operators set of budgets.
    Budget: "budget",
    /// What operators set of prices.
    Prices: "prices",
    /// What is spent in windows.
    Window: "window",
    /// What is set aside in windows.
    Reservation: "reservation",
    /// Calls with reservations.
    Call: "call",
    /// Requests for approval.
    Approval: "approval",
    /// Those nobody has decided.
    PendingApproval: "pending_approval",
    /// Pending requests of agents, by what they are about.
    Asked: "asked",
    /// What was approved for whole sessions.
    SessionGrant: "session_grant",
    /// Armed sequences.
    Armed: "armed",
    /// Groups and chains of approvers.
    Approvers: "approvers",
    /// Data keys, wrapped.
    KeyRing: "key_ring",
    /// Secrets, sealed.
    Secret: "secret",
    /// The highest version of a secret.
    SecretVersion: "secret_version",
    /// Where people are told.
    AlertDestination: "alert_destination",
    /// Who is told of what.
    AlertRule: "alert_rule",
    /// How far the log is read for events.
    AlertCursor: "alert_cursor",
    /// Equal events that are being counted.
    AlertFolder: "alert_folder",
    /// Messages on their way.
    Delivery: "delivery",
    /// The id of the next message.
    NextDelivery: "next_delivery",
    /// Messages given up.
    DeadLetter: "dead_letter",
    /// API keys, by id.
    ApiKeyId: "api_key_id",
    /// The Merkle tree.
    Tree: "tree",
    /// Its tiles.
    Tile: "tile",
    /// Where its leaves stand.
    Segment: "segment",
    /// The latest signed checkpoint.
    Checkpoint: "checkpoint",
    /// Revisions of policies.
    PolicyRevision: "policy_revision",
    /// From which backup the workspace came, until its log tells.
    Restored: "restored",
}

impl Space {
    /// The space of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|space| space.name() == name)
    }

    /// What a workspace has of it.
    pub fn of(self, workspace: WorkspaceId) -> Subspace {
        Subspace::root().with(self.name()).with(*workspace.as_uuid())
    }

    /// What the keys of a workspace begin with.
    pub fn prefix(self, workspace: WorkspaceId) -> Bytes {
        self.of(workspace).to_key()
    }

    /// All keys of a workspace: that of the space itself, and those below it.
    pub fn rows(self, workspace: WorkspaceId) -> KeyRange {
        KeyRange::prefix(&self.prefix(workspace))
    }
}
