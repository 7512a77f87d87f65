//! A JSON answer in one piece, kept while it passes so that it can be read at its end.

use bytes::Bytes;

/// What is kept of the answer.
#[derive(Default)]
pub(crate) struct Kept {
    bytes: Vec<u8>,
    is_cut: bool,
    thinning: Option<Thinning>,
}

/// Leaves out the vectors of embeddings, which say nothing and are most of such an answer.
#[derive(Default)]
struct Thinning {
    /// The brackets that are open: whether each is an array's.
    open: Vec<bool>,
    in_string: bool,
    is_escaped: bool,
    /// Bytes of the string so far.
    length: usize,
    /// Whether the last element of an array was a number, and its comma is to go too.
    was_number: bool,
}

/// The most that is kept, in bytes.
pub(crate) const MAX_DOCUMENT: usize = 8 << 20;

/// What is kept of a string that may be base64.
const MAX_ENCODED: usize = 1024;

const MAX_OPEN: usize = 4096;

// === impl Kept ===

impl Kept {
    pub(crate) fn new(without_vectors: bool) -> Self {
        Self { thinning: without_vectors.then(Thinning::default), ..Self::default() }
    }

    pub(crate) fn push(&mut self, raw: &Bytes) {
        if self.is_cut {
            return;
        }
        match &mut self.thinning {
            Some(thinning) => {
                for byte in raw.iter() {
                    if thinning.keeps(*byte) {
                        self.bytes.push(*byte);
                    }
                }
            }
            None if self.bytes.len() + raw.len() <= MAX_DOCUMENT => {
                self.bytes.extend_from_slice(raw);
            }
            None => self.is_cut = true,
        }
        if self.bytes.len() > MAX_DOCUMENT {
            self.is_cut = true;
        }
        if self.is_cut {
            self.bytes = Vec::new();
        }
    }

    /// The whole answer, or nothing when it was too long.
    pub(crate) fn whole(&self) -> Option<&[u8]> {
        (!self.is_cut).then_some(&self.bytes)
    }
}

// === impl Thinning ===

impl Thinning {
    fn keeps(&mut self, byte: u8) -> bool {
        if self.in_string {
            return self.keeps_in_string(byte);
        }
        let in_array = self.open.last() == Some(&true);
        match byte {
            b'"' => {
                self.in_string = true;
                self.length = 0;
                self.was_number = false;
            }
            b'[' | b'{' if self.open.len() < MAX_OPEN => self.open.push(byte == b'['),
            b']' | b'}' => {
                self.open.pop();
                self.was_number = false;
            }
            b'0'..=b'9' | b'-' | b'+' | b'.' if in_array => {
                self.was_number = true;
                return false;
            }
            b'e' | b'E' if in_array && self.was_number => return false,
            b',' if in_array => return !std::mem::take(&mut self.was_number),
            b' ' | b'\t' | b'\r' | b'\n' if in_array => return false,
            _ => {}
        }
        true
    }

    fn keeps_in_string(&mut self, byte: u8) -> bool {
        let was_escaped = std::mem::take(&mut self.is_escaped);
        self.length += 1;
        match byte {
            b'"' if !was_escaped => self.in_string = false,
            b'\\' if !was_escaped => self.is_escaped = true,
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' | b'=' if !was_escaped => {
                return self.length <= MAX_ENCODED;
            }
            _ => {}
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_left_out_and_all_else_stays() {
        let mut kept = Kept::new(true);
        let long = "A".repeat(5000);
        let text = format!(
            r#"{{"data":[{{"embedding":[0.1, -2e-5,3],"index":0}},{{"embedding":"{long}"}}],"usage":{{"n":8}}}}"#
        );
        for byte in text.bytes() {
            kept.push(&Bytes::copy_from_slice(&[byte]));
        }
        let thin = String::from_utf8(kept.whole().unwrap().to_vec()).unwrap();
        let expected = format!(
            r#"{{"data":[{{"embedding":[],"index":0}},{{"embedding":"{}"}}],"usage":{{"n":8}}}}"#,
            &long[..MAX_ENCODED]
        );
        assert_eq!(thin, expected);
    }

    #[test]
    fn what_is_too_long_is_not_kept() {
        let mut kept = Kept::new(false);
        kept.push(&Bytes::from(vec![b' '; MAX_DOCUMENT]));
        assert!(kept.whole().is_some());
        kept.push(&Bytes::from_static(b" "));
        assert!(kept.whole().is_none());
    }
}
