//! A prompt taken apart: its texts, its images, and what a provider writes around them.

use serde_json::{Map, Value};

/// What of a prompt becomes tokens.
#[derive(Debug, Default)]
pub(crate) struct Tally<'p> {
    /// Every string and key, each apart.
    pub(crate) texts: Vec<&'p str>,
    /// The length of `texts`.
    pub(crate) bytes: usize,
    /// Tokens of roles, separators, brackets and numbers.
    pub(crate) overhead: u64,
    /// Images in the content of messages.
    pub(crate) images: u64,
    /// Documents, sounds, films and stored files in the content of messages.
    pub(crate) documents: u64,
    /// Tools offered.
    pub(crate) tools: u64,
}

/// Where in a request a value stands. Only in the parts of a message's content does a provider read media;
/// the same object anywhere else is text to it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The request, or its list of messages.
    Request,
    /// A list of messages.
    Messages,
    /// A message.
    Message,
    /// The content of a message, or of the result of a tool in it.
    Content,
    /// The result of a tool, as Bedrock nests it.
    ToolResult,
    /// Anything else.
    Data,
}

enum Media {
    Image,
    Document,
}

/// The primer of the answer, and then some for the beginning of the prompt.
const PER_PROMPT: u64 = 8;
/// OpenAI documents 3 a message and 1 a name.
const PER_MESSAGE: u64 = 4;
/// A tool's declaration beside its words.
const PER_TOOL: u64 = 16;
/// The brackets of a list or an object, the quotes and separator of a string.
const PER_VALUE: u64 = 2;

/// The members of a media part that hold it or say where it is.
const PAYLOADS: [&str; 12] = [
    "data",
    "url",
    "image_url",
    "base64",
    "bytes",
    "file_data",
    "file_url",
    "file_id",
    "fileUri",
    "file_uri",
    "uri",
    "id",
];
const MAX_URL_BYTES: usize = 8 * 1024;

// === impl Tally ===

impl<'p> Tally<'p> {
    pub(crate) fn of_prompt(prompt: &'p Value) -> Self {
        let mut tally = Self { overhead: PER_PROMPT, ..Self::default() };
        tally.walk(prompt, Place::Request);
        tally
    }

    pub(crate) fn of_text(value: &'p Value) -> Self {
        let mut tally = Self::default();
        tally.walk(value, Place::Data);
        tally
    }

    fn walk(&mut self, value: &'p Value, place: Place) {
        match value {
            Value::String(text) => {
                self.text(text);
                self.add(PER_VALUE);
            }
            Value::Array(items) => {
                self.add(PER_VALUE);
                for item in items {
                    match place {
                        Place::Request | Place::Messages => {
                            self.add(PER_MESSAGE);
                            self.walk(item, Place::Message);
                        }
                        Place::Content => self.part(item),
                        Place::Message | Place::ToolResult | Place::Data => {
                            self.walk(item, Place::Data);
                        }
                    }
                }
            }
            Value::Object(members) => {
                self.add(PER_VALUE);
                for (key, member) in members {
                    self.key(key);
                    self.member(key, member, place);
                }
            }
            // A number is no longer in tokens than in digits.
            Value::Number(number) => self.add(number.to_string().len() as u64),
            Value::Bool(_) | Value::Null => self.add(1),
        }
    }

    fn member(&mut self, key: &str, member: &'p Value, place: Place) {
        let below = match (place, key) {
            (Place::Request, "messages" | "contents" | "input") => Place::Messages,
            (Place::Request | Place::Message, "content" | "parts" | "system") => Place::Content,
            (Place::Message, "output") | (Place::ToolResult, "content") => Place::Content,
            (Place::Request, "tools" | "functions") => {
                self.offer(member);
                Place::Data
            }
            (Place::Request, "toolConfig") => {
                member.get("tools").into_iter().for_each(|tools| self.offer(tools));
                Place::Data
            }
            _ => Place::Data,
        };
        self.walk(member, below);
    }

