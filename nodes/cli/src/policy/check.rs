//! `aasm policy check`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use aa_policy::{Policy, PolicySet, lint};
use aa_protocol::AgentFacts;
use clap::Args;
use serde::Serialize;

use crate::{
    connection::ApiArguments,
    document::{Document, expand},
    finding::{PlainFinding, Severity, render},
    input,
    outcome::{Exit, Failure},
    terminal::{Format, Style, Terminal},
};

#[derive(Args, Debug)]
#[command(after_help = "\
Exit codes:
  0  every document is valid; warnings do not count
  1  at least one is invalid
  2  at least one cannot be read")]
pub(crate) struct Arguments {
    /// Documents, or directories of them; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Also compare the documents with each other and with the agents registered in the workspace
    #[arg(long)]
    registered: bool,
    /// For people, or `{"files":[{"file","valid","errors","warnings"}]}`
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Serialize)]
struct Report {
    files: Vec<FileReport>,
}

#[derive(Serialize)]
struct FileReport {
    file: String,
    valid: bool,
    errors: Vec<PlainFinding>,
    warnings: Vec<PlainFinding>,
    #[serde(skip)]
    shown: Vec<String>,
    #[serde(skip)]
    unreadable: bool,
}

pub(crate) fn run(arguments: &Arguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let agents = match arguments.registered {
        true => Some(crate::agent::registered_facts(&arguments.api)?),
        false => None,
    };
    let colour = terminal.colour();
    let mut report = Report { files: Vec::new() };
    let mut policies = BTreeMap::new();
    for path in expand(&arguments.files)? {
        let (file, policy) = check_file(&path, colour);
        if let Some(policy) = policy {
            policies.insert(report.files.len(), Arc::new(policy));
        }
        report.files.push(file);
    }
    if let Some(agents) = &agents {
        report.compare(&policies, agents, colour)?;
    }
    match arguments.format {
        Format::Json => terminal.json_line(&report)?,
        Format::Text => report.show(terminal)?,
    }
    Ok(report.exit())
}

fn check_file(path: &Path, colour: bool) -> (FileReport, Option<Policy>) {
    let file = input::shown(path);
    let document = match Document::read(path) {
        Ok(document) => document,
        Err(error) => {
            let message = format!("cannot be read: {error}");
            return (FileReport::unreadable(file, message), None);
        }
    };
    let mut report = FileReport {
        file,
        valid: document.checked.policy.is_some(),
        errors: document.checked.errors.iter().map(Into::into).collect(),
        warnings: document.checked.warnings.iter().map(Into::into).collect(),
        shown: Vec::new(),
        unreadable: false,
    };
    let errors = document.checked.errors.into_iter().map(|found| (Severity::Error, found));
    let warnings = document.checked.warnings.into_iter().map(|found| (Severity::Warning, found));
    for (severity, diagnostic) in errors.chain(warnings) {
        report.shown.push(render(&report.file, severity, &diagnostic.into(), colour));
    }
    (report, document.checked.policy)
}

// === impl Report ===

impl Report {
    /// Adds what only shows when the documents are seen together with the registered agents.
    fn compare(
        &mut self,
        policies: &BTreeMap<usize, Arc<Policy>>,
        agents: &[AgentFacts],
        colour: bool,
    ) -> Result<(), Failure> {
        let documents = policies.values().map(|policy| (Arc::clone(policy), None));
        let set = PolicySet::new(documents).map_err(Failure::bad_input)?;
        for found in lint(&set, agents) {
            let of_policy = policies.iter().find(|(_, policy)| policy.name() == found.policy);
            let Some((&index, _)) = of_policy else { continue };
            let report = &mut self.files[index];
            report.warnings.push((&found.diagnostic).into());
            let warning = found.diagnostic.into();
            report.shown.push(render(&report.file, Severity::Warning, &warning, colour));
        }
        Ok(())
    }

    fn exit(&self) -> Exit {
        if self.files.iter().any(|file| file.unreadable) {
            Exit::BadInput
        } else if self.files.iter().all(|file| file.valid) {
            Exit::Done
        } else {
            Exit::No
        }
    }

    fn show(&self, terminal: &mut Terminal) -> Result<(), Failure> {
        for file in &self.files {
            for shown in &file.shown {
                terminal.line(shown)?;
                terminal.line("")?;
            }
            let FileReport { file: name, errors, warnings, valid, .. } = file;
            let besides = match warnings.len() {
                0 => String::new(),
                1 => ", 1 warning".to_owned(),
                count => format!(", {count} warnings"),
            };
            let summary = if *valid {
                format!("{} {name}{besides}", terminal.paint(Style::Good, "valid"))
            } else if file.unreadable {
                format!(
                    "{} {name}: {}",
                    terminal.paint(Style::Bad, "unreadable"),
                    errors[0].message
                )
            } else {
                let noun = if errors.len() == 1 { "error" } else { "errors" };
                let label = terminal.paint(Style::Bad, "invalid");
                format!("{label} {name}: {} {noun}{besides}", errors.len())
            };
            terminal.line(summary)?;
        }
        Ok(())
    }
}

// === impl FileReport ===

impl FileReport {
    fn unreadable(file: String, message: String) -> Self {
        let error = PlainFinding {
            path: String::new(),
            line: 1,
            column: 1,
            code: "unreadable".to_owned(),
            message,
        };
        let (errors, warnings) = (vec![error], Vec::new());
        Self { file, valid: false, errors, warnings, shown: Vec::new(), unreadable: true }
    }
}
