//! `aasm audit`: reading, following, exporting and verifying the audit log.

mod alert_line;
mod approval_line;
mod budget_line;
mod entry_line;
mod export;
mod query;
mod secret_line;
mod verify;

use clap::Subcommand;

use crate::{
    outcome::{Exit, Failure},
    terminal::Terminal,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the latest entries and follow the log
    Tail(query::TailArguments),
    /// Show entries that match, newest first
    Query(query::QueryArguments),
    /// Write the log to a file that anybody can verify
    Export(export::ExportArguments),
    /// Prove exports whole and unaltered, offline
    Verify(verify::Arguments),
    /// Take a signed checkpoint, to be kept elsewhere and pinned later
    Checkpoint(export::CheckpointArguments),
    /// Take the keys that sign the log, for `audit verify --keys`
    Keys(export::KeysArguments),
}

pub(crate) fn run(command: Command, terminal: &mut Terminal) -> Result<Exit, Failure> {
    match command {
        Command::Tail(arguments) => query::tail(&arguments, terminal),
        Command::Query(arguments) => query::query(&arguments, terminal),
        Command::Export(arguments) => export::export(&arguments, terminal),
        Command::Verify(arguments) => verify::run(&arguments, terminal),
        Command::Checkpoint(arguments) => export::checkpoint(&arguments, terminal),
        Command::Keys(arguments) => export::keys(&arguments, terminal),
    }
}
