//! Text → tree of positioned nodes, for YAML and JSON alike (JSON is read as the YAML 1.2 it is).
//!
//! A serde deserialiser stops at the first error and forgets places; a tree lets the checks that follow
//! report everything at once, each with its exact position.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use granit_parser::{Event, Options, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};

use crate::diagnostic::{Diagnostic, DiagnosticCode, Place, Report, quoted};

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) place: Place,
    /// Bytes of the source, quotes included.
    pub(crate) bytes: Range<usize>,
}

/// The core schema of YAML 1.2.2, §10.3.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Boolean(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Member>),
}

/// One key of a map and its value.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) key: String,
    pub(crate) place: Place,
    pub(crate) node: Node,
}

/// The largest source that is read, in bytes.
pub(crate) const MAX_SOURCE: usize = 1024 * 1024;
const MAX_NODES: usize = 50_000;
const MAX_DEPTH: usize = 32;
/// The most bytes of text that aliases repeat.
const MAX_REPEATED: usize = MAX_SOURCE;
/// The most characters of a key that a path shows.
const MAX_KEY: usize = 160;

struct Builder<'s, 'r> {
    events: Parser<'s, StrInput<'s>>,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    repeated: usize,
    path: String,
    report: &'r mut Report,
}

/// Nothing more can be read; the report says why.
struct Stop;

/// Reads the single document in `source`. `None` when it could not be read, and then the report has an
/// error; errors that leave the rest readable (a duplicate key) are reported beside a tree.
pub(crate) fn parse(source: &str, report: &mut Report) -> Option<Node> {
    let options = granit_parser::options! {
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
        emit_comments: false,
    };
    let events = parser(source, options);
    let mut builder = Builder {
        events,
        anchors: HashMap::new(),
        nodes: 0,
        repeated: 0,
        path: String::new(),
        report,
    };
    builder.document().ok()
}

fn parser(source: &str, options: Options) -> Parser<'_, StrInput<'_>> {
    Parser::new_from_str_with_options(source, options)
}

/// The path of a member of `path`. A key longer than any known one is cut, so that what stands under a
/// long key does not each repeat it.
pub(crate) fn member_path(path: &str, key: &str) -> String {
    let cut = key.char_indices().nth(MAX_KEY).map(|(end, _)| format!("{}…", &key[..end]));
    let key = cut.as_deref().unwrap_or(key);
    let plain =
        !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    match (path.is_empty(), plain) {
        (true, true) => key.to_owned(),
        (false, true) => format!("{path}.{key}"),
        (_, false) => format!("{path}[{key:?}]"),
    }
}

/// The path of an item of `path`.
pub(crate) fn item_path(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

// === impl Node ===

impl Node {
    pub(crate) fn member(&self, key: &str) -> Option<&Member> {
        match &self.value {
            Value::Map(members) => members.iter().find(|member| member.key == key),
            _ => None,
        }
    }

    pub(crate) fn members(&self) -> &[Member] {
        match &self.value {
            Value::Map(members) => members,
            _ => &[],
        }
    }

    pub(crate) fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value as people name it: `the string "x"`, `a list`.
    pub(crate) fn description(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Boolean(value) => format!("the boolean `{value}`"),
            Value::Integer(value) => format!("the number `{value}`"),
            Value::Float(value) => format!("the number `{value}`"),
            Value::Text(value) => format!("the string {}", quoted(value)),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "an object".to_owned(),
        }
    }

    /// Bytes of all texts and keys in it.
    fn text_bytes(&self) -> usize {
        match &self.value {
            Value::Text(text) => text.len(),
            Value::List(items) => items.iter().map(Self::text_bytes).sum(),
            Value::Map(members) => {
                members.iter().map(|member| member.key.len() + member.node.text_bytes()).sum()
            }
            Value::Null | Value::Boolean(_) | Value::Integer(_) | Value::Float(_) => 0,
        }
    }

    /// The same value as JSON. Integers beyond 64 bits become floats.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Boolean(value) => (*value).into(),
            Value::Integer(value) => i64::try_from(*value)
                .map(serde_json::Value::from)
                .or_else(|_| u64::try_from(*value).map(serde_json::Value::from))
                .unwrap_or_else(|_| (*value as f64).into()),
            Value::Float(value) => (*value).into(),
            Value::Text(value) => value.as_str().into(),
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Map(members) => serde_json::Value::Object(
                members.iter().map(|member| (member.key.clone(), member.node.to_json())).collect(),
            ),
        }
    }

    /// Where the `index`-th character of a text stands. Exact for texts written on one line; for any
    /// other the place of the text itself.
    pub(crate) fn place_of_character(&self, source: &str, index: usize) -> Place {
        let raw = source.get(self.bytes.clone()).unwrap_or_default();
        if raw.contains('\n') || raw.starts_with(['|', '>']) {
            return self.place;
        }
        let columns = match raw.chars().next() {
            Some('"') => 1 + double_quoted_width(&raw[1..], index),
            Some('\'') => 1 + single_quoted_width(&raw[1..], index),
            _ => index,
        };
        let columns = columns.min(raw.chars().count());
        Place { line: self.place.line, column: self.place.column + columns as u32 }
    }
}

