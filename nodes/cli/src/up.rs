//! `aasm up`: everything on this machine.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use aa_control_plane::{ControlPlane, JoinOptions, Membership, Options, Summary};
use aa_notify::AllowedDestination;
use aa_store::StoreUrl;
use aa_vault::{Swap, harden_process};
use clap::Args;
use serde::Serialize;
use tokio::{
    runtime::Builder,
    signal::unix::{Signal, SignalKind, signal},
};
use tracing_subscriber::EnvFilter;

use crate::{
    connection::data_directory,
    input,
    outcome::{Exit, Failure},
    terminal::{Format, Style, Terminal},
};

#[derive(Args, Debug)]
#[command(after_help = "\
The first start makes a certificate authority, a workspace, an agent key, an owner key and the policy \
`starter`, all in the data directory. Later starts go on from there.

Secrets are kept under a master key, the file secrets/master-key.json unless vault.toml in the data directory \
names another provider: env, pkcs11, transit or aws-kms. Core dumps and debuggers of other processes are shut out.

As a node of a cluster it shares its store, a FoundationDB cluster, with the other nodes, and takes its part of the \
work: every agent, budget and policy set lives on one node at a time, and any node serves any client. Nodes need \
the same master key; what else they share is in the store, sealed under it. `aasm cluster --help` looks after them.

SIGINT (Ctrl-C) and SIGTERM end it in order: what was answered is durable, sessions are told. A second \
signal ends it at once.

Exit codes:
  0  ended in order
  1  could not start (a port is taken, the data is in use or damaged), or had to end
  2  bad input: wrong usage")]
pub(crate) struct Arguments {
    /// Data directory [default: $XDG_DATA_HOME/aasm or ~/.local/share/aasm]
    #[arg(long, env = "AASM_DATA", hide_env_values = true, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where the store is, if not in the data directory: another directory, or a FoundationDB cluster as
    /// fdb:///etc/foundationdb/fdb.cluster?prefix=agent-assembly/; see `aasm store copy --help`
    #[arg(long, value_name = "STORE")]
    store: Option<StoreUrl>,
    /// Where agents connect; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:7443", value_name = "ADDRESS")]
    gateway: SocketAddr,
    /// Where operators connect; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:7444", value_name = "ADDRESS")]
    api: SocketAddr,
    /// Name of the workspace that the first start makes
    #[arg(long, default_value = "default", value_name = "NAME")]
    workspace: String,
    /// What alerts may be sent to besides public addresses over TLS: a host, an address or a network such as
    /// 10.1.0.0/16; may be given several times
    #[arg(long = "allow-destination", value_name = "HOST")]
    allowed_destinations: Vec<AllowedDestination>,
    #[command(flatten)]
    cluster: ClusterArguments,
    /// Keep all memory out of swap, not only keys; takes CAP_IPC_LOCK or an unlimited RLIMIT_MEMLOCK
    #[arg(long)]
    lock_memory: bool,
    /// What to log on standard error: error, warn, info, debug, or a filter such as aa_store=debug
    #[arg(
        long,
        env = "AASM_LOG",
        hide_env_values = true,
        default_value = "warn",
        value_name = "FILTER"
    )]
    log: String,
    /// For people, or one line of JSON once it serves
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// How it takes part in a cluster.
#[derive(Args, Debug)]
#[command(next_help_heading = "As a node of a cluster, on a shared store")]
struct ClusterArguments {
    /// The cluster's name; the first node gives it to the store
    #[arg(long, value_name = "NAME", requires = "relay")]
    cluster: Option<String>,
    /// The node's name, unique in the cluster [default: the machine's host name]
    #[arg(
        long,
        env = "AASM_NODE",
        hide_env_values = true,
        value_name = "NAME",
        requires = "cluster"
    )]
    node: Option<String>,
    /// Where the node takes calls of other nodes, under mutual TLS
    #[arg(long, value_name = "ADDRESS", requires = "cluster")]
    relay: Option<SocketAddr>,
    /// The host, or host:port of the relay, at which others reach this node [default: the relay's address]
    #[arg(long, value_name = "HOST", requires = "cluster")]
    advertise: Option<String>,
    /// Where the node stands, for people
    #[arg(long, value_name = "ZONE", default_value = "default", requires = "cluster")]
    zone: String,
    /// How long a silent node keeps its shards before others take them: 500ms to 60s
    #[arg(
        long,
        value_name = "TIME",
        default_value = "2s",
        value_parser = parse_duration,
        requires = "cluster"
    )]
    lease: Duration,
    /// How far the clocks of nodes may be apart: 100ms to 10m
    #[arg(
        long,
        value_name = "TIME",
        default_value = "5s",
        value_parser = parse_duration,
        requires = "cluster"
    )]
    max_clock_skew: Duration,
}

