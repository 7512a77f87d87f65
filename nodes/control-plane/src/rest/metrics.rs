//! Counters for a scraper, in the Prometheus text format (version 0.0.4).

use std::{fmt::Write, sync::Arc};

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
    samples: Vec<(&'static str, u64)>,
}

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
    let counter =
        |name, help, value| Metric { name, help, kind: "counter", samples: vec![("", value)] };
    vec![
        Metric {
            name: "aa_decisions_total",
            help: "Actions decided, by verdict.",
            kind: "counter",
            samples: vec![
                ("{verdict=\"allow\"}", counts.allowed),
                ("{verdict=\"deny\"}", counts.denied),
                ("{verdict=\"require_approval\"}", counts.approvals),
            ],
        },
        counter("aa_refusals_total", "Inputs of known agents refused.", counts.refusals),
        Metric {
            name: "aa_authentication_failures_total",
            help: "Requests without a valid credential, by whether they were within their rate.",
            kind: "counter",
            samples: vec![
                ("{answer=\"unauthenticated\"}", failures.failed),
                ("{answer=\"throttled\"}", failures.throttled),
            ],
        },
        counter("aa_checkpoints_total", "Checkpoints signed.", counts.checkpoints),
        Metric {
            name: "aa_agents_active",
            help: "Agent actors in memory.",
            kind: "gauge",
            samples: vec![("", agents.active)],
        },
        Metric {
            name: "aa_agents_held",
            help: "Agent actors that panicked too often in a row and are held down for now.",
            kind: "gauge",
            samples: vec![("", agents.held)],
        },
        counter("aa_agents_started_total", "Agent actors started.", agents.started),
        counter("aa_agents_passivated_total", "Idle agent actors dropped.", agents.passivated),
        counter("aa_agents_failed_total", "Agent actors that failed.", agents.failed),
        Metric {
            name: "aa_alerts_total",
            help: "Attempts to deliver alerts, by whether the destination took the message.",
            kind: "counter",
            samples: vec![
                ("{outcome=\"taken\"}", counts.alerts_taken),
                ("{outcome=\"failed\"}", counts.alerts_failed),
            ],
        },
        Metric {
            name: "aa_log_verifications_total",
            help: "Times that a workspace's audit log was verified, by outcome.",
            kind: "counter",
            samples: vec![
                ("{outcome=\"intact\"}", counts.logs_intact),
                ("{outcome=\"broken\"}", counts.logs_broken),
            ],
        },
        counter("aa_journal_commits_total", "Transactions committed.", journal.commits),
        counter("aa_journal_records_total", "Records committed.", journal.records),
        Metric {
            name: "aa_store_transactions_total",
            help: "Transactions of the store, by outcome; of those unavailable also reads.",
            kind: "counter",
            samples: vec![
                ("{outcome=\"committed\"}", store.committed),
                ("{outcome=\"conflict\"}", store.conflicts),
                ("{outcome=\"unknown\"}", store.unknown),
                ("{outcome=\"unavailable\"}", store.unavailable),
            ],
        },
        counter("aa_store_bytes_total", "Bytes committed to the store.", store.bytes),
    ]
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
        let samples = vec![("{verdict=\"allow\"}", 3), ("{verdict=\"deny\"}", 0)];
        let metric = Metric { name: "aa_x_total", help: "Things.", kind: "counter", samples };
        assert_eq!(
            render(&[metric]),
            "# HELP aa_x_total Things.\n# TYPE aa_x_total counter\n\
             aa_x_total{verdict=\"allow\"} 3\naa_x_total{verdict=\"deny\"} 0\n"
        );
    }
}