/// Source characters that the first `count` characters of a double-quoted text take (YAML 1.2.2, §5.7).
fn double_quoted_width(raw: &str, count: usize) -> usize {
    let mut characters = raw.chars();
    let mut width = 0;
    for _ in 0..count {
        match characters.next() {
            None => break,
            Some('\\') => {
                let digits = match characters.next() {
                    Some('x') => 2,
                    Some('u') => 4,
                    Some('U') => 8,
                    _ => 0,
                };
                width += 2 + digits;
                characters.by_ref().take(digits).for_each(drop);
            }
            Some(_) => width += 1,
        }
    }
    width
}

fn single_quoted_width(raw: &str, count: usize) -> usize {
    let mut characters = raw.chars();
    let mut width = 0;
    for _ in 0..count {
        match characters.next() {
            None => break,
            Some('\'') => {
                characters.next();
                width += 2;
            }
            Some(_) => width += 1,
        }
    }
    width
}

// === impl Builder ===

impl<'s> Builder<'s, '_> {
    fn document(&mut self) -> Result<Node, Stop> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
                Event::StreamEnd => break,
                _ if root.is_some() => {
                    return self.stop(
                        DiagnosticCode::MultipleDocuments,
                        place(&span),
                        "a second document starts here; a file holds one policy",
                        Some("put each policy in a file of its own"),
                    );
                }
                event => root = Some(self.node(event, &span, place(&span), 0)?.0),
            }
        }
        match root {
            Some(root) if root.value != Value::Null => Ok(root),
            _ => self.stop(
                DiagnosticCode::EmptyDocument,
                Place::START,
                "there is no policy in this file",
                None,
            ),
        }
    }

    /// One value and how many nodes it has. `fallback` places a value that is not written at all.
    fn node(
        &mut self,
        event: Event<'s>,
        span: &Span,
        fallback: Place,
        depth: usize,
    ) -> Result<(Node, usize), Stop> {
        let here = place(span);
        self.count(1, here)?;
        if depth > MAX_DEPTH {
            return self.too_complex(here, format!("nested deeper than {MAX_DEPTH} levels"));
        }
        let before = self.nodes;
        let bytes = span.byte_range().unwrap_or(0..0);
        let (value, anchor, bytes, at) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let unwritten = text.is_empty() && style == ScalarStyle::Plain;
                let value = self.scalar(&text, style, tag.as_deref(), here);
                (value, anchor, bytes, if unwritten { fallback } else { here })
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.refuse_tag(tag.as_deref(), "seq", here);
                let (items, end) = self.items(depth)?;
                (Value::List(items), anchor, bytes.start..end, here)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.refuse_tag(tag.as_deref(), "map", here);
                let (members, end) = self.members(depth)?;
                (Value::Map(members), anchor, bytes.start..end, here)
            }
            Event::Alias(id) => {
                let Some((node, size)) = self.anchors.get(&id) else {
                    return self
                        .too_complex(here, "an alias inside the value it stands for".into());
                };
                let (bytes, size) = (node.text_bytes(), *size);
                self.repeat(bytes, here)?;
                self.count(size, here)?;
                // Cloned only now that it is known to fit.
                let node = self.anchors.get(&id).map(|(node, _)| node.clone());
                return node.map(|node| (node, size)).ok_or(Stop);
            }
            _ => return self.stop(DiagnosticCode::Syntax, here, "expected a value", None),
        };
        let node = Node { value, place: at, bytes };
        let size = 1 + self.nodes - before;
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), size));
        }
        Ok((node, size))
    }

    fn items(&mut self, depth: usize) -> Result<(Vec<Node>, usize), Stop> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok((items, end_of(&span)));
            }
            let parent = self.path.len();
            self.path = item_path(&self.path, items.len());
            let (node, _) = self.node(event, &span, place(&span), depth + 1)?;
            self.path.truncate(parent);
            items.push(node);
        }
    }

    fn members(&mut self, depth: usize) -> Result<(Vec<Member>, usize), Stop> {
        let mut members: Vec<Member> = Vec::new();
        let mut seen = HashSet::new();
        loop {
            let (event, span) = self.next()?;
            let key_place = place(&span);
            let (key, style) = match event {
                Event::MappingEnd => return Ok((members, end_of(&span))),
                Event::Scalar(text, style, ..) => (text.into_owned(), style),
                _ => {
                    return self.stop(
                        DiagnosticCode::UnsupportedYaml,
                        key_place,
                        "a key must be a plain word or a string",
                        None,
                    );
                }
            };
            let parent = self.path.clone();
            self.path = member_path(&self.path, &key);
            let (event, span) = self.next()?;
            let (node, _) = self.node(event, &span, key_place, depth + 1)?;
            if key == "<<" && style == ScalarStyle::Plain {
                self.error(
                    DiagnosticCode::UnsupportedYaml,
                    key_place,
                    "merge keys are not taken, so that no rule hides in another place",
                    Some("write the fields out"),
                );
            } else if seen.insert(key.clone()) {
                members.push(Member { key, place: key_place, node });
            } else {
                let message = format!("the key {} occurs twice in this object", quoted(&key));
                self.error(
                    DiagnosticCode::DuplicateKey,
                    key_place,
                    message,
                    Some("keep one of the two: readers would disagree on which one counts"),
                );
            }
            self.path = parent;
        }
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, here: Place) -> Value {
        match tag.and_then(Tag::core_suffix) {
            Some("str") => return Value::Text(text.to_owned()),
            Some("null" | "bool" | "int" | "float") => return resolve(text),
            _ => self.refuse_tag(tag, "", here),
        }
        if style == ScalarStyle::Plain { resolve(text) } else { Value::Text(text.to_owned()) }
    }

    fn refuse_tag(&mut self, tag: Option<&Tag>, allowed: &str, here: Place) {
        let Some(tag) = tag else { return };
        if tag.core_suffix() != Some(allowed) {
            let message = format!("the tag {} is not taken in a policy", quoted(&tag.original()));
            self.error(DiagnosticCode::UnsupportedYaml, here, message, Some("remove the tag"));
        }
    }

    fn next(&mut self) -> Result<(Event<'s>, Span), Stop> {
        match self.events.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => self.syntax(&error),
            None => {
                self.stop(DiagnosticCode::Syntax, Place::START, "the document breaks off", None)
            }
        }
    }

    fn count(&mut self, more: usize, here: Place) -> Result<(), Stop> {
        self.nodes = self.nodes.saturating_add(more);
        if self.nodes > MAX_NODES {
            return self.too_complex(
                here,
                format!("more than {MAX_NODES} values, counting those that aliases repeat"),
            );
        }
        Ok(())
    }

    fn repeat(&mut self, bytes: usize, here: Place) -> Result<(), Stop> {
        self.repeated = self.repeated.saturating_add(bytes);
        if self.repeated > MAX_REPEATED {
            return self.too_complex(
                here,
                format!("aliases repeat more than {MAX_REPEATED} bytes (1 MiB) of text"),
            );
        }
        Ok(())
    }

    fn syntax<T>(&mut self, error: &ScanError) -> Result<T, Stop> {
        let marker = error.marker();
        let here = Place { line: marker.line() as u32, column: marker.col() as u32 + 1 };
        let info = error.info();
        let code = if info.contains("nesting") || info.contains("recursion") {
            DiagnosticCode::TooComplex
        } else {
            DiagnosticCode::Syntax
        };
        self.stop(code, here, info, None)
    }

    fn too_complex<T>(&mut self, here: Place, message: String) -> Result<T, Stop> {
        self.stop(DiagnosticCode::TooComplex, here, message, None)
    }

    fn stop<T>(
        &mut self,
        code: DiagnosticCode,
        here: Place,
        message: impl Into<String>,
        help: Option<&str>,
    ) -> Result<T, Stop> {
        self.error(code, here, message, help);
        Err(Stop)
    }

    fn error(
        &mut self,
        code: DiagnosticCode,
        here: Place,
        message: impl Into<String>,
        help: Option<&str>,
    ) {
        let mut diagnostic = Diagnostic::new(code, self.path.clone(), here, message);
        diagnostic.help = help.map(str::to_owned);
        self.report.error(diagnostic);
    }
}

