//! `aasm cluster`: the nodes, where the shards are, draining and moving.

use std::{
    thread,
    time::{Duration, Instant},
};

use aa_control_plane::rest::cluster::{
    ClusterNode, ClusterShard, ClusterSummary, MoveShardRequest, NodeList, ShardList,
};
use clap::{Args, Subcommand};

use crate::{
    api::Api,
    connection::ApiArguments,
    moment::short,
    outcome::{Exit, Failure},
    table::{Columns, Text},
    terminal::{Format, Style, Terminal, printable},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Tell whether every shard is served, by how many nodes
    Status(StatusArguments),
    /// List the nodes
    Nodes(ListArguments),
    /// List the shards and where they are
    Shards(ShardArguments),
    /// Let a node hand over all its shards and take none, before it is stopped or upgraded
    Drain(DrainArguments),
    /// Let a node take shards again
    Undrain(NodeArguments),
    /// Let a shard go to another node
    Move(MoveArguments),
}

/// What the commands of the cluster have in common.
fn cluster_help(example: &str) -> String {
    format!(
        "Example:\n  {example}\n\n\
         Ask any node; each tells what it last read in the store. It takes a key of the deployment's home workspace, \
         which the first start made: an owner's to change something.\n\n\
         Exit codes:\n  \
         0  done\n  \
         1  the control plane refused, cannot be reached, or is no node of a cluster\n  \
         2  bad input: wrong usage, no operator API is named"
    )
}

#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  aasm cluster status

Ask any node; each tells what it last read in the store. It takes a key of the deployment's home workspace.

Exit codes:
  0  every shard is served
  1  some are not, or the control plane refused, cannot be reached, or is no node of a cluster
  2  bad input: wrong usage, no operator API is named")]
