//! `aasm`, the operator's command line of Agent Assembly.
//!
//! Three kinds of commands: those that work on files alone (`policy check`, `eval`, `test`, `schema`,
//! `audit verify`, `workspace verify`, `ca`), those that ask the operator API ([`api`], found by [`connection`]), `store` and
//! `workspace restore`, which open stores that no control plane has open, and `up`, which is the control plane itself.
//!
//! A command takes its arguments and a [`terminal::Terminal`] and returns an [`outcome::Exit`]; what people
//! read and what programs read are written from the same values.

mod agent;
mod alert;
mod api;
mod approval;
mod approver;
mod audit;
mod budget;
mod ca;
mod cluster;
mod connection;
mod document;
mod finding;
mod health;
mod input;
mod key;
mod moment;
mod outcome;
mod policy;
mod price;
mod secret;
mod store;
mod table;
mod terminal;
mod trusted;
mod up;
mod whole_file;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::{
    outcome::{Exit, Failure},
    terminal::Terminal,
};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Governs AI agents: what they may do is decided by policy, before they do it, and provably recorded.
#[derive(Debug, Parser)]
#[command(name = "aasm", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything on this machine: gateway, operator API, store
    Up(up::Arguments),
    /// Write, try, test and apply policies
    #[command(subcommand)]
    Policy(policy::Command),
    /// See, suspend and resume agents
    #[command(subcommand)]
    Agent(agent::Command),
    /// See what agents wait for, and approve or deny it
    #[command(subcommand)]
    Approval(approval::Command),
    /// Set who is asked for approval
    #[command(subcommand)]
    Approver(approver::Command),
    /// Set budgets and see what is spent of them
    #[command(subcommand)]
    Budget(budget::Command),
    /// See and set what models cost
    #[command(subcommand)]
    Price(price::Command),
    /// Set who is told of what, and see what was not delivered
    #[command(subcommand)]
    Alert(alert::Command),
    /// Keep secrets and rotate the keys they are kept under
    #[command(subcommand)]
    Secret(secret::Command),
    /// Read, follow, export and verify the audit log
    #[command(subcommand)]
    Audit(audit::Command),
    /// Have agents trust the sidecar proxy, and rotate what they trust
    #[command(subcommand)]
    Ca(ca::Command),
    /// Manage API keys
    #[command(subcommand)]
    Key(key::Command),
    /// See nodes and shards, drain nodes, move shards
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// Back a workspace up, verify a backup, restore one
    #[command(subcommand)]
    Workspace(workspace::Command),
    /// Move a deployment from one store to another
    #[command(subcommand)]
    Store(store::Command),
    /// Ask whether the control plane can do its work
    Health(health::Arguments),
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done, or the answer is yes
  1  the answer is no (invalid, failed, tampered), or the control plane refused or cannot be reached
  2  bad input: wrong usage, a file that cannot be read
Each command's --help says what they mean for it.

Environment:
  AASM_API_URL, AASM_API_KEY, AASM_CA_FILE   the operator API; `source DIR/operator.env` sets them
  AASM_DATA                                  the data directory of `aasm up`
  AASM_PROXY_CA                              the directory of the proxy's authority, for `aasm ca`
  NO_COLOR                                   when set, nothing is coloured";

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Outlives whatever opens a store.
    #[cfg(feature = "foundationdb")]
    let _network = aa_store::FdbNetwork::new();
    // reqwest and the control plane take the process's provider; there is to be one, chosen here.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut terminal = Terminal::standard();
    let outcome = run(cli.command, &mut terminal)
        .and_then(|exit| terminal.flush().map(|()| exit).map_err(Failure::from));
    match outcome {
        Ok(exit) => exit.into(),
        Err(failure) => {
            // What was already written comes before the complaint; that it cannot be is the complaint.
            let _ = terminal.flush();
            terminal.complain(&failure);
            failure.exit().into()
        }
    }
}

fn run(command: Command, terminal: &mut Terminal) -> Result<Exit, Failure> {
    match command {
        Command::Up(arguments) => up::run(arguments, terminal),
        Command::Policy(command) => policy::run(command, terminal),
        Command::Agent(command) => agent::run(command, terminal),
        Command::Approval(command) => approval::run(command, terminal),
        Command::Approver(command) => approver::run(command, terminal),
        Command::Budget(command) => budget::run(command, terminal),
        Command::Price(command) => price::run(command, terminal),
        Command::Alert(command) => alert::run(command, terminal),
        Command::Secret(command) => secret::run(command, terminal),
        Command::Audit(command) => audit::run(command, terminal),
        Command::Ca(command) => ca::run(command, terminal),
        Command::Key(command) => key::run(command, terminal),
        Command::Cluster(command) => cluster::run(command, terminal),
        Command::Workspace(command) => workspace::run(command, terminal),
        Command::Store(command) => store::run(command, terminal),
        Command::Health(arguments) => health::run(arguments, terminal),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_arguments_of_all_commands_are_consistent() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn the_help_of_every_command_documents_its_exit_codes() {
        fn walk(command: &mut clap::Command, path: &str) {
            let mut leaves = 0;
            for sub in command.get_subcommands_mut().filter(|sub| sub.get_name() != "help") {
                leaves += 1;
                let path = format!("{path} {}", sub.get_name());
                walk(sub, &path);
            }
            if leaves == 0 {
                let help = command.render_long_help().to_string();
                assert!(help.contains("Exit codes:"), "{path}");
            }
        }
        walk(&mut super::Cli::command(), "aasm");
    }
}
