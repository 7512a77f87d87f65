//! `aasm store`: the store as a whole, without a control plane.

use std::{
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt,
    path::Path,
    time::{Duration, Instant},
};

use aa_store::{
    OpenedStore, RedbOptions, STORE_FILE, StoreUrl, Version,
    copy::{CopyError, Progress, Report, copy, version},
};
use clap::{Args, Subcommand};
use serde::Serialize;
use tokio::runtime::Builder;

use crate::{
    outcome::{Exit, Failure},
    terminal::{Format, Style, Terminal},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Copy a deployment's store into another one, of the same or another kind, and verify the copy
    Copy(CopyArguments),
}

#[derive(Args, Debug)]
#[command(after_help = "\
A store is named by the directory that `store.redb` is in, which is the data directory unless `aasm up` was \
told another, or by a FoundationDB cluster file and the prefix of the deployment's keys:
  /var/lib/agent-assembly
  fdb:///etc/foundationdb/fdb.cluster?prefix=agent-assembly/
with &tls_cert=FILE&tls_key=FILE&tls_ca=FILE&tls_verify=RULES where the cluster speaks TLS. The prefix above \
is the one taken when none is given.

Stop every control plane that uses either store first. The target must be empty or new. Everything is read \
again from both and compared at the end; until then the target is marked, and `aasm up` refuses it. The source \
stays as it is, and so does the number of shards: a deployment of one machine has 4, which is little for a cluster of \
many nodes. To have another number, back its workspaces up and restore them into a new store, `aasm workspace restore \
--shards N`. Keys, certificates and settings are in the data directory, not in the store: \
go on with `aasm up --data DIR --store TARGET` and the same data directory.

Exit codes:
  0  copied, read back and equal
  1  not copied: the target is not empty, a store is in use or cannot be reached, or they differ
  2  bad input: wrong usage, no store at the source")]
pub(crate) struct CopyArguments {
    /// The store to copy: a directory or fdb://
    #[arg(long, value_name = "STORE")]
    from: StoreUrl,
    /// Where to: a directory or fdb://
    #[arg(long, value_name = "STORE")]
    to: StoreUrl,
    /// For people, or `{"pairs","bytes","sha256"}`
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// What a program reads of a copy.
#[derive(Serialize)]
struct Copied {
    pairs: u64,
    bytes: u64,
    /// Over all pairs, see `aa_store::copy::Report`.
    sha256: String,
}

/// How often people are told how far it is.
const TELL_EVERY: Duration = Duration::from_secs(2);

pub(crate) fn run(command: Command, terminal: &mut Terminal) -> Result<Exit, Failure> {
    match command {
        Command::Copy(arguments) => {
            let runtime = Builder::new_multi_thread().enable_all().build().map_err(|error| {
                Failure::refused(format_args!("cannot start an asynchronous runtime: {error}"))
            })?;
            runtime.block_on(run_copy(&arguments, terminal))
        }
    }
}

async fn run_copy(arguments: &CopyArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let CopyArguments { from, to, format } = arguments;
    if from == to {
        return Err(Failure::bad_input("--from and --to name the same store"));
    }
    if let StoreUrl::Redb(directory) = from
        && !directory.join(STORE_FILE).exists()
    {
        let shown = directory.display();
        return Err(Failure::bad_input(format_args!(
            "--from: there is no {STORE_FILE} in {shown}; name the data directory of a control plane"
        )));
    }
    let source = OpenedStore::open(from).await.map_err(|error| failed("--from", &error))?;
    let as_of = version(&source).await.map_err(|error| failed("--from", &error))?;
    let target = open_target(to, as_of).await?;
    let mut told = Instant::now();
    let report = copy(&source, as_of, &target, |progress| {
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            terminal.note(describe(progress));
        }
    })
    .await
    .map_err(|error| refused(&error, to))?;
    let copied = Copied::from(&report);
    match format {
        Format::Json => terminal.json_line(&copied)?,
        Format::Text => {
            let done = terminal.paint(Style::Good, "copied and verified").into_owned();
            let Copied { pairs, bytes, sha256 } = &copied;
            terminal
                .line(format_args!("{done}: {pairs} pairs, {bytes} bytes, SHA-256 {sha256}"))?;
            terminal.line(format_args!("go on with: aasm up --store '{to}'"))?;
        }
    }
    Ok(Exit::Done)
}

/// Opens the target. A new embedded one goes on counting commits where the source is.
async fn open_target(to: &StoreUrl, first_version: Version) -> Result<OpenedStore, Failure> {
    let opened = match to {
        StoreUrl::Redb(directory) => {
            make_private(directory)?;
            let options = RedbOptions { first_version, ..RedbOptions::default() };
            OpenedStore::open_redb(directory, options).await
        }
        StoreUrl::Fdb(_) => OpenedStore::open(to).await,
    };
    opened.map_err(|error| failed("--to", &error))
}

pub(crate) fn make_private(directory: &Path) -> Result<(), Failure> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| {
        Failure::bad_input(format_args!("--to: cannot make {}: {error}", directory.display()))
    })
}

pub(crate) fn failed(argument: &str, error: &dyn std::error::Error) -> Failure {
    Failure::refused(format_args!("{argument}: {error}"))
}

fn refused(error: &CopyError, to: &StoreUrl) -> Failure {
    match error {
        CopyError::Interrupted | CopyError::Differs { .. } => {
            Failure::refused(format_args!("{error}. {}", removal(to)))
        }
        _ => Failure::refused(error),
    }
}

/// How to remove what a copy left.
fn removal(to: &StoreUrl) -> String {
    match to {
        StoreUrl::Redb(directory) => {
            let file = directory.join(STORE_FILE);
            let file = file.display();
            format!("to remove it: rm -r '{file}' '{file}.wal' '{file}.blobs'")
        }
        StoreUrl::Fdb(url) => {
            let prefix = url.prefix.escape_ascii();
            format!(
                "to remove it, in fdbcli: writemode on; clearrange \"{prefix}\" \"{prefix}\\xff\""
            )
        }
    }
}

fn describe(progress: Progress) -> String {
    match progress {
        Progress::Copied(volume) => format!("copied {volume}"),
        Progress::VerifiedSource(volume) => format!("verifying: read {volume} of the source again"),
        Progress::VerifiedTarget(volume) => format!("verifying: read {volume} of the target back"),
    }
}

// === impl Copied ===

impl From<&Report> for Copied {
    fn from(report: &Report) -> Self {
        let sha256 = report.digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { pairs: report.volume.pairs, bytes: report.volume.bytes, sha256 }
    }
}