pub(crate) struct StatusArguments {
    /// For people or programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = cluster_help("aasm cluster nodes"))]
pub(crate) struct ListArguments {
    /// For people, or `{"nodes":[…]}`
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = cluster_help("aasm cluster shards --node node-2"))]
pub(crate) struct ShardArguments {
    /// Only the shards of this node
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// For people, or `{"shards":[…]}`
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = cluster_help("aasm cluster drain node-2"))]
pub(crate) struct DrainArguments {
    /// The node's name
    node: String,
    /// Do not wait until all shards have gone
    #[arg(long)]
    no_wait: bool,
    /// How many seconds to wait for that
    #[arg(long, value_name = "SECONDS", default_value_t = 60, conflicts_with = "no_wait")]
    within: u64,
    /// For people or programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = cluster_help("aasm cluster undrain node-2"))]
pub(crate) struct NodeArguments {
    /// The node's name
    node: String,
    /// For people or programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Args, Debug)]
#[command(after_help = cluster_help("aasm cluster move 17 --to node-2"))]
pub(crate) struct MoveArguments {
    /// The shard's number
    shard: u16,
    /// The node that shall have it
    #[arg(long, value_name = "NODE")]
    to: String,
    #[command(flatten)]
    api: ApiArguments,
}

/// How often it is looked whether a node is empty.
const LOOK_EVERY: Duration = Duration::from_millis(250);

pub(crate) fn run(command: Command, terminal: &mut Terminal) -> Result<Exit, Failure> {
    match command {
        Command::Status(arguments) => status(&arguments, terminal),
        Command::Nodes(arguments) => nodes(&arguments, terminal),
        Command::Shards(arguments) => shards(&arguments, terminal),
        Command::Drain(arguments) => drain(&arguments, terminal),
        Command::Undrain(arguments) => undrain(&arguments, terminal),
        Command::Move(arguments) => move_shard(&arguments, terminal),
    }
}

fn status(arguments: &StatusArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let found: ClusterSummary = Api::open(&arguments.api)?.get(&["cluster"]).read()?;
    let is_whole = found.status == "ok";
    let exit = if is_whole { Exit::Done } else { Exit::No };
    if arguments.format == Format::Json {
        terminal.json(&found)?;
        return Ok(exit);
    }
    let style = if is_whole { Style::Good } else { Style::Bad };
    let painted = terminal.paint(style, &found.status).into_owned();
    let mut nodes = format!("{} alive", found.nodes_alive);
    for (count, what) in [(found.nodes_draining, "of them draining"), (found.nodes_gone, "gone")] {
        if count > 0 {
            nodes.push_str(&format!(", {count} {what}"));
        }
    }
    let mut shards = format!("{} of {} served", found.shards_served, found.shards);
    if found.shards_moving > 0 {
        shards.push_str(&format!(", {} on their way to another node", found.shards_moving));
    }
    let facts = [
        ("cluster", printable(&found.cluster).into_owned()),
        ("status", painted),
        ("nodes", nodes),
        ("shards", shards),
        ("load", format!("{} records per second", found.records_per_second)),
        ("versions", printable(&found.versions.join(", ")).into_owned()),
        ("told by", printable(&found.told_by).into_owned()),
    ];
    for (name, value) in facts {
        terminal.line(format_args!("{name:<9} {value}"))?;
    }
    for (node, problem) in &found.unreachable {
        terminal.note(format_args!("{} does not reach {node}: {problem}", found.told_by));
    }
    Ok(exit)
}

fn nodes(arguments: &ListArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let found: NodeList = Api::open(&arguments.api)?.get(&["cluster", "nodes"]).read()?;
    if arguments.format == Format::Json {
        terminal.json(&found)?;
        return Ok(Exit::Done);
    }
    let headings =
        ["NODE", "STATUS", "ZONE", "ADDRESS", "VERSION", "SHARDS", "RECORDS/S", "SINCE", "RENEWED"];
    let mut columns = Columns::new(&headings, terminal.colour());
    for node in &found.nodes {
        let style = match node.status.as_str() {
            "alive" => Style::Good,
            "draining" => Style::Warning,
            _ => Style::Bad,
        };
        columns.row([
            Text::styled(node.node.as_str(), Style::Strong),
            Text::styled(node.status.as_str(), style),
            node.zone.as_str().into(),
            node.address.as_str().into(),
            node.version.as_str().into(),
            node.shards.to_string().into(),
            node.records_per_second.to_string().into(),
            short(&node.started_at).into(),
            short(&node.renewed_at).into(),
        ]);
    }
    columns.print(terminal)?;
    for ClusterNode { node, unreachable, .. } in &found.nodes {
        if let Some(problem) = unreachable {
            terminal.note(format_args!("{node} cannot be reached: {problem}"));
        }
    }
    Ok(Exit::Done)
}

fn shards(arguments: &ShardArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let mut found: ShardList = Api::open(&arguments.api)?.get(&["cluster", "shards"]).read()?;
    if let Some(node) = &arguments.node {
        found.shards.retain(|shard| shard.owner.as_ref() == Some(node));
    }
    if arguments.format == Format::Json {
        terminal.json(&found)?;
        return Ok(Exit::Done);
    }
    if found.shards.is_empty() {
        terminal.note("no shards");
        return Ok(Exit::Done);
    }
    let mut columns =
        Columns::new(&["SHARD", "OWNER", "SERVED", "MOVING TO", "RECORDS/S"], terminal.colour());
    for ClusterShard { shard, owner, served, moving_to, records_per_second } in found.shards {
        let served = if served { ("yes", Style::Good) } else { ("no", Style::Bad) };
        columns.row([
            Text::styled(shard.to_string(), Style::Strong),
            owner.unwrap_or_else(|| "(none)".to_owned()).into(),
            Text::styled(served.0, served.1),
            moving_to.unwrap_or_default().into(),
            records_per_second.to_string().into(),
        ]);
    }
    columns.print(terminal)?;
    Ok(Exit::Done)
}

fn drain(arguments: &DrainArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let DrainArguments { node, no_wait, within, format, api } = arguments;
    let api = Api::open(api)?;
    let mut drained: ClusterNode = api.post(&["cluster", "nodes", node, "drain"]).read()?;
    let (began, within) = (Instant::now(), Duration::from_secs(*within));
    let mut told = drained.shards;
    while !no_wait && drained.shards > 0 {
        if began.elapsed() > within {
            return Err(Failure::refused(format_args!(
                "{node} still has {} shards after {within:?}; it goes on handing them over: see `aasm cluster shards \
                 --node {node}`",
                drained.shards
            )));
        }
        thread::sleep(LOOK_EVERY);
        let NodeList { nodes } = api.get(&["cluster", "nodes"]).read()?;
        let Some(now) = nodes.into_iter().find(|known| known.node == *node) else { break };
        drained = now;
        if drained.shards != told && *format == Format::Text {
            told = drained.shards;
            terminal.note(format_args!("{told} shards to go"));
        }
    }
    match format {
        Format::Json => terminal.json(&drained)?,
        Format::Text if drained.shards > 0 => {
            terminal.line(format_args!("{node} hands over its {} shards", drained.shards))?;
        }
        Format::Text => {
            let done = terminal.paint(Style::Good, "drained").into_owned();
            terminal.line(format_args!(
                "{done}: {node} has no shards and takes none; it still serves clients"
            ))?;
        }
    }
    Ok(Exit::Done)
}

fn undrain(arguments: &NodeArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let NodeArguments { node, format, api } = arguments;
    let back: ClusterNode = Api::open(api)?.post(&["cluster", "nodes", node, "undrain"]).read()?;
    match format {
        Format::Json => terminal.json(&back)?,
        Format::Text => terminal.line(format_args!(
            "{node} takes shards again; the cluster balances itself within some seconds"
        ))?,
    }
    Ok(Exit::Done)
}

fn move_shard(arguments: &MoveArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let MoveArguments { shard, to, api } = arguments;
    let request = MoveShardRequest { to: to.clone() };
    let number = shard.to_string();
    Api::open(api)?.post(&["cluster", "shards", &number, "move"]).json(&request)?.bytes()?;
    terminal.line(format_args!("shard {shard} is on its way to {to}"))?;
    Ok(Exit::Done)
}
