//! `aasm audit export`, `checkpoint` and `keys`: what leaves the control plane.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::{
    api::Api,
    connection::ApiArguments,
    moment::{Moment, now},
    outcome::{Exit, Failure},
    policy::REMOTE_EXIT_CODES,
    terminal::Terminal,
    whole_file::WholeFile,
};

#[derive(Args, Debug)]
#[command(after_help = "\
With --out the file appears only once it is whole. Without it, an export that breaks off exits with 1.

Exit codes:
  0  exported, whole
  1  the control plane refused, cannot be reached or broke off, or the file cannot be written
  2  bad input: wrong usage, or no operator API is named")]
pub(crate) struct ExportArguments {
    /// JSON Lines closed by a signed checkpoint, or ArcSight CEF for a SIEM
    #[arg(long, value_enum, default_value_t)]
    format: ExportFormat,
    /// At least everything of this time or later: RFC 3339, or how long ago (30m, 12h, 7d)
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Where to write; standard output without it
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = REMOTE_EXIT_CODES)]
pub(crate) struct CheckpointArguments {
    /// Where to write; standard output without it
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = REMOTE_EXIT_CODES)]
pub(crate) struct KeysArguments {
    /// Where to write; standard output without it
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum ExportFormat {
    #[default]
    Jsonl,
    Cef,
}

pub(crate) fn export(
    arguments: &ExportArguments,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let api = Api::open(&arguments.api)?;
    let since = arguments.since.map(|moment| moment.resolve(now()));
    let format = match arguments.format {
        ExportFormat::Jsonl => "jsonl",
        ExportFormat::Cef => "cef",
    };
    let request = api.get(&["audit", "export"]).query("format", Some(format));
    let request = request.query("since", since);
    let Some(path) = &arguments.out else {
        request.stream(|piece| terminal.raw(piece))?;
        return Ok(Exit::Done);
    };
    let mut file = WholeFile::create(path)?;
    request.stream(|piece| file.write(piece))?;
    let bytes = file.finish()?;
    terminal.note(format_args!("wrote {bytes} bytes to {}", path.display()));
    Ok(Exit::Done)
}

pub(crate) fn checkpoint(
    arguments: &CheckpointArguments,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let note = Api::open(&arguments.api)?.get(&["audit", "checkpoint"]).bytes()?;
    deliver(&note, arguments.out.as_deref(), terminal)
}

pub(crate) fn keys(arguments: &KeysArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let mut keys = Api::open(&arguments.api)?.get(&["audit", "keys"]).bytes()?;
    keys.push(b'\n');
    deliver(&keys, arguments.out.as_deref(), terminal)
}

fn deliver(content: &[u8], out: Option<&Path>, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let Some(path) = out else {
        terminal.raw(content)?;
        return Ok(Exit::Done);
    };
    let mut file = WholeFile::create(path)?;
    file.write(content)?;
    let bytes = file.finish()?;
    terminal.note(format_args!("wrote {bytes} bytes to {}", path.display()));
    Ok(Exit::Done)
}
