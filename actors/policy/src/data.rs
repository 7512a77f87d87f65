//! `data`: sensitive patterns, and the search for them in an action.

use std::sync::Arc;

use aa_protocol::{Action, Finding, action::StringSite};

use crate::{
    decoded::{Decoded, visit_texts},
    diagnostic::{Diagnostic, DiagnosticCode, Place, Report},
    patterns::{Next, Patterns},
    policy::Site,
    re2::{self, PatternError},
    set::{Applicable, Document},
    stream_rules::OnStreamMatch,
    tree::{Node, item_path, member_path},
};

/// The compiled patterns of one document.
#[derive(Debug)]
pub(crate) struct SensitiveData {
    patterns: Patterns,
    /// The text of each pattern, and where it stands.
    sources: Vec<(Arc<str>, Site)>,
    on_stream_match: OnStreamMatch,
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

/// The fields of actions that messages quote.
const QUOTED_FIELDS: [&str; 6] = ["tool", "model", "host", "path", "child", "argv"];

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
        let mut all = Vec::with_capacity(items.len());
        let mut sources = Vec::with_capacity(items.len());
        let mut failed = false;
        let mut compiled_size = 0;
        for (index, item) in items.iter().enumerate() {
            let Some(text) = item.text() else { continue };
            let path = item_path(&path, index);
            if report.errors_are_full() {
                return None;
            }
            match re2::compile(text) {
                Ok(compiled) => {
                    compiled_size += compiled.regex.memory_usage();
                    if compiled_size > re2::MAX_COMPILED_ALL {
                        report.error(pattern_error(&re2::too_large_together(), &path, item.place));
                        return None;
                    }
                    if compiled.regex.is_match("") {
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
                    all.push(compiled);
                    sources.push((Arc::from(text), Site::new(&path, item.place)));
                }
                Err(error) => {
                    failed = true;
                    let place = item.place_of_character(source, error.offset);
                    report.error(pattern_error(&error, &path, place));
                }
            }
        }
        if failed || all.is_empty() {
            return None;
        }
        let on_stream_match = section.member("on_stream_match");
        let on_stream_match = on_stream_match.and_then(|member| member.node.text());
        let on_stream_match = OnStreamMatch::read(on_stream_match);
        match Patterns::new(all) {
            Ok(patterns) => Some(Self { patterns, sources, on_stream_match }),
            Err(error) => {
                report.error(pattern_error(&error, &path, member.place));
                None
            }
        }
    }

    pub(crate) fn site(&self, pattern: usize) -> Option<&Site> {
        self.sources.get(pattern).map(|(_, site)| site)
    }

    /// The text of each pattern, and where it stands.
    pub(crate) fn patterns(&self) -> impl Iterator<Item = &(Arc<str>, Site)> {
        self.sources.iter()
    }

    pub(crate) const fn on_stream_match(&self) -> OnStreamMatch {
        self.on_stream_match
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
    pub(crate) fn of(documents: &Applicable<'_>, action: &Action) -> Self {
        let mut scan = Self::default();
        let searching: Vec<_> = documents
            .iter()
            .enumerate()
            .filter_map(|(index, document)| Some((index, document, document.policy.data.as_ref()?)))
            .collect();
        if searching.is_empty() {
            return scan;
        }
        visit_texts(action, &mut |site, text, decoded| {
            for (index, document, data) in &searching {
                scan.search(*index, document, data, site, text, decoded);
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
        let mut is_tainted = false;
        data.patterns.search(text, &mut |pattern, range| {
            if !std::mem::replace(&mut is_tainted, true) {
                self.taint(site);
            }
            let hit = (index, pattern);
            let listed = self.hits.iter().filter(|(document, _)| *document == index).count();
            if listed < MAX_HITS && !self.hits.contains(&hit) {
                self.hits.push(hit);
            }
            if self.findings.len() >= MAX_FINDINGS {
                return if listed >= MAX_HITS { Next::Nothing } else { Next::Pattern };
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
            Next::Match
        });
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
