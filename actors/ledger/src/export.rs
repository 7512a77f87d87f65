//! Writing an export: JSON Lines from a header to the signed checkpoint.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use aa_protocol::WorkspaceId;

use crate::{
    Checkpoint, Hash, VerifierKey,
    entry::write_string,
    format::{EXPORT_FORMAT, MAX_ENTRY_BYTES, MAX_HEADS},
};

/// Writes one export. The entries must be the leaves from `first` to the checkpoint's size, in order.
pub struct ExportWriter<W> {
    out: W,
    workspace: WorkspaceId,
    note: String,
    first: u64,
    size: u64,
    entries: u64,
    /// The last entry of each stream; `None` once there are more than [`MAX_HEADS`].
    heads: Option<BTreeMap<String, Hash>>,
    buffer: Vec<u8>,
}

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
        let heads = Some(BTreeMap::new());
        let note = note.to_owned();
        Ok(Self { out, workspace, note, first, size, entries: 0, heads, buffer })
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
        let bounded = line.len() <= MAX_ENTRY_BYTES && !line.contains(&b'\n');
        let Some(stream) = stream_of(line, self.workspace).filter(|_| bounded) else {
            return Err(foreign);
        };
        if let Some(heads) = &mut self.heads {
            let hash = Hash::of_leaf(line);
            if let Some(head) = heads.get_mut(stream) {
                *head = hash;
            } else if heads.len() < MAX_HEADS {
                heads.insert(stream.to_owned(), hash);
            } else {
                self.heads = None;
            }
        }
        self.out.write_all(line)?;
        self.out.write_all(b"\n")?;
        self.entries += 1;
        Ok(())
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

/// The stream of an entry of `workspace`; canonical lines hold it at a fixed place.
fn stream_of(line: &[u8], workspace: WorkspaceId) -> Option<&str> {
    let line = std::str::from_utf8(line).ok()?;
    let (_, rest) = line.strip_prefix("{\"v\":1,\"id\":\"")?.split_once('"')?;
    let (found, rest) = rest.strip_prefix(",\"workspace\":\"")?.split_once('"')?;
    let (stream, _) = rest.strip_prefix(",\"stream\":\"")?.split_once('"')?;
    found.parse().is_ok_and(|found: WorkspaceId| found == workspace).then_some(stream)
}
