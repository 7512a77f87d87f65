//! How an answer's bytes are divided: into events, messages or elements. What is passed on never waits for
//! more than one of them, and one past [`MAX_FRAME`] is not waited for.

pub(crate) mod elements;
pub(crate) mod event_stream;
pub(crate) mod sse;

use bytes::Bytes;

/// The longest event, message or element that is read as one, in bytes.
pub(crate) const MAX_FRAME: usize = 1 << 20;

/// The next bytes of an answer. All of them, one after another, are the answer.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    /// An event, a message or an element, with what separates it from the last.
    Whole(Bytes),
    /// A piece of one that is too long, and whether it is the last.
    Piece { raw: Bytes, last: bool },
    /// What separates, and says nothing.
    Between(Bytes),
    /// What cannot be made sense of.
    Opaque(Bytes),
}
