//! `aasm workspace restore`.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use aa_governance::backup::{Phase, RestoreError, Restored, Standing, VerifiedFile, restore, undo};
use aa_runtime::{NodeOptions, SystemEntropy};
use aa_store::{OpenedStore, STORE_FILE, StoreUrl};
use clap::Args;
use serde::Serialize;
use tokio::runtime::Builder;

use super::verify::{refused, show};
use crate::{
    outcome::{Exit, Failure},
    store::{failed, make_private},
    terminal::{Format, Style, Terminal},
    trusted,
};

#[derive(Args, Debug)]
#[command(after_help = "\
A store is named as for `aasm store copy`: by the directory that `store.redb` is in, or as \
fdb:///etc/foundationdb/fdb.cluster?prefix=agent-assembly/. It may be new, or hold other workspaces; one that has the \
workspace already is refused. Stop every control plane that uses the store first. The number of shards may differ from \
the backup's.

The file is verified before anything is written, and everything is read back afterwards. The workspace is there at once, \
at the end. What an interrupted restore left is served by nobody and cleared away by the next one, or by --undo.

The workspace goes on from the moment of the backup, and its log says so. Checkpoints taken later do not match any more. \
Serve it from one place only: two that go on from one backup sign two logs. In a deployment with another data directory:
  its agents register anew and clients take its ca.pem; API keys stay good
  its log goes on under another signing key: keep the old one in the keys file of auditors
  its secrets open only if that data directory has the master key
Of a new store it has to be said what its first workspace is to be: --home, and the workspace's owners run the \
deployment, as after the loss of a store; or --tenant, for somebody else's workspace. A store that a control plane was \
started on has its home already.

Exit codes:
  0  restored, read back and equal, or undone
  1  not restored: the file was altered, the workspace is there, the store is in use or cannot be reached
  2  bad input: wrong usage, or the file is no backup")]
pub(crate) struct Arguments {
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Where to: a directory or fdb://
    #[arg(long, value_name = "STORE")]
    to: StoreUrl,
    /// Keys to trust, as `aasm audit keys` writes them
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// Shards of a new store [default: 4 in a directory, 256 in a cluster]; an existing one keeps its own number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    shards: Option<u16>,
    /// In a new store: the workspace is the deployment's home, so its owners run it
    #[arg(long, conflicts_with = "tenant")]
    home: bool,
    /// In a new store: the workspace is not the deployment's home; the first `aasm up` makes one besides
    #[arg(long)]
    tenant: bool,
    /// Remove what an interrupted restore of this workspace left there, and restore nothing
    #[arg(long)]
    undo: bool,
    /// For people, or `{"workspace","home","shards","pairs","bytes","sha256"}`
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// What a program reads of a restore.
#[derive(Serialize)]
struct Done {
    workspace: String,
    /// Whether it is the deployment's home.
    home: bool,
    shards: u16,
    pairs: u64,
    bytes: u64,
    /// Of the backup.
    sha256: String,
}

/// How often people are told how far it is.
const TELL_EVERY: Duration = Duration::from_secs(2);

pub(crate) fn run(arguments: &Arguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let runtime = Builder::new_multi_thread().enable_all().build().map_err(|error| {
        Failure::refused(format_args!("cannot start an asynchronous runtime: {error}"))
    })?;
    runtime.block_on(async {
        if arguments.undo {
            run_undo(arguments, terminal).await
        } else {
            run_restore(arguments, terminal).await
        }
    })
}

async fn run_restore(arguments: &Arguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let Arguments { file, to, keys, shards, home, tenant, format, .. } = arguments;
    let standing = match (home, tenant) {
        (true, _) => Some(Standing::Home),
        (false, true) => Some(Standing::Tenant),
        (false, false) => None,
    };
    let keys = trusted::read_keys(keys.as_deref())?;
    // Before a store is made for what is no backup.
    let verified =
        VerifiedFile::open(file, keys.as_ref()).map_err(|error| refused(file, &error))?;
    let new_shards = shards.unwrap_or(match to {
        StoreUrl::Redb(_) => NodeOptions::EMBEDDED_SHARDS,
        StoreUrl::Fdb(_) => NodeOptions::CLUSTER_SHARDS,
    });
    if let StoreUrl::Redb(directory) = to {
        make_private(directory)?;
    }
    let store = OpenedStore::open(to).await.map_err(|error| failed("--to", &error))?;
    let mut told = Instant::now();
    let progress = |phase| {
        let line = match phase {
            Phase::Cleared(pairs) => {
                format!("removed {pairs} pairs that an interrupted restore left")
            }
            Phase::Written(pairs) => format!("wrote {pairs} pairs"),
            Phase::ReadBack(pairs) => format!("read {pairs} pairs back"),
        };
        if told.elapsed() >= TELL_EVERY || matches!(phase, Phase::Cleared(_)) {
            told = Instant::now();
            terminal.note(line);
        }
    };
    let restored = restore(verified, &store, new_shards, standing, &SystemEntropy, progress).await;
    let restored = restored.map_err(|error| match &error {
        RestoreError::File(error) => refused(file, error),
        _ => Failure::refused(error),
    })?;
    let done = Done::from(&restored);
    match format {
        Format::Json => terminal.json_line(&done)?,
        Format::Text => {
            show(&restored.contents, terminal)?;
            let Done { shards, pairs, bytes, .. } = &done;
            let good = terminal.paint(Style::Good, "restored and verified").into_owned();
            terminal
                .line(format_args!("{good}: {pairs} pairs, {bytes} bytes, in {shards} shards"))?;
            if done.home {
                terminal.line("it is the deployment's home: its owners run the deployment")?;
            }
            terminal.line(format_args!("go on with: aasm up --store '{to}'"))?;
        }
    }
    Ok(Exit::Done)
}

async fn run_undo(arguments: &Arguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let Arguments { file, to, keys, .. } = arguments;
    let keys = trusted::read_keys(keys.as_deref())?;
    let verified = VerifiedFile::open(file, keys.as_ref());
    let workspace = verified.map_err(|error| refused(file, &error))?.contents().workspace;
    if let StoreUrl::Redb(directory) = to
        && !directory.join(STORE_FILE).exists()
    {
        let shown = directory.display();
        return Err(Failure::bad_input(format_args!("--to: there is no {STORE_FILE} in {shown}")));
    }
    let store = OpenedStore::open(to).await.map_err(|error| failed("--to", &error))?;
    let removed = undo(workspace, &store, &SystemEntropy).await.map_err(Failure::refused)?;
    terminal.note(format_args!("removed {removed} pairs that a restore of {workspace} left"));
    Ok(Exit::Done)
}

// === impl Done ===

impl From<&Restored> for Done {
    fn from(restored: &Restored) -> Self {
        let Restored { contents, shards, is_home, pairs, bytes } = restored;
        Self {
            workspace: contents.workspace.to_string(),
            home: *is_home,
            shards: *shards,
            pairs: *pairs,
            bytes: *bytes,
            sha256: contents.sha256.clone(),
        }
    }
}
