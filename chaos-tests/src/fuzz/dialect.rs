//! What agents ask providers and MCP servers for, and what these answer: any bytes. A request is refused or
//! describes itself; an answer goes on byte by byte, whatever it is, and means the same in any pieces.

use std::collections::BTreeMap;

use aa_dialect::{Answer, Asked, Dialects, Frame, Head, Operation, Refusal, RefusalCode};
use aa_protocol::Action;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

/// A call, and how its answer is framed.
struct Call {
    host: &'static str,
    path: &'static str,
    request: &'static [u8],
    kind: &'static str,
}

/// What was read: the answer, the text of each channel, and all bytes.
type Read = (Answer, BTreeMap<u64, String>, Vec<u8>);

const SSE: &str = "text/event-stream";
const JSON: &str = "application/json";
const AMAZON: &str = "application/vnd.amazon.eventstream";

const CHAT: &[u8] = br#"{"model":"m","messages":[],"stream":true}"#;
const GEMINI: &[u8] = br#"{"contents":[]}"#;

/// One for every parser. An input names its call by position: new ones are added at the end.
const CALLS: [Call; 18] = [
    Call::new("api.openai.com", "/v1/chat/completions", CHAT, SSE),
    Call::new("api.openai.com", "/v1/chat/completions", CHAT, JSON),
    Call::new("api.openai.com", "/v1/responses", CHAT, SSE),
    Call::new("api.openai.com", "/v1/responses", CHAT, JSON),
    Call::new("api.openai.com", "/v1/completions", CHAT, SSE),
    Call::new("api.openai.com", "/v1/embeddings", br#"{"model":"m","input":"x"}"#, JSON),
    Call::new("api.anthropic.com", "/v1/messages", CHAT, SSE),
    Call::new("api.anthropic.com", "/v1/messages", CHAT, JSON),
    Call::new(GOOGLE, "/v1beta/models/m:streamGenerateContent", GEMINI, SSE),
    Call::new(GOOGLE, "/v1beta/models/m:streamGenerateContent", GEMINI, JSON),
    Call::new(GOOGLE, "/v1beta/models/m:generateContent", GEMINI, JSON),
    Call::new(BEDROCK, "/model/m/converse-stream", b"{}", AMAZON),
    Call::new(BEDROCK, "/model/m/converse", b"{}", JSON),
    Call::new(BEDROCK, "/model/m/invoke-with-response-stream", b"{}", AMAZON),
    Call::new("api.mistral.ai", "/v1/chat/completions", CHAT, SSE),
    Call::new("api.cohere.com", "/v2/chat", CHAT, SSE),
    Call::new("mcp.example.com", "/mcp", TOOL, SSE),
    Call::new("mcp.example.com", "/mcp", TOOL, JSON),
];

const GOOGLE: &str = "generativelanguage.googleapis.com";
const BEDROCK: &str = "bedrock-runtime.us-east-1.amazonaws.com";
const TOOL: &[u8] = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"}}"#;

/// Reads the bytes after the first, which names the call, as a request.
///
/// # Panics
/// When a request that was read does not say what it asks for.
pub fn request(data: &[u8]) {
    let Some((call, body)) = data.split_first() else { return };
    let call = &CALLS[usize::from(*call) % CALLS.len()];
    let read = call.read(body);
    let _ = Dialects::built_in().recognise_body(&call.head(&call.headers(), &Method::POST), body);
    let (operation, asked) = match read {
        Ok(read) => read,
        Err(unreadable) => {
            assert!(!unreadable.to_string().is_empty());
            return;
        }
    };
    for action in &asked.actions {
        match action {
            Action::LlmCall { model, host, .. } => {
                assert!(!model.is_empty(), "a call without a model is refused");
                assert_eq!(host.as_deref(), Some(call.host));
            }
            Action::ToolCall { tool, .. } => assert!(!tool.is_empty()),
            other => panic!("no request is a {}", other.kind()),
        }
    }
    let refused = operation.refuse(Some(&asked), &refusal());
    serde_json::from_slice::<serde_json::Value>(&refused.body).expect("a refusal is JSON");
}

/// Reads the bytes after the first two, which name the call and the size of the pieces, as its answer.
///
/// # Panics
/// When a byte is lost, pieces mean something else than the whole, or a text in its own place changes anything.
pub fn answer(data: &[u8]) {
    let [call, size, body @ ..] = data else { return };
    let call = &CALLS[usize::from(*call) % CALLS.len()];
    let (operation, asked) = call.read(call.request).expect("the call is sound");
    let (whole, frames) = call.answer(&operation, &asked, body, usize::MAX);
    assert_eq!(whole.2, body, "every byte goes on");
    let size = usize::from(*size).max(1);
    assert_eq!(call.answer(&operation, &asked, body, size).0, whole, "in pieces of {size}");
    let mut written = Vec::new();
    for frame in &frames {
        let own: Vec<_> = frame.texts.iter().map(|text| Some(text.text.as_str())).collect();
        written.extend_from_slice(&frame.with_texts(&own));
    }
    let again = call.answer(&operation, &asked, &written, usize::MAX).0;
    assert_eq!(again.1, whole.1, "texts in their own place");
}

fn refusal() -> Refusal {
    Refusal {
        code: RefusalCode::Denied,
        rule: None,
        message: "no".to_owned(),
        next: String::new(),
        event_id: None,
        retry_after: None,
    }
}

// === impl Call ===

impl Call {
    const fn new(
        host: &'static str,
        path: &'static str,
        request: &'static [u8],
        kind: &'static str,
    ) -> Self {
        Self { host, path, request, kind }
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if self.request == TOOL {
            let name = HeaderName::from_static("mcp-protocol-version");
            headers.insert(name, HeaderValue::from_static("2025-06-18"));
        }
        headers
    }

    fn head<'a>(&self, headers: &'a HeaderMap, method: &'a Method) -> Head<'a> {
        Head { method, host: self.host, path: self.path, query: None, headers }
    }

    fn read(&self, body: &[u8]) -> Result<(Operation, Asked), aa_dialect::Unreadable> {
        let (headers, method) = (self.headers(), Method::POST);
        let head = self.head(&headers, &method);
        let operation = Dialects::built_in().recognise(&head).expect("the call is known");
        let asked = operation.read_request(&head, body)?;
        Ok((operation, asked))
    }

    fn answer(
        &self,
        operation: &Operation,
        asked: &Asked,
        body: &[u8],
        size: usize,
    ) -> (Read, Vec<Frame>) {
        let mut headers = HeaderMap::new();
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(self.kind));
        let mut reader = operation.answer(asked, StatusCode::OK, &headers);
        let mut frames = Vec::new();
        for piece in body.chunks(size) {
            frames.extend(reader.push(Bytes::copy_from_slice(piece)));
        }
        let _ = reader.cut(&refusal());
        frames.extend(reader.finish());
        let mut texts = BTreeMap::<u64, String>::new();
        let mut raw = Vec::new();
        for frame in &frames {
            raw.extend_from_slice(&frame.raw);
            for text in &frame.texts {
                texts.entry(text.channel).or_default().push_str(&text.text);
            }
        }
        ((reader.answer().clone(), texts, raw), frames)
    }
}
