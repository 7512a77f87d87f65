//! A JSON array whose elements come one by one, as Gemini streams without `alt=sse`; or JSON objects one
//! after another.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::{MAX_FRAME, Step};

/// Divides such a stream into elements.
#[derive(Default)]
pub(crate) struct Elements {
    buffer: BytesMut,
    searched: usize,
    /// How many brackets are open.
    depth: usize,
    /// Whether the outermost bracket is the array.
    is_array: bool,
    /// Whether the elements are lines, not an array's.
    are_lines: bool,
    has_begun: bool,
    in_string: bool,
    is_escaped: bool,
    is_mid_element: bool,
    /// Elements so far, the one that is being read included.
    count: u64,
}

/// What separates elements.
const BETWEEN: &[u8] = b",[] \t\r\n";

/// Where the element stands in what was divided off.
pub(crate) fn element(raw: &[u8]) -> Range<usize> {
    let start = raw.iter().position(|byte| !BETWEEN.contains(byte)).unwrap_or(raw.len());
    start..raw.len()
}

// === impl Elements ===

impl Elements {
    /// Of objects that stand one to a line.
    pub(crate) fn lines() -> Self {
        Self { are_lines: true, has_begun: true, ..Self::default() }
    }

    pub(crate) fn push(&mut self, bytes: &[u8], steps: &mut Vec<Step>) {
        self.buffer.extend_from_slice(bytes);
        while self.searched < self.buffer.len() {
            let byte = self.buffer[self.searched];
            self.searched += 1;
            if self.ends_element(byte) {
                let raw = self.take(self.searched);
                steps.push(match (self.is_mid_element, raw.len() > MAX_FRAME) {
                    (false, false) => Step::Whole(raw),
                    _ => Step::Piece { raw, last: true },
                });
                self.is_mid_element = false;
            }
        }
        if self.buffer.is_empty() {
            return;
        }
        if self.is_between() {
            let raw = self.take(self.buffer.len());
            steps.push(Step::Between(raw));
        } else if self.is_mid_element || self.buffer.len() > MAX_FRAME {
            let raw = self.take(self.buffer.len());
            steps.push(Step::Piece { raw, last: false });
            self.is_mid_element = true;
        }
    }

    /// What is left at the end of the stream: half an element.
    pub(crate) fn finish(&mut self, steps: &mut Vec<Step>) {
        let is_between = self.is_between();
        let raw = self.take(self.buffer.len());
        if self.is_mid_element {
            steps.push(Step::Piece { raw, last: true });
        } else if is_between {
            steps.push(Step::Between(raw));
        } else if !raw.is_empty() {
            steps.push(Step::Whole(raw));
        }
        self.is_mid_element = false;
    }

    /// How an element more is put before the end, when that is possible: what comes before it and after it.
    pub(crate) fn around_one_more(&self) -> Option<(&'static str, &'static str)> {
        match (self.has_begun, self.is_array, self.depth) {
            _ if self.are_lines => (self.depth == 0 && !self.in_string).then_some(("", "\n")),
            (false, _, _) => Some(("[", "]")),
            (true, true, 1) if !self.in_string && !self.is_mid_element => {
                Some((if self.count == 0 { "" } else { "," }, "]"))
            }
            _ => None,
        }
    }

    /// Whether an object or array that is an element ends with this byte.
    fn ends_element(&mut self, byte: u8) -> bool {
        if self.in_string {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.in_string = true,
            b'[' if !self.has_begun => {
                self.is_array = true;
                self.depth = 1;
            }
            b'{' | b'[' => {
                self.count += u64::from(self.depth == usize::from(self.is_array));
                self.depth += 1;
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                let was_element = self.depth == usize::from(self.is_array);
                self.has_begun = true;
                return was_element;
            }
            b' ' | b'\t' | b'\r' | b'\n' => return false,
            _ => {}
        }
        self.has_begun = true;
        false
    }

    /// Whether no element has begun in what is held.
    fn is_between(&self) -> bool {
        self.depth <= usize::from(self.is_array)
            && !self.in_string
            && !self.is_mid_element
            && self.buffer.iter().all(|byte| BETWEEN.contains(byte))
    }

    fn take(&mut self, length: usize) -> Bytes {
        self.searched = 0;
        self.buffer.split_to(length).freeze()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The elements, and all bytes.
    fn read(text: &[u8], size: usize) -> (Vec<Vec<u8>>, Vec<u8>) {
        let (mut elements, mut steps) = (Elements::default(), Vec::new());
        for piece in text.chunks(size) {
            elements.push(piece, &mut steps);
        }
        elements.finish(&mut steps);
        let (mut found, mut all) = (Vec::new(), Vec::new());
        for step in &steps {
            let (Step::Whole(raw)
            | Step::Piece { raw, .. }
            | Step::Between(raw)
            | Step::Opaque(raw)) = step;
            all.extend_from_slice(raw);
            if let Step::Whole(raw) = step {
                found.push(raw[element(raw)].to_vec());
            }
        }
        (found, all)
    }

    #[test]
    fn elements_come_one_by_one() {
        let text = b"[{\"a\":\"}]\\\"\"}\n,\r\n{\"b\":[{}]}\n]\n";
        let (found, all) = read(text, 1);
        assert_eq!(found, [b"{\"a\":\"}]\\\"\"}".to_vec(), b"{\"b\":[{}]}".to_vec()]);
        assert_eq!(all, text);
        assert_eq!(read(text, 1000), (found, all));
        assert_eq!(read(b"{\"error\":{}}", 3).0.len(), 1);
    }

    proptest! {
        #[test]
        fn elements_are_the_same_in_any_pieces(text in r#"\[?([{}\[\],"\\a ]|\{"a":1\},){0,20}"#, size in 1..9_usize) {
            prop_assert_eq!(&read(text.as_bytes(), size).1, text.as_bytes());
        }
    }
}
