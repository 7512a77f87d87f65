//! Frames set aside in a temporary file: a snapshot is read faster than it can be handed on.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek, Write},
};

use super::frame::{FrameKind, MAX_PAYLOAD};

/// Frames being set aside.
pub(super) struct Spool {
    file: BufWriter<File>,
    bytes: u64,
}

/// Frames that were set aside, in their order.
pub(super) struct Spooled {
    file: BufReader<File>,
}

/// The most that is set aside.
const MAX_BYTES: u64 = 16 << 30;

// === impl Spool ===

impl Spool {
    /// A file without a name: it goes with this process.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { file: BufWriter::with_capacity(256 << 10, tempfile::tempfile()?), bytes: 0 })
    }

    pub(super) fn frame(&mut self, kind: FrameKind, payload: &[u8]) -> io::Result<()> {
        self.bytes += payload.len() as u64;
        if self.bytes > MAX_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "16 GiB are set aside at most",
            ));
        }
        // Payloads are bounded far below 4 GiB.
        let length = (payload.len() as u32).to_be_bytes();
        self.file.write_all(&[kind.byte()])?;
        self.file.write_all(&length)?;
        self.file.write_all(payload)
    }

    /// Bytes of what was set aside.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn finish(self) -> io::Result<Spooled> {
        let mut file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        Ok(Spooled { file: BufReader::with_capacity(256 << 10, file) })
    }
}

// === impl Spooled ===

impl Spooled {
    /// The next frame; none at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<(FrameKind, Vec<u8>)>> {
        let mut head = [0; 5];
        if self.file.by_ref().take(1).read(&mut head)? == 0 {
            return Ok(None);
        }
        self.file.read_exact(&mut head[1..])?;
        let [kind, length @ ..] = head;
        let length = u32::from_be_bytes(length) as usize;
        let damaged =
            || io::Error::new(io::ErrorKind::InvalidData, "the temporary file was changed");
        let kind =
            FrameKind::from_byte(kind).filter(|_| length <= MAX_PAYLOAD).ok_or_else(damaged)?;
        let mut payload = vec![0; length];
        self.file.read_exact(&mut payload)?;
        Ok(Some((kind, payload)))
    }
}
