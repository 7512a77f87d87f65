//! The one way to write an audit entry.

use aa_ledger::{ChainHead, Draft, Hash, MacKey, Stream};
use aa_policy::Judgement;
use aa_protocol::WorkspaceId;
use aa_runtime::{Journal, LiveShard, LogTail, Record, journal::LogEntry};
use aa_store::{StoreError, Transaction};
use bytes::Bytes;

use crate::{decided::seal_judgement, keys};

/// The end of one stream, held by the stream's only writer.
#[derive(Debug)]
pub struct Chain {
    head: ChainHead,
    /// Where the last entry stands in the log; [`NOWHERE`] before the first.
    position: u64,
    head_key: Bytes,
    log: LogTail,
}

/// A chain could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The stored head does not read.
    #[error("the head of stream {0} is damaged; restore the store from a backup")]
    Damaged(Stream),
}

/// The position before the first entry of a stream.
pub const NOWHERE: u64 = u64::MAX;

/// Room for a common entry; a larger one grows it.
const ENTRY_BYTES: usize = 896;

/// Stored in front of every entry: the position of the stream's entry before it, big-endian.
const LINK: usize = 8;

// === impl Chain ===

impl Chain {
    /// Opens the chain of `stream` where it was left.
    ///
    /// # Errors
    /// What the store says, or a damaged head.
    pub async fn open(
        txn: &mut dyn Transaction,
        journal: &Journal,
        workspace: WorkspaceId,
        stream: Stream,
    ) -> Result<Self, ChainError> {
        let log = journal.open_log(workspace).await?;
        let head_key = keys::head(workspace, stream);
        let stored = txn.get_snapshot(&head_key).await?;
        let (position, head) = match stored {
            None => (NOWHERE, ChainHead::default()),
            Some(bytes) => decode_head(&bytes).ok_or(ChainError::Damaged(stream))?,
        };
        Ok(Self { head, position, head_key, log })
    }

    /// Where the last entry stands in the log, or [`NOWHERE`].
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Seals an entry to the end of the chain, for the journal to append. Its position must be told to
    /// [`Chain::placed`] before the next one.
    pub fn seal(&mut self, draft: &Draft<'_>, key: &MacKey) -> LogEntry {
        self.append_line(|head, bytes| {
            aa_ledger::seal(draft, head, key, bytes);
        })
    }

    /// Seals the entry of a decision, which the draft leaves out.
    pub fn seal_decision(
        &mut self,
        draft: &Draft<'_>,
        judgement: &Judgement,
        key: &MacKey,
    ) -> LogEntry {
        self.append_line(|head, bytes| seal_judgement(draft, judgement, head, key, bytes))
    }

    /// Hands a record to the journal, and notes where its entry was put. A journal that takes nothing any more ends
    /// the tenure of the shard, and this actor with it: then the record's reply has been failed.
    pub fn commit(&mut self, shard: &LiveShard, record: Record) -> Option<u64> {
        let has_entry = record.entry.is_some();
        match shard.journal.append(record) {
            Ok(Some(position)) => {
                self.placed(position);
                Some(position)
            }
            Ok(None) if !has_entry => None,
            Ok(None) | Err(_) => {
                shard.fail();
                None
            }
        }
    }

    fn append_line(&mut self, seal: impl FnOnce(&mut ChainHead, &mut Vec<u8>)) -> LogEntry {
        let mut bytes = Vec::with_capacity(ENTRY_BYTES);
        bytes.extend_from_slice(&self.position.to_be_bytes());
        seal(&mut self.head, &mut bytes);
        let head = encode_head(NOWHERE, &self.head);
        let digest = *self.head.hash.as_bytes();
        let head = Some((self.head_key.clone(), head));
        LogEntry { log: self.log, bytes: bytes.into(), head, digest }
    }

    /// Notes where the journal put the entry.
    pub const fn placed(&mut self, position: u64) {
        self.position = position;
    }
}

/// The stored form of a stream's head: its position and itself.
pub fn encode_head(position: u64, head: &ChainHead) -> Vec<u8> {
    let mut stored = Vec::with_capacity(48);
    stored.extend_from_slice(&position.to_be_bytes());
    stored.extend_from_slice(&head.sequence.to_be_bytes());
    stored.extend_from_slice(head.hash.as_bytes());
    stored
}

/// The head of a stream as stored: position and head.
pub fn decode_head(bytes: &[u8]) -> Option<(u64, ChainHead)> {
    let (position, rest) = bytes.split_first_chunk::<8>()?;
    let (sequence, rest) = rest.split_first_chunk::<8>()?;
    let hash = rest.try_into().ok()?;
    let head = ChainHead { sequence: u64::from_be_bytes(*sequence), hash: Hash::from_bytes(hash) };
    Some((u64::from_be_bytes(*position), head))
}

/// Takes a stored entry apart: the position of the stream's entry before it, and the line.
pub fn decode_entry(stored: &Bytes) -> Option<(u64, Bytes)> {
    let link = stored.first_chunk::<LINK>()?;
    Some((u64::from_be_bytes(*link), stored.slice(LINK..)))
}
