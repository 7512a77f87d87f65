//! `application/vnd.amazon.eventstream`: messages of a prelude (total length, length of headers, CRC32 of
//! these), headers, a payload and the CRC32 of all before it, numbers big-endian.

use std::ops::Range;

use bytes::BytesMut;

use super::{MAX_FRAME, Step};

/// Divides a stream into messages.
#[derive(Default)]
pub(crate) struct EventStream {
    buffer: BytesMut,
    /// Bytes of a message that is too long.
    skipping: usize,
    is_broken: bool,
}

/// One message.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// `:message-type`: `event`, `exception` or `error`.
    pub(crate) kind: String,
    /// `:event-type`, `:exception-type` or `:error-code`.
    pub(crate) name: String,
    /// Where the payload stands.
    pub(crate) payload: Range<usize>,
}

const PRELUDE: usize = 12;
const CHECKSUM: usize = 4;
/// The type of a header whose value is a string.
const STRING: u8 = 7;

/// A message with lengths and checksums for what is now between prelude and trailing checksum. The length of
/// the headers must be right.
pub(crate) fn sealed(mut message: Vec<u8>) -> Vec<u8> {
    let total = u32::try_from(message.len()).unwrap_or(u32::MAX);
    message[..4].copy_from_slice(&total.to_be_bytes());
    let prelude = crc32fast::hash(&message[..8]);
    message[8..PRELUDE].copy_from_slice(&prelude.to_be_bytes());
    let end = message.len() - CHECKSUM;
    let checksum = crc32fast::hash(&message[..end]);
    message[end..].copy_from_slice(&checksum.to_be_bytes());
    message
}

/// A message with these string headers.
pub(crate) fn message(headers: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
    let mut written = Vec::new();
    for (name, value) in headers {
        let name_length = u8::try_from(name.len()).unwrap_or_default();
        let value_length = u16::try_from(value.len()).unwrap_or_default();
        written.push(name_length);
        written.extend_from_slice(&name.as_bytes()[..usize::from(name_length)]);
        written.push(STRING);
        written.extend_from_slice(&value_length.to_be_bytes());
        written.extend_from_slice(&value.as_bytes()[..usize::from(value_length)]);
    }
    let length = u32::try_from(written.len()).unwrap_or_default();
    let mut message = vec![0; PRELUDE];
    message[4..8].copy_from_slice(&length.to_be_bytes());
    message.extend_from_slice(&written);
    message.extend_from_slice(payload);
    message.extend_from_slice(&[0; CHECKSUM]);
    sealed(message)
}

// === impl EventStream ===

impl EventStream {
    pub(crate) fn push(&mut self, bytes: &[u8], steps: &mut Vec<Step>) {
        self.buffer.extend_from_slice(bytes);
        while !self.buffer.is_empty() {
            if self.is_broken {
                steps.push(Step::Opaque(self.buffer.split().freeze()));
                return;
            }
            if self.skipping > 0 {
                let length = self.skipping.min(self.buffer.len());
                self.skipping -= length;
                steps.push(Step::Opaque(self.buffer.split_to(length).freeze()));
                continue;
            }
            if self.buffer.len() < PRELUDE {
                return;
            }
            let (total, headers) = (self.number(0), self.number(4));
            let is_sound = crc32fast::hash(&self.buffer[..8]).to_be_bytes()
                == self.buffer[8..PRELUDE]
                && total >= PRELUDE + CHECKSUM
                && headers <= total - PRELUDE - CHECKSUM;
            if !is_sound {
                self.is_broken = true;
            } else if total > MAX_FRAME {
                self.skipping = total;
            } else if self.buffer.len() < total {
                return;
            } else {
                let raw = self.buffer.split_to(total).freeze();
                let (body, checksum) = raw.split_at(total - CHECKSUM);
                let is_whole = crc32fast::hash(body).to_be_bytes() == checksum;
                steps.push(if is_whole { Step::Whole(raw) } else { Step::Opaque(raw) });
            }
        }
    }

    /// What is left at the end of the stream: half a message.
    pub(crate) fn finish(&mut self, steps: &mut Vec<Step>) {
        if !self.buffer.is_empty() {
            steps.push(Step::Opaque(self.buffer.split().freeze()));
        }
    }

    /// Whether a message has begun that did not end, or nothing is known of where one begins.
    pub(crate) fn is_mid_message(&self) -> bool {
        self.is_broken || self.skipping > 0
    }

