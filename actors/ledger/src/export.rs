//! Writing an export: JSON Lines from a header to the signed checkpoint.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Write},
};

use aa_protocol::WorkspaceId;
use memchr::memchr;

use crate::{
    Checkpoint, Hash, VerifierKey,
    entry::write_string,
    format::{EXPORT_FORMAT, MAX_ENTRY_BYTES, MAX_HEADS},
};

/// Writes one export. The entries must be the leaves from `first` to the checkpoint's size, in order.
pub struct ExportWriter<W> {
    out: W,
    workspace: WorkspaceId,
    /// What stands between the id and the stream of its entries.
    expected: String,
    note: String,
    first: u64,
    size: u64,
    entries: u64,
    /// The last entry of each stream; `None` once there are more than [`MAX_HEADS`].
    heads: Option<HashMap<String, Head>>,
    buffer: Vec<u8>,
}

/// The last entry of a stream so far. Only the last of all is hashed; till then the line is kept, which
/// costs a tenth of hashing it, unless it is so long that thousands of its kind were a burden.
enum Head {
    Line(Vec<u8>),
    Hashed(Hash),
}

/// The longest line that is kept.
const MAX_KEPT_LINE: usize = 4 << 10;

/// Why an export was not written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The output failed.
    #[error("the export could not be written: {0}")]
    Write(#[from] io::Error),
    /// The frontier does not fit the first index, or that lies past the checkpoint.
    #[error("a frontier of {frontier} hashes does not fit entries {first} to {size}")]
    Frontier {
        /// Hashes in the frontier.
        frontier: usize,
        /// Leaf index of the first entry.
        first: u64,
        /// The checkpoint's size.
        size: u64,
    },
    /// A line is not an entry of this export's workspace.
    #[error("leaf {index} is not an entry of {workspace}")]
    Entry {
        /// Its leaf index.
        index: u64,
        /// The export's workspace.
        workspace: WorkspaceId,
    },
    /// Fewer or more entries were given than the checkpoint covers.
    #[error("the checkpoint covers {expected} entries from the first; {written} were given")]
    Count {
        /// Entries from the first to the checkpoint's size.
        expected: u64,
        /// Entries given.
        written: u64,
    },
}

// === impl ExportWriter ===

impl<W: Write> ExportWriter<W> {
    /// Writes the header of an export that begins at leaf `first` and is closed by `note`, the signed
    /// `checkpoint`. `frontier` is [`crate::TileTree::frontier`] of `first`; empty when that is 0.
    ///
    /// # Errors
    /// The output fails, or the frontier does not fit.
    pub fn new(
        mut out: W,
        first: u64,
        frontier: &[Hash],
        key: &VerifierKey,
        checkpoint: &Checkpoint,
        note: &str,
    ) -> Result<Self, ExportError> {
        let Checkpoint { workspace, size, time, .. } = *checkpoint;
        if frontier.len() != first.count_ones() as usize || first > size {
            return Err(ExportError::Frontier { frontier: frontier.len(), first, size });
        }
        let frontier: Vec<_> = frontier.iter().map(|hash| format!("\"{hash}\"")).collect();
        let mut buffer = Vec::new();
        write!(
            buffer,
            "{{\"format\":\"{EXPORT_FORMAT}\",\"workspace\":\"{workspace}\",\"first\":{first},\
             \"frontier\":[{}],\"log_key\":",
            frontier.join(",")
        )?;
        write_string(&key.to_string(), &mut buffer);
        writeln!(buffer, ",\"time\":\"{time}\"}}")?;
        out.write_all(&buffer)?;
        let heads = Some(HashMap::new());
        let note = note.to_owned();
        let expected = format!(",\"workspace\":\"{workspace}\",\"stream\":\"");
        Ok(Self { out, workspace, expected, note, first, size, entries: 0, heads, buffer })
    }

    /// Writes the next entry: its stored line, without line feed.
    ///
    /// # Errors
    /// The output fails, the line is no entry of the workspace, or the checkpoint does not cover it.
    pub fn entry(&mut self, line: &[u8]) -> Result<(), ExportError> {
        let index = self.first + self.entries;
        if index >= self.size {
            let expected = self.size - self.first;
            return Err(ExportError::Count { expected, written: self.entries + 1 });
        }
        let foreign = ExportError::Entry { index, workspace: self.workspace };
        let bounded = line.len() <= MAX_ENTRY_BYTES && memchr(b'\n', line).is_none();
        let text = std::str::from_utf8(line).ok().filter(|_| bounded);
        let Some(stream) = text.and_then(|line| self.stream_of(line)) else {
            return Err(foreign);
        };
        if let Some(heads) = &mut self.heads {
            if let Some(head) = heads.get_mut(stream) {
                head.replace(line);
            } else if heads.len() < MAX_HEADS {
                heads.insert(stream.to_owned(), Head::of(line));
            } else {
                self.heads = None;
            }
        }
        self.buffer.clear();
        self.buffer.extend_from_slice(line);
        self.buffer.push(b'\n');
        self.out.write_all(&self.buffer)?;
        self.entries += 1;
        Ok(())
    }

    /// The stream of an entry of this workspace; canonical lines hold it at a fixed place.
    fn stream_of<'l>(&self, line: &'l str) -> Option<&'l str> {
        let (_, rest) = line.strip_prefix("{\"v\":1,\"id\":\"")?.split_once('"')?;
        let rest = rest.strip_prefix(self.expected.as_str())?;
        rest.split_once('"').map(|(stream, _)| stream)
    }

    /// Writes the closing line, flushes and gives the output back.
    ///
    /// # Errors
    /// The output fails, or fewer entries were written than the checkpoint covers.
    pub fn finish(mut self) -> Result<W, ExportError> {
        let expected = self.size - self.first;
        if self.entries != expected {
            return Err(ExportError::Count { expected, written: self.entries });
        }
        self.buffer.clear();
        self.buffer.extend_from_slice(b"{\"checkpoint\":");
        write_string(&self.note, &mut self.buffer);
        write!(self.buffer, ",\"entries\":{}", self.entries)?;
        if let Some(heads) = &self.heads {
            let heads: BTreeMap<_, _> =
                heads.iter().map(|(stream, head)| (stream, head.hash())).collect();
            let heads: Vec<_> =
                heads.iter().map(|(stream, hash)| format!("\"{stream}\":\"{hash}\"")).collect();
            write!(self.buffer, ",\"heads\":{{{}}}", heads.join(","))?;
        }
        self.buffer.extend_from_slice(b"}\n");
        self.out.write_all(&self.buffer)?;
        self.out.flush()?;
        Ok(self.out)
    }
}

// === impl Head ===

impl Head {
    fn of(line: &[u8]) -> Self {
        let kept = line.len() <= MAX_KEPT_LINE;
        if kept { Self::Line(line.to_vec()) } else { Self::Hashed(Hash::of_leaf(line)) }
    }

    fn replace(&mut self, line: &[u8]) {
        match self {
            Self::Line(kept) if line.len() <= MAX_KEPT_LINE => {
                kept.clear();
                kept.extend_from_slice(line);
            }
            Self::Line(_) | Self::Hashed(_) => *self = Self::of(line),
        }
    }

    fn hash(&self) -> Hash {
        match self {
            Self::Line(line) => Hash::of_leaf(line),
            Self::Hashed(hash) => *hash,
        }
    }
}