fn place(span: &Span) -> Place {
    Place { line: span.start.line() as u32, column: span.start.col() as u32 + 1 }
}

fn end_of(span: &Span) -> usize {
    span.byte_range().map_or(0, |range| range.end)
}

/// Resolves a plain scalar by the core schema. `yes`, `on` and the like are strings.
fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Boolean(true),
        "false" | "False" | "FALSE" => return Value::Boolean(false),
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        _ => {}
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let sign = if text.starts_with('-') { -1.0 } else { 1.0 };
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
        return Value::Float(sign * f64::INFINITY);
    }
    let radix = [("0x", 16), ("0o", 8)]
        .iter()
        .find_map(|(prefix, radix)| Some((text.strip_prefix(prefix)?, *radix)));
    if let Some((digits, radix)) = radix {
        return match i128::from_str_radix(digits, radix) {
            Ok(value) if !digits.starts_with(['+', '-']) => Value::Integer(value),
            _ => Value::Text(text.to_owned()),
        };
    }
    let starts_as_number = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let of_number = unsigned.bytes().all(|b| b.is_ascii_digit() || b".eE+-".contains(&b));
    if !starts_as_number || !of_number || !unsigned.bytes().any(|b| b.is_ascii_digit()) {
        return Value::Text(text.to_owned());
    }
    if let Ok(value) = text.parse::<i128>() {
        return Value::Integer(value);
    }
    text.parse::<f64>().map_or_else(|_| Value::Text(text.to_owned()), Value::Float)
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl PartialEq for Member {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.node == other.node
    }
}

#[cfg(test)]
mod tests;
