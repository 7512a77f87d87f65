//! What a node of a cluster counts: its lease, its shards, the others, and what went between them.

use aa_relay::{GrpcTransport, HandshakeFailure, RelayLinkStats};
use aa_runtime::{HeldShard, Node, NodeStatus};

use super::Metric;

pub(super) fn gather(node: &Node, links: Option<&GrpcTransport>) -> Vec<Metric> {
    let mut metrics = of_node(node);
    metrics.extend(of_shards(&node.held_shards()));
    metrics.extend(of_messages(node));
    metrics.extend(links.into_iter().flat_map(|links| of_links(&links.stats())));
    metrics
}

fn of_node(node: &Node) -> Vec<Metric> {
    let view = node.view();
    let count =
        |is: &dyn Fn(&NodeStatus) -> bool| view.nodes.iter().filter(|node| is(node)).count() as u64;
    vec![
        Metric::gauge("aa_node_serves", "1 while this node's lease runs and it may answer.")
            .of(node.serves().into()),
        Metric::counter("aa_shard_tenures_total", "Tenures of shards begun on this node.")
            .of(node.tenures()),
        Metric::gauge("aa_cluster_nodes", "Nodes on record, by status.").with([
            ("{status=\"alive\"}", count(&|node| node.is_alive && !node.record.draining)),
            ("{status=\"draining\"}", count(&|node| node.is_alive && node.record.draining)),
            ("{status=\"gone\"}", count(&|node| !node.is_alive)),
        ]),
        Metric::gauge("aa_cluster_shards_unserved", "Shards without an owner whose lease runs.")
            .of(view.shards.iter().filter(|shard| !shard.is_served).count() as u64),
    ]
}

/// Only of the shards that this node has: summed over all nodes, each is there once.
fn of_shards(held: &[HeldShard]) -> Vec<Metric> {
    let each = |value: fn(&HeldShard) -> u64| {
        held.iter().map(move |held| (format!("{{shard=\"{}\"}}", held.shard.0), value(held)))
    };
    vec![
        Metric::gauge("aa_shard_epoch", "The epoch of each shard that this node has.")
            .with(each(|held| held.epoch)),
        Metric::counter("aa_shard_commits_total", "Transactions committed in this tenure.")
            .with(each(|held| held.journal.commits)),
        Metric::counter("aa_shard_records_total", "Records committed in this tenure.")
            .with(each(|held| held.journal.records)),
    ]
}

fn of_messages(node: &Node) -> Vec<Metric> {
    let stats = node.relay().stats();
    vec![
        Metric::counter(
            "aa_relay_messages_total",
            "Messages between actors on two nodes, by fate.",
        )
        .with([
            ("{fate=\"sent\"}", stats.sent),
            ("{fate=\"taken\"}", stats.taken),
            ("{fate=\"misdirected\"}", stats.misdirected),
            ("{fate=\"sent_again\"}", stats.sent_again),
            ("{fate=\"lost\"}", stats.lost),
        ]),
        Metric::gauge("aa_relay_waiting", "Messages that wait for their shard to have an owner.")
            .of(stats.waiting),
    ]
}

fn of_links(stats: &RelayLinkStats) -> Vec<Metric> {
    let ways = |out: u64, back: u64| [("{way=\"out\"}", out), ("{way=\"in\"}", back)];
    let failures = HandshakeFailure::ALL
        .map(|reason| (format!("{{reason=\"{}\"}}", reason.name()), stats.failures(reason)));
    vec![
        Metric::gauge("aa_relay_links", "Links to and from other nodes that are up.")
            .with(ways(stats.links_out, stats.links_in)),
        Metric::counter("aa_relay_reconnects_total", "Links that came up again.")
            .of(stats.reconnects),
        Metric::counter("aa_relay_calls_total", "Calls to and from other nodes.")
            .with(ways(stats.calls_out, stats.calls_in)),
        Metric::gauge("aa_relay_open_calls", "Calls of other nodes whose answers are owed.")
            .of(stats.open_in),
        Metric::counter("aa_relay_frames_total", "Frames to and from other nodes.")
            .with(ways(stats.frames_out, stats.frames_in)),
        Metric::counter("aa_relay_bytes_total", "Bytes of calls and answers.")
            .with(ways(stats.bytes_out, stats.bytes_in)),
        Metric::counter(
            "aa_relay_congested_total",
            "Calls refused because too much was under way.",
        )
        .of(stats.congested),
        Metric::counter("aa_relay_late_total", "Calls that arrived after their deadline.")
            .of(stats.late),
        Metric::counter("aa_relay_handshake_failures_total", "Links refused, by reason.")
            .with(failures),
    ]
}
