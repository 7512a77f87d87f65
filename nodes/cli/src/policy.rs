//! `aasm policy`: writing, trying, testing and applying policies.

mod apply;
mod check;
mod eval;
mod remote;
mod test;

use clap::{Args, Subcommand};

pub(crate) use self::remote::{REMOTE_EXIT_CODES, remote_help};
use crate::{
    outcome::{Exit, Failure},
    terminal::Terminal,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check documents and show everything that is wrong with them
    Check(check::Arguments),
    /// Decide one action by the given policies and nothing else
    Eval(eval::Arguments),
    /// Run the cases of *.test.yaml files
    Test(test::Arguments),
    /// Print the JSON Schema of policy documents, for editors
    Schema(SchemaArguments),
    /// Put documents in force
    Apply(apply::Arguments),
    /// List the policies of the workspace
    List(remote::ListArguments),
    /// Show a policy's source
    Get(remote::GetArguments),
    /// List the revisions of a policy
    History(remote::HistoryArguments),
    /// Put an earlier revision in force again
    Rollback(remote::RollbackArguments),
    /// Take a policy out of force; its revisions stay
    Remove(remote::RemoveArguments),
}

#[derive(Args, Debug)]
#[command(after_help = "Exit codes:\n  0  printed")]
pub(crate) struct SchemaArguments {}

pub(crate) fn run(command: Command, terminal: &mut Terminal) -> Result<Exit, Failure> {
    match command {
        Command::Check(arguments) => check::run(&arguments, terminal),
        Command::Eval(arguments) => eval::run(&arguments, terminal),
        Command::Test(arguments) => test::run(&arguments, terminal),
        Command::Schema(SchemaArguments {}) => {
            terminal.json(&aa_policy::json_schema())?;
            Ok(Exit::Done)
        }
        Command::Apply(arguments) => apply::run(&arguments, terminal),
        Command::List(arguments) => remote::list(&arguments, terminal),
        Command::Get(arguments) => remote::get(&arguments, terminal),
        Command::History(arguments) => remote::history(&arguments, terminal),
        Command::Rollback(arguments) => remote::roll_back(&arguments, terminal),
        Command::Remove(arguments) => remote::remove(&arguments, terminal),
    }
}