#[derive(Serialize)]
struct Started<'s> {
    first_run: bool,
    workspace_id: &'s str,
    workspace_name: &'s str,
    gateway_url: &'s str,
    api_url: &'s str,
    data: &'s Path,
    ca_file: &'s Path,
    client_env: &'s Path,
    operator_env: &'s Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<&'s str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'s str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    relay: Option<&'s str>,
    /// Why the two files are not there yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pending: Option<&'s str>,
    pid: u32,
}

/// The most that is read of `client.env`.
const MAX_ENV_FILE: usize = 64 << 10;

pub(crate) fn run(arguments: Arguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let filter = EnvFilter::try_new(&arguments.log)
        .map_err(|error| Failure::bad_input(format_args!("--log: {error}")))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(terminal.err_colour())
        .init();
    let data = data_directory(arguments.data.as_deref())?;
    // The files name each other by absolute paths, whichever directory a client is in.
    let data = std::path::absolute(&data).map_err(|error| {
        Failure::bad_input(format_args!("the data directory {}: {error}", data.display()))
    })?;
    let options = Options {
        data,
        store: arguments.store,
        gateway: arguments.gateway,
        api: arguments.api,
        workspace_name: arguments.workspace,
        allowed_destinations: arguments.allowed_destinations,
        cluster: arguments.cluster.options()?,
    };
    let swap = if arguments.lock_memory { Swap::Nothing } else { Swap::KeysOnly };
    match harden_process(swap) {
        Err(error) if arguments.lock_memory => return Err(Failure::refused(error)),
        // A system without it is one on which its owner chose to run.
        Err(error) => {
            terminal.note(format_args!("the memory of this process is not protected: {error}"));
        }
        Ok(()) => {}
    }
    let runtime = Builder::new_multi_thread().enable_all().build().map_err(|error| {
        Failure::refused(format_args!("cannot start an asynchronous runtime: {error}"))
    })?;
    runtime.block_on(serve(options, arguments.format, terminal))
}

async fn serve(options: Options, format: Format, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let signals = |error| Failure::refused(format_args!("cannot listen for signals: {error}"));
    let interrupt = signal(SignalKind::interrupt()).map_err(signals)?;
    let terminate = signal(SignalKind::terminate()).map_err(signals)?;
    let control_plane = ControlPlane::start(options).await.map_err(Failure::refused)?;
    let announced = announce(control_plane.summary(), format, terminal);
    match announced {
        // Agents are served whether or not somebody reads this.
        Err(Failure::Output(_)) | Ok(()) => {}
        Err(failure) => return Err(failure),
    }
    let stop = stop_signal(interrupt, terminate);
    control_plane.serve_until(stop).await.map_err(Failure::refused)?;
    if format == Format::Text {
        terminal.note("stopped in order");
    }
    Ok(Exit::Done)
}

fn announce(summary: &Summary, format: Format, terminal: &mut Terminal) -> Result<(), Failure> {
    match format {
        Format::Json => terminal.json_line(&Started::from(summary))?,
        Format::Text => greet(summary, terminal)?,
    }
    Ok(terminal.flush()?)
}

