//! `data`: sensitive patterns, and the search for them in an action.

use std::sync::Arc;

use aa_protocol::{Action, Finding, action::StringSite};

use crate::{
    diagnostic::{Diagnostic, DiagnosticCode, Place, Report},
    policy::Site,
    re2::{self, PatternError, Patterns},
    set::Document,
    tree::{Node, item_path, member_path},
};

/// The compiled patterns of one document.
#[derive(Debug)]
pub(crate) struct SensitiveData {
    patterns: Patterns,
    sites: Vec<Site>,
}

/// What the patterns of the applicable documents found in an action.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// The first places, at most [`MAX_FINDINGS`].
    pub(crate) findings: Vec<Finding>,
    /// Every (document, pattern) that matched, as indexes, in order and once each.
    pub(crate) hits: Vec<(usize, usize)>,
    /// Fields of the action (`tool`, `host`, …) that must not be quoted.
    tainted: Vec<&'static str>,
}

/// The most findings that a decision carries.
pub(crate) const MAX_FINDINGS: usize = 32;
/// The most matching patterns that a decision names per document.
const MAX_HITS: usize = 32;
/// The most patterns of one document.
const MAX_PATTERNS: usize = 1_000;
/// How often a string is decoded again: a JSON text in a JSON text in a JSON text.
const MAX_LAYERS: usize = 3;

/// The fields of actions that messages quote.
const QUOTED_FIELDS: [&str; 6] = ["tool", "model", "host", "path", "child", "argv"];

/// A string with its JSON escapes resolved, and for each byte the byte of the original it came from.
struct Decoded {
    text: String,
    origin: Vec<u32>,
}

// === impl SensitiveData ===

impl SensitiveData {
    /// Compiles the section `data`. `None` when it has no pattern or has errors.
    pub(crate) fn compile(
        section: &Node,
        path: &str,
        source: &str,
        report: &mut Report,
    ) -> Option<Self> {
        let member = section.member("sensitive_patterns")?;
        let path = member_path(path, "sensitive_patterns");
        let items = member.node.items();
        if items.len() > MAX_PATTERNS {
            let message = format!("{} patterns; at most {MAX_PATTERNS} are taken", items.len());
            report.error(Diagnostic::new(DiagnosticCode::TooLong, path, member.place, message));
            return None;
        }
        let mut texts = Vec::with_capacity(items.len());
        let mut sites = Vec::with_capacity(items.len());
        let mut failed = false;
        for (index, item) in items.iter().enumerate() {
            let Some(text) = item.text() else { continue };
            let path = item_path(&path, index);
            match re2::compile(text) {
                Ok(regex) => {
                    if regex.is_match("") {
                        report.warning(
                            Diagnostic::new(
                                DiagnosticCode::MatchesEverything,
                                &*path,
                                item.place,
                                "this pattern matches the empty text, so it blocks every action that carries text",
                            )
                            .with_help("make it require at least one character"),
                        );
                    }
                    texts.push(text);
                    sites.push(Site::new(&path, item.place));
                }
                Err(error) => {
                    failed = true;
                    let place = item.place_of_character(source, error.offset);
                    report.error(pattern_error(&error, &path, place));
                }
            }
        }
        if failed || texts.is_empty() {
            return None;
        }
        match Patterns::compile(&texts) {
            Ok(patterns) => Some(Self { patterns, sites }),
            Err(error) => {
                report.error(pattern_error(&error, &path, member.place));
                None
            }
        }
    }

    pub(crate) fn site(&self, pattern: usize) -> Option<&Site> {
        self.sites.get(pattern)
    }
}

/// The diagnostic of a pattern that does not compile.
pub(crate) fn pattern_error(error: &PatternError, path: &str, place: Place) -> Diagnostic {
    let code = if error.too_large {
        DiagnosticCode::PatternTooLarge
    } else {
        DiagnosticCode::InvalidPattern
    };
    let diagnostic = Diagnostic::new(code, path, place, format!("not an RE2 pattern: {error}"));
    if error.too_large {
        let message = error.to_string();
        return Diagnostic { message, ..diagnostic }.with_help("shorten it or split it in several");
    }
    diagnostic
}

// === impl Scan ===

impl Scan {
    /// Searches every string the action carries, keys too, with the patterns of the documents.
    pub(crate) fn of(documents: &[Arc<Document>], action: &Action) -> Self {
        let mut scan = Self::default();
        let armed: Vec<_> = documents
            .iter()
            .enumerate()
            .filter_map(|(index, document)| Some((index, document, document.policy.data.as_ref()?)))
            .collect();
        if armed.is_empty() {
            return scan;
        }
        action.visit_strings(&mut |site, text| {
            for (index, document, data) in &armed {
                scan.search(*index, document, data, site, text, None);
            }
            let mut layer = Decoded::of(text);
            for _ in 0..MAX_LAYERS {
                let Some(decoded) = layer.take() else { break };
                for (index, document, data) in &armed {
                    scan.search(*index, document, data, site, &decoded.text, Some(&decoded));
                }
                layer = decoded.again();
            }
            true
        });
        scan.hits.sort_unstable();
        scan
    }

    /// Whether messages may quote a field of the action.
    pub(crate) fn may_quote(&self, field: &str) -> bool {
        !self.tainted.contains(&field)
    }

