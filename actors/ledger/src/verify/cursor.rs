//! A reader of canonical JSON: one spelling per value, so no byte can change unseen.

/// A place in one line.
pub(super) struct Cursor<'l> {
    line: &'l str,
    at: usize,
}

/// Where a line leaves the format and what should stand there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed {
    /// Byte offset in the line.
    pub(super) at: usize,
    /// What the format has there.
    pub(super) expected: &'static str,
}

// === impl Cursor ===

impl<'l> Cursor<'l> {
    pub(super) const fn new(line: &'l str) -> Self {
        Self { line, at: 0 }
    }

    pub(super) const fn at(&self) -> usize {
        self.at
    }

    /// The next eight bytes, the first lowest; zeros stand past the end.
    #[inline]
    pub(super) fn word(&self) -> u64 {
        let rest = &self.line.as_bytes()[self.at..];
        match rest.first_chunk::<8>() {
            Some(word) => u64::from_le_bytes(*word),
            None => rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
        }
    }

    pub(super) const fn expected<T>(&self, expected: &'static str) -> Result<T, Malformed> {
        Err(Malformed { at: self.at, expected })
    }

    /// Steps over `text` if it stands here.
    #[inline]
    pub(super) fn skip(&mut self, text: &str) -> bool {
        let found = self.line.as_bytes()[self.at..].starts_with(text.as_bytes());
        self.at += if found { text.len() } else { 0 };
        found
    }

    /// Steps over bytes that [`Cursor::word`] has shown.
    #[inline]
    pub(super) const fn advance(&mut self, bytes: usize) {
        self.at += bytes;
    }

    #[inline]
    pub(super) fn literal(&mut self, text: &'static str) -> Result<(), Malformed> {
        if self.skip(text) { Ok(()) } else { self.expected(text) }
    }

    pub(super) fn end(&self) -> Result<(), Malformed> {
        if self.at == self.line.len() { Ok(()) } else { self.expected("the end of the line") }
    }

    /// A canonically escaped string, its escapes left as they are.
    pub(super) fn text(&mut self) -> Result<&'l str, Malformed> {
        let start = self.at + 1;
        self.step_over_text()?;
        Ok(&self.line[start..self.at - 1])
    }

    /// Steps over a canonically escaped string.
    #[inline]
    pub(super) fn step_over_text(&mut self) -> Result<(), Malformed> {
        let bytes = self.line.as_bytes();
        if bytes.get(self.at) != Some(&b'"') {
            return self.expected("\"");
        }
        self.at += 1;
        loop {
            let Some(run) = plain_run(&bytes[self.at..]) else {
                return self.expected("a closing quote");
            };
            self.at += run;
            match bytes[self.at] {
                b'"' => {
                    self.at += 1;
                    return Ok(());
                }
                b'\\' => self.escape()?,
                _ => return self.expected("an escaped control character"),
            }
        }
    }

    #[cold]
    fn escape(&mut self) -> Result<(), Malformed> {
        let bytes = &self.line.as_bytes()[self.at + 1..];
        let length = match bytes {
            [b'"' | b'\\' | b'n' | b'r' | b't', ..] => 2,
            [b'u', b'0', b'0', high @ b'0'..=b'1', low, ..] => {
                let control = match (high, low) {
                    (b'0', b'9' | b'a' | b'd') => false,
                    (_, b'0'..=b'9' | b'a'..=b'f') => true,
                    _ => false,
                };
                if !control {
                    return self.expected("a canonical escape");
                }
                6
            }
            _ => return self.expected("a canonical escape"),
        };
        self.at += length;
        Ok(())
    }

    /// An unsigned integer without leading zeros.
    #[inline]
    pub(super) fn number(&mut self) -> Result<u64, Malformed> {
        let rest = &self.line.as_bytes()[self.at..];
        let mut number = Some(0_u64);
        let mut digits = 0;
        while let Some(byte @ b'0'..=b'9') = rest.get(digits) {
            let digit = u64::from(byte - b'0');
            number = number.and_then(|number| number.checked_mul(10)?.checked_add(digit));
            digits += 1;
        }
        let canonical = digits == 1 || (digits > 1 && rest[0] != b'0');
        match number.filter(|_| canonical) {
            Some(number) => {
                self.at += digits;
                Ok(number)
            }
            None => self.expected("an unsigned integer"),
        }
    }
}

/// How many bytes stand before the first quote, backslash or control character, if there is one. Eight
/// bytes are looked at in one step: `(x - n * 0x01…) & !x & 0x80…` marks the bytes below `n`, exactly up to
/// the first of them.
#[inline]
fn plain_run(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 0xff;
    const HIGHS: u64 = ONES << 7;
    let marks = |word: u64| {
        let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word & HIGHS;
        let quote = word ^ (ONES * u64::from(b'"'));
        let backslash = word ^ (ONES * u64::from(b'\\'));
        below(word, 0x20) | below(quote, 1) | below(backslash, 1)
    };
    let (words, tail) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let marks = marks(u64::from_le_bytes(*word));
        if marks != 0 {
            return Some(index * 8 + marks.trailing_zeros() as usize / 8);
        }
    }
    let special = |byte: &u8| matches!(byte, 0..0x20 | b'"' | b'\\');
    tail.iter().position(special).map(|at| words.len() * 8 + at)
}

/// The text that canonical escapes stand for.
pub(super) fn unescape(escaped: &str) -> String {
    let mut text = String::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some(backslash) = rest.find('\\') {
        text.push_str(&rest[..backslash]);
        rest = &rest[backslash + 1..];
        let (c, length) = match rest.as_bytes().first() {
            Some(b'n') => ('\n', 1),
            Some(b'r') => ('\r', 1),
            Some(b't') => ('\t', 1),
            Some(b'u') => {
                let code = rest.get(1..5).and_then(|hex| u32::from_str_radix(hex, 16).ok());
                (code.and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER), 5)
            }
            Some(b'"') => ('"', 1),
            _ => ('\\', 1),
        };
        text.push(c);
        rest = rest.get(length..).unwrap_or_default();
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_of_a_string_is_read() {
        for text in [r#""""#, r#""ü\n\"\\\u0000\u001f""#] {
            let mut cursor = Cursor::new(text);
            assert!(cursor.text().is_ok() && cursor.end().is_ok(), "{text}");
        }
        for text in [
            r#""\u0041""#,
            r#""\u000a""#,
            r#""\u001F""#,
            r#""\/""#,
            r#""\b""#,
            "\"\n\"",
            "\"a",
            "\"\\",
        ] {
            assert!(Cursor::new(text).text().is_err(), "{text}");
        }
        assert_eq!(unescape(r#"a\n\"\\\u0001ü"#), "a\n\"\\\u{1}ü");
    }

    #[test]
    fn one_spelling_of_a_number_is_read() {
        assert_eq!(Cursor::new("0").number(), Ok(0));
        assert_eq!(Cursor::new("18446744073709551615").number(), Ok(u64::MAX));
        for text in ["01", "-1", "", "18446744073709551616", "x"] {
            assert!(Cursor::new(text).number().is_err(), "{text}");
        }
    }
}
