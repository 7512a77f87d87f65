//! The inside of a JSON string, in both directions.

use std::borrow::Cow;

/// How much of a string's inside can be read before more of it comes.
pub(crate) struct Readable {
    /// Bytes from the beginning that hold no half escape, character or surrogate pair.
    pub(crate) length: usize,
}

/// The length of `\uXXXX`.
const UNICODE_ESCAPE: usize = 6;

/// The text of a string's inside. Never fails: a lone surrogate, an unknown escape and bytes that are not
/// UTF-8 become U+FFFD.
pub(crate) fn unescape(inside: &[u8]) -> Cow<'_, str> {
    let Some(first) = memchr::memchr(b'\\', inside) else {
        return String::from_utf8_lossy(inside);
    };
    let mut text = String::with_capacity(inside.len());
    let (mut rest, mut escape) = (inside, first);
    loop {
        text.push_str(&String::from_utf8_lossy(&rest[..escape]));
        rest = &rest[escape..];
        let length = push_escape(rest, &mut text);
        rest = &rest[length..];
        match memchr::memchr(b'\\', rest) {
            Some(next) => escape = next,
            None => break,
        }
    }
    text.push_str(&String::from_utf8_lossy(rest));
    Cow::Owned(text)
}

/// Writes `text` as the inside of a JSON string (RFC 8259, section 7).
pub(crate) fn escape_into(text: &str, out: &mut Vec<u8>) {
    let mut start = 0;
    for (at, byte) in text.bytes().enumerate() {
        let short: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0x00..=0x1f => b"",
            _ => continue,
        };
        out.extend_from_slice(&text.as_bytes()[start..at]);
        start = at + 1;
        if short.is_empty() {
            out.extend_from_slice(format!("\\u{byte:04x}").as_bytes());
        } else {
            out.extend_from_slice(short);
        }
    }
    out.extend_from_slice(&text.as_bytes()[start..]);
}

/// Appends what the escape at the beginning of `rest` stands for; its length in bytes.
fn push_escape(rest: &[u8], text: &mut String) -> usize {
    let plain = match rest.get(1) {
        Some(b'u') => return push_unicode_escape(rest, text),
        Some(b'n') => '\n',
        Some(b't') => '\t',
        Some(b'r') => '\r',
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(byte @ (b'"' | b'\\' | b'/')) => char::from(*byte),
        // The byte after a backslash may begin a character of several bytes: it stays for the next round.
        Some(_) | None => {
            text.push(char::REPLACEMENT_CHARACTER);
            return 1;
        }
    };
    text.push(plain);
    2
}

fn push_unicode_escape(rest: &[u8], text: &mut String) -> usize {
    let Some(first) = unit(rest) else {
        text.push(char::REPLACEMENT_CHARACTER);
        return 2;
    };
    if let Some(char) = char::from_u32(first) {
        text.push(char);
        return UNICODE_ESCAPE;
    }
    let low = unit(&rest[UNICODE_ESCAPE..]).filter(|low| (0xdc00..0xe000).contains(low));
    if let (0xd800..0xdc00, Some(low)) = (first, low) {
        let code = 0x10000 + ((first - 0xd800) << 10) + (low - 0xdc00);
        text.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
        return 2 * UNICODE_ESCAPE;
    }
    text.push(char::REPLACEMENT_CHARACTER);
    UNICODE_ESCAPE
}

/// The UTF-16 unit of the `\uXXXX` at the beginning, if one is there.
fn unit(rest: &[u8]) -> Option<u32> {
    let escape = rest.get(..UNICODE_ESCAPE)?;
    let digits = escape.strip_prefix(b"\\u")?;
    digits.iter().try_fold(0, |unit, digit| Some(unit * 16 + char::from(*digit).to_digit(16)?))
}

// === impl Readable ===

impl Readable {
    /// Of `inside`, which goes on after what is there.
    pub(crate) fn of(inside: &[u8]) -> Self {
        Self { length: before_half_char(&inside[..before_half_escape(inside)]) }
    }
}

/// The end of the last whole escape, and of what follows it. An escape is looked for from the front, since a
/// backslash may itself be escaped.
fn before_half_escape(inside: &[u8]) -> usize {
    let mut at = 0;
    while let Some(found) = memchr::memchr(b'\\', &inside[at..]) {
        let start = at + found;
        let rest = &inside[start..];
        if rest.len() < 2 {
            return start;
        }
        if rest[1] != b'u' {
            at = start + 2;
            continue;
        }
        let digits = rest[2..].iter().take(4).take_while(|byte| byte.is_ascii_hexdigit()).count();
        if digits < 4 {
            if rest.len() == 2 + digits {
                return start;
            }
            at = start + 2;
            continue;
        }
        let is_high = unit(rest).is_some_and(|unit| (0xd800..0xdc00).contains(&unit));
        let low = &rest[UNICODE_ESCAPE..];
        if is_high && may_become_escape(low) {
            return start;
        }
        at = start + UNICODE_ESCAPE;
    }
    inside.len()
}

/// Whether these last bytes may be the beginning of a `\uXXXX` that is not all there.
fn may_become_escape(rest: &[u8]) -> bool {
    rest.len() < UNICODE_ESCAPE
        && rest.iter().enumerate().all(|(at, byte)| match at {
            0 => *byte == b'\\',
            1 => *byte == b'u',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// The length without a character at the end that is not all there.
pub(crate) fn before_half_char(bytes: &[u8]) -> usize {
    let tail = bytes.len().saturating_sub(3);
    let lead = (tail..bytes.len()).rev().find(|at| bytes[*at] & 0xc0 != 0x80);
    match lead.map(|at| (at, std::str::from_utf8(&bytes[at..]))) {
        Some((at, Err(error))) if error.error_len().is_none() => at,
        _ => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    #[test]
    fn escapes_are_read_and_what_is_no_escape_is_replaced() {
        assert_eq!(
            unescape(br#"a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00z"#),
            "a\"\\/\u{8}\u{c}\n\r\té😀z"
        );
        assert_eq!(unescape(br"\ud83d!"), "\u{fffd}!");
        assert_eq!(unescape(br"\ud83d\u0041"), "\u{fffd}A");
        assert_eq!(unescape(br"\ude00"), "\u{fffd}");
        assert_eq!(unescape(br"\u12x"), "\u{fffd}12x");
        assert_eq!(unescape(br"\q\"), "\u{fffd}q\u{fffd}");
        assert_eq!(unescape(b"\\\xc3\xa9"), "\u{fffd}é");
    }

    proptest! {
        #[test]
        fn what_is_escaped_reads_back(text: String) {
            let mut inside = Vec::new();
            escape_into(&text, &mut inside);
            prop_assert_eq!(unescape(&inside), text.as_str());
            let quoted = format!("\"{}\"", String::from_utf8(inside).unwrap());
            prop_assert_eq!(serde_json::from_str::<String>(&quoted).unwrap(), text);
        }

        #[test]
        fn read_in_pieces_it_is_the_same_text(
            inside in vec(select(b"\\\\\\uuuud8D3dc0\"nab\xf0\x9f\x98\x80\xc3\xa9\xff".to_vec()), 0..64),
        ) {
            let mut text = String::new();
            let mut carry = Vec::new();
            for byte in &inside {
                carry.push(*byte);
                let length = Readable::of(&carry).length;
                text.push_str(&unescape(&carry[..length]));
                carry.drain(..length);
                prop_assert!(carry.len() < 12, "{} bytes are held", carry.len());
            }
            text.push_str(&unescape(&carry));
            prop_assert_eq!(text, unescape(&inside));
        }
    }
}
