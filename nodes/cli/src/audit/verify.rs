//! `aasm audit verify`.

use std::{
    fs::File,
    io::{self, BufReader, Cursor, Read},
    path::{Path, PathBuf},
};

use aa_ledger::{Export, PinnedCheckpoint, Report, Source, verify};
use clap::Args;
use serde_json::json;

use crate::{
    input,
    outcome::{Exit, Failure},
    terminal::{Format, Style, Terminal, printable},
    trusted,
};

#[derive(Args, Debug)]
#[command(after_help = "\
Proves, without a network, that each export is whole and unaltered: every entry's hash chain, the Merkle \
root over all of them, and the checkpoint's signature.

Without --keys the key that the export names is trusted, and the answer says so: that shows a change by \
anybody without that key. `aasm audit keys` writes a keys file; keep it apart from the exports. With \
--checkpoint, one kept from earlier (`aasm audit checkpoint`), a log that was cut or rewritten since, even \
by the key's holder, is seen.

Exit codes:
  0  intact
  1  tampered with (the first bad entry is named), or not closed by a checkpoint
  2  bad input: a file cannot be read, or is no export, keys file or checkpoint")]
pub(crate) struct Arguments {
    /// Exports in JSON Lines; `-` is standard input
    #[arg(required = true, value_name = "EXPORT")]
    exports: Vec<PathBuf>,
    /// Keys to trust, as `aasm audit keys` writes them
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// A checkpoint from earlier that the log must still contain
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// For people, or `{"intact","exports","warnings","failure"}`
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// The most that is read of an export on standard input, which has to be held.
const MAX_STDIN: u64 = 1 << 30;

pub(crate) fn run(arguments: &Arguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    match examine(arguments) {
        Ok(report) => {
            match arguments.format {
                Format::Json => terminal.json_line(&report)?,
                Format::Text => show(&report, terminal)?,
            }
            Ok(if report.intact { Exit::Done } else { Exit::No })
        }
        Err(failure) => {
            if arguments.format == Format::Json {
                terminal.json_line(&json!({"intact": false, "unreadable": failure.message()}))?;
            }
            Err(failure)
        }
    }
}

fn examine(arguments: &Arguments) -> Result<Report, Failure> {
    let keys = trusted::read_keys(arguments.keys.as_deref())?;
    let pinned = match &arguments.checkpoint {
        Some(path) => trusted::read_checkpoint(Some(path))?.map(|note| (input::shown(path), note)),
        None => None,
    };
    let pinned = pinned.as_ref().map(|(name, note)| PinnedCheckpoint { name, note });
    let mut sources = Vec::with_capacity(arguments.exports.len());
    for path in &arguments.exports {
        let name = input::shown(path);
        let source = open(path)
            .map_err(|error| Failure::bad_input(format_args!("cannot read {name}: {error}")))?;
        sources.push((name, source));
    }
    let mut exports: Vec<Export<'_>> =
        sources.iter_mut().map(|(name, reader)| Export { name, reader: reader.source() }).collect();
    verify(&mut exports, keys.as_ref(), pinned.as_ref()).map_err(Failure::bad_input)
}

/// An export as the verifier reads it, twice if need be.
enum Opened {
    File(BufReader<File>),
    Held(Cursor<Vec<u8>>),
}

fn open(path: &Path) -> io::Result<Opened> {
    if !input::is_stdin(path) {
        let file = File::open(path)?;
        if file.metadata()?.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory"));
        }
        return Ok(Opened::File(BufReader::with_capacity(1 << 16, file)));
    }
    let mut held = Vec::new();
    io::stdin().lock().take(MAX_STDIN + 1).read_to_end(&mut held)?;
    if held.len() as u64 > MAX_STDIN {
        let advice = "standard input has more than 1 GiB; give the export as a file";
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, advice));
    }
    Ok(Opened::Held(Cursor::new(held)))
}

fn show(report: &Report, terminal: &mut Terminal) -> Result<(), Failure> {
    for export in &report.exports {
        terminal.line(printable_lines(&export.to_string()))?;
    }
    for warning in &report.warnings {
        let label = terminal.paint(Style::Warning, "warning:");
        terminal.line(format_args!("{label} {}", printable(warning)))?;
    }
    match &report.failure {
        Some(failure) => {
            let label = terminal.paint(Style::Bad, "NOT INTACT:");
            terminal.line(format_args!("{label} {}", printable_lines(&failure.to_string())))?;
        }
        None => terminal.line(terminal.paint(Style::Good, "intact").into_owned())?,
    }
    Ok(())
}

/// What comes from a file is shown line by line, without what a terminal would obey.
fn printable_lines(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(printable).collect();
    lines.join("\n")
}

// === impl Opened ===

impl Opened {
    fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::File(file) => file,
            Self::Held(held) => held,
        }
    }
}
