//! The same walk written byte by byte, as the measure of the one that looks at eight at a time.

use proptest::prelude::*;

use super::{ENTRY, Malformed, Member, Places, Shape, hex, is_time};
use crate::format::MAX_DETAIL_KEY;

struct Reader<'l> {
    line: &'l [u8],
    at: usize,
}

// === impl Reader ===

impl<'l> Reader<'l> {
    fn expected<T>(&self, expected: &'static str) -> Result<T, Malformed> {
        Err(Malformed { at: self.at, expected })
    }

    fn byte(&self) -> Option<u8> {
        self.line.get(self.at).copied()
    }

    fn skip(&mut self, text: &str) -> bool {
        let found = self.line[self.at..].starts_with(text.as_bytes());
        self.at += if found { text.len() } else { 0 };
        found
    }

    fn literal(&mut self, text: &'static str) -> Result<(), Malformed> {
        if self.skip(text) { Ok(()) } else { self.expected(text) }
    }

    fn text(&mut self) -> Result<&'l [u8], Malformed> {
        const ESCAPES: [&str; 5] = ["\\\"", "\\\\", "\\n", "\\r", "\\t"];
        self.literal("\"")?;
        let start = self.at;
        let mut run = start;
        loop {
            match self.byte() {
                None => return Err(Malformed { at: run, expected: "a closing quote" }),
                Some(b'"') => break,
                Some(b'\\') => {
                    let controls = (0..0x20).filter(|code| !b"\n\r\t".contains(code));
                    let mut controls = controls.map(|code| format!("\\u{code:04x}"));
                    let escaped = ESCAPES.into_iter().any(|escape| self.skip(escape))
                        || controls.any(|escape| self.skip(&escape));
                    if !escaped {
                        return self.expected("a canonical escape");
                    }
                    run = self.at;
                }
                Some(0..0x20) => return self.expected("an escaped control character"),
                Some(_) => self.at += 1,
            }
        }
        self.at += 1;
        Ok(&self.line[start..self.at - 1])
    }

    fn number(&mut self) -> Result<(), Malformed> {
        let digits = self.line[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let text = std::str::from_utf8(&self.line[self.at..self.at + digits]).unwrap();
        if text.parse::<u64>().is_ok_and(|number| number.to_string() == text) {
            self.at += digits;
            return Ok(());
        }
        self.expected("an unsigned integer")
    }

    fn object(
        &mut self,
        members: &'static [Member],
        found: &mut dyn FnMut(usize, usize, usize),
    ) -> Result<(), Malformed> {
        self.literal("{")?;
        let mut next = 0;
        while !(next > 0 && self.skip("}")) {
            if next > 0 {
                self.literal(",")?;
            }
            let key_at = self.at;
            let key = self.text()?;
            let wrong = Malformed { at: key_at, expected: "the format's next member" };
            let ahead = members[next..].iter().position(|member| member.name.as_bytes() == key);
            let index = next + ahead.ok_or(wrong)?;
            if let Some(missing) = members[next..index].iter().find(|member| member.required) {
                return Err(Malformed { at: key_at, expected: missing.name });
            }
            self.literal(":")?;
            let start = self.at;
            self.value(&members[index].shape)?;
            found(index, start, self.at);
            next = index + 1;
        }
        match members[next..].iter().find(|member| member.required) {
            Some(missing) => self.expected(missing.name),
            None => Ok(()),
        }
    }

    fn value(&mut self, shape: &'static Shape) -> Result<(), Malformed> {
        match shape {
            Shape::Text => self.text().map(|_| ()),
            Shape::Number => self.number(),
            Shape::True => self.literal("true"),
            Shape::Object(members) => self.object(members, &mut |_, _, _| {}),
            Shape::Detail => self.detail(),
            Shape::List(item) => {
                self.literal("[")?;
                if self.skip("]") {
                    return Ok(());
                }
                loop {
                    self.value(item)?;
                    if !self.skip(",") {
                        return self.literal("]");
                    }
                }
            }
        }
    }

    fn detail(&mut self) -> Result<(), Malformed> {
        self.literal("{")?;
        let mut last: &[u8] = b"";
        loop {
            let at = self.at;
            let key = self.text()?;
            let plain = |byte: &u8| b"abcdefghijklmnopqrstuvwxyz0123456789_-.".contains(byte);
            if key <= last || key.len() > MAX_DETAIL_KEY || !key.iter().all(plain) {
                return Err(Malformed { at, expected: "the next ascending key" });
            }
            self.literal(":")?;
            self.text()?;
            last = key;
            if !self.skip(",") {
                return self.literal("}");
            }
        }
    }
}

