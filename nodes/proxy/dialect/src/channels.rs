//! Which strings of a stream's events are pieces of one text, and the texts they make.

use std::{collections::HashMap, fmt::Write as _, ops::Range};

use serde_json::Value;

use crate::json::tree::{Node, Str};

/// The texts of one answer.
pub(crate) struct Channels {
    pieces: Pieces,
    next: u64,
    open: HashMap<Box<str>, Channel>,
    /// What strings that repeat in every event said last.
    repeated: HashMap<Box<str>, Box<str>>,
    texts: Vec<Assembled>,
    kept: usize,
    /// Bytes of all pieces.
    pub(crate) produced: u64,
    /// Bytes of pieces that came after the end of their text.
    pub(crate) late: u64,
    /// Whether some text was too much to keep.
    pub(crate) is_cut: bool,
}

/// Which strings of an event continue a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pieces {
    /// Those below `delta`: OpenAI's chat, Anthropic, Bedrock, Cohere.
    Delta,
    /// Those below `delta`, one text for each type of event: OpenAI's responses.
    TypedDelta,
    /// The `text` of parts: Gemini.
    Parts,
    /// The `text` of choices: OpenAI's completions.
    ChoiceText,
    /// Those below `delta`, and the texts of models whose events have none: Bedrock's InvokeModel.
    Invoke,
    /// Those below `delta`, and the outermost `text`: Cohere, whose first version had no deltas.
    Cohere,
    /// None: every event stands for itself.
    None,
}

/// A string of an event, or of its keys.
pub(crate) struct Found {
    pub(crate) channel: u64,
    pub(crate) text: String,
    pub(crate) at: Range<usize>,
    pub(crate) last: bool,
}

struct Channel {
    number: u64,
    group: Option<u64>,
    text: usize,
    has_ended: bool,
}

struct Assembled {
    text: String,
    is_arguments: bool,
}

/// Where the walk stands.
#[derive(Clone, Copy)]
struct Place {
    depth: usize,
    group: Option<u64>,
    in_pieces: bool,
    is_arguments: bool,
}

/// The most of all texts that is kept, in bytes.
pub(crate) const MAX_KEPT: usize = 4 << 20;

const MAX_CHANNELS: usize = 4096;
const MAX_REPEATED: usize = 64;
const MAX_REPEATED_BYTES: usize = 128;
const MAX_PLAIN_KEY: usize = 32;

/// Members that are whole wherever they stand.
const WHOLE: [&str; 23] = [
    "call_id",
    "created_at",
    "encrypted_content",
    "encrypted_index",
    "event_id",
    "finish_reason",
    "id",
    "item_id",
    "model",
    "modelVersion",
    "name",
    "object",
    "obfuscation",
    "response_id",
    "role",
    "service_tier",
    "signature",
    "status",
    "stop_reason",
    "system_fingerprint",
    "thoughtSignature",
    "tool_use_id",
    "type",
];

/// Numbers of an event that tell which text it continues.
const WHICH: [&str; 5] =
    ["output_index", "content_index", "summary_index", "index", "contentBlockIndex"];

// === impl Channels ===

impl Channels {
    pub(crate) fn new(pieces: Pieces) -> Self {
        Self {
            pieces,
            next: 0,
            open: HashMap::new(),
            repeated: HashMap::new(),
            texts: Vec::new(),
            kept: 0,
            produced: 0,
            late: 0,
            is_cut: false,
        }
    }

    /// The counter that numbers channels.
    pub(crate) fn counter(&mut self) -> &mut u64 {
        &mut self.next
    }

    /// Every string of an event, in the order in which they stand.
    pub(crate) fn read(&mut self, event: &Node<'_>) -> Vec<Found> {
        let mut found = Vec::new();
        let mut path = String::new();
        let mut group = None;
        for name in WHICH {
            if let Some(number) = event.count(name) {
                group = group.or(Some(number));
                let _ = write!(path, "{name}={number};");
            }
        }
        let mut place = Place { depth: 0, group, in_pieces: false, is_arguments: false };
        if self.pieces == Pieces::TypedDelta {
            let kind = event.text("type").unwrap_or_default();
            place.is_arguments = kind.contains("arguments") || kind.contains("input.delta");
            path.push_str(clipped(kind));
            path.push(';');
            path.push_str(clipped(event.text("item_id").unwrap_or_default()));
        }
        self.walk(event, &mut path, place, "", &mut found);
        found
    }

    /// Ends the texts of a group: a choice, a block, an item. Their numbers.
    pub(crate) fn end(&mut self, group: u64) -> Vec<u64> {
        let open = self.open.values_mut();
        let ending = open.filter(|channel| channel.group == Some(group) && !channel.has_ended);
        let mut ended: Vec<u64> = ending
            .map(|channel| {
                channel.has_ended = true;
                channel.number
            })
            .collect();
        ended.sort_unstable();
        ended
    }

    /// Whether every text that was begun has ended.
    pub(crate) fn is_all_ended(&self) -> bool {
        self.open.values().all(|channel| channel.has_ended)
    }

    /// The texts that were put together, without the arguments of tool calls; those that are JSON as what they
    /// say, so that no escape in them hides anything.
    pub(crate) fn content(&mut self) -> Vec<Value> {
        let texts = std::mem::take(&mut self.texts).into_iter();
        texts
            .filter(|assembled| !assembled.is_arguments && !assembled.text.is_empty())
            .map(|assembled| decoded(assembled.text))
            .collect()
    }

