//! Texts with their JSON escapes resolved, so that a JSON text inside a string hides nothing.

use std::ops::Range;

use aa_protocol::{Action, action::StringSite};

/// A text without escapes, and where its bytes came from.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) text: String,
    /// Runs of bytes, in order. The last one is empty and stands for the end of both texts.
    runs: Vec<Run>,
}

/// Bytes that were copied one by one, or the bytes that one escape stands for.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Where it starts in the decoded text.
    decoded: usize,
    /// Where it starts in the original.
    original: usize,
    is_escape: bool,
}

/// How often a string is decoded again: a JSON text in a JSON text in a JSON text.
const MAX_LAYERS: usize = 3;

/// Visits every string that an action carries, and each of its decoded forms after it, until `visit`
/// says `false`.
pub(crate) fn visit_texts(
    action: &Action,
    visit: &mut impl FnMut(StringSite<'_>, &str, Option<&Decoded>) -> bool,
) {
    action.visit_strings(&mut |site, text| {
        if !visit(site, text, None) {
            return false;
        }
        let mut layer = Decoded::of(text);
        for _ in 0..MAX_LAYERS {
            let Some(decoded) = layer.take() else { break };
            if !visit(site, &decoded.text, Some(&decoded)) {
                return false;
            }
            layer = decoded.again();
        }
        true
    });
}

// === impl Decoded ===

impl Decoded {
    /// Resolves the escapes of JSON strings (RFC 8259, §7) wherever they stand. `None` when there are none. It
    /// needs no valid JSON around them: a scanner that could be made to fail could be made to miss.
    pub(crate) fn of(text: &str) -> Option<Self> {
        let mut decoded = Self { text: String::new(), runs: Vec::new() };
        let mut copied = 0;
        let mut at = 0;
        while let Some(next) = text.get(at..).and_then(|rest| rest.find('\\')) {
            let backslash = at + next;
            let Some((character, width)) = escape(&text[backslash..]) else {
                at = backslash + 1;
                continue;
            };
            if decoded.runs.is_empty() {
                decoded.text.reserve(text.len());
            }
            decoded.copy(text, copied..backslash);
            decoded.run(backslash, true);
            decoded.text.push(character);
            at = backslash + width;
            copied = at;
        }
        if decoded.runs.is_empty() {
            return None;
        }
        decoded.copy(text, copied..text.len());
        decoded.run(text.len(), false);
        Some(decoded)
    }

    /// Resolves what is escaped in the decoded text once more. Places still point to the first original.
    pub(crate) fn again(&self) -> Option<Self> {
        let mut again = Self::of(&self.text)?;
        let mut runs = Vec::with_capacity(self.runs.len() + again.runs.len());
        for (index, run) in again.runs.iter().enumerate() {
            let end = again.runs.get(index + 1).map_or(run.decoded, |next| next.decoded);
            let start = Run { original: self.origin(run.original), ..*run };
            if run.is_escape {
                runs.push(start);
                continue;
            }
            // The runs of this text inside the run that was copied from it.
            runs.push(Run {
                is_escape: self.run_at(run.original).is_some_and(|run| run.is_escape),
                ..start
            });
            let first = self.runs.partition_point(|inner| inner.decoded <= run.original);
            let copied_to = run.original + (end - run.decoded);
            let inside = self.runs[first..].iter().take_while(|inner| inner.decoded < copied_to);
            runs.extend(inside.map(|inner| Run {
                decoded: run.decoded + (inner.decoded - run.original),
                ..*inner
            }));
        }
        again.runs = runs;
        Some(again)
    }

    /// The bytes of the original that a range of the decoded text came from.
    pub(crate) fn original(&self, range: Range<usize>) -> Range<usize> {
        self.origin(range.start)..self.origin(range.end)
    }

    /// Where the byte at `at` came from; for every byte of an escaped character, where its escape starts.
    fn origin(&self, at: usize) -> usize {
        self.run_at(at)
            .map_or(at, |run| run.original + if run.is_escape { 0 } else { at - run.decoded })
    }

    fn run_at(&self, at: usize) -> Option<&Run> {
        let after = self.runs.partition_point(|run| run.decoded <= at);
        self.runs.get(after.checked_sub(1)?)
    }

    fn copy(&mut self, text: &str, range: Range<usize>) {
        if !range.is_empty() {
            self.run(range.start, false);
            self.text.push_str(&text[range]);
        }
    }

    fn run(&mut self, original: usize, is_escape: bool) {
        self.runs.push(Run { decoded: self.text.len(), original, is_escape });
    }
}

/// The character that an escape at the start of `text` stands for, and the bytes it takes.
fn escape(text: &str) -> Option<(char, usize)> {
    let bytes = text.as_bytes();
    if bytes.first() != Some(&b'\\') {
        return None;
    }
    let simple = match bytes.get(1)? {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return unicode_escape(bytes),
        _ => return None,
    };
    Some((simple, 2))
}

fn unicode_escape(bytes: &[u8]) -> Option<(char, usize)> {
    let unit = |bytes: &[u8]| {
        let digits = bytes.get(2..6)?;
        let hex = digits.iter().all(u8::is_ascii_hexdigit);
        let digits =
            std::str::from_utf8(digits).ok().filter(|_| hex && bytes.starts_with(b"\\u"))?;
        u32::from_str_radix(digits, 16).ok()
    };
    let high = unit(bytes)?;
    if let Some(character) = char::from_u32(high) {
        return Some((character, 6));
    }
    let low = unit(&bytes[6..]).filter(|low| (0xdc00..0xe000).contains(low) && high < 0xdc00);
    match low.and_then(|low| char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00))) {
        Some(character) => Some((character, 12)),
        None => Some((char::REPLACEMENT_CHARACTER, 6)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escapes_resolve_and_point_back_to_where_they_stood() {
        let text = r#"{"k":"\u0073k-\ud83d\ude00\"\ud800"}"#;
        let decoded = Decoded::of(text).unwrap();
        assert_eq!(decoded.text, "{\"k\":\"sk-😀\"\u{fffd}\"}");
        let start = decoded.text.find("sk-").unwrap();
        let range = decoded.original(start..start + 3);
        assert_eq!(&text[range], r"\u0073k-");
        assert!(Decoded::of("no escapes").is_none());
        assert!(Decoded::of(r"\q \u12").is_none());
    }

    proptest! {
        /// Byte for byte, decoding one character after the other gives the same text and the same places.
        #[test]
        fn decoding_is_what_one_character_after_the_other_gives(
            parts in prop::collection::vec(part(), 0..12),
        ) {
            let text = parts.concat();
            let mut plain = plain(&text, &|at| at);
            let mut decoded = Decoded::of(&text);
            for _ in 0..3 {
                prop_assert_eq!(decoded.is_some(), plain.is_some());
                let (Some(fast), Some((expected, origins))) = (decoded, plain) else { break };
                prop_assert_eq!(&fast.text, &expected);
                let characters = origins.iter().enumerate();
                for (at, origin) in characters.filter(|(at, _)| expected.is_char_boundary(*at)) {
                    prop_assert_eq!(fast.origin(at), *origin, "byte {} of {:?}", at, &text);
                }
                plain = self::plain(&expected, &|at| origins[at]);
                decoded = fast.again();
            }
        }
    }

    fn part() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![
            "a",
            "é",
            "\\",
            "\\\\",
            "\\n",
            "\\\"",
            "\\u0041",
            "\\\\u0041",
            "\\ud83d\\ude00",
            "\\ud800",
            "u005c",
            "\\u005c",
            "n",
            "\"",
            "0041",
            "\\q",
        ])
    }

    fn plain(text: &str, original: &dyn Fn(usize) -> usize) -> Option<(String, Vec<usize>)> {
        let (mut decoded, mut origins, mut changed) = (String::new(), Vec::new(), false);
        let mut at = 0;
        while let Some(character) = text[at..].chars().next() {
            let resolved = escape(&text[at..]);
            changed |= resolved.is_some();
            let (value, width) = resolved.unwrap_or((character, character.len_utf8()));
            decoded.push(value);
            origins.extend(std::iter::repeat_n(original(at), value.len_utf8()));
            at += width;
        }
        origins.push(original(text.len()));
        changed.then_some((decoded, origins))
    }

    #[test]
    fn a_second_layer_of_escapes_resolves_too() {
        let decoded = Decoded::of(r#""{\"k\":\"\\u0073k\"}""#).unwrap().again().unwrap();
        assert_eq!(decoded.text, r#""{"k":"sk"}""#);
        assert_eq!(decoded.original(7..8), 10..17);
    }
}