    /// One element of a message's content.
    fn part(&mut self, part: &'p Value) {
        let Value::Object(members) = part else { return self.walk(part, Place::Data) };
        match media(members) {
            Some(Media::Image) => {
                self.images += 1;
                self.media(part);
            }
            Some(Media::Document) => {
                self.documents += 1;
                self.media(part);
            }
            None => {
                let is_result = members.get("type").is_some_and(|kind| kind == "tool_result");
                self.add(PER_VALUE);
                for (key, member) in members {
                    self.key(key);
                    let below = match key.as_str() {
                        "content" if is_result => Place::Content,
                        "toolResult" => Place::ToolResult,
                        _ => Place::Data,
                    };
                    self.walk(member, below);
                }
            }
        }
    }

    /// What of a media part is text: all but where the medium itself stands.
    fn media(&mut self, value: &'p Value) {
        match value {
            Value::Object(members) => {
                self.add(PER_VALUE);
                for (key, member) in members {
                    self.key(key);
                    let is_payload = PAYLOADS.contains(&key.as_str())
                        && member.as_str().is_some_and(is_media_reference);
                    if !is_payload {
                        self.media(member);
                    }
                }
            }
            other => self.walk(other, Place::Data),
        }
    }

    fn offer(&mut self, tools: &Value) {
        let count = tools.as_array().map_or(1, |tools| tools.len() as u64);
        self.tools = self.tools.saturating_add(count);
        self.add(count.saturating_mul(PER_TOOL));
    }

    fn key(&mut self, key: &'p str) {
        self.text(key);
        self.add(PER_VALUE);
    }

    fn text(&mut self, text: &'p str) {
        self.bytes = self.bytes.saturating_add(text.len());
        self.texts.push(text);
    }

    fn add(&mut self, tokens: u64) {
        self.overhead = self.overhead.saturating_add(tokens);
    }
}

/// What medium a part of a message's content is, if any: OpenAI's, Anthropic's and LangChain's parts have a
/// `type`, Google's and Bedrock's one telling member.
fn media(part: &Map<String, Value>) -> Option<Media> {
    let kind = part.get("type").and_then(Value::as_str);
    match kind {
        Some("image_url" | "input_image" | "image") => return Some(Media::Image),
        Some(
            "document" | "file" | "input_file" | "input_audio" | "audio" | "video" | "video_url"
            | "media" | "container_upload",
        ) => return Some(Media::Document),
        Some(_) => return None,
        None => {}
    }
    let inline = part.get("inlineData").or_else(|| part.get("inline_data"));
    if let Some(inline) = inline {
        let mime = inline.get("mimeType").or_else(|| inline.get("mime_type"));
        let is_image = mime.and_then(Value::as_str).is_some_and(|mime| mime.starts_with("image/"));
        return Some(if is_image { Media::Image } else { Media::Document });
    }
    let has = |key: &str| part.get(key).is_some_and(Value::is_object);
    if ["fileData", "file_data", "document", "video", "audio"].into_iter().any(has) {
        return Some(Media::Document);
    }
    has("image").then_some(Media::Image)
}

/// Whether a string is data or an address that a provider fetches, not words that it reads.
fn is_media_reference(text: &str) -> bool {
    if let Some(data) = text.strip_prefix("data:") {
        return data
            .split_once(";base64,")
            .is_some_and(|(mime, data)| mime.len() <= 128 && is_base64(data));
    }
    let is_url =
        ["https://", "http://", "gs://", "s3://"].iter().any(|scheme| text.starts_with(scheme));
    if is_url {
        return text.len() <= MAX_URL_BYTES && !text.contains(char::is_whitespace);
    }
    is_base64(text)
}

fn is_base64(text: &str) -> bool {
    text.bytes().all(|byte| {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'+' | b'/' | b'-' | b'_' | b'=' | b'\n' | b'\r')
    })
}
