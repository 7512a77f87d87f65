//! A piece of an answer that can be passed on, the texts that stand in it, and the same piece with others in
//! their place.

use std::{fmt, ops::Range};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;

use crate::{framing::event_stream, json::string::escape_into};

/// Bytes of an answer that may go on together: an event of a stream, a message of an event stream, or as much
/// of a JSON text as came. The `raw` of all frames of an answer, one after another, is the answer.
#[derive(Clone, PartialEq)]
pub struct Frame {
    /// The bytes as they came.
    pub raw: Bytes,
    /// What they say, in the order in which it stands in them.
    pub texts: Vec<Text>,
    /// Channels that the provider's own framing ends with this frame: nothing of them follows, so nothing of
    /// them needs to be waited for. A channel whose last text was [`Text::last`] is not repeated here. Should its
    /// text go on all the same, that is another channel, and the answer is not complete.
    pub ended: Vec<u64>,
    pub(crate) wrapping: Wrapping,
}

/// A text in a frame, or a piece of one.
#[derive(Clone, PartialEq)]
pub struct Text {
    /// Pieces of one text have one channel; one after another they are the text.
    pub channel: u64,
    /// The text, unescaped. Bytes that are not UTF-8 are U+FFFD.
    pub text: String,
    /// Where it stands in [`Frame::raw`]: the inside of a JSON string, without the quotes. For a text of a
    /// message whose payload is base64, where all of the base64 stands.
    pub at: Range<usize>,
    /// Whether the text ends here.
    pub last: bool,
    /// How it is written.
    pub form: TextForm,
}

/// How a text is written in its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextForm {
    /// As the inside of a JSON string.
    Json,
    /// As it is, on a line of an event: line breaks put in its place become spaces, for they would end it.
    Line,
    /// As it is.
    Plain,
}

/// What stands around the JSON of a frame.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Wrapping {
    /// Nothing that depends on it.
    None,
    /// A message of an event stream, with lengths and checksums.
    Message,
    /// The same, and in its payload base64 at `encoded` (in `raw`); the texts stand in `inner` at `places`.
    Base64 { encoded: Range<usize>, inner: Bytes, places: Vec<Range<usize>> },
}

// === impl Frame ===

impl Frame {
    /// A frame in which nothing was read.
    pub(crate) fn opaque(raw: Bytes) -> Self {
        Self::with(raw, Vec::new())
    }

    pub(crate) fn with(raw: Bytes, texts: Vec<Text>) -> Self {
        Self { raw, texts, ended: Vec::new(), wrapping: Wrapping::None }
    }

    /// The bytes with each text of `texts` in place of the frame's text of the same position, escaped as its
    /// place asks for, lengths and checksums made anew; `None` and what is missing at the end leave a text as
    /// it is. A text of several pieces is replaced piece by piece.
    pub fn with_texts(&self, texts: &[Option<&str>]) -> Bytes {
        if texts.iter().all(Option::is_none) {
            return self.raw.clone();
        }
        let places = self.texts.iter().map(|text| text.at.clone());
        match &self.wrapping {
            Wrapping::None => self.spliced(&self.raw, places, texts).into(),
            Wrapping::Message => {
                event_stream::sealed(self.spliced(&self.raw, places, texts)).into()
            }
            Wrapping::Base64 { encoded, inner, places } => {
                let inner = self.spliced(inner, places.iter().cloned(), texts);
                let mut message = self.raw[..encoded.start].to_vec();
                message.extend_from_slice(BASE64_STANDARD.encode(inner).as_bytes());
                message.extend_from_slice(&self.raw[encoded.end..]);
                event_stream::sealed(message).into()
            }
        }
    }

    fn spliced(
        &self,
        source: &[u8],
        places: impl Iterator<Item = Range<usize>>,
        texts: &[Option<&str>],
    ) -> Vec<u8> {
        let mut out = Vec::with_capacity(source.len());
        let mut done = 0;
        for ((at, text), own) in places.zip(texts).zip(&self.texts) {
            let Some(text) = text else { continue };
            out.extend_from_slice(&source[done..at.start]);
            match own.form {
                TextForm::Json => escape_into(text, &mut out),
                TextForm::Line => {
                    out.extend_from_slice(text.replace(['\r', '\n'], " ").as_bytes());
                }
                TextForm::Plain => out.extend_from_slice(text.as_bytes()),
            }
            done = at.end;
        }
        out.extend_from_slice(&source[done..]);
        out
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("bytes", &self.raw.len())
            .field("texts", &self.texts)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

// === impl Text ===

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Text")
            .field("channel", &self.channel)
            .field("bytes", &self.text.len())
            .field("at", &self.at)
            .field("last", &self.last)
            .field("form", &self.form)
            .finish()
    }
}
