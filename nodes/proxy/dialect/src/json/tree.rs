//! A JSON text as a tree that knows where its strings stand.

use std::{borrow::Cow, ops::Range};

use serde_json::{Map, Value};

use super::string::unescape;

/// One value.
#[derive(Debug)]
pub(crate) enum Node<'t> {
    Null,
    Bool(bool),
    Number(&'t str),
    String(Str<'t>),
    Array(Vec<Self>),
    Object(Vec<(Str<'t>, Self)>),
}

/// A string.
#[derive(Debug)]
pub(crate) struct Str<'t> {
    /// What it says.
    pub(crate) text: Cow<'t, str>,
    /// The place of its inside, without the quotes.
    pub(crate) at: Range<usize>,
}

/// What keeps a text from being read: a syntax error, or a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotRead;

/// The deepest nesting that is read.
pub(crate) const MAX_DEPTH: usize = 128;

/// The most values of one text, so that eight MiB of `[1,1,1…` do not become gigabytes.
pub(crate) const MAX_NODES: usize = 256 * 1024;

struct Parser<'t> {
    text: &'t [u8],
    at: usize,
    nodes: usize,
}

/// Reads one value that fills `text`.
pub(crate) fn parse(text: &[u8]) -> Result<Node<'_>, NotRead> {
    let mut parser = Parser { text, at: 0, nodes: 0 };
    let node = parser.value(0)?;
    parser.space();
    if parser.at == text.len() { Ok(node) } else { Err(NotRead) }
}

// === impl Node ===

impl<'t> Node<'t> {
    /// The member of this name; the last of several, as JavaScript and Python read them.
    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => {
                let mut found = members.iter().rev().filter(|(key, _)| key.text == name);
                found.next().map(|(_, member)| member)
            }
            _ => None,
        }
    }

    /// The member at the end of a path of names.
    pub(crate) fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |node, name| node.get(name))
    }

    pub(crate) fn str(&self) -> Option<&str> {
        match self {
            Self::String(string) => Some(&string.text),
            _ => None,
        }
    }

    pub(crate) fn string(&self) -> Option<&Str<'t>> {
        match self {
            Self::String(string) => Some(string),
            _ => None,
        }
    }

    /// The text of a member.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Self::str)
    }

    /// A whole number that is not negative.
    pub(crate) fn count(&self, name: &str) -> Option<u64> {
        match self.get(name)? {
            Self::Number(number) => number.parse().ok().or_else(|| {
                let float: f64 = number.parse().ok()?;
                let is_count = (0.0..9e15).contains(&float) && float.fract() == 0.0;
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                is_count.then_some(float as u64)
            }),
            _ => None,
        }
    }

    pub(crate) fn items(&self) -> &[Self] {
        match self {
            Self::Array(items) => items,
            _ => &[],
        }
    }

    /// The items of a member that is an array.
    pub(crate) fn list(&self, name: &str) -> &[Self] {
        self.get(name).map_or(&[], Self::items)
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// Without the places. A number that is none becomes a string.
    pub(crate) fn to_value(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(bool) => Value::Bool(*bool),
            Self::Number(number) => {
                serde_json::from_str(number).unwrap_or_else(|_| Value::String((*number).to_owned()))
            }
            Self::String(string) => Value::String(string.text.clone().into_owned()),
            Self::Array(items) => items.iter().map(Self::to_value).collect(),
            Self::Object(members) => {
                let members = members.iter();
                let members =
                    members.map(|(key, member)| (key.text.clone().into_owned(), member.to_value()));
                Value::Object(members.collect::<Map<_, _>>())
            }
        }
    }
}

// === impl Parser ===

