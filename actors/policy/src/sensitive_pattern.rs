//! One pattern of `data.sensitive_patterns`, for who searches text that no decision is asked about.

use std::ops::Range;

use regex_syntax::hir::Hir;

use crate::re2::{self, Compiled, PatternError};

/// A pattern, compiled as a policy's check compiles it: RE2 syntax, at most 4,096 characters, at most 1 MiB
/// compiled.
///
/// It is the one reading of a pattern's text: an engine of another kind, say for text that comes in pieces,
/// is built from its [`hir`](Self::hir) and has to find what [`find_iter`](Self::find_iter) finds.
#[derive(Clone, Debug)]
pub struct SensitivePattern(Compiled);

// === impl SensitivePattern ===

impl SensitivePattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// When the text is not RE2 syntax or the pattern passes a bound.
    pub fn compile(text: &str) -> Result<Self, PatternError> {
        re2::compile(text).map(Self)
    }

    /// The meaning of the pattern. Its word boundaries are ASCII, and it matches valid UTF-8 only.
    pub const fn hir(&self) -> &Hir {
        &self.0.hir
    }

    /// The most bytes that a match has. `None` when there is no such number.
    pub fn longest(&self) -> Option<usize> {
        self.0.hir.properties().maximum_len()
    }

    /// Every place in a text where it matches, as a decision finds them: leftmost first, without overlap.
    pub fn find_iter(&self, text: &str) -> impl Iterator<Item = Range<usize>> {
        self.0.regex.find_iter(text).map(|found| found.range())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_read_as_in_a_policy() {
        let pattern = SensitivePattern::compile(r"\b\d{3}[[]?").unwrap();
        assert_eq!(pattern.longest(), Some(4));
        assert_eq!(pattern.find_iter("é123[ 4567").collect::<Vec<_>>(), [2..6, 7..10]);
        assert_eq!(SensitivePattern::compile("a+").unwrap().longest(), None);
        assert_eq!(SensitivePattern::compile(r"a(?=b)").unwrap_err().offset, 1);
    }
}
