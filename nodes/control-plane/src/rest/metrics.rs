//! Counters for a scraper, in the Prometheus text format (version 0.0.4).

mod cluster;

use std::{borrow::Cow, fmt::Write, sync::Arc};

use aa_governance::permission::ReadAgents;
use axum::{
    extract::State,
    http::{HeaderName, header},
};

use super::{ApiState, access::Authorized, problem::Problem};

struct Metric {
    name: &'static str,
    help: &'static str,
    kind: &'static str,
    samples: Vec<(Labels, u64)>,
}

/// `{name="value"}`, or nothing.
type Labels = Cow<'static, str>;

/// Counters of this process since it started.
#[utoipa::path(
    get, path = "/metrics", tag = "health", operation_id = "get_metrics",
    security(("api_key" = [])),
    responses(
        (status = 200, description = "Prometheus text format", body = String,
            content_type = "text/plain"),
        (status = "4XX", description = "Refused", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get_metrics(
    _permit: Authorized<ReadAgents>,
    State(state): State<Arc<ApiState>>,
) -> ([(HeaderName, &'static str); 1], String) {
    let content_type = (header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8");
    ([content_type], render(&gather(&state)))
}

fn gather(state: &ApiState) -> Vec<Metric> {
    let services = state.governance.services();
    let counts = services.metrics.counts();
    let agents = state.governance.agent_stats();
    let journal = services.node.journal_stats();
    let store = services.node.store().counters();
    let failures = state.throttle.counts();
    let mut metrics = vec![
        Metric::counter("aa_decisions_total", "Actions decided, by verdict.").with([
            ("{verdict=\"allow\"}", counts.allowed),
            ("{verdict=\"deny\"}", counts.denied),
            ("{verdict=\"require_approval\"}", counts.approvals),
        ]),
        Metric::counter("aa_refusals_total", "Inputs of known agents refused.").of(counts.refusals),
        Metric::counter(
            "aa_authentication_failures_total",
            "Requests without a valid credential, by whether they were within their rate.",
        )
        .with([
            ("{answer=\"unauthenticated\"}", failures.failed),
            ("{answer=\"throttled\"}", failures.throttled),
        ]),
        Metric::counter("aa_checkpoints_total", "Checkpoints signed.").of(counts.checkpoints),
        Metric::gauge("aa_agents_active", "Agent actors in memory.").of(agents.active),
        Metric::gauge(
            "aa_agents_held",
            "Agent actors that panicked too often in a row and are held down for now.",
        )
        .of(agents.held),
        Metric::counter("aa_agents_started_total", "Agent actors started.").of(agents.started),
        Metric::counter("aa_agents_passivated_total", "Idle agent actors dropped.")
            .of(agents.passivated),
        Metric::counter("aa_agents_failed_total", "Agent actors that failed.").of(agents.failed),
        Metric::counter(
            "aa_alerts_total",
            "Attempts to deliver alerts, by whether the destination took the message.",
        )
        .with([
            ("{outcome=\"taken\"}", counts.alerts_taken),
            ("{outcome=\"failed\"}", counts.alerts_failed),
        ]),
        Metric::counter(
            "aa_log_verifications_total",
            "Times that a workspace's audit log was verified, by outcome.",
        )
        .with([
            ("{outcome=\"intact\"}", counts.logs_intact),
            ("{outcome=\"broken\"}", counts.logs_broken),
        ]),
        Metric::counter("aa_journal_commits_total", "Transactions committed.").of(journal.commits),
        Metric::counter("aa_journal_records_total", "Records committed.").of(journal.records),
        Metric::counter(
            "aa_store_transactions_total",
            "Transactions of the store, by outcome; of those unavailable also reads.",
        )
        .with([
            ("{outcome=\"committed\"}", store.committed),
            ("{outcome=\"conflict\"}", store.conflicts),
            ("{outcome=\"unknown\"}", store.unknown),
            ("{outcome=\"unavailable\"}", store.unavailable),
        ]),
        Metric::counter("aa_store_bytes_total", "Bytes committed to the store.").of(store.bytes),
    ];
    if services.node.is_clustered() {
        metrics.extend(cluster::gather(&services.node, state.links.as_deref()));
    }
    metrics
}

// === impl Metric ===

impl Metric {
    const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: "counter", samples: Vec::new() }
    }

    const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: "gauge", samples: Vec::new() }
    }

    /// With one value and no labels.
    fn of(self, value: u64) -> Self {
        self.with([("", value)])
    }

    fn with<L: Into<Labels>>(mut self, samples: impl IntoIterator<Item = (L, u64)>) -> Self {
        self.samples.extend(samples.into_iter().map(|(labels, value)| (labels.into(), value)));
        self
    }
}

fn render(metrics: &[Metric]) -> String {
    let mut text = String::new();
    for Metric { name, help, kind, samples } in metrics {
        // Writing to a string does not fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_in_the_prometheus_text_format() {
        let metric = Metric::counter("aa_x_total", "Things.")
            .with([("{verdict=\"allow\"}", 3), ("{verdict=\"deny\"}", 0)]);
        assert_eq!(
            render(&[metric]),
            "# HELP aa_x_total Things.\n# TYPE aa_x_total counter\n\
             aa_x_total{verdict=\"allow\"} 3\naa_x_total{verdict=\"deny\"} 0\n"
        );
    }
}