impl<'t> Parser<'t> {
    fn value(&mut self, depth: usize) -> Result<Node<'t>, NotRead> {
        self.nodes += 1;
        if depth > MAX_DEPTH || self.nodes > MAX_NODES {
            return Err(NotRead);
        }
        self.space();
        match self.peek()? {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => Ok(Node::String(self.string()?)),
            b't' => self.word(b"true", Node::Bool(true)),
            b'f' => self.word(b"false", Node::Bool(false)),
            b'n' => self.word(b"null", Node::Null),
            _ => self.number(),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Node<'t>, NotRead> {
        self.at += 1;
        let mut members = Vec::new();
        self.space();
        if self.peek()? == b'}' {
            self.at += 1;
            return Ok(Node::Object(members));
        }
        loop {
            self.space();
            let key = self.string()?;
            self.space();
            self.expect(b':')?;
            members.push((key, self.value(depth + 1)?));
            self.space();
            match self.next()? {
                b',' => {}
                b'}' => return Ok(Node::Object(members)),
                _ => return Err(NotRead),
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Node<'t>, NotRead> {
        self.at += 1;
        let mut items = Vec::new();
        self.space();
        if self.peek()? == b']' {
            self.at += 1;
            return Ok(Node::Array(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.space();
            match self.next()? {
                b',' => {}
                b']' => return Ok(Node::Array(items)),
                _ => return Err(NotRead),
            }
        }
    }

    fn string(&mut self) -> Result<Str<'t>, NotRead> {
        self.expect(b'"')?;
        let start = self.at;
        loop {
            let found = memchr::memchr2(b'"', b'\\', &self.text[self.at..]).ok_or(NotRead)?;
            self.at += found + 1;
            if self.text[self.at - 1] == b'"' {
                let at = start..self.at - 1;
                // No JSON; and the data of an event is written in several lines there.
                if memchr::memchr(b'\n', &self.text[at.clone()]).is_some() {
                    return Err(NotRead);
                }
                return Ok(Str { text: unescape(&self.text[at.clone()]), at });
            }
            // What is escaped ends no string.
            self.at += 1;
            if self.at > self.text.len() {
                return Err(NotRead);
            }
        }
    }

    fn number(&mut self) -> Result<Node<'t>, NotRead> {
        let rest = &self.text[self.at..];
        let length = rest
            .iter()
            .take_while(|byte| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'))
            .count();
        let number = std::str::from_utf8(&rest[..length]).map_err(|_| NotRead)?;
        if number.parse::<f64>().is_err() {
            return Err(NotRead);
        }
        self.at += length;
        Ok(Node::Number(number))
    }

    fn word(&mut self, word: &[u8], node: Node<'t>) -> Result<Node<'t>, NotRead> {
        if !self.text[self.at..].starts_with(word) {
            return Err(NotRead);
        }
        self.at += word.len();
        Ok(node)
    }

    fn space(&mut self) {
        let rest = &self.text[self.at..];
        self.at +=
            rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).count();
    }

    fn peek(&self) -> Result<u8, NotRead> {
        self.text.get(self.at).copied().ok_or(NotRead)
    }

    fn next(&mut self) -> Result<u8, NotRead> {
        let byte = self.peek()?;
        self.at += 1;
        Ok(byte)
    }

    fn expect(&mut self, byte: u8) -> Result<(), NotRead> {
        if self.next()? == byte { Ok(()) } else { Err(NotRead) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_tree_says_what_serde_json_says() {
        for text in [
            r#"{"a":[1,-2.5e3,true,false,null,"x\n\u00e9"],"b":{},"c":[]}"#,
            " [ ] ",
            "\"\"",
            r#"{"a":{"b":{"c":"d"}}}"#,
        ] {
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(parse(text.as_bytes()).unwrap().to_value(), value);
        }
        for text in ["", "{", "[1,]", "{\"a\"}", "\"\\", "\"\\\"", "tru", "1 2", "{,}", "--"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn depth_and_size_are_bounded() {
        assert!(parse("[".repeat(1_000_000).as_bytes()).is_err());
        assert!(parse(format!("[{}1]", "1,".repeat(MAX_NODES)).as_bytes()).is_err());
    }

    #[test]
    fn a_string_stands_where_it_says() {
        let text = br#"{"key": "va\u0041"}"#;
        let tree = parse(text).unwrap();
        let string = tree.get("key").and_then(Node::string).unwrap();
        assert_eq!(string.text, "vaA");
        assert_eq!(&text[string.at.clone()], br"va\u0041");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text: Vec<u8>) {
            let _ = parse(&text);
        }

        #[test]
        fn json_like_text_is_read_as_serde_json_reads_it(text in r#"[\[\]{}",:0-9a-f\\u \-]{0,40}"#) {
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                prop_assert_eq!(parse(text.as_bytes()).unwrap().to_value(), value);
            }
        }
    }
}