    fn number(&self, at: usize) -> usize {
        let bytes = &self.buffer[at..at + 4];
        bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
    }
}

// === impl Message ===

impl Message {
    /// Reads the headers of a message whose checksums hold; `None` when they are none.
    pub(crate) fn read(raw: &[u8]) -> Option<Self> {
        let length = u32::from_be_bytes(raw.get(4..8)?.try_into().ok()?) as usize;
        let end = PRELUDE + length;
        let mut message =
            Self { payload: end..raw.len().checked_sub(CHECKSUM)?, ..Self::default() };
        let mut headers = raw.get(PRELUDE..end)?;
        while !headers.is_empty() {
            let name = bytes(&mut headers, 1)?;
            let kind = *bytes_of(&mut headers, 1)?.first()?;
            // Booleans have no value; numbers, times and ids have one of fixed length.
            let value = match kind {
                0 | 1 => &[][..],
                2 => bytes_of(&mut headers, 1)?,
                3 => bytes_of(&mut headers, 2)?,
                4 => bytes_of(&mut headers, 4)?,
                5 | 8 => bytes_of(&mut headers, 8)?,
                6 | STRING => bytes(&mut headers, 2)?,
                9 => bytes_of(&mut headers, 16)?,
                _ => return None,
            };
            let value = || String::from_utf8_lossy(value).into_owned();
            match name {
                b":message-type" => message.kind = value(),
                b":event-type" | b":exception-type" | b":error-code" => message.name = value(),
                _ => {}
            }
        }
        Some(message)
    }
}

/// Bytes after their length, which takes `size` bytes.
fn bytes<'h>(rest: &mut &'h [u8], size: usize) -> Option<&'h [u8]> {
    let length = bytes_of(rest, size)?;
    let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    bytes_of(rest, length)
}

fn bytes_of<'h>(rest: &mut &'h [u8], length: usize) -> Option<&'h [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn steps(bytes: &[u8], size: usize) -> Vec<Step> {
        let (mut stream, mut steps) = (EventStream::default(), Vec::new());
        for piece in bytes.chunks(size) {
            stream.push(piece, &mut steps);
        }
        stream.finish(&mut steps);
        steps
    }

    #[test]
    fn the_documented_example_is_read() {
        // The vector "all headers absent, payload {'foo':'bar'}" of the AWS SDKs' test suite.
        let raw = [
            0x00, 0x00, 0x00, 0x1d, 0x00, 0x00, 0x00, 0x00, 0xfd, 0x52, 0x8c, 0x5a, 0x7b, 0x27,
            0x66, 0x6f, 0x6f, 0x27, 0x3a, 0x27, 0x62, 0x61, 0x72, 0x27, 0x7d, 0xc3, 0x65, 0x39,
            0x36,
        ];
        assert_eq!(steps(&raw, 1), [Step::Whole(Bytes::copy_from_slice(&raw))]);
        assert_eq!(message(&[], b"{'foo':'bar'}"), raw);
        assert_eq!(&raw[Message::read(&raw).unwrap().payload], b"{'foo':'bar'}");
    }

    #[test]
    fn headers_are_read_whatever_their_type() {
        let raw = message(&[(":message-type", "event"), (":event-type", "chunk")], b"{}");
        let read = Message::read(&raw).unwrap();
        assert_eq!((read.kind.as_str(), read.name.as_str()), ("event", "chunk"));
        assert_eq!(&raw[read.payload], b"{}");
        assert_eq!(Message::read(b""), None);
    }

    #[test]
    fn a_wrong_checksum_is_told_apart() {
        let mut raw = message(&[(":event-type", "a")], b"{}");
        let end = raw.len() - 1;
        raw[end] ^= 1;
        assert!(matches!(steps(&raw, 5).as_slice(), [Step::Opaque(_)]));
        raw[8] ^= 1;
        assert!(steps(&raw, 5).iter().all(|step| matches!(step, Step::Opaque(_))));
    }

    #[test]
    fn a_message_past_the_bound_is_not_held() {
        let mut raw = message(&[], &vec![b'x'; MAX_FRAME]);
        raw.extend_from_slice(&message(&[], b"{}"));
        let steps = steps(&raw, 1 << 16);
        assert!(matches!(steps[0], Step::Opaque(_)));
        assert!(matches!(steps.last(), Some(Step::Whole(_))));
    }
}
