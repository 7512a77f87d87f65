//! `aasm workspace`: a workspace as a whole, in a file.

mod back_up;
mod restore;
mod verify;

use clap::Subcommand;

use crate::{
    outcome::{Exit, Failure},
    terminal::Terminal,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Take a backup of the workspace while it goes on, and verify it
    Backup(back_up::Arguments),
    /// Prove a backup whole and unaltered, offline
    Verify(verify::Arguments),
    /// Restore a workspace from a backup into a store that does not have it
    Restore(restore::Arguments),
}

pub(crate) fn run(command: Command, terminal: &mut Terminal) -> Result<Exit, Failure> {
    match command {
        Command::Backup(arguments) => back_up::run(&arguments, terminal),
        Command::Verify(arguments) => verify::run(&arguments, terminal),
        Command::Restore(arguments) => restore::run(&arguments, terminal),
    }
}
