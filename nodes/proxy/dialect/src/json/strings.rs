//! The strings of a JSON text that comes in pieces, as they come: nothing is waited for but half an escape.

use bytes::{Bytes, BytesMut};

use super::string::{Readable, unescape};
use crate::frame::{Text, TextForm};

/// A lexer that knows only whether it is inside a string. It takes any bytes for JSON, so that no error in a
/// text hides what follows.
#[derive(Default)]
pub(crate) struct Strings {
    /// The channel of the string that is open.
    open: Option<u64>,
    /// Half an escape or character, at most 11 bytes.
    carry: Bytes,
}

/// What of a text may go on.
pub(crate) struct Strung {
    /// The bytes, without what is carried over.
    pub(crate) raw: Bytes,
    /// Strings and their pieces in `raw`.
    pub(crate) texts: Vec<Text>,
}

// === impl Strings ===

impl Strings {
    /// Takes the next bytes; channels are numbered on from `next_channel`.
    pub(crate) fn push(&mut self, bytes: Bytes, next_channel: &mut u64) -> Strung {
        let raw = self.joined(bytes);
        let mut texts = Vec::new();
        let mut at = 0;
        loop {
            let Some(channel) = self.open else {
                let Some(quote) = memchr::memchr(b'"', &raw[at..]) else { break };
                at += quote + 1;
                self.open = Some(*next_channel);
                *next_channel += 1;
                continue;
            };
            if let Some(length) = length_of_inside(&raw[at..]) {
                texts.push(text(channel, &raw, at, length, true));
                self.open = None;
                at += length + 1;
                continue;
            }
            let length = Readable::of(&raw[at..]).length;
            if length > 0 {
                texts.push(text(channel, &raw, at, length, false));
            }
            self.carry = raw.slice(at + length..);
            return Strung { raw: raw.slice(..at + length), texts };
        }
        Strung { raw, texts }
    }

    /// What was carried over, at the end of the text.
    pub(crate) fn finish(&mut self) -> Strung {
        let raw = std::mem::take(&mut self.carry);
        let open = self.open.take().filter(|_| !raw.is_empty());
        let texts = open.map(|channel| text(channel, &raw, 0, raw.len(), true));
        Strung { texts: texts.into_iter().collect(), raw }
    }

    fn joined(&mut self, bytes: Bytes) -> Bytes {
        if self.carry.is_empty() {
            return bytes;
        }
        let mut joined = BytesMut::with_capacity(self.carry.len() + bytes.len());
        joined.extend_from_slice(&self.carry);
        joined.extend_from_slice(&bytes);
        self.carry = Bytes::new();
        joined.freeze()
    }
}

fn text(channel: u64, raw: &[u8], at: usize, length: usize, last: bool) -> Text {
    let at = at..at + length;
    let text = unescape(&raw[at.clone()]).into_owned();
    Text { channel, text, at, last, form: TextForm::Json }
}

/// How long the inside of a string is, when its end is there.
pub(crate) fn length_of_inside(rest: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr::memchr2(b'"', b'\\', rest.get(at..)?)?;
        if rest[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &[u8], size: usize) -> (Vec<u8>, Vec<String>) {
        let (mut strings, mut next) = (Strings::default(), 0);
        let mut read: Vec<Strung> = text
            .chunks(size)
            .map(|piece| strings.push(Bytes::copy_from_slice(piece), &mut next))
            .collect();
        read.push(strings.finish());
        let mut whole = vec![String::new(); usize::try_from(next).unwrap()];
        for text in read.iter().flat_map(|strung| &strung.texts) {
            whole[usize::try_from(text.channel).unwrap()].push_str(&text.text);
        }
        (read.iter().flat_map(|strung| strung.raw.to_vec()).collect(), whole)
    }

    #[test]
    fn every_string_is_a_channel_of_its_own() {
        let text = br#"{"a\"b": ["c\u0041", "", 1]}"#;
        assert_eq!(read(text, 1000).1, ["a\"b", "cA", ""]);
        assert_eq!(read(text, 1), read(text, 1000));
    }

    proptest! {
        #[test]
        fn pieces_read_like_the_whole(text in r#"[\\"a-cu0-9é😀{},:]{0,60}"#, size in 1..20_usize) {
            let (raw, whole) = read(text.as_bytes(), size);
            prop_assert_eq!(raw, text.as_bytes());
            prop_assert_eq!(whole, read(text.as_bytes(), usize::MAX).1);
        }
    }
}
