//! The store: ordered byte keys under serializable transactions, with range reads, conflict ranges and
//! watches. Its semantics are FoundationDB's, so that a cluster store can stand in for the embedded one.
//!
//! It refuses to know what the bytes mean, who owns a key, and when to retry: tenants, shards and
//! fencing are keys like all others, and [`CommitError`] says what a caller may do next.
//!
//! The path of a write: [`Store::begin`] takes a snapshot; reads note what they depend on; writes stay
//! in the transaction; [`Transaction::commit`] hands both to the store, where one resolver refuses the
//! transaction if anything it read was written since, and else applies it whole. [`RedbStore`] makes
//! all transactions that wait durable with one write and one fsync of its log; [`MemoryStore`] keeps
//! them in memory and takes [`Faults`]. `FdbStore` (feature `foundationdb`) is a cluster's: there the
//! snapshot, the resolver and the log are FoundationDB's. [`StoreUrl`] says which store is meant.

mod clock;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod copy;
mod error;
#[cfg(feature = "foundationdb")]
mod fdb_store;
mod key_range;
mod limits;
mod memory;
mod opened;
mod optimistic;
mod redb_store;
mod resolver;
#[cfg(any(test, feature = "faults"))]
mod sim_disk;
mod store;
mod store_url;
mod subspace;
pub mod tuple;
mod watch;
mod write_set;

pub use clock::{ManualClock, StoreClock, SystemClock};
pub use error::{CommitError, OpenError, StoreError};
#[cfg(feature = "foundationdb")]
pub use fdb_store::{FdbNetwork, FdbOptions, FdbStats, FdbStore};
pub use key_range::KeyRange;
pub use limits::{
    LimitError, MAX_KEY_BYTES, MAX_STAMPED, MAX_TRANSACTION_AGE, MAX_TRANSACTION_BYTES,
    MAX_VALUE_BYTES, MAX_WATCHES, RECOMMENDED_TRANSACTION_BYTES,
};
pub use memory::{Fault, FaultRates, Faults, MemoryStore};
pub use opened::{OpenedStore, STORE_FILE};
pub use redb_store::{RedbOptions, RedbStats, RedbStore, Verify};
pub use resolver::HistoryBounds;
#[cfg(any(test, feature = "faults"))]
pub use sim_disk::{DiskFault, Loss, SimDisk};
pub use store::{Order, STAMP_BYTES, Store, StoreCounters, Transaction, Version};
pub use store_url::{FdbTls, FdbUrl, MAX_PREFIX_BYTES, StoreUrl, StoreUrlError};
pub use subspace::Subspace;
pub use watch::Watch;
