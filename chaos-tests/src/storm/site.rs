//! Where a storm happens: a cluster of real control planes, and what can be done to it.

use async_trait::async_trait;

use crate::process::Environment;

/// A cluster that faults can be done to. Nodes are counted from 0.
#[async_trait]
pub(super) trait Site: Send + Sync {
    /// How many nodes there are.
    fn nodes(&self) -> usize;

    /// The name of a node.
    fn name(&self, node: usize) -> String;

    /// What clients and operators of a node need, whether or not it runs.
    fn environment(&self, node: usize) -> Environment;

    /// The faults that can be done here.
    fn kinds(&self) -> &'static [Kind];

    /// What this machine cannot do as it should, for people.
    fn lacks(&self) -> Option<String> {
        None
    }

    /// Does a fault. It lasts until it is mended.
    ///
    /// # Errors
    /// The machine does not do as told.
    async fn strike(&self, fault: Fault) -> Result<(), String>;

    /// Mends a fault; a node that was ended runs again after this.
    ///
    /// # Errors
    /// The machine does not do as told, or the node does not start within a bound.
    async fn mend(&self, fault: Fault) -> Result<(), String>;

    /// What is wrong by what can be seen from within the site, such as a node that has ended by itself.
    fn violation(&self) -> Option<String>;

    /// The same once nothing happens any more.
    async fn violation_at_rest(&self) -> Option<String>;

    /// Ends everything.
    async fn close(&self);
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    /// The node it is done to.
    pub(super) node: usize,
    /// Another one, for what is between two.
    pub(super) other: usize,
}

/// What can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The node's process is gone from one moment to the next.
    Kill,
    /// The node is ended in order.
    Stop,
    /// The node's process stands still.
    Pause,
    /// Two nodes do not reach each other.
    Partition,
    /// Nothing from a node arrives at another one, and all the other way round.
    OneWay,
    /// No other node reaches the node, nor it them; clients and the store do.
    Isolation,
    /// Connections between nodes are reset, again and again.
    Resets,
    /// What is sent between the node and the others takes long.
    SlowLinks,
    /// Some of what the node sends is lost.
    LossyLinks,
    /// Little passes between the node and the others.
    NarrowLinks,
    /// The node does not reach the store and is told so.
    NoStore,
    /// The node's calls of the store do not come back.
    StalledStore,
    /// The node's calls of the store take long.
    SlowStore,
    /// The store refuses commits, and leaves open what became of others.
    LyingStore,
    /// A server of the store is killed.
    KillStore,
    /// Shards are moved to the node.
    Moves,
    /// The node is drained.
    Drain,
}

// === impl Kind ===

impl Kind {
    /// Its name, for people.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Pause => "pause",
            Self::Partition => "partition",
            Self::OneWay => "one-way partition",
            Self::Isolation => "isolation",
            Self::Resets => "resets",
            Self::SlowLinks => "slow links",
            Self::LossyLinks => "lossy links",
            Self::NarrowLinks => "narrow links",
            Self::NoStore => "no store",
            Self::StalledStore => "stalled store",
            Self::SlowStore => "slow store",
            Self::LyingStore => "lying store",
            Self::KillStore => "store server killed",
            Self::Moves => "moves",
            Self::Drain => "drain",
        }
    }

    /// Whether the node does not run while it lasts.
    pub(super) const fn ends_node(self) -> bool {
        matches!(self, Self::Kill | Self::Stop)
    }

    /// Whether the node's lease ends when it lasts, and the node can be asked meanwhile.
    pub(super) const fn ends_lease(self) -> bool {
        matches!(self, Self::NoStore | Self::StalledStore)
    }
}