    fn walk(
        &mut self,
        node: &Node<'_>,
        path: &mut String,
        place: Place,
        key: &str,
        found: &mut Vec<Found>,
    ) {
        match node {
            Node::String(string) => found.extend(self.string(string, path, place, key)),
            Node::Array(items) => {
                for (position, item) in items.iter().enumerate() {
                    let length = path.len();
                    let index = item.count("index");
                    let _ = write!(path, "/{}", index.unwrap_or(position as u64));
                    let is_thought = matches!(item.get("thought"), Some(Node::Bool(true)));
                    if is_thought {
                        path.push_str("/thought");
                    }
                    let place = Place { group: place.group.or(index), ..place };
                    self.walk(item, path, place, key, found);
                    path.truncate(length);
                }
            }
            Node::Object(members) => {
                for (name, member) in members {
                    if !is_plain_key(&name.text) {
                        found.push(self.whole(name));
                    }
                    let length = path.len();
                    // What opens a block of Anthropic's is the beginning of what its deltas continue.
                    let step = if name.text == "content_block" { "delta" } else { &name.text };
                    path.push('/');
                    path.push_str(clipped(step));
                    let place = self.below(place, step, member);
                    self.walk(member, path, place, &name.text, found);
                    path.truncate(length);
                }
            }
            Node::Null | Node::Bool(_) | Node::Number(_) => {}
        }
    }

    fn below(&self, place: Place, key: &str, member: &Node<'_>) -> Place {
        let in_pieces = match self.pieces {
            Pieces::Delta | Pieces::TypedDelta => place.in_pieces || key == "delta",
            Pieces::Parts => {
                (place.in_pieces || key == "parts")
                    && !matches!(key, "functionCall" | "functionResponse")
            }
            Pieces::ChoiceText => place.in_pieces || key == "choices",
            Pieces::Invoke => {
                let is_text = matches!(key, "delta" | "generation" | "outputText" | "completion");
                place.in_pieces || is_text
            }
            Pieces::Cohere => {
                place.in_pieces || key == "delta" || place.depth == 0 && key == "text"
            }
            Pieces::None => false,
        };
        let is_string = matches!(member, Node::String(_));
        let is_arguments = place.is_arguments
            || is_string && matches!(key, "arguments" | "partial_json" | "input");
        Place { depth: place.depth + 1, in_pieces, is_arguments, ..place }
    }

    fn string(&mut self, string: &Str<'_>, path: &str, place: Place, key: &str) -> Option<Found> {
        let needs_text = matches!(self.pieces, Pieces::Parts | Pieces::ChoiceText);
        let is_piece = place.in_pieces && !WHOLE.contains(&key) && (!needs_text || key == "text");
        if is_piece {
            return self.piece(string, path, place);
        }
        if WHOLE.contains(&key) && self.is_repeated(path, &string.text) {
            return None;
        }
        Some(self.whole(string))
    }

    fn whole(&mut self, string: &Str<'_>) -> Found {
        let channel = self.next;
        self.next += 1;
        Found { channel, text: string.text.clone().into_owned(), at: string.at.clone(), last: true }
    }

    fn piece(&mut self, string: &Str<'_>, path: &str, place: Place) -> Option<Found> {
        if string.text.is_empty() {
            return None;
        }
        self.produced += string.text.len() as u64;
        let (open, texts) = (self.open.len(), &mut self.texts);
        let channel = match self.open.get_mut(path) {
            Some(channel) => channel,
            None if open >= MAX_CHANNELS => {
                self.is_cut = true;
                self.late += string.text.len() as u64;
                return Some(self.whole(string));
            }
            None => {
                texts.push(Assembled { text: String::new(), is_arguments: place.is_arguments });
                let number = self.next;
                self.next += 1;
                self.open.entry(path.into()).or_insert(Channel {
                    number,
                    group: place.group,
                    text: texts.len() - 1,
                    has_ended: false,
                })
            }
        };
        if channel.has_ended {
            self.late += string.text.len() as u64;
            channel.has_ended = false;
            channel.number = self.next;
            self.next += 1;
        }
        if self.kept + string.text.len() <= MAX_KEPT {
            self.kept += string.text.len();
            self.texts[channel.text].text.push_str(&string.text);
        } else {
            self.is_cut = true;
        }
        let text = string.text.clone().into_owned();
        Some(Found { channel: channel.number, text, at: string.at.clone(), last: false })
    }

    /// Whether a string says what it said in an event before.
    fn is_repeated(&mut self, path: &str, text: &str) -> bool {
        if text.len() > MAX_REPEATED_BYTES {
            return false;
        }
        match self.repeated.get_mut(path) {
            Some(last) if **last == *text => true,
            Some(last) => {
                *last = text.into();
                false
            }
            None => {
                if self.repeated.len() < MAX_REPEATED {
                    self.repeated.insert(path.into(), text.into());
                }
                false
            }
        }
    }
}

/// The JSON that a text is, or the text.
pub(crate) fn decoded(text: String) -> Value {
    if !text.starts_with(['{', '[']) {
        return Value::String(text);
    }
    match crate::json::tree::parse(text.as_bytes()) {
        Ok(node) => node.to_value(),
        Err(_) => Value::String(text),
    }
}

/// A key that no secret is: a word of letters.
fn is_plain_key(key: &str) -> bool {
    key.len() <= MAX_PLAIN_KEY && key.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_')
}

/// A name as part of a path, of bounded length.
fn clipped(name: &str) -> &str {
    let mut end = name.len().min(64);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}