/// Resolves at the first signal; the second ends the process, whatever still runs.
async fn stop_signal(mut interrupt: Signal, mut terminate: Signal) {
    either(&mut interrupt, &mut terminate).await;
    tokio::spawn(async move {
        either(&mut interrupt, &mut terminate).await;
        // What was answered is durable, so nothing is lost by not waiting.
        std::process::exit(1);
    });
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

fn greet(summary: &Summary, terminal: &mut Terminal) -> Result<(), Failure> {
    let title = terminal.paint(Style::Strong, "Agent Assembly is running").into_owned();
    terminal.line(format_args!("{title} (workspace {})", summary.workspace_name))?;
    terminal.line("")?;
    let data = summary.data.display();
    terminal.line(format_args!("  gateway    {}   agents connect here", summary.gateway_url))?;
    terminal.line(format_args!("  API        {}   operators connect here", summary.api_url))?;
    if let Some(Membership { cluster, node, relay }) = &summary.membership {
        terminal.line(format_args!("  cluster    {cluster}, as node {node}"))?;
        terminal.line(format_args!("  relay      {relay}   other nodes call here"))?;
    }
    terminal.line(format_args!("  data       {data}"))?;
    terminal.line("")?;
    if let Some(why) = &summary.pending {
        let note = format_args!(
            "The files named below are not written yet ({why}).\nThey are as soon as the other nodes are reached; what \
             this node reaches is served meanwhile."
        );
        terminal.line(note)?;
        terminal.line("")?;
    }
    let client_env = quoted(&summary.client_env);
    if summary.first_run && summary.membership.is_some() {
        terminal.line(
            "First node: made the cluster's certificate authority and secrets, sealed in the store under the master\n\
             key, and the workspace. Give every other node the same master key: copy secrets/master-key.json into\n\
             its data directory, or name a key service in its vault.toml.",
        )?;
        terminal.line("")?;
    }
    if summary.first_run {
        terminal.line(
            "First start: made a certificate authority, the workspace, an agent key, an owner key and the\n\
             policy `starter`, which allows and records everything until you apply one of your own.",
        )?;
        terminal.line("")?;
        terminal.line("An agent's process needs:")?;
        terminal.line("")?;
        if summary.pending.is_none() {
            for line in exports(&summary.client_env)? {
                terminal.line(format_args!("  {line}"))?;
            }
        }
        terminal.line("")?;
        terminal.line(format_args!("  or: source {client_env}"))?;
    } else {
        terminal.line(format_args!("An agent's process needs:   source {client_env}"))?;
    }
    let operator_env = quoted(&summary.operator_env);
    terminal.line(format_args!("An operator's shell needs:  source {operator_env}"))?;
    terminal.line("")?;
    terminal.line("Stop with Ctrl-C.")?;
    Ok(())
}

/// The lines that a client needs, as its file has them.
fn exports(client_env: &Path) -> Result<Vec<String>, Failure> {
    let text = input::read_text(client_env, MAX_ENV_FILE)?;
    let exports = text.lines().filter(|line| line.starts_with("export "));
    Ok(exports.map(str::to_owned).collect())
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+".contains(c));
    if is_plain { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<jiff::SignedDuration>().ok();
    let duration = parsed.and_then(|duration| Duration::try_from(duration).ok());
    duration.ok_or_else(|| "use a number and a unit, such as 500ms, 2s or 1m".to_owned())
}

// === impl ClusterArguments ===

impl ClusterArguments {
    fn options(self) -> Result<Option<JoinOptions>, Failure> {
        let Self { cluster, node, relay, advertise, zone, lease, max_clock_skew } = self;
        let (Some(cluster), Some(relay)) = (cluster, relay) else { return Ok(None) };
        let node = match node {
            Some(node) => node,
            None => host_name()?,
        };
        let options = JoinOptions { cluster, node, zone, relay, advertise, lease, max_clock_skew };
        options.check().map_err(Failure::bad_input)?;
        Ok(Some(options))
    }
}

fn host_name() -> Result<String, Failure> {
    let named = rustix::system::uname().nodename().to_str().map(str::to_owned);
    named.map_err(|_| Failure::bad_input("the host name is not UTF-8; name the node with --node"))
}

// === impl Started ===

impl<'s> From<&'s Summary> for Started<'s> {
    fn from(summary: &'s Summary) -> Self {
        Self {
            first_run: summary.first_run,
            workspace_id: &summary.workspace_id,
            workspace_name: &summary.workspace_name,
            gateway_url: &summary.gateway_url,
            api_url: &summary.api_url,
            data: &summary.data,
            ca_file: &summary.ca_file,
            client_env: &summary.client_env,
            operator_env: &summary.operator_env,
            cluster: summary.membership.as_ref().map(|membership| membership.cluster.as_str()),
            node: summary.membership.as_ref().map(|membership| membership.node.as_str()),
            relay: summary.membership.as_ref().map(|membership| membership.relay.as_str()),
            pending: summary.pending.as_deref(),
            pid: std::process::id(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_given_with_their_units() {
        assert_eq!(parse_duration("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(parse_duration("2s").unwrap(), Duration::from_secs(2));
        for bad in ["", "2", "-2s", "soon"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_path_is_quoted_where_a_shell_needs_it() {
        assert_eq!(quoted(Path::new("/home/ann/.local/share/aasm")), "/home/ann/.local/share/aasm");
        assert_eq!(quoted(Path::new("/it's here")), "'/it'\\''s here'");
    }
}
