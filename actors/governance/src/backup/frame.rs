//! The frames of a backup file: bounded records, each followed by the digest of all that precedes it.
//!
//! ```text
//! file   = "agent-assembly-backup/1\n" frame*
//! frame  = kind (1) length (4, big-endian) payload digest (32)
//! digest = SHA-256 of every byte of the file before it
//! ```
//!
//! So a file that was cut, altered, put in another order or spliced is refused at the frame where that begins. It
//! takes no secret to compute such digests; what shows who wrote the file is the seal in its last frame.

use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};

use super::FileError;

/// What a file begins with. The number is that of the format.
pub(super) const MAGIC: &[u8; 24] = b"agent-assembly-backup/1\n";

/// The longest payload, in bytes.
pub(super) const MAX_PAYLOAD: usize = 1 << 20;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameKind {
    /// What the file is.
    Header,
    /// Entries that are leaves of the tree.
    Leaves,
    /// The signed checkpoint over the leaves before it.
    Checkpoint,
    /// Entries that were not in the tree yet.
    Tail,
    /// Rows of one space.
    Rows,
    /// What the file held, sealed.
    End,
    /// Why there is no more of it.
    Failure,
}

/// Writes frames.
#[derive(Default)]
pub(super) struct FrameWriter<W> {
    out: W,
    digest: Sha256,
    /// The digest up to here.
    last: [u8; 32],
}

/// Reads frames, and checks each against the digest after it.
pub(super) struct FrameReader<R> {
    source: R,
    digest: Sha256,
    last: [u8; 32],
    at: u64,
    payload: Vec<u8>,
}

const DIGEST: usize = 32;

/// How much of a payload is read at a time: a length that lies does not reserve memory.
const STEP: usize = 64 << 10;

// === impl FrameKind ===

impl FrameKind {
    pub(super) const fn byte(self) -> u8 {
        match self {
            Self::Header => b'H',
            Self::Leaves => b'L',
            Self::Checkpoint => b'C',
            Self::Tail => b'T',
            Self::Rows => b'R',
            Self::End => b'E',
            Self::Failure => b'X',
        }
    }

    pub(super) const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            b'H' => Self::Header,
            b'L' => Self::Leaves,
            b'C' => Self::Checkpoint,
            b'T' => Self::Tail,
            b'R' => Self::Rows,
            b'E' => Self::End,
            b'X' => Self::Failure,
            _ => return None,
        })
    }
}

// === impl FrameWriter ===

impl<W: Write> FrameWriter<W> {
    /// Writes what a file begins with.
    pub(super) fn begin(out: W) -> io::Result<Self> {
        let mut writer = Self { out, digest: Sha256::new(), last: [0; DIGEST] };
        writer.put(MAGIC)?;
        Ok(writer)
    }

    pub(super) fn frame(&mut self, kind: FrameKind, payload: &[u8]) -> io::Result<()> {
        debug_assert!(payload.len() <= MAX_PAYLOAD, "a frame of {} bytes", payload.len());
        let length = u32::try_from(payload.len())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a frame is too long"))?;
        self.put(&[kind.byte()])?;
        self.put(&length.to_be_bytes())?;
        self.put(payload)?;
        self.last = self.digest.clone().finalize().into();
        self.put(&{ self.last })
    }

    /// The digest after the last frame.
    pub(super) const fn digest(&self) -> &[u8; 32] {
        &self.last
    }

    pub(super) const fn out_mut(&mut self) -> &mut W {
        &mut self.out
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.digest.update(bytes);
        self.out.write_all(bytes)
    }
}

// === impl FrameReader ===

impl<R: Read> FrameReader<R> {
    /// Reads what a file begins with.
    ///
    /// # Errors
    /// It is no backup, or of a format that this program does not know.
    pub(super) fn begin(mut source: R) -> Result<Self, FileError> {
        let mut magic = [0; MAGIC.len()];
        let mut read = 0;
        while read < magic.len() {
            match source.read(&mut magic[read..])? {
                0 => return Err(FileError::NotABackup),
                more => read += more,
            }
        }
        // The number of the format is a digit, and the rest the same in all.
        let [same @ .., number, b'\n'] = &magic else { return Err(FileError::NotABackup) };
        if *same != MAGIC[..same.len()] {
            return Err(FileError::NotABackup);
        }
        if *number != MAGIC[same.len()] {
            return Err(FileError::OtherFormat(char::from(*number)));
        }
        let digest = Sha256::new_with_prefix(magic);
        let at = magic.len() as u64;
        Ok(Self { source, digest, last: [0; DIGEST], at, payload: Vec::new() })
    }

    /// Where the next frame begins, in bytes from the beginning of the file.
    pub(super) const fn at(&self) -> u64 {
        self.at
    }

    /// The digest after the last frame.
    pub(super) const fn digest(&self) -> &[u8; 32] {
        &self.last
    }

    /// SHA-256 of all that was read: at its end, of the file.
    pub(super) fn of_all(&self) -> [u8; 32] {
        self.digest.clone().finalize().into()
    }

    /// The next frame; none at the end of the file.
    ///
    /// # Errors
    /// The file cannot be read, ends within the frame, or its digest is another.
    pub(super) fn next(&mut self) -> Result<Option<(FrameKind, &[u8])>, FileError> {
        let at = self.at;
        let mut head = [0; 5];
        if self.source.by_ref().take(1).read(&mut head)? == 0 {
            return Ok(None);
        }
        self.fill(&mut head[1..], at)?;
        let [byte, length @ ..] = head;
        let length = u32::from_be_bytes(length) as usize;
        let Some(kind) = FrameKind::from_byte(byte).filter(|_| length <= MAX_PAYLOAD) else {
            return Err(FileError::Altered { at });
        };
        let mut payload = std::mem::take(&mut self.payload);
        payload.clear();
        while payload.len() < length {
            let from = payload.len();
            payload.resize(length.min(from + STEP), 0);
            self.fill(&mut payload[from..], at)?;
        }
        self.digest.update(head);
        self.digest.update(&payload);
        let expected: [u8; DIGEST] = self.digest.clone().finalize().into();
        let mut found = [0; DIGEST];
        self.fill(&mut found, at)?;
        if found != expected {
            return Err(FileError::Altered { at });
        }
        self.digest.update(found);
        self.last = expected;
        self.at += (head.len() + payload.len() + DIGEST) as u64;
        self.payload = payload;
        Ok(Some((kind, &self.payload)))
    }

    fn fill(&mut self, buffer: &mut [u8], at: u64) -> Result<(), FileError> {
        self.source.read_exact(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => FileError::CutOff { at },
            _ => error.into(),
        })
    }
}
