//! Errors and warnings about documents, as people read them.

use aa_control_plane::rest::problem::DocumentFinding;
use aa_policy::Diagnostic;
use serde::Serialize;

use crate::terminal::{Style, printable};

/// How grave a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    Error,
    Warning,
}

/// A finding as scripts read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct PlainFinding {
    pub(crate) path: String,
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) code: String,
    pub(crate) message: String,
}

/// The finding with its place, its line of the source and a caret below:
///
/// ```text
/// policy.yaml:7:12: error[invalid_scope]: `project:x` is not a scope
///   |
/// 7 |     scope: project:x
///   |            ^ spec.scope
///   = help: use global, org:<id>, …
/// ```
pub(crate) fn render(
    file: &str,
    severity: Severity,
    finding: &DocumentFinding,
    colour: bool,
) -> String {
    let DocumentFinding { path, line, column, code, message, source_line, help } = finding;
    let (label, style) = match severity {
        Severity::Error => ("error", Style::Bad),
        Severity::Warning => ("warning", Style::Warning),
    };
    let label = style.paint(&format!("{label}[{code}]"), colour).into_owned();
    let mut text = format!("{file}:{line}:{column}: {label}: {}", printable(message));
    let number = line.to_string();
    let margin = " ".repeat(number.len());
    let bar = Style::Quiet.paint("|", colour);
    if let Some(source_line) = source_line {
        // Tabs are kept, so that the caret stands under the character it means.
        let before: String = source_line
            .chars()
            .take(column.saturating_sub(1) as usize)
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        let source: String = source_line
            .chars()
            .map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c })
            .collect();
        let caret = style.paint("^", colour);
        let field = if path.is_empty() { String::new() } else { format!(" {}", printable(path)) };
        text += &format!(
            "\n{margin} {bar}\n{number} {bar} {source}\n{margin} {bar} {before}{caret}{field}"
        );
    } else if !path.is_empty() {
        text += &format!("\n{margin} {bar} {}", printable(path));
    }
    if let Some(help) = help {
        text += &format!("\n{margin} = help: {}", printable(help));
    }
    text
}

// === impl PlainFinding ===

impl From<&Diagnostic> for PlainFinding {
    fn from(diagnostic: &Diagnostic) -> Self {
        Self {
            path: diagnostic.path.clone(),
            line: diagnostic.line,
            column: diagnostic.column,
            code: diagnostic.code.as_str().to_owned(),
            message: diagnostic.message.clone(),
        }
    }
}

impl From<&DocumentFinding> for PlainFinding {
    fn from(finding: &DocumentFinding) -> Self {
        Self {
            path: finding.path.clone(),
            line: finding.line,
            column: finding.column,
            code: finding.code.clone(),
            message: finding.message.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_shows_its_place_its_line_and_what_to_write_instead() {
        let finding = DocumentFinding {
            path: "spec.scope".into(),
            line: 12,
            column: 10,
            code: "invalid_scope".into(),
            message: "`project:x` is not a scope".into(),
            source_line: Some("\tscope: project:x".into()),
            help: Some("use `global`".into()),
        };
        assert_eq!(
            render("p.yaml", Severity::Error, &finding, false),
            "p.yaml:12:10: error[invalid_scope]: `project:x` is not a scope\n   |\n\
             12 | \tscope: project:x\n   | \t        ^ spec.scope\n   = help: use `global`"
        );
        let bare = DocumentFinding { source_line: None, help: None, ..finding };
        assert_eq!(
            render("p.yaml", Severity::Warning, &bare, false),
            "p.yaml:12:10: warning[invalid_scope]: `project:x` is not a scope\n   | spec.scope"
        );
    }
}
