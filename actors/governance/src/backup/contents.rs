//! What the frames of a backup hold.
//!
//! ```text
//! H  {"workspace","shards","log_key","program","begun_at"}
//! L  shard (2) position of the first (8) { length (4) line }*    the leaves in their order
//! C  the signed checkpoint over exactly the leaves before it; then further L
//! T  as L: the entries that are no leaves yet, shard by shard
//! R  length (1) name of the space { length (4) key { length (4) value }*
//! E  {"leaves","tail","rows","taken_at","seal"}
//! X  instead of all that would follow: why it could not be taken, in words
//! ```
//!
//! All numbers are big-endian. The key of a row is what follows the workspace in the stored key, so a file cannot name
//! another workspace's. Spaces come in the order of [`Space`], keys ascend. The tree, its tiles and segments are not in
//! the file: they follow from the leaves. Nor is what the nodes of a cluster tell each other of how far logs go.

use std::collections::BTreeMap;

use aa_ledger::format::MAX_ENTRY_BYTES;
use aa_protocol::{Timestamp, WorkspaceId};
use aa_store::{MAX_KEY_BYTES, MAX_VALUE_BYTES};
use bytes::{BufMut, Bytes};
use serde::{Deserialize, Serialize};

use super::examine::hex;
use crate::keys::Space;

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub(super) workspace: WorkspaceId,
    /// How many shards the store was laid out in.
    pub(super) shards: u16,
    /// The key that signs the log and seals the file.
    pub(super) log_key: String,
    /// The version of the program that wrote it.
    pub(super) program: String,
    pub(super) begun_at: Timestamp,
}

/// How a file ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct End {
    /// Entries in the tree.
    pub(super) leaves: u64,
    /// Entries that are not.
    pub(super) tail: u64,
    /// Rows by the name of their space.
    pub(super) rows: BTreeMap<String, u64>,
    /// The moment of the cut.
    pub(super) taken_at: Timestamp,
    /// A signed note over [`End::sealed_text`].
    pub(super) seal: String,
}

/// What a row is without its space.
pub(super) type Row<'p> = (&'p [u8], &'p [u8]);

/// A payload being put together.
#[derive(Default)]
pub(super) struct Payload(Vec<u8>);

/// A payload being taken apart.
struct Parts<'p>(&'p [u8]);

/// A payload of this length takes no more, in bytes.
pub(super) const PAYLOAD: usize = 64 << 10;

/// Spaces whose rows are in a file as they are. The others follow from what is.
pub(super) const fn is_carried(space: Space) -> bool {
    !matches!(
        space,
        Space::Recent
            | Space::Tree
            | Space::Tile
            | Space::Segment
            | Space::Checkpoint
            | Space::Restored
    )
}

// === impl End ===

impl End {
    /// What is signed: the format, the workspace, the digest of all frames before this one, what they hold and when
    /// it was cut. No checkpoint begins like this, so none can be taken for a seal, nor a seal for one.
    pub(super) fn sealed_text(&self, workspace: WorkspaceId, digest: &[u8; 32]) -> String {
        let hex = hex(digest);
        let Self { leaves, tail, rows, taken_at, .. } = self;
        let rows: Vec<_> = rows.iter().map(|(space, rows)| format!("{space}={rows}")).collect();
        let rows = rows.join(" ");
        format!(
            "agent-assembly-backup/1\n{workspace}\nsha256 {hex}\nentries {leaves}+{tail}\nrows {rows}\ntime {taken_at}\n"
        )
    }
}

// === impl Payload ===

impl Payload {
    /// Entries of a shard's log from a position on.
    pub(super) fn run(shard: u16, first: u64) -> Self {
        let mut payload = Vec::with_capacity(PAYLOAD);
        payload.put_u16(shard);
        payload.put_u64(first);
        Self(payload)
    }

    /// Rows of a space.
    pub(super) fn rows(space: Space) -> Self {
        let mut payload = Vec::with_capacity(PAYLOAD);
        let name = space.name().as_bytes();
        // Names of spaces are short.
        payload.put_u8(name.len() as u8);
        payload.put_slice(name);
        Self(payload)
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        // Lines, keys and values are far below 4 GiB.
        self.0.put_u32(bytes.len() as u32);
        self.0.put_slice(bytes);
    }

    /// Whether the next one should go into another.
    pub(super) const fn is_full(&self) -> bool {
        self.0.len() >= PAYLOAD
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Takes a run apart: shard, position of the first entry, lines.
pub(super) fn read_run(payload: &[u8]) -> Option<(u16, u64, Vec<Bytes>)> {
    let mut parts = Parts(payload);
    let shard = u16::from_be_bytes(parts.array()?);
    let first = u64::from_be_bytes(parts.array()?);
    let mut lines = Vec::new();
    while !parts.0.is_empty() {
        lines.push(Bytes::copy_from_slice(parts.bounded(MAX_ENTRY_BYTES)?));
    }
    (!lines.is_empty()).then_some((shard, first, lines))
}

/// Takes rows apart.
pub(super) fn read_rows(payload: &[u8]) -> Option<(Space, Vec<Row<'_>>)> {
    let mut parts = Parts(payload);
    let [length] = parts.array()?;
    let name = std::str::from_utf8(parts.take(usize::from(length))?).ok()?;
    let space = Space::from_name(name).filter(|space| is_carried(*space))?;
    let mut rows = Vec::new();
    while !parts.0.is_empty() {
        rows.push((parts.bounded(MAX_KEY_BYTES)?, parts.bounded(MAX_VALUE_BYTES)?));
    }
    (!rows.is_empty()).then_some((space, rows))
}

// === impl Parts ===

impl<'p> Parts<'p> {
    fn take(&mut self, bytes: usize) -> Option<&'p [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// What its length precedes.
    fn bounded(&mut self, most: usize) -> Option<&'p [u8]> {
        let length = u32::from_be_bytes(self.array()?) as usize;
        if length > most { None } else { self.take(length) }
    }
}
