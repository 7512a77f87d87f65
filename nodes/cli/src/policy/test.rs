//! `aasm policy test`.

use std::path::{Path, PathBuf};

use aa_policy::cases::{self, Suite};
use clap::Args;
use serde::Serialize;

use crate::{
    document::{LoadedSet, is_test, policies_in, tests_in},
    finding::{Severity, render},
    input,
    outcome::{Exit, Failure},
    terminal::{Format, Style, Terminal, printable},
};

#[derive(Args, Debug)]
#[command(after_help = "\
A test file stands beside the policies it tests:
  policies: [base.yaml]          # without it: every policy beside this file
  cases:
    - name: nobody starts a shell
      agent: {team: platform, governance_level: L1}
      action: {kind: process_exec, argv: [bash]}
      at: 2026-11-23T09:30:00Z
      expect: {verdict: deny, code: capability_denied}
    - name: what was read does not leave
      after: [{kind: tool_result, tool: read_file, content: confidential}]
      action: {kind: tool_call, tool: send_email}
      at: 2026-11-23T09:30:00Z
      expect: {verdict: require_approval, code: sequence_requires_approval}

Exit codes:
  0  every case passes
  1  at least one fails
  2  bad input: a test or a policy cannot be read or is invalid, or there are no tests")]
pub(crate) struct Arguments {
    /// Test files, or directories whose *.test.yaml files are run
    #[arg(default_value = ".", value_name = "FILE_OR_DIR")]
    paths: Vec<PathBuf>,
    /// For people, or `{"passed","failed","cases":[{"file","line","name","passed","verdict","failure"}]}`
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Serialize)]
struct Report {
    passed: usize,
    failed: usize,
    cases: Vec<CaseReport>,
}

#[derive(Serialize)]
struct CaseReport {
    file: String,
    line: u32,
    name: String,
    passed: bool,
    verdict: &'static str,
    failure: Option<String>,
}

const MAX_TEST_FILE: usize = 1 << 20;

pub(crate) fn run(arguments: &Arguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let mut report = Report { passed: 0, failed: 0, cases: Vec::new() };
    for file in test_files(&arguments.paths)? {
        run_file(&file, &mut report, terminal)?;
    }
    match arguments.format {
        Format::Json => terminal.json_line(&report)?,
        Format::Text => report.show(terminal)?,
    }
    Ok(if report.failed == 0 { Exit::Done } else { Exit::No })
}

fn test_files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        let name = path.display();
        if path.is_dir() {
            let found = tests_in(path)
                .map_err(|error| Failure::bad_input(format_args!("cannot read {name}: {error}")))?;
            if found.is_empty() {
                let message = format_args!("there is no policy test (*.test.yaml) in {name}");
                return Err(Failure::bad_input(message));
            }
            files.extend(found);
        } else if is_test(path) {
            files.push(path.clone());
        } else {
            let message = format_args!("{name} is no policy test: those are named *.test.yaml");
            return Err(Failure::bad_input(message));
        }
    }
    Ok(files)
}

fn run_file(path: &Path, report: &mut Report, terminal: &mut Terminal) -> Result<(), Failure> {
    let file = path.display().to_string();
    let source = input::read(path, MAX_TEST_FILE)
        .map_err(|error| Failure::bad_input(format_args!("cannot read {file}: {error}")))?;
    let suite = cases::parse(&source).map_err(|errors| {
        let colour = terminal.err_colour();
        for error in errors {
            terminal.note(render(&file, Severity::Error, &error.into(), colour));
        }
        Failure::Said(Exit::BadInput)
    })?;
    let loaded = LoadedSet::load(&policy_files(path, &suite)?, &[], terminal)?;
    for result in cases::run(&suite, &loaded.set) {
        let passed = result.failure.is_none();
        *if passed { &mut report.passed } else { &mut report.failed } += 1;
        report.cases.push(CaseReport {
            file: file.clone(),
            line: result.line,
            name: result.name,
            passed,
            verdict: result.decision.verdict.as_str(),
            failure: result.failure,
        });
    }
    Ok(())
}

fn policy_files(test: &Path, suite: &Suite) -> Result<Vec<PathBuf>, Failure> {
    let directory = match test.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match &suite.policies {
        Some(named) => Ok(named.iter().map(|name| directory.join(name)).collect()),
        None => policies_in(directory).map_err(|error| {
            Failure::bad_input(format_args!("cannot read {}: {error}", directory.display()))
        }),
    }
}

// === impl Report ===

impl Report {
    fn show(&self, terminal: &mut Terminal) -> Result<(), Failure> {
        for case in &self.cases {
            let CaseReport { file, line, name, .. } = case;
            let label = match case.passed {
                true => terminal.paint(Style::Good, "pass"),
                false => terminal.paint(Style::Bad, "FAIL"),
            };
            terminal.line(format_args!("{label} {file}:{line} {}", printable(name)))?;
            for line in case.failure.iter().flat_map(|failure| failure.lines()) {
                terminal.line(format_args!("     {}", printable(line)))?;
            }
        }
        terminal.line(format_args!("{} passed, {} failed", self.passed, self.failed))?;
        Ok(())
    }
}
