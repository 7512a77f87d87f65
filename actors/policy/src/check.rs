//! Source → policy, with everything that is to be said about it at once.

use crate::{
    capabilities::Capability,
    conform::{self, conform},
    diagnostic::{Diagnostic, DiagnosticCode, Place, Report, quoted},
    policy::{Identity, Policy},
    shape::{ENVELOPE, FLAT},
    tree::{self, MAX_SOURCE, Node},
};

/// The outcome of a check.
#[derive(Debug)]
pub struct Checked {
    /// The compiled policy; present exactly when there are no errors.
    pub policy: Option<Policy>,
    /// Why the document is rejected, in the order of the source; at most 500.
    pub errors: Vec<Diagnostic>,
    /// What is accepted but probably not meant, in the order of the source; at most 500.
    pub warnings: Vec<Diagnostic>,
}

/// Checks and compiles one document: YAML or JSON, envelope or flat format, at most 1 MiB. `fallback_name`
/// names a flat document: the stem of its file. Never panics; time and memory are bounded by the size of
/// the source.
pub fn check(source: &[u8], fallback_name: &str) -> Checked {
    let mut report = Report::default();
    let Some(text) = decode(source, &mut report) else {
        return Checked { policy: None, errors: report.errors, warnings: report.warnings };
    };
    let policy = tree::parse(text, &mut report)
        .map(|document| compile(&document, text, fallback_name, &mut report));
    report.finish(text);
    let policy = policy.filter(|_| report.errors.is_empty());
    Checked { policy, errors: report.errors, warnings: report.warnings }
}

/// The text of a source, if it is one.
pub(crate) fn decode<'s>(source: &'s [u8], report: &mut Report) -> Option<&'s str> {
    if source.len() > MAX_SOURCE {
        let message =
            format!("{} bytes; a document has at most {MAX_SOURCE} (1 MiB)", source.len());
        report.error(Diagnostic::new(DiagnosticCode::TooLarge, "", Place::START, message));
        return None;
    }
    match std::str::from_utf8(source) {
        Ok(text) => Some(text),
        Err(error) => {
            let before = String::from_utf8_lossy(&source[..error.valid_up_to()]);
            let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count());
            let place =
                Place { line: before.matches('\n').count() as u32 + 1, column: column as u32 + 1 };
            let message = "this byte is not UTF-8";
            report.error(
                Diagnostic::new(DiagnosticCode::NotUtf8, "", place, message)
                    .with_help("save the file as UTF-8"),
            );
            None
        }
    }
}

fn compile(document: &Node, source: &str, fallback_name: &str, report: &mut Report) -> Policy {
    let is_envelope =
        ["apiVersion", "kind", "metadata", "spec"].iter().any(|key| document.member(key).is_some());
    let policy = if is_envelope {
        conform(document, &ENVELOPE, "", document.place, report);
        let metadata = document.member("metadata").map(|member| &member.node);
        let field = |key: &str| Some(&metadata?.member(key)?.node);
        let identity = Identity {
            name: field("name").and_then(Node::text).unwrap_or_default().to_owned(),
            version: field("version"),
            description: field("description"),
        };
        let spec = document.member("spec").map_or(document, |member| &member.node);
        Policy::compile(identity, spec, "spec", source, report)
    } else {
        conform(document, &FLAT, "", document.place, report);
        let identity = Identity {
            name: name_of_file(fallback_name),
            version: document.member("version").map(|member| &member.node),
            description: None,
        };
        Policy::compile(identity, document, "", source, report)
    };
    warn_of_shut_out_tools(&policy, report);
    policy
}

/// A file's stem as a policy name: what names cannot hold becomes `-`.
fn name_of_file(stem: &str) -> String {
    let allowed = |c: char| if conform::is_name_character(c) { c } else { '-' };
    let name: String = stem.chars().take(conform::MAX_NAME).map(allowed).collect();
    let name = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    if name.is_empty() { "policy".to_owned() } else { name.to_owned() }
}

fn warn_of_shut_out_tools(policy: &Policy, report: &mut Report) {
    let Some(capabilities) = &policy.capabilities else { return };
    for (tool, rule) in &policy.tools {
        let refused = capabilities.refusal(Capability::McpTool(tool));
        if rule.denied.is_some() || refused.is_none() {
            continue;
        }
        let message =
            format!("the tool {} has rules here, but `capabilities` shuts it out", quoted(tool));
        let help =
            format!("add `mcp_tool:{tool}` to `capabilities.allow`, or set `allow: false` here");
        let site = &rule.site;
        report.warning(
            Diagnostic::new(DiagnosticCode::ShutOut, &*site.path, site.place(), message)
                .with_help(help),
        );
    }
}
