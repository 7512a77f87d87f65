//! `aasm workspace verify`.

use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
};

use aa_governance::backup::{Contents, FileError, Trust, verify};
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
Proves, without a network, that the file is a backup as a control plane wrote it: every byte by a running digest, every \
entry of the audit log by its hash chain from the first to the recorded head, all entries by the Merkle root that the \
log's key signed, and the whole by that key's seal. The entries' MACs take a secret key; `aasm audit verify` checks them \
on an export.

Without --keys the key that the file names is trusted, and the answer says so: that shows a change by anybody without \
that key. `aasm audit keys` writes a keys file; keep it apart from the backups. With --checkpoint, one kept from \
earlier, a backup of a log that was cut or rewritten since is seen, and one that is older than the checkpoint.

Exit codes:
  0  whole and unaltered
  1  altered, cut off, or sealed by nobody that is trusted (the first bad place is named)
  2  bad input: a file cannot be read, or is no backup or keys file")]
pub(crate) struct Arguments {
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Keys to trust, as `aasm audit keys` writes them
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// A checkpoint from earlier that the log must still contain
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// For people, or `{"workspace","name","taken_at","entries","streams","rows","trust",…}`
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(crate) fn run(arguments: &Arguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let Arguments { file, keys, checkpoint, format } = arguments;
    let keys = trusted::read_keys(keys.as_deref())?;
    let pinned = trusted::read_checkpoint(checkpoint.as_deref())?;
    let name = input::shown(file);
    let source = File::open(file)
        .map_err(|error| Failure::bad_input(format_args!("cannot read {name}: {error}")))?;
    let source = BufReader::with_capacity(1 << 16, source);
    match verify(source, keys.as_ref(), pinned.as_deref()) {
        Ok(contents) => {
            match format {
                Format::Json => terminal.json_line(&contents)?,
                Format::Text => {
                    show(&contents, terminal)?;
                    terminal.line(terminal.paint(Style::Good, "whole").into_owned())?;
                }
            }
            Ok(Exit::Done)
        }
        Err(error) => {
            if *format == Format::Json {
                terminal.json_line(&json!({"whole": false, "problem": error.to_string()}))?;
            }
            Err(refused(file, &error))
        }
    }
}

/// Why a file is not taken for a backup.
pub(super) fn refused(file: &Path, error: &FileError) -> Failure {
    let message = format!("{}: {}", input::shown(file), printable(&error.to_string()));
    match error {
        FileError::Read(_) | FileError::NotABackup | FileError::OtherFormat(_) => {
            Failure::bad_input(message)
        }
        _ => Failure::refused(message),
    }
}

/// Says what a backup holds and what was proven of it.
pub(super) fn show(contents: &Contents, terminal: &mut Terminal) -> Result<(), Failure> {
    let Contents { workspace, name, taken_at, program, shards, entries, tail, streams, .. } =
        contents;
    let name = terminal.paint(Style::Strong, &printable(name)).into_owned();
    terminal.line(format_args!("backup of workspace {name} ({workspace})"))?;
    terminal.line(format_args!(
        "  taken    {taken_at} by version {}, from {shards} shards",
        printable(program)
    ))?;
    terminal.line(format_args!(
        "  log      {entries} entries; {streams} chains followed from the first entry to the head"
    ))?;
    let (size, root) = (contents.checkpoint.size, contents.checkpoint.root);
    terminal.line(format_args!(
        "  tree     {size} entries lead to the root that was signed, {root}; {tail} were not in it yet"
    ))?;
    if contents.contains_pinned == Some(true) {
        terminal.line("           the checkpoint kept from earlier is contained")?;
    }
    let rows: u64 = contents.rows.values().sum();
    terminal.line(format_args!("  state    {rows} records"))?;
    if !contents.master_keys.is_empty() {
        let keys = contents.master_keys.join(", ");
        terminal.line(format_args!(
            "  secrets  open only where the master key is: {}",
            printable(&keys)
        ))?;
    }
    terminal
        .line(format_args!("  file     {} bytes, SHA-256 {}", contents.bytes, contents.sha256))?;
    match contents.trust {
        Trust::Pinned => terminal.line(format_args!("  seal     by {}", contents.log_key))?,
        Trust::OnFirstUse => {
            let label = terminal.paint(Style::Warning, "warning:").into_owned();
            terminal.line(format_args!(
                "{label} the key that sealed it was taken from the file itself. That shows the file is whole, not \
                 who made it; compare it with one you trust, or give it in a keys file: {}",
                contents.log_key
            ))?;
        }
    }
    Ok(())
}
