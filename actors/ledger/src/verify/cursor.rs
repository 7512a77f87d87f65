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

    pub(super) const fn expected<T>(&self, expected: &'static str) -> Result<T, Malformed> {
        Err(Malformed { at: self.at, expected })
    }

    /// Steps over `text` if it stands here.
    pub(super) fn skip(&mut self, text: &str) -> bool {
        let found = self.line.as_bytes()[self.at..].starts_with(text.as_bytes());
        self.at += if found { text.len() } else { 0 };
        found
    }

    pub(super) fn literal(&mut self, text: &'static str) -> Result<(), Malformed> {
        if self.skip(text) { Ok(()) } else { self.expected(text) }
    }

    pub(super) fn end(&self) -> Result<(), Malformed> {
        if self.at == self.line.len() { Ok(()) } else { self.expected("the end of the line") }
    }

    /// A canonically escaped string, its escapes left as they are.
    pub(super) fn text(&mut self) -> Result<&'l str, Malformed> {
        self.literal("\"")?;
        let start = self.at;
        let bytes = self.line.as_bytes();
        loop {
            let plain = bytes[self.at..].iter().position(|&byte| SPECIAL[usize::from(byte)]);
            let Some(plain) = plain else { return self.expected("a closing quote") };
            self.at += plain;
            match bytes[self.at] {
                b'"' => {
                    self.at += 1;
                    return Ok(&self.line[start..self.at - 1]);
                }
                b'\\' => self.escape()?,
                _ => return self.expected("an escaped control character"),
            }
        }
    }

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
    pub(super) fn number(&mut self) -> Result<u64, Malformed> {
        let rest = &self.line[self.at..];
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let canonical = digits == 1 || !rest.starts_with('0');
        match rest[..digits].parse() {
            Ok(number) if canonical => {
                self.at += digits;
                Ok(number)
            }
            _ => self.expected("an unsigned integer"),
        }
    }
}

/// Bytes at which a string's plain run ends.
const SPECIAL: [bool; 256] = {
    let mut special = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        special[byte] = true;
        byte += 1;
    }
    special[b'"' as usize] = true;
    special[b'\\' as usize] = true;
    special
};

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
