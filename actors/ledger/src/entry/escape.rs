//! The format's strings, written.

use crate::hash::write_hex;

/// Appends a JSON string with the format's escapes.
#[inline]
pub(crate) fn write_string(text: &str, out: &mut Vec<u8>) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    write_escaped(text, out);
    out.push(b'"');
}

#[inline]
pub(super) fn write_escaped(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    let plain = plain_bytes(bytes);
    out.extend_from_slice(&bytes[..plain]);
    if plain < bytes.len() {
        write_escapes(&bytes[plain..], out);
    }
}

/// Appends text that begins with a character to escape.
#[cold]
fn write_escapes(bytes: &[u8], out: &mut Vec<u8>) {
    let mut rest = bytes;
    while let [byte, after @ ..] = rest {
        match byte {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            _ => {
                out.extend_from_slice(b"\\u00");
                write_hex(&[*byte], out);
            }
        }
        let plain = plain_bytes(after);
        out.extend_from_slice(&after[..plain]);
        rest = &after[plain..];
    }
}

/// How many bytes stand before the first that must be escaped, eight looked at in one step.
fn plain_bytes(bytes: &[u8]) -> usize {
    let (words, tail) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let special = special(u64::from_le_bytes(*word));
        if special != 0 {
            return index * 8 + special.trailing_zeros() as usize / 8;
        }
    }
    // The last word again as far as it has been seen, since that was plain; a short text filled up.
    let (word, start) = match bytes.last_chunk::<8>() {
        Some(word) => (*word, bytes.len() - 8),
        None => (std::array::from_fn(|at| *tail.get(at).unwrap_or(&b' ')), 0),
    };
    let special = special(u64::from_le_bytes(word));
    if special == 0 { bytes.len() } else { start + special.trailing_zeros() as usize / 8 }
}

/// Sets the high bit of the lowest byte that must be escaped; what it sets above that means nothing, and
/// without such a byte it is zero (Anderson, "Bit Twiddling Hacks", "Determine if a word has a byte less
/// than n").
const fn special(word: u64) -> u64 {
    const ONES: u64 = u64::from_le_bytes([0x01; 8]);
    const HIGHS: u64 = u64::from_le_bytes([0x80; 8]);
    const fn below(word: u64, limit: u8) -> u64 {
        word.wrapping_sub(ONES * limit as u64) & !word & HIGHS
    }
    let control = below(word, b' ');
    let quote = below(word ^ (ONES * b'"' as u64), 1);
    let backslash = below(word ^ (ONES * b'\\' as u64), 1);
    control | quote | backslash
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn strings_are_those_of_serde_json(text in "[ -~\u{0}-\u{ff}]{0,40}|\\PC{0,40}") {
            let mut written = Vec::new();
            write_string(&text, &mut written);
            // Two controls have a short escape in that crate and none in the format.
            let expected = serde_json::to_string(&text).unwrap();
            let mut expected = expected.replace("\\\\", "\u{1}");
            expected = expected.replace("\\b", "\\u0008").replace("\\f", "\\u000c");
            prop_assert_eq!(String::from_utf8(written).unwrap(), expected.replace('\u{1}', "\\\\"));
        }
    }
}
