//! Reads an answer while it passes.

use std::ops::Range;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use serde_json::Value;

use crate::{
    answer::{Answer, Draft},
    channels::{Found, decoded},
    cut::Framed,
    document::Kept,
    failure,
    frame::{Frame, Text, TextForm, Wrapping},
    framing::{
        Step,
        elements::{self, Elements},
        event_stream::{EventStream, Message},
        sse::{Event, Sse},
    },
    json::{string::unescape, strings::Strings, tree::parse},
    operation::Operation,
    refusal::Refusal,
    request::Asked,
    wire::Wire,
};

/// Reads the answer to a request. It never fails, and passes on every byte: the `raw` of the frames, one after
/// another, is what was pushed. It holds back at most 1 MiB, and usually one event that is not whole yet.
pub struct AnswerReader {
    operation: Operation,
    asked: Asked,
    framing: Framing,
    /// The strings of an answer or an event that is not read as one.
    strings: Strings,
    draft: Draft,
    is_error: bool,
    has_finished: bool,
}

enum Framing {
    Sse(Sse),
    EventStream(EventStream),
    Elements(Elements),
    Document(Kept),
    /// Text that is no JSON: half a character.
    Plain(Bytes),
    /// Sound, images.
    Binary,
}

/// More numbers in a row than these are a vector.
const MAX_NUMBERS: usize = 64;

// === impl AnswerReader ===

