//! The audit ledger: entries, the chains they form, the Merkle tree over them, the signed checkpoints of
//! that tree, exports, and the verifier of exports.
//!
//! It refuses to know where entries are stored, what time it is and where keys come from: it has no
//! clock, no randomness, no async and no I/O beyond readers and writers that callers pass in.
//!
//! The path of a value: a [`Draft`] is [`seal`]ed into one line of canonical JSON that carries its place
//! in its stream's chain and an HMAC. The line's [hash](struct@Hash) is both the next entry's `prev` and a leaf of
//! the workspace's tree ([`TreeEdge`]), whose root a [`Checkpoint`] states and a [`LogKey`] signs. An
//! [`ExportWriter`] writes lines and checkpoint to a file, and [`verify()`] proves that file offline.
//!
//! `verify` is written against the format alone. It shares with the writer the constants of
//! [`mod@format`] and the id and time types of `aa-protocol`, and no other code: it reads JSON, hashes,
//! folds the tree and checks notes by itself.

pub mod cef;
pub mod checkpoint;
pub mod entry;
pub mod export;
pub mod format;
pub mod hash;
mod json_size;
pub mod mac;
pub mod note;
pub mod proof;
pub mod summary;
pub mod tiles;
pub mod tree;
pub mod verify;

pub use cef::write_cef;
pub use checkpoint::{Checkpoint, CheckpointError};
pub use entry::{
    ChainHead, Draft, Entry, EntryError, Kind, PolicyRef, RenderedDecision, Stream, UNSEEN, seal,
    seal_rendered,
};
pub use export::{ExportError, ExportWriter};
pub use hash::{Hash, HashError};
pub use mac::{MacKey, MacKeyError};
pub use note::{LogKey, NoteError, VerifierKey, VerifierKeyError};
pub use proof::{ProofError, verify_consistency, verify_inclusion};
pub use summary::{ActionSummary, ObservedSummary};
pub use tiles::{Tile, TileError, TileId, TileReader, TileTree};
pub use tree::TreeEdge;
pub use verify::{Export, Keys, KeysError, PinnedCheckpoint, Report, Source, Unreadable, verify};
