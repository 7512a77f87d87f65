//! Recorded exchanges: a request and its answer, as `fixtures/<provider>/<case>.http` has them.

#![allow(clippy::unwrap_used, reason = "a fixture that cannot be read fails the test")]

use std::{collections::BTreeMap, fs, path::PathBuf};

use aa_dialect::{Answer, AnswerReader, Asked, Dialects, Frame, Head, Operation};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};

pub(crate) struct Exchange {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) method: Method,
    pub(crate) host: String,
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) request: Vec<u8>,
    pub(crate) status: StatusCode,
    pub(crate) answer_headers: HeaderMap,
    pub(crate) answer: Vec<u8>,
}

/// What a reader made of an answer.
#[derive(Debug, PartialEq)]
pub(crate) struct Read {
    pub(crate) answer: Answer,
    /// Each channel's text, and whether it ended.
    pub(crate) channels: BTreeMap<u64, (String, bool)>,
    pub(crate) raw: Vec<u8>,
}

/// Every recorded exchange.
pub(crate) fn all() -> Vec<Exchange> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut found = Vec::new();
    for provider in fs::read_dir(root).unwrap() {
        for case in fs::read_dir(provider.unwrap().path()).unwrap() {
            let path = case.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "http") {
                found.push(Exchange::read(path));
            }
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    assert!(!found.is_empty(), "fixtures are there");
    found
}

pub(crate) fn dialects() -> Dialects {
    use aa_dialect::DialectName;
    Dialects::built_in()
        .with_host("llm.example.com", DialectName::OpenAi, "/team")
        .and_then(|dialects| dialects.with_host("mcp.example.com", DialectName::Mcp, "/sse"))
        .unwrap()
}

impl Exchange {
    fn read(path: PathBuf) -> Self {
        let text = fs::read_to_string(&path).unwrap();
        let (request, answer) = text.split_once("\nHTTP/1.1 ").expect("an answer");
        let (head, body) = request.split_once("\n\n").unwrap_or((request, ""));
        let (line, headers) = head.split_once('\n').unwrap_or((head, ""));
        let (method, url) = line.split_once(' ').unwrap();
        let url = url.strip_prefix("https://").expect("an https URL");
        let (host, target) = url.split_at(url.find('/').unwrap());
        let (answer_head, answer_body) = answer.split_once("\n\n").unwrap_or((answer, ""));
        let (status, answer_headers) = answer_head.split_once('\n').unwrap_or((answer_head, ""));
        let answer_headers = read_headers(answer_headers);
        let kind = answer_headers.get("content-type").map_or("", |kind| kind.to_str().unwrap());
        let answer = match kind {
            "application/vnd.amazon.eventstream" => event_stream(answer_body),
            _ => answer_body.as_bytes().to_vec(),
        };
        let provider = path.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        Self {
            name: format!("{provider}/{}", path.file_stem().unwrap().to_string_lossy()),
            method: method.parse().unwrap(),
            host: host.to_owned(),
            target: target.to_owned(),
            headers: read_headers(headers),
            request: body.trim_end().as_bytes().to_vec(),
            status: status[..3].parse().unwrap(),
            answer_headers,
            answer,
            path,
        }
    }