impl AnswerReader {
    pub(crate) fn new(
        operation: &Operation,
        asked: &Asked,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Self {
        let wire = operation.wire();
        let mut draft = Draft::new(wire.pieces());
        wire.head(&mut draft, asked, headers);
        Self {
            operation: operation.clone(),
            asked: asked.clone(),
            framing: Framing::of(wire, asked, status, headers),
            strings: Strings::default(),
            draft,
            is_error: !status.is_success(),
            has_finished: false,
        }
    }

    /// Takes the next bytes of the body, decoded. What may go on comes back, perhaps nothing yet.
    pub fn push(&mut self, bytes: Bytes) -> Vec<Frame> {
        if bytes.is_empty() || self.has_finished {
            return Vec::new();
        }
        let mut steps = Vec::new();
        let mut frames = Vec::new();
        match &mut self.framing {
            Framing::Sse(sse) => sse.push(&bytes, &mut steps),
            Framing::EventStream(stream) => stream.push(&bytes, &mut steps),
            Framing::Elements(elements) => elements.push(&bytes, &mut steps),
            Framing::Document(kept) => {
                kept.push(&bytes);
                let strung = self.strings.push(bytes, self.draft.channels.counter());
                self.draft.answer.has_content |= !self.is_error;
                frames.push(Frame::with(strung.raw, strung.texts));
            }
            Framing::Plain(carry) => frames.push(plain(carry, &bytes)),
            Framing::Binary => {
                if self.operation.wire().is_sound() {
                    self.draft.answer.has_content = true;
                } else {
                    self.draft.answer.unread_bytes += bytes.len() as u64;
                }
                frames.push(Frame::opaque(bytes));
            }
        }
        self.take(steps, &mut frames);
        frames
    }

    /// The end of the body, or of what is read of it. What was held comes back; pushing more does nothing.
    pub fn finish(&mut self) -> Vec<Frame> {
        if std::mem::replace(&mut self.has_finished, true) {
            return Vec::new();
        }
        let mut steps = Vec::new();
        let mut frames = Vec::new();
        match &mut self.framing {
            Framing::Sse(sse) => sse.finish(&mut steps),
            Framing::EventStream(stream) => stream.finish(&mut steps),
            Framing::Elements(elements) => elements.finish(&mut steps),
            Framing::Document(_) => {
                let strung = self.strings.finish();
                frames.push(Frame::with(strung.raw, strung.texts));
            }
            Framing::Plain(carry) => {
                let raw = std::mem::take(carry);
                let text = String::from_utf8_lossy(&raw).into_owned();
                let at = 0..raw.len();
                let text = Text { channel: 0, text, at, last: true, form: TextForm::Plain };
                frames.push(Frame::with(raw, vec![text]));
            }
            Framing::Binary => {}
        }
        self.take(steps, &mut frames);
        self.conclude();
        self.draft.refresh();
        frames
    }

    /// What is known of the answer so far; all of it once it was finished.
    pub fn answer(&self) -> &Answer {
        &self.draft.answer
    }

    /// What ends a stream that is cut here, in its own framing and in words that the provider's SDK takes for an
    /// error. `None` when its framing cannot say so, as in the midst of a JSON text: the connection is to be broken
    /// off then, so that nobody takes the part for the whole.
    pub fn cut(&self, refusal: &Refusal) -> Option<Bytes> {
        let framed = match &self.framing {
            Framing::Sse(sse) => Framed::Sse { is_mid_event: sse.is_mid_event() },
            Framing::EventStream(stream) if !stream.is_mid_message() => Framed::EventStream,
            Framing::Elements(elements) => {
                let (before, after) = elements.around_one_more()?;
                Framed::Element { before, after }
            }
            _ => return None,
        };
        Some(framed.end(&self.operation, &self.asked, refusal))
    }

    fn take(&mut self, steps: Vec<Step>, frames: &mut Vec<Frame>) {
        for step in steps {
            match step {
                Step::Whole(raw) => frames.push(self.whole(raw)),
                Step::Between(raw) => frames.push(Frame::opaque(raw)),
                Step::Opaque(raw) => frames.push(self.unread(raw)),
                Step::Piece { raw, last } => {
                    self.draft.is_broken = true;
                    let strung = self.strings.push(raw, self.draft.channels.counter());
                    frames.push(Frame::with(strung.raw, strung.texts));
                    if last {
                        let strung = self.strings.finish();
                        frames.push(Frame::with(strung.raw, strung.texts));
                    }
                }
            }
        }
        frames.retain(|frame| !frame.raw.is_empty());
        self.draft.refresh();
    }

    fn whole(&mut self, raw: Bytes) -> Frame {
        match &self.framing {
            Framing::Sse(_) => self.server_sent(raw),
            Framing::EventStream(_) => self.message(raw),
            _ => {
                let at = elements::element(&raw);
                let texts = self.json(None, &raw[at.clone()], &|place| {
                    at.start + place.start..at.start + place.end
                });
                self.frame(raw, texts, Wrapping::None)
            }
        }
    }

    fn server_sent(&mut self, raw: Bytes) -> Frame {
        let event = Event::read(&raw);
        let data = event.data.trim_ascii();
        if data.is_empty() {
            return Frame::opaque(raw);
        }
        if data == b"[DONE]" {
            self.operation.wire().done(&mut self.draft);
            return Frame::opaque(raw);
        }
        let texts = self.json(event.name, &event.data, &|at| event.place(at));
        self.frame(raw.clone(), texts, Wrapping::None)
    }

    fn message(&mut self, raw: Bytes) -> Frame {
        let Some(message) = Message::read(&raw) else { return self.unread(raw) };
        if message.kind != "event" {
            self.draft.fail(Some(&message.name));
        }
        let payload = message.payload.clone();
        if payload.is_empty() {
            return Frame::opaque(raw);
        }
        if self.operation.wire().is_wrapped() && message.name == "chunk" {
            return self.wrapped(raw, payload);
        }
        let texts = self.json(Some(&message.name), &raw[payload.clone()], &|place| {
            payload.start + place.start..payload.start + place.end
        });
        self.frame(raw, texts, Wrapping::Message)
    }

    /// A message whose payload holds the event in base64.
    fn wrapped(&mut self, raw: Bytes, payload: Range<usize>) -> Frame {
        let place = parse(&raw[payload.clone()]).ok().and_then(|node| {
            let string = node.get("bytes")?.string()?;
            Some(payload.start + string.at.start..payload.start + string.at.end)
        });
        let Some(encoded) = place else { return self.unread(raw) };
        let Ok(inner) = BASE64_STANDARD.decode(&raw[encoded.clone()]) else {
            return self.unread(raw);
        };
        let mut texts = self.json(None, &inner, &|place| place);
        let places = texts.iter().map(|text| text.at.clone()).collect();
        for text in &mut texts {
            text.at = encoded.clone();
        }
        let wrapping = Wrapping::Base64 { encoded, inner: inner.into(), places };
        self.frame(raw, texts, wrapping)
    }

    /// Reads an event of JSON, and finds its texts; `place` tells where in the frame a stretch of it stands.
    fn json(
        &mut self,
        name: Option<&str>,
        data: &[u8],
        place: &dyn Fn(Range<usize>) -> Range<usize>,
    ) -> Vec<Text> {
        if let Ok(node) = parse(data) {
            let found = self.draft.channels.read(&node);
            self.operation.wire().event(&mut self.draft, name, &node);
            let texts = found.into_iter().map(|Found { channel, text, at, last }| Text {
                channel,
                text,
                at: place(at),
                last,
                form: TextForm::Json,
            });
            return texts.collect();
        }
        self.draft.is_broken = true;
        let counter = self.draft.channels.counter();
        if data.trim_ascii_start().starts_with(b"{") || data.trim_ascii_start().starts_with(b"[") {
            return broken(data, counter, place);
        }
        let channel = *counter;
        *counter += 1;
        if matches!(self.framing, Framing::Sse(_)) {
            return lines(data, channel, place);
        }
        let text = String::from_utf8_lossy(data).into_owned();
        let at = place(0..data.len());
        vec![Text { channel, text, at, last: true, form: TextForm::Plain }]
    }

    fn frame(&mut self, raw: Bytes, texts: Vec<Text>, wrapping: Wrapping) -> Frame {
        let groups = std::mem::take(&mut self.draft.ended);
        let ended = groups.into_iter().flat_map(|group| self.draft.channels.end(group)).collect();
        Frame { raw, texts, ended, wrapping }
    }

    fn unread(&mut self, raw: Bytes) -> Frame {
        self.draft.is_broken = true;
        self.draft.answer.unread_bytes += raw.len() as u64;
        Frame::opaque(raw)
    }

    fn conclude(&mut self) {
        let wire = self.operation.wire();
        let Framing::Document(kept) = &self.framing else {
            match self.framing {
                // Sound has no end of its own.
                Framing::Binary => self.draft.has_ended = wire.is_sound() && !self.is_error,
                Framing::Plain(_) => {}
                _ => {
                    wire.finish(&mut self.draft);
                    self.draft.finish_stream();
                }
            }
            if self.is_error {
                self.draft.answer.error.get_or_insert_with(|| "error".to_owned());
            }
            return;
        };
        let Some(whole) = kept.whole() else {
            self.draft.answer.is_content_cut = true;
            return;
        };
        let Ok(node) = parse(whole) else {
            // Cut off, or no JSON: what there is of it.
            self.draft.answer.content = Value::String(String::from_utf8_lossy(whole).into_owned());
            if self.is_error {
                self.draft.fail(None);
            }
            return;
        };
        if self.is_error {
            self.draft.fail(failure::kind(&node));
        } else {
            wire.document(&mut self.draft, &node);
        }
        self.draft.has_ended = true;
        self.draft.answer.content = wire.content(with_arguments(node.to_value()));
    }
}

/// The same with the arguments of tool calls as what they say, and the length of a vector in its place.
fn with_arguments(value: Value) -> Value {
    match value {
        Value::Array(items) if items.len() > MAX_NUMBERS && items.iter().all(Value::is_number) => {
            items.len().into()
        }
        Value::Array(items) => items.into_iter().map(with_arguments).collect(),
        Value::Object(members) => {
            let members = members.into_iter().map(|(name, member)| match member {
                Value::String(text) if name == "arguments" => (name, decoded(text)),
                member => (name, with_arguments(member)),
            });
            Value::Object(members.collect())
        }
        other => other,
    }
}

/// The strings of an event that is not quite JSON. One that goes on in another line of the event is a text of
/// several pieces.
fn broken(
    data: &[u8],
    counter: &mut u64,
    place: &dyn Fn(Range<usize>) -> Range<usize>,
) -> Vec<Text> {
    let mut strings = Strings::default();
    let whole = strings.push(Bytes::copy_from_slice(data), counter);
    let offset = whole.raw.len();
    let rest = strings.finish().texts.into_iter();
    let rest = rest.map(|text| Text { at: offset + text.at.start..offset + text.at.end, ..text });
    let mut texts = Vec::new();
    for text in whole.texts.into_iter().chain(rest) {
        let (mut at, end) = (text.at.start, text.at.end);
        while let Some(length) = memchr::memchr(b'\n', &data[at..end]) {
            texts.push(text.piece(data, at..at + length, false, place));
            at += length + 1;
        }
        texts.push(text.piece(data, at..end, text.last, place));
    }
    texts
}

/// The data of an event that is no JSON at all, line by line.
fn lines(data: &[u8], channel: u64, place: &dyn Fn(Range<usize>) -> Range<usize>) -> Vec<Text> {
    let mut texts = Vec::new();
    let mut at = 0;
    for line in data.split(|byte| *byte == b'\n') {
        let end = at + line.len();
        let (text, last) = (String::from_utf8_lossy(line).into_owned(), end == data.len());
        texts.push(Text { channel, text, at: place(at..end), last, form: TextForm::Line });
        at = end + 1;
    }
    texts
}

/// The next bytes of a text that is no JSON.
fn plain(carry: &mut Bytes, bytes: &[u8]) -> Frame {
    let mut joined = BytesMut::from(&carry[..]);
    joined.extend_from_slice(bytes);
    let mut raw = joined.freeze();
    let whole = crate::json::string::before_half_char(&raw);
    *carry = raw.split_off(whole);
    let text = String::from_utf8_lossy(&raw).into_owned();
    let at = 0..raw.len();
    let text = Text { channel: 0, text, at, last: false, form: TextForm::Plain };
    Frame::with(raw, vec![text])
}

// === impl Text ===

impl Text {
    /// What stands at `at` of the data, as a piece of this text.
    fn piece(
        &self,
        data: &[u8],
        at: Range<usize>,
        last: bool,
        place: &dyn Fn(Range<usize>) -> Range<usize>,
    ) -> Self {
        let text = unescape(&data[at.clone()]).into_owned();
        Self { channel: self.channel, text, at: place(at), last, form: self.form }
    }
}

// === impl Framing ===

impl Framing {
    fn of(wire: Wire, asked: &Asked, status: StatusCode, headers: &HeaderMap) -> Self {
        let kind =
            headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let document = || Self::Document(Kept::new(wire.has_vectors()));
        match kind.as_str() {
            "text/event-stream" => Self::Sse(Sse::default()),
            "application/vnd.amazon.eventstream" => Self::EventStream(EventStream::default()),
            "application/x-ndjson" | "application/jsonl" | "application/stream+json" => {
                Self::Elements(Elements::lines())
            }
            "" if asked.streams && status.is_success() => Self::Sse(Sse::default()),
            "" => document(),
            kind if kind.ends_with("json") => {
                if wire.streams_elements() && asked.streams && status.is_success() {
                    Self::Elements(Elements::default())
                } else {
                    document()
                }
            }
            kind if kind.starts_with("text/") => Self::Plain(Bytes::new()),
            _ => Self::Binary,
        }
    }
}
