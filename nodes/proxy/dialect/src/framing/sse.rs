//! Server-sent events (WHATWG HTML, section 9.2): lines, and an empty line after each event.

use std::{borrow::Cow, ops::Range};

use bytes::{Bytes, BytesMut};

use super::{MAX_FRAME, Step};

/// Divides a stream into events.
#[derive(Default)]
pub(crate) struct Sse {
    buffer: BytesMut,
    /// Where the line begins that is being read.
    line: usize,
    /// How far no end of it was found.
    searched: usize,
    /// Whether the beginning of the line has gone.
    is_mid_line: bool,
    /// Whether the beginning of the event has gone.
    is_mid_event: bool,
}

/// One event.
#[derive(Debug)]
pub(crate) struct Event<'r> {
    /// Its type, when it is named.
    pub(crate) name: Option<&'r str>,
    /// Its data lines, joined.
    pub(crate) data: Cow<'r, [u8]>,
    /// Where each line of the data stands in the raw event.
    lines: Vec<Range<usize>>,
}

const BOM: &[u8] = b"\xef\xbb\xbf";

// === impl Sse ===

impl Sse {
    pub(crate) fn push(&mut self, bytes: &[u8], steps: &mut Vec<Step>) {
        self.buffer.extend_from_slice(bytes);
        while let Some((at, next)) = self.end_of_line() {
            let is_empty = at == self.line && !self.is_mid_line;
            self.is_mid_line = false;
            self.line = next;
            self.searched = next;
            if is_empty {
                let raw = self.take(next);
                steps.push(match (self.is_mid_event, raw.len() > MAX_FRAME) {
                    (false, false) => Step::Whole(raw),
                    _ => Step::Piece { raw, last: true },
                });
                self.is_mid_event = false;
            }
        }
        // A carriage return may be half the end of a line.
        let length = self.searched;
        if length > 0 && (self.is_mid_event || length > MAX_FRAME) {
            self.is_mid_line = self.line < length;
            let raw = self.take(length);
            steps.push(Step::Piece { raw, last: false });
            self.is_mid_event = true;
        }
    }

    /// What is left at the end of the stream: an event without the empty line after it.
    pub(crate) fn finish(&mut self, steps: &mut Vec<Step>) {
        let raw = self.take(self.buffer.len());
        if self.is_mid_event {
            steps.push(Step::Piece { raw, last: true });
        } else if !raw.is_empty() {
            steps.push(Step::Whole(raw));
        }
        self.is_mid_event = false;
    }

    /// Whether an event has begun that did not end.
    pub(crate) fn is_mid_event(&self) -> bool {
        self.is_mid_event
    }

    /// The next end of a line: where the line ends, and where the next begins.
    fn end_of_line(&mut self) -> Option<(usize, usize)> {
        let Some(found) = memchr::memchr2(b'\n', b'\r', &self.buffer[self.searched..]) else {
            self.searched = self.buffer.len();
            return None;
        };
        let at = self.searched + found;
        if self.buffer[at] == b'\n' {
            return Some((at, at + 1));
        }
        match self.buffer.get(at + 1) {
            Some(b'\n') => Some((at, at + 2)),
            Some(_) => Some((at, at + 1)),
            None => {
                self.searched = at;
                None
            }
        }
    }

    fn take(&mut self, length: usize) -> Bytes {
        self.line = 0;
        self.searched = 0;
        self.buffer.split_to(length).freeze()
    }
}

// === impl Event ===

impl<'r> Event<'r> {
    /// Reads the lines of an event; those of unknown fields, and comments, say nothing.
    pub(crate) fn read(raw: &'r [u8]) -> Self {
        let mut name = None;
        let mut lines = Vec::new();
        let mut at = if raw.starts_with(BOM) { BOM.len() } else { 0 };
        while at < raw.len() {
            let length = memchr::memchr2(b'\n', b'\r', &raw[at..]).unwrap_or(raw.len() - at);
            let line = &raw[at..at + length];
            let colon = memchr::memchr(b':', line).unwrap_or(line.len());
            let space = usize::from(line.get(colon + 1) == Some(&b' '));
            let value = (colon + 1 + space).min(line.len());
            match &line[..colon] {
                b"data" => lines.push(at + value..at + length),
                b"event" => name = std::str::from_utf8(&line[value..]).ok(),
                _ => {}
            }
            at += length + 1;
        }
        let data = match lines.as_slice() {
            [] => Cow::Borrowed(&[][..]),
            [one] => Cow::Borrowed(&raw[one.clone()]),
            many => {
                let lines: Vec<&[u8]> = many.iter().map(|line| &raw[line.clone()]).collect();
                Cow::Owned(lines.join(&b'\n'))
            }
        };
        Self { name, data, lines }
    }

    /// Where in the raw event a stretch of the data stands that holds no line break.
    pub(crate) fn place(&self, at: Range<usize>) -> Range<usize> {
        let mut before = 0;
        for line in &self.lines {
            if at.end <= before + line.len() {
                return line.start + at.start - before..line.start + at.end - before;
            }
            before += line.len() + 1;
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn steps(text: &[u8], size: usize) -> Vec<Step> {
        let (mut sse, mut steps) = (Sse::default(), Vec::new());
        for piece in text.chunks(size) {
            sse.push(piece, &mut steps);
        }
        sse.finish(&mut steps);
        steps
    }

    #[test]
    fn every_kind_of_line_end_ends_an_event() {
        let text = b"data: a\n\nevent: e\r\ndata:b\r\n\r\n: c\r\rdata: d\ndata: f\n\ndata: z";
        let whole = steps(text, 1000);
        assert_eq!(whole.len(), 5);
        assert_eq!(whole, steps(text, 1));
        let Step::Whole(raw) = &whole[3] else { panic!("{whole:?}") };
        let event = Event::read(raw);
        assert_eq!(&*event.data, b"d\nf");
        assert_eq!(&raw[event.place(2..3)], b"f");
        let Step::Whole(raw) = &whole[1] else { panic!("{whole:?}") };
        assert_eq!(Event::read(raw).name, Some("e"));
    }

    #[test]
    fn an_event_past_the_bound_goes_on_in_pieces() {
        let text =
            [b"data: ".to_vec(), vec![b'x'; MAX_FRAME], b"\n\ndata: y\n\n".to_vec()].concat();
        for size in [1 << 16, 1 << 22] {
            let steps = steps(&text, size);
            assert!(matches!(steps[0], Step::Piece { .. }));
            assert_eq!(steps.last(), Some(&Step::Whole(Bytes::from_static(b"data: y\n\n"))));
        }
    }

    proptest! {
        #[test]
        fn events_are_the_same_in_any_pieces(text in "(data: ?|x|:|\r|\n|\r\n|\n\n){0,30}", size in 1..9_usize) {
            prop_assert_eq!(steps(text.as_bytes(), size), steps(text.as_bytes(), 1000));
        }
    }
}
