//! What a check has to say about a document: where, what, why, and what to write instead.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// One error or warning about a policy document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// What kind of finding it is.
    pub code: DiagnosticCode,
    /// The field as the document writes it: `spec.network.allowlist[2]`, in the flat format
    /// `network.allowlist[2]`; empty for the document as a whole.
    pub path: String,
    /// 1-based line.
    pub line: u32,
    /// 1-based column, in characters.
    pub column: u32,
    /// What is wrong, in a lower-case sentence.
    pub message: String,
    /// The line of the source that is meant, when it is short enough to be shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_line: Option<String>,
    /// What to write instead, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// A position in the source: 1-based line and 1-based column in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) line: u32,
    pub(crate) column: u32,
}

/// Everything found so far. It keeps at most [`MAX_DIAGNOSTICS`] of each kind, so that a hostile
/// document cannot make a report larger than itself.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) errors: Vec<Diagnostic>,
    pub(crate) warnings: Vec<Diagnostic>,
}

const MAX_DIAGNOSTICS: usize = 500;
const MAX_SOURCE_LINE: usize = 300;

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident => $name:literal,)+) => {
        /// The stable names of all findings.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DiagnosticCode {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl DiagnosticCode {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name programs see.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

codes! {
    /// The text is not UTF-8.
    NotUtf8 => "not_utf8",
    /// The document is larger than 1 MiB.
    TooLarge => "too_large",
    /// Too many nodes, too deep, or aliases that expand past the bound.
    TooComplex => "too_complex",
    /// The text is neither YAML nor JSON.
    Syntax => "syntax",
    /// There is nothing in the file.
    EmptyDocument => "empty_document",
    /// The file holds more than one document.
    MultipleDocuments => "multiple_documents",
    /// A key occurs twice in one object.
    DuplicateKey => "duplicate_key",
    /// A YAML feature that policies do not take: custom tags, merge keys, keys that are no scalars.
    UnsupportedYaml => "unsupported_yaml",
    /// `apiVersion` is none that is known.
    UnknownApiVersion => "unknown_api_version",
    /// `kind` is not `Policy`.
    UnknownKind => "unknown_kind",
    /// A required field is missing.
    MissingField => "missing_field",
    /// A value of another type is expected.
    WrongType => "wrong_type",
    /// A text that must not be empty is.
    EmptyValue => "empty_value",
    /// A number outside its bounds.
    OutOfRange => "out_of_range",
    /// A text longer, or a list with more entries, than is taken.
    TooLong => "too_long",
    /// A name with characters that names do not have.
    InvalidName => "invalid_name",
    /// A scope that is not of the known forms.
    InvalidScope => "invalid_scope",
    /// Not a time of day as `HH:MM`.
    InvalidTime => "invalid_time",
    /// `end` is not later than `start`.
    EmptyWindow => "empty_window",
    /// Not the name of an IANA time zone.
    UnknownTimezone => "unknown_timezone",
    /// None of the values the field takes.
    UnknownChoice => "unknown_choice",
    /// None of the known capabilities.
    UnknownCapability => "unknown_capability",
    /// The monthly limit is below the daily one.
    LimitsInverted => "limits_inverted",
    /// Not an RE2 pattern.
    InvalidPattern => "invalid_pattern",
    /// A pattern whose compiled form passes the bound.
    PatternTooLarge => "pattern_too_large",
    /// Not a CEL expression.
    InvalidCondition => "invalid_condition",
    /// An identifier that conditions do not bind.
    UnknownIdentifier => "unknown_identifier",
    /// A function that conditions do not have.
    UnknownFunction => "unknown_function",
    /// A governance level other than `L0` to `L3`.
    UnknownGovernanceLevel => "unknown_governance_level",
    /// Operands that do not go together.
    ConditionTypeMismatch => "condition_type_mismatch",
    /// The condition cannot be true or false.
    ConditionNotBoolean => "condition_not_boolean",
    /// Nesting or size of the condition passes the bound.
    ConditionTooComplex => "condition_too_complex",
    /// Warning: a key that is not known and is ignored.
    UnknownKey => "unknown_key",
    /// Warning: a section or list that is written but empty.
    EmptySection => "empty_section",
    /// Warning: an allowlist entry that no host can match.
    UnmatchableHost => "unmatchable_host",
    /// Warning: an entry that another one already covers.
    CoveredEntry => "covered_entry",
    /// Warning: a capability that is both allowed and denied.
    ContradictoryCapability => "contradictory_capability",
    /// Warning: a section grants what `capabilities` shuts out.
    ShutOut => "shut_out",
    /// Warning: a pattern that matches the empty text and so blocks every action that carries text.
    MatchesEverything => "matches_everything",
    /// Warning: a scope that no registered agent is in, or that never takes effect.
    UnusedScope => "unused_scope",
    /// Warning: a sequence, or a part of it, that changes nothing.
    IdleSequence => "idle_sequence",
}

// === impl Diagnostic ===

impl Diagnostic {
    pub(crate) fn new(
        code: DiagnosticCode,
        path: impl Into<String>,
        place: Place,
        message: impl Into<String>,
    ) -> Self {
        Self {
            code,
            path: path.into(),
            line: place.line,
            column: place.column,
            message: message.into(),
            source_line: None,
            help: None,
        }
    }

    pub(crate) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    /// `3:14 spec.scope: message [code]`, then the source line with a caret, then the help.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} ", self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{} [{}]", self.message, self.code)?;
        if let Some(source_line) = &self.source_line {
            let number = self.line.to_string();
            let indent = " ".repeat(number.len());
            // Tabs are kept so that the caret stands under the character it means.
            let before: String = source_line
                .chars()
                .take(self.column.saturating_sub(1) as usize)
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect();
            write!(f, "\n {number} | {source_line}\n {indent} | {before}^")?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n   = help: {help}")?;
        }
        Ok(())
    }
}