fn plain_places(line: &str) -> Result<Places, Malformed> {
    let mut reader = Reader { line: line.as_bytes(), at: 0 };
    let mut places = [(0, 0); ENTRY.len()];
    reader.object(&ENTRY, &mut |index, start, end| places[index] = (start, end))?;
    if reader.at == line.len() { Ok(places) } else { reader.expected("the end of the line") }
}

fn plain_hex(text: &str) -> Option<[u8; 4]> {
    let digit = |c: char| c.to_digit(16).filter(|_| !c.is_ascii_uppercase());
    let digits: Option<Vec<u32>> = text.chars().map(digit).collect();
    let bytes: Vec<u8> = digits?
        .chunks(2)
        .map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | *digit as u8))
        .collect();
    bytes.try_into().ok().filter(|_| text.len() == 8)
}

/// What may be spliced into a line: pieces of the format and what comes near to them.
fn piece() -> impl Strategy<Value = String> {
    let members =
        ENTRY.iter().flat_map(|member| [member.key.to_owned(), format!(",{}", member.key)]);
    let members: Vec<_> = members.collect();
    prop_oneof![
        4 => "[\"\\\\{}:,0-9a-z\u{0}-\u{20}é\\]\\[]{0,3}",
        1 => "[a-z\"\\\\\u{0}\u{1f} ✓]{0,20}",
        1 => r#"\\(["\\nrtbfu/]|u00[01][0-9a-fA-F]|u[0-9a-f]{0,5})"#,
        1 => "[0-9]{0,22}",
        1 => prop::sample::select(members),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn a_line_is_read_as_byte_by_byte(
        number in 0_usize..3,
        splices in prop::collection::vec(
            (any::<prop::sample::Index>(), 0_usize..6, piece()),
            0..3,
        ),
    ) {
        let lines = include_str!("../../../tests/golden/entries.jsonl");
        let mut line = lines.lines().nth(number).unwrap().to_owned();
        for (place, removed, inserted) in splices {
            let bounds: Vec<_> = line.char_indices().map(|(at, _)| at).collect();
            let at = place.index(bounds.len());
            let end = bounds.get(at + removed).copied().unwrap_or(line.len());
            line.replace_range(bounds[at]..end, &inserted);
        }
        prop_assert_eq!(super::places(&line), plain_places(&line), "{}", line);
        for cut in 0..line.len().min(3) {
            let Some(shorter) = line.get(..line.len() - cut) else { continue };
            prop_assert_eq!(super::places(shorter), plain_places(shorter), "{}", shorter);
        }
    }

    #[test]
    fn hex_is_read_as_digit_by_digit(text in "[0-9a-f]{8}|[0-9a-gA-F:é]{7,9}") {
        prop_assert_eq!(hex::<4>(&text), plain_hex(&text));
    }

    #[test]
    fn one_wrong_character_is_no_time(at in 0_usize..27, c in any::<char>()) {
        let mut text: Vec<char> = "2026-11-22T20:51:29.123456Z".chars().collect();
        let digit = text[at].is_ascii_digit();
        let right = c == text[at] || (digit && c.is_ascii_digit());
        text[at] = c;
        prop_assert_eq!(is_time(&text.into_iter().collect::<String>()), right);
    }
}
