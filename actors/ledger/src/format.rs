//! The constants of the format, shared by writer and verifier. Definitions only.
//!
//! # Entry
//! One line of JSON with this member order and no white space; an optional member that is absent is left
//! out, never `null`:
//!
//! `v`, `id`, `workspace`, `stream`, `seq`, `time`, `kind`, [`actor`, `action`, `verdict`, `reasons`,
//! `approval`, `findings`, `policies`, `latency_us`, `trace`, `parent_span`, `detail`, `cut`], `prev`, `mac`.
//!
//! In strings `"` and `\` are escaped by a backslash, line feed, carriage return and tab are `\n`, `\r`
//! and `\t`, every other character below U+0020 is `\u00xx` in lower-case hex, and all else is raw UTF-8.
//! Numbers are unsigned decimal integers without leading zeros. The keys of `detail` ascend. `cut` is
//! `true` where something was left out to keep the line below [`MAX_ENTRY_BYTES`].
//!
//! `mac` is `<key id>:<hex>`, HMAC-SHA256 over the line up to `,"mac":` followed by `}`. The entry's hash
//! is its RFC 6962 leaf hash, SHA-256(0x00 ‖ line without its line feed); `prev` is the hash of the
//! entry before it in the same stream, 64 zeros when `seq` is 1.
//!
//! # Export
//! JSON Lines. First `{"format","workspace","first","frontier","log_key","time"}`: `first` is the leaf
//! index of the first entry, `frontier` the roots of the perfect subtrees left of it, largest first,
//! `time` the checkpoint's. Then the entries in leaf order. Last
//! `{"checkpoint","entries","heads"}`: the signed note, the number of entry lines and, for at most
//! [`MAX_HEADS`] streams, the hash of each stream's last entry, keys ascending. The heads are not
//! signed; they let a verifier name the altered entry when it is the last of its stream.
//!
//! # Checkpoint
//! A C2SP `tlog-checkpoint` with origin [`ORIGIN_PREFIX`]`<workspace>` and the extension line
//! [`TIME_LINE`]`<time>`, signed as a C2SP `signed-note` with Ed25519.

/// The version of the entry format, its member `v`.
pub const ENTRY_VERSION: u64 = 1;
/// The bound of an entry's line, without its line feed.
pub const MAX_ENTRY_BYTES: usize = 65_535;
/// The value of `format` in the first line of an export.
pub const EXPORT_FORMAT: &str = "agent-assembly/audit-export/1";
/// The most streams whose heads the last line of an export lists.
pub const MAX_HEADS: usize = 4_096;
/// What precedes the workspace in a checkpoint's origin line.
pub const ORIGIN_PREFIX: &str = "agent-assembly/";
/// What precedes the time in a checkpoint's extension line.
pub const TIME_LINE: &str = "time ";
/// The type byte of an Ed25519 key in a signed note.
pub const ED25519: u8 = 0x01;
/// What precedes a leaf's bytes in its hash (RFC 6962 §2.1).
pub const LEAF_PREFIX: u8 = 0x00;
/// What precedes two children's hashes in their node's hash (RFC 6962 §2.1).
pub const NODE_PREFIX: u8 = 0x01;
/// The names of the kinds of entries.
pub const KINDS: [&str; 12] = [
    "registration",
    "decision",
    "event",
    "refusal",
    "status",
    "policy",
    "key",
    "workspace",
    "budget",
    "approval",
    "secret",
    "alert",
];
/// The names of the streams of which a workspace has one.
pub const STREAMS: [&str; 4] = ["workspace", "policies", "vault", "alerts"];
/// The longest key of `detail`; keys are of `a`–`z`, `0`–`9`, `_`, `-` and `.`.
pub const MAX_DETAIL_KEY: usize = 64;
/// The longest id of a MAC key; ids are of `a`–`z`, `0`–`9`, `_` and `-`.
pub const MAX_MAC_KEY_ID: usize = 32;