// === impl DiagnosticCode ===

impl fmt::Display for DiagnosticCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for DiagnosticCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for DiagnosticCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let known = Self::ALL.iter().copied().find(|code| code.as_str() == name);
        known.ok_or_else(|| D::Error::custom(format_args!("`{name}` is no kind of finding")))
    }
}

// === impl Place ===

impl Place {
    pub(crate) const START: Self = Self { line: 1, column: 1 };
}

// === impl Report ===

impl Report {
    pub(crate) fn error(&mut self, diagnostic: Diagnostic) {
        if self.errors.len() < MAX_DIAGNOSTICS {
            self.errors.push(diagnostic);
        }
    }

    pub(crate) fn warning(&mut self, diagnostic: Diagnostic) {
        if self.warnings.len() < MAX_DIAGNOSTICS {
            self.warnings.push(diagnostic);
        }
    }

    /// Whether further errors would not be kept: then what only finds more of them can be left out.
    pub(crate) fn errors_are_full(&self) -> bool {
        self.errors.len() >= MAX_DIAGNOSTICS
    }

    /// Whether further warnings would not be kept.
    pub(crate) fn warnings_are_full(&self) -> bool {
        self.warnings.len() >= MAX_DIAGNOSTICS
    }

    /// Sorts by position and copies each line of the source beside what was found on it.
    pub(crate) fn finish(&mut self, source: &str) {
        let lines: Vec<&str> = source.lines().collect();
        for diagnostic in self.errors.iter_mut().chain(&mut self.warnings) {
            diagnostic.source_line = lines
                .get(diagnostic.line.saturating_sub(1) as usize)
                .filter(|line| line.len() <= MAX_SOURCE_LINE)
                .map(|line| (*line).to_owned());
        }
        for list in [&mut self.errors, &mut self.warnings] {
            list.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
            list.dedup();
        }
    }
}

/// The known word that `word` was probably meant to be: at most two edits away, and fewer than its
/// length would make meaningless.
pub(crate) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let word: Vec<char> = word.chars().take(64).flat_map(char::to_lowercase).collect();
    let bound = 2.min(word.len().saturating_sub(1));
    known
        .into_iter()
        .filter(|candidate| candidate.chars().count().abs_diff(word.len()) <= bound)
        .map(|candidate| {
            let letters: Vec<char> = candidate.chars().flat_map(char::to_lowercase).collect();
            (edit_distance(&word, &letters), candidate)
        })
        .filter(|(distance, _)| *distance <= bound)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Optimal string alignment distance: insertions, deletions, substitutions, and swapped neighbours.
fn edit_distance(a: &[char], b: &[char]) -> usize {
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let substituted = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = substituted.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

/// A text from a document as a message quotes it: escaped, in back-ticks, at most 80 characters.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len().min(100) + 2);
    quoted.push('`');
    let mut characters = text.chars();
    for character in characters.by_ref().take(80) {
        if character.is_control() {
            quoted.extend(character.escape_default());
        } else {
            quoted.push(character);
        }
    }
    if characters.next().is_some() {
        quoted.push('…');
    }
    quoted.push('`');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_key_finds_its_neighbour_and_a_strange_one_finds_none() {
        let known = ["network", "schedule", "tools", "allow"];
        assert_eq!(nearest("netwrok", known), Some("network"));
        assert_eq!(nearest("Tools", known), Some("tools"));
        assert_eq!(nearest("alow", known), Some("allow"));
        assert_eq!(nearest("x", known), None);
        assert_eq!(nearest("customer", known), None);
    }

    #[test]
    fn code_names_are_unique() {
        let names: std::collections::BTreeSet<_> =
            DiagnosticCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(names.len(), DiagnosticCode::ALL.len());
    }
}
