//! `aasm policy apply`.

use std::{collections::HashMap, path::PathBuf};

use aa_control_plane::rest::{Problem, policies::AppliedPolicy};
use clap::Args;
use serde::Serialize;

use crate::{
    api::{Api, ApiError},
    connection::ApiArguments,
    document::{MAX_SOURCE, expand, fallback_name},
    finding::{PlainFinding, Severity, render},
    input,
    outcome::{Exit, Failure},
    terminal::{Format, Style, Terminal},
};

#[derive(Args, Debug)]
#[command(after_help = "\
Each document becomes a new revision of the policy it names, and is in force at once. The same bytes \
applied again change nothing. When one of several documents is invalid, none is applied.

Exit codes:
  0  every document is in force (with --dry-run: could be)
  1  at least one is invalid, or the control plane refused or cannot be reached
  2  bad input: a file cannot be read, two documents have one name, or no operator API is named")]
pub(crate) struct Arguments {
    /// Documents, or directories of them; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Let the control plane check only, and say what would change
    #[arg(long)]
    dry_run: bool,
    /// For people, or
    /// `{"files":[{"file","valid","applied","name","revision","changed","errors","warnings"}]}`
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

struct Document {
    file: String,
    name: String,
    source: Vec<u8>,
}

/// The control plane's answer to one document.
type Answer = Result<AppliedPolicy, Box<Problem>>;

#[derive(Serialize)]
struct Report {
    files: Vec<FileReport>,
}

#[derive(Serialize)]
struct FileReport {
    file: String,
    valid: bool,
    applied: bool,
    name: Option<String>,
    revision: Option<u64>,
    changed: bool,
    errors: Vec<PlainFinding>,
    warnings: Vec<PlainFinding>,
}

pub(crate) fn run(arguments: &Arguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    // Everything is read before anything is applied.
    let documents = read(&arguments.files)?;
    let api = Api::open(&arguments.api)?;
    // One document is taken or refused as a whole; of several, all are checked first.
    let check_first = arguments.dry_run || documents.len() > 1;
    let mut answers = Vec::new();
    if check_first {
        answers = submit_all(&api, &documents, true)?;
        refuse_twins(&documents, &answers)?;
    }
    if !arguments.dry_run && answers.iter().all(Result::is_ok) {
        answers = submit_all(&api, &documents, false)?;
    }
    for (document, answer) in documents.iter().zip(&answers) {
        complain(&document.file, answer, terminal);
    }
    let refused = answers.iter().filter(|answer| answer.is_err()).count();
    match arguments.format {
        Format::Json => terminal.json_line(&Report::new(&documents, &answers))?,
        Format::Text if refused == 0 => {
            for applied in answers.iter().flatten() {
                show(applied, terminal)?;
            }
        }
        Format::Text => {}
    }
    if refused == 0 {
        return Ok(Exit::Done);
    }
    let outcome = if arguments.dry_run { "" } else { "; none was applied" };
    terminal.note(format_args!("{refused} of {} invalid{outcome}", answers.len()));
    Ok(Exit::No)
}

fn read(paths: &[PathBuf]) -> Result<Vec<Document>, Failure> {
    let mut documents = Vec::new();
    for path in expand(paths)? {
        let file = input::shown(&path);
        let source = input::read(&path, MAX_SOURCE)
            .map_err(|error| Failure::bad_input(format_args!("cannot read {file}: {error}")))?;
        documents.push(Document { file, name: fallback_name(&path), source });
    }
    Ok(documents)
}

fn submit_all(api: &Api, documents: &[Document], dry_run: bool) -> Result<Vec<Answer>, Failure> {
    let mut answers = Vec::with_capacity(documents.len());
    for document in documents {
        let answer = api
            .post(&["policies"])
            .query("name", Some(&document.name))
            .query("dry_run", dry_run.then_some("true"))
            .document(document.source.clone())
            .read::<AppliedPolicy>();
        answers.push(match answer {
            Ok(applied) => Ok(applied),
            Err(ApiError::Problem(problem)) if !problem.errors.is_empty() => Err(problem),
            Err(error) => return Err(error.into()),
        });
    }
    Ok(answers)
}

/// Of two documents with one name the first would be in force for a moment only.
fn refuse_twins(documents: &[Document], answers: &[Answer]) -> Result<(), Failure> {
    let mut files = HashMap::new();
    for (document, answer) in documents.iter().zip(answers) {
        let Ok(applied) = answer else { continue };
        if let Some(twin) = files.insert(&applied.name, &document.file) {
            let (name, file) = (&applied.name, &document.file);
            let message = format_args!("{twin} and {file} are both named `{name}`; rename one");
            return Err(Failure::bad_input(message));
        }
    }
    Ok(())
}

fn complain(file: &str, answer: &Answer, terminal: &mut Terminal) {
    let (errors, warnings) = match answer {
        Ok(applied) => (&[][..], &applied.warnings[..]),
        Err(problem) => (&problem.errors[..], &problem.warnings[..]),
    };
    let colour = terminal.err_colour();
    let errors = errors.iter().map(|error| (Severity::Error, error));
    let warnings = warnings.iter().map(|warning| (Severity::Warning, warning));
    for (severity, finding) in errors.chain(warnings) {
        terminal.note(render(file, severity, finding, colour));
    }
}

fn show(applied: &AppliedPolicy, terminal: &mut Terminal) -> Result<(), Failure> {
    let AppliedPolicy { name, changed, dry_run, revision, .. } = applied;
    let verb = match (changed, dry_run) {
        (false, _) => "unchanged:",
        (true, true) => "would apply",
        (true, false) => "applied",
    };
    let verb = terminal.paint(Style::Good, verb);
    let (number, scope) = (revision.revision, &revision.scope);
    terminal.line(format_args!("{verb} {name} revision {number} ({scope})"))?;
    Ok(())
}

// === impl Report ===

impl Report {
    fn new(documents: &[Document], answers: &[Answer]) -> Self {
        let pairs = documents.iter().zip(answers);
        Self { files: pairs.map(|(document, answer)| FileReport::new(document, answer)).collect() }
    }
}

// === impl FileReport ===

impl FileReport {
    fn new(document: &Document, answer: &Answer) -> Self {
        let file = document.file.clone();
        match answer {
            Ok(applied) => Self {
                file,
                valid: true,
                applied: !applied.dry_run,
                name: Some(applied.name.clone()),
                revision: Some(applied.revision.revision),
                changed: applied.changed,
                errors: Vec::new(),
                warnings: applied.warnings.iter().map(Into::into).collect(),
            },
            Err(problem) => Self {
                file,
                valid: false,
                applied: false,
                name: None,
                revision: None,
                changed: false,
                errors: problem.errors.iter().map(Into::into).collect(),
                warnings: problem.warnings.iter().map(Into::into).collect(),
            },
        }
    }
}