    fn search(
        &mut self,
        index: usize,
        document: &Document,
        data: &SensitiveData,
        site: StringSite<'_>,
        text: &str,
        decoded: Option<&Decoded>,
    ) {
        if !data.patterns.is_match(text) {
            return;
        }
        self.taint(site);
        for (pattern, range) in data.patterns.matches(text) {
            let hit = (index, pattern);
            let listed = self.hits.iter().filter(|(document, _)| *document == index).count();
            if listed < MAX_HITS && !self.hits.contains(&hit) {
                self.hits.push(hit);
            }
            if self.findings.len() >= MAX_FINDINGS {
                if listed >= MAX_HITS {
                    return;
                }
                continue;
            }
            let range = decoded.map_or(range.clone(), |decoded| decoded.original(range));
            let finding = Finding {
                policy: document.policy.name().to_owned(),
                pattern,
                pointer: site.pointer.to_owned(),
                in_key: site.is_key,
                offset: range.start,
                length: range.len(),
            };
            // The decoded form finds again what the raw form showed.
            if !self.findings.contains(&finding) {
                self.findings.push(finding);
            }
        }
    }

    fn taint(&mut self, site: StringSite<'_>) {
        let field = site.pointer.split('/').nth(1).unwrap_or_default();
        if let Some(field) = QUOTED_FIELDS.into_iter().find(|quoted| *quoted == field)
            && !self.tainted.contains(&field)
        {
            self.tainted.push(field);
        }
    }
}

// === impl Decoded ===

impl Decoded {
    /// Resolves the escapes of JSON strings (RFC 8259, §7) wherever they stand, so that a JSON text inside a
    /// string hides nothing. `None` when there are none. It needs no valid JSON around them: a scanner
    /// that could be made to fail could be made to miss.
    fn of(text: &str) -> Option<Self> {
        if !text.contains('\\') || u32::try_from(text.len()).is_err() {
            return None;
        }
        Self::resolve(text, |at| at as u32)
    }

    fn again(&self) -> Option<Self> {
        if !self.text.contains('\\') {
            return None;
        }
        Self::resolve(&self.text, |at| self.origin.get(at).copied().unwrap_or(u32::MAX))
    }

    fn resolve(text: &str, original: impl Fn(usize) -> u32) -> Option<Self> {
        let mut decoded = Self {
            text: String::with_capacity(text.len()),
            origin: Vec::with_capacity(text.len() + 1),
        };
        let mut rest = text;
        let mut changed = false;
        while let Some(character) = rest.chars().next() {
            let at = text.len() - rest.len();
            let (value, width) = match escape(rest) {
                Some(resolved) => {
                    changed = true;
                    resolved
                }
                None => (character, character.len_utf8()),
            };
            decoded.text.push(value);
            decoded.origin.extend(std::iter::repeat_n(original(at), value.len_utf8()));
            rest = &rest[width..];
        }
        decoded.origin.push(original(text.len()));
        changed.then_some(decoded)
    }

    fn original(&self, range: std::ops::Range<usize>) -> std::ops::Range<usize> {
        let of = |at: usize| self.origin.get(at).copied().unwrap_or_default() as usize;
        of(range.start)..of(range.end)
    }
}

/// The character that an escape at the start of `text` stands for, and the bytes it takes.
fn escape(text: &str) -> Option<(char, usize)> {
    let bytes = text.as_bytes();
    if bytes.first() != Some(&b'\\') {
        return None;
    }
    let simple = match bytes.get(1)? {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return unicode_escape(bytes),
        _ => return None,
    };
    Some((simple, 2))
}

fn unicode_escape(bytes: &[u8]) -> Option<(char, usize)> {
    let unit = |bytes: &[u8]| {
        let digits = bytes.get(2..6)?;
        let hex = digits.iter().all(u8::is_ascii_hexdigit);
        let digits =
            std::str::from_utf8(digits).ok().filter(|_| hex && bytes.starts_with(b"\\u"))?;
        u32::from_str_radix(digits, 16).ok()
    };
    let high = unit(bytes)?;
    if let Some(character) = char::from_u32(high) {
        return Some((character, 6));
    }
    let low = unit(&bytes[6..]).filter(|low| (0xdc00..0xe000).contains(low) && high < 0xdc00);
    match low.and_then(|low| char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00))) {
        Some(character) => Some((character, 12)),
        None => Some((char::REPLACEMENT_CHARACTER, 6)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_resolve_and_point_back_to_where_they_stood() {
        let text = r#"{"k":"\u0073k-\ud83d\ude00\"\ud800"}"#;
        let decoded = Decoded::of(text).unwrap();
        assert_eq!(decoded.text, "{\"k\":\"sk-😀\"\u{fffd}\"}");
        let start = decoded.text.find("sk-").unwrap();
        let range = decoded.original(start..start + 3);
        assert_eq!(&text[range], r"\u0073k-");
        assert!(Decoded::of("no escapes").is_none());
        assert!(Decoded::of(r"\q \u12").is_none());
    }

    #[test]
    fn a_second_layer_of_escapes_resolves_too() {
        let decoded = Decoded::of(r#""{\"k\":\"\\u0073k\"}""#).unwrap().again().unwrap();
        assert_eq!(decoded.text, r#""{"k":"sk"}""#);
        assert_eq!(decoded.original(7..8), 10..17);
    }
}