    pub(crate) fn head(&self) -> Head<'_> {
        let (path, query) = match self.target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (self.target.as_str(), None),
        };
        let (method, host, headers) = (&self.method, self.host.as_str(), &self.headers);
        Head { method, host, path, query, headers }
    }

    pub(crate) fn asked(&self) -> (Operation, Asked) {
        let operation = dialects().recognise(&self.head()).expect(&self.name);
        let asked = operation.read_request(&self.head(), &self.request);
        (operation, asked.unwrap_or_else(|error| panic!("{}: {error}", self.name)))
    }

    pub(crate) fn reader(&self) -> AnswerReader {
        let (operation, asked) = self.asked();
        operation.answer(&asked, self.status, &self.answer_headers)
    }

    /// Reads bytes in place of the answer, in pieces of these sizes, over and over.
    pub(crate) fn read_answer(&self, answer: &[u8], sizes: &[usize]) -> (Read, Vec<Frame>) {
        let mut reader = self.reader();
        let mut frames = Vec::new();
        let mut rest = answer;
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, left) = rest.split_at((*size).clamp(1, rest.len()));
            frames.extend(reader.push(Bytes::copy_from_slice(piece)));
            rest = left;
        }
        frames.extend(reader.finish());
        (Read::of(reader.answer(), &frames), frames)
    }

    /// What was asked and answered, for people to compare.
    pub(crate) fn summary(&self) -> Value {
        let (operation, asked) = self.asked();
        let answer = self.read_answer(&self.answer, &[usize::MAX]).0.answer;
        json!({
            "operation": operation.name(),
            "asked": {
                "actions": asked.actions,
                "streams": asked.streams,
                "conversation": asked.conversation,
                "lacks_usage": asked.lacks_usage,
            },
            "answer": {
                "model": answer.model,
                "usage": answer.usage,
                "content": answer.content,
                "is_content_cut": answer.is_content_cut,
                "tool_calls": answer.tool_calls.iter().map(|call| {
                    json!({ "id": call.id, "name": call.name, "args": call.args })
                }).collect::<Vec<_>>(),
                "tool_results": answer.tool_results.iter().map(|result| json!({
                    "id": result.id,
                    "tool": result.tool,
                    "content": result.content,
                    "is_error": result.is_error,
                })).collect::<Vec<_>>(),
                "finish_reason": answer.finish_reason,
                "id": answer.id,
                "conversation": answer.conversation,
                "has_content": answer.has_content,
                "is_complete": answer.is_complete,
                "error": answer.error,
                "unread_bytes": answer.unread_bytes,
            },
        })
    }
}

impl Read {
    pub(crate) fn of(answer: &Answer, frames: &[Frame]) -> Self {
        let mut channels = BTreeMap::<u64, (String, bool)>::new();
        let mut raw = Vec::new();
        for frame in frames {
            raw.extend_from_slice(&frame.raw);
            for text in &frame.texts {
                let channel = channels.entry(text.channel).or_default();
                assert!(!channel.1, "nothing follows the last piece");
                channel.0.push_str(&text.text);
                channel.1 |= text.last;
            }
            for ended in &frame.ended {
                channels.get_mut(ended).expect("a channel that was there").1 = true;
            }
        }
        Self { answer: answer.clone(), channels, raw }
    }
}

fn read_headers(lines: &str) -> HeaderMap {
    let pairs = lines.lines().filter_map(|line| line.split_once(": "));
    pairs
        .map(|(name, value)| {
            let name: HeaderName = name.parse().unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        })
        .collect()
}

/// An event stream written down as lines: type, name and payload; `chunk64` for a chunk whose payload is the
/// given event in base64.
fn event_stream(lines: &str) -> Vec<u8> {
    let mut stream = Vec::new();
    for line in lines.lines().filter(|line| !line.is_empty()) {
        let mut parts = line.splitn(3, ' ');
        let (kind, name, payload) =
            (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
        let (name, payload) = match name {
            "chunk64" => {
                let bytes = BASE64_STANDARD.encode(payload);
                ("chunk", json!({ "bytes": bytes, "p": "abcdefghijklmn" }).to_string())
            }
            name => (name, payload.to_owned()),
        };
        let named = if kind == "exception" { ":exception-type" } else { ":event-type" };
        let mut headers = Vec::new();
        for (header, value) in
            [(named, name), (":content-type", "application/json"), (":message-type", kind)]
        {
            headers.push(u8::try_from(header.len()).unwrap());
            headers.extend_from_slice(header.as_bytes());
            headers.push(7);
            headers.extend_from_slice(&u16::try_from(value.len()).unwrap().to_be_bytes());
            headers.extend_from_slice(value.as_bytes());
        }
        let total = 16 + headers.len() + payload.len();
        let mut message = Vec::new();
        message.extend_from_slice(&u32::try_from(total).unwrap().to_be_bytes());
        message.extend_from_slice(&u32::try_from(headers.len()).unwrap().to_be_bytes());
        message.extend_from_slice(&crc32fast::hash(&message).to_be_bytes());
        message.extend_from_slice(&headers);
        message.extend_from_slice(payload.as_bytes());
        message.extend_from_slice(&crc32fast::hash(&message).to_be_bytes());
        stream.extend_from_slice(&message);
    }
    stream
}
