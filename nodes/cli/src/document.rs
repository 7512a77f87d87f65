//! Policy documents on disk: which files are meant, and what a check says about each.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use aa_policy::{Checked, Policy, PolicySet, check};

use crate::{
    finding::{Severity, render},
    input,
    outcome::{Exit, Failure},
    terminal::Terminal,
};

/// A document that could be read, whatever is in it.
pub(crate) struct Document {
    /// The name it is called by in messages.
    pub(crate) file: String,
    /// What is to be said about it.
    pub(crate) checked: Checked,
}

/// A set of documents and where each came from.
pub(crate) struct LoadedSet {
    pub(crate) set: PolicySet,
    files: Vec<(String, String)>,
}

/// The most bytes that are read of a document: enough for the check to see that it is too large.
pub(crate) const MAX_SOURCE: usize = 1 << 20;

/// The ends of the names of files that hold policy tests.
const TEST_ENDINGS: [&str; 3] = [".test.yaml", ".test.yml", ".test.json"];
const ENDINGS: [&str; 3] = [".yaml", ".yml", ".json"];

/// Whether a file holds policy tests.
pub(crate) fn is_test(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    TEST_ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// The policies of a directory, by name: every `*.yaml`, `*.yml` and `*.json` that is no test.
pub(crate) fn policies_in(directory: &Path) -> io::Result<Vec<PathBuf>> {
    files_in(directory, |path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        ENDINGS.iter().any(|ending| name.ends_with(ending)) && !is_test(path)
    })
}

/// The policy tests of a directory, by name.
pub(crate) fn tests_in(directory: &Path) -> io::Result<Vec<PathBuf>> {
    files_in(directory, is_test)
}

fn files_in(directory: &Path, wanted: impl Fn(&Path) -> bool) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        // What was found in `.` is called as somebody in it would.
        let path = path.strip_prefix(".").map(Path::to_owned).unwrap_or(path);
        if wanted(&path) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Replaces each directory by the policies in it.
pub(crate) fn expand(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        if input::is_stdin(path) || !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let name = path.display();
        let found = policies_in(path)
            .map_err(|error| Failure::bad_input(format_args!("cannot read {name}: {error}")))?;
        if found.is_empty() {
            let message = format_args!("there is no policy (*.yaml, *.yml, *.json) in {name}");
            return Err(Failure::bad_input(message));
        }
        files.extend(found);
    }
    Ok(files)
}

/// The name of a document that has none of its own: its file's stem.
pub(crate) fn fallback_name(path: &Path) -> String {
    if input::is_stdin(path) {
        return "policy".to_owned();
    }
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

// === impl Document ===

impl Document {
    /// Reads and checks a file.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        let source = input::read(path, MAX_SOURCE)?;
        let checked = check(&source, &fallback_name(path));
        Ok(Self { file: input::shown(path), checked })
    }

    /// Shows everything that is to be said about it, on standard error.
    pub(crate) fn complain(&self, terminal: &mut Terminal) {
        let colour = terminal.err_colour();
        let errors = self.checked.errors.iter().map(|error| (Severity::Error, error));
        let warnings = self.checked.warnings.iter().map(|warning| (Severity::Warning, warning));
        for (severity, diagnostic) in errors.chain(warnings) {
            terminal.note(render(&self.file, severity, &diagnostic.clone().into(), colour));
        }
    }
}

// === impl LoadedSet ===

impl LoadedSet {
    /// Loads files and directories as one set, without the files in `except`: an action or an agent that
    /// lies in a directory of policies is none. What is wrong with them goes to standard error.
    pub(crate) fn load(
        paths: &[PathBuf],
        except: &[&Path],
        terminal: &mut Terminal,
    ) -> Result<Self, Failure> {
        let except: Vec<_> = except.iter().flat_map(std::fs::canonicalize).collect();
        let mut policies: Vec<(Arc<Policy>, Option<u64>)> = Vec::new();
        let mut files = Vec::new();
        let mut refused = 0_usize;
        for path in expand(paths)? {
            let is_named = paths.contains(&path);
            if !is_named && path.canonicalize().is_ok_and(|path| except.contains(&path)) {
                continue;
            }
            let document = Document::read(&path).map_err(|error| {
                Failure::bad_input(format_args!("cannot read {}: {error}", input::shown(&path)))
            })?;
            document.complain(terminal);
            let Document { file, checked, .. } = document;
            match checked.policy {
                Some(policy) => {
                    files.push((policy.name().to_owned(), file));
                    policies.push((Arc::new(policy), None));
                }
                None => refused += 1,
            }
        }
        if refused > 0 {
            terminal.note(format_args!("{refused} invalid policies; nothing was evaluated"));
            return Err(Failure::Said(Exit::BadInput));
        }
        let set = PolicySet::new(policies).map_err(Failure::bad_input)?;
        Ok(Self { set, files })
    }

    /// The file a policy came from.
    pub(crate) fn file(&self, policy: &str) -> Option<&str> {
        let found = self.files.iter().find(|(name, _)| name == policy);
        found.map(|(_, file)| file.as_str())
    }
}
