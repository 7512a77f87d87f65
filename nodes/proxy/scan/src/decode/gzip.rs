//! `gzip`: members, each with a header and a checksum around deflated data.

use flate2::Crc;

use super::{Coding, DecodeError, Sink, deflate::Inflate};

/// A body in gzip format (RFC 1952).
#[derive(Debug)]
pub(super) struct Gzip {
    at: At,
    /// Header or trailer bytes of fixed length that came so far.
    fixed: Vec<u8>,
    flags: u8,
    /// Bytes of the header's parts of unbounded length.
    skipped: usize,
    inflate: Inflate,
    crc: Crc,
}

/// The part of a member that comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// No member came yet.
    Beginning,
    Header,
    ExtraLength,
    /// So many bytes are left of it.
    Extra(usize),
    Name,
    Comment,
    HeaderCheck,
    Data,
    Trailer,
    /// Behind a member: another may follow.
    Behind,
    /// In the zeros behind the last member.
    Padding,
}

const HEADER: usize = 10;
const TRAILER: usize = 8;
const HAS_HEADER_CHECK: u8 = 1 << 1;
const HAS_EXTRA: u8 = 1 << 2;
const HAS_NAME: u8 = 1 << 3;
const HAS_COMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0b1110_0000;
/// Bytes of a member's name and comment: an answer has neither.
const MAX_SKIPPED: usize = 64 << 10;

// === impl Gzip ===

impl Gzip {
    pub(super) fn new() -> Self {
        Self {
            at: At::Beginning,
            fixed: Vec::with_capacity(HEADER),
            flags: 0,
            skipped: 0,
            inflate: Inflate::new(Coding::Gzip, false),
            crc: Crc::new(),
        }
    }

    pub(super) fn push(&mut self, input: &[u8], sink: &mut Sink<'_>) -> Result<(), DecodeError> {
        let mut rest = input;
        while let [byte, behind @ ..] = rest {
            match self.at {
                At::Beginning => self.begin_member(),
                At::Behind if *byte == 0 => self.at = At::Padding,
                At::Behind if *byte == MAGIC[0] => self.begin_member(),
                At::Padding if *byte == 0 => rest = behind,
                At::Behind | At::Padding => {
                    return Err(DecodeError::TrailingData { coding: Coding::Gzip });
                }
                At::Header => {
                    rest = behind;
                    if self.take(*byte, HEADER) {
                        self.read_header()?;
                    } else if MAGIC.get(self.fixed.len() - 1).is_some_and(|magic| magic != byte) {
                        return Err(malformed("it does not begin as gzip does"));
                    }
                }
                At::ExtraLength => {
                    rest = behind;
                    if self.take(*byte, 2) {
                        let length = self.fixed.iter().rev();
                        let length = length.fold(0, |all, byte| all << 8 | usize::from(*byte));
                        self.at = At::Extra(length);
                        self.skip_absent();
                    }
                }
                At::Extra(left) => {
                    let taken = left.min(rest.len());
                    rest = rest.get(taken..).unwrap_or_default();
                    self.at = At::Extra(left - taken);
                    self.skip_absent();
                }
                At::Name | At::Comment => {
                    rest = behind;
                    self.skipped += 1;
                    if self.skipped > MAX_SKIPPED {
                        return Err(malformed("its header has a name or comment without end"));
                    }
                    if *byte == 0 {
                        self.at = if self.at == At::Name { At::Comment } else { At::HeaderCheck };
                        self.skip_absent();
                    }
                }
                At::HeaderCheck => {
                    rest = behind;
                    if self.take(*byte, 2) {
                        self.at = At::Data;
                    }
                }
                At::Data => {
                    let Self { inflate, crc, .. } = self;
                    let mut counted = |made: &[u8]| {
                        crc.update(made);
                        sink(made)
                    };
                    let Some(behind) = inflate.push(rest, &mut counted)? else { return Ok(()) };
                    rest = behind;
                    self.fixed.clear();
                    self.at = At::Trailer;
                }
                At::Trailer => {
                    rest = behind;
                    if self.take(*byte, TRAILER) {
                        self.check_trailer()?;
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn is_complete(&self) -> bool {
        matches!(self.at, At::Beginning | At::Behind | At::Padding)
    }

    fn begin_member(&mut self) {
        self.at = At::Header;
        self.fixed.clear();
        self.skipped = 0;
        self.inflate.reset();
        self.crc.reset();
    }

    /// Takes one of so many bytes; whether it was the last.
    fn take(&mut self, byte: u8, of: usize) -> bool {
        self.fixed.push(byte);
        self.fixed.len() == of
    }

    fn read_header(&mut self) -> Result<(), DecodeError> {
        if self.fixed.get(2) != Some(&8) {
            return Err(malformed("its method is not deflate"));
        }
        self.flags = self.fixed.get(3).copied().unwrap_or_default();
        if self.flags & RESERVED != 0 {
            return Err(malformed("its header has reserved flags"));
        }
        self.at = At::ExtraLength;
        self.skip_absent();
        Ok(())
    }

    /// Goes on to the next part that the member has.
    fn skip_absent(&mut self) {
        self.fixed.clear();
        loop {
            let has = |flag| self.flags & flag != 0;
            self.at = match self.at {
                At::ExtraLength if !has(HAS_EXTRA) => At::Name,
                At::Extra(0) => At::Name,
                At::Name if !has(HAS_NAME) => At::Comment,
                At::Comment if !has(HAS_COMMENT) => At::HeaderCheck,
                At::HeaderCheck if !has(HAS_HEADER_CHECK) => At::Data,
                _ => return,
            };
        }
    }

    fn check_trailer(&mut self) -> Result<(), DecodeError> {
        let number = |bytes: Option<&[u8]>| {
            let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
            bytes.map(u32::from_le_bytes)
        };
        if number(self.fixed.get(..4)) != Some(self.crc.sum()) {
            return Err(malformed("its checksum does not match"));
        }
        if number(self.fixed.get(4..)) != Some(self.crc.amount()) {
            return Err(malformed("its length does not match"));
        }
        self.at = At::Behind;
        Ok(())
    }
}

const MAGIC: [u8; 2] = [0x1f, 0x8b];

const fn malformed(problem: &'static str) -> DecodeError {
    DecodeError::Malformed { coding: Coding::Gzip, problem }
}
