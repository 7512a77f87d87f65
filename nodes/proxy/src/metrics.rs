//! What the proxy counts, in the text format of Prometheus.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

/// How many there are now.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicI64);

/// One that is there until it is dropped.
#[derive(Debug)]
pub(crate) struct Present<'g>(&'g Gauge);

/// How long something took, in seconds.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; BOUNDS.len()],
    count: AtomicU64,
    micros: AtomicU64,
}

/// Upper bounds in microseconds.
const BOUNDS: [u64; 14] = [
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    5_000_000,
    30_000_000,
    120_000_000,
];

/// Everything that is counted.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) connections: Gauge,
    pub(crate) connections_accepted: Counter,
    pub(crate) handshakes_failed: Counter,
    pub(crate) requests: Counter,
    pub(crate) requests_under_way: Gauge,
    pub(crate) refused: Counter,
    pub(crate) malformed: Counter,
    pub(crate) unknown_callers: Counter,
    pub(crate) without_decision: Counter,
    pub(crate) upstream_failures: Counter,
    pub(crate) calls: Counter,
    pub(crate) calls_cut: Counter,
    pub(crate) matches: Counter,
    pub(crate) clients_gone: Counter,
    pub(crate) input_tokens: Counter,
    pub(crate) output_tokens: Counter,
    pub(crate) without_usage: Counter,
    pub(crate) unsettled: Counter,
    pub(crate) unseen: Counter,
    pub(crate) decision_time: Histogram,
    pub(crate) first_token_time: Histogram,
    pub(crate) call_time: Histogram,
}

// === impl Counter ===

impl Counter {
    pub(crate) fn increment(&self) {
        self.add(1);
    }

    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

// === impl Gauge ===

impl Gauge {
    pub(crate) fn enter(&self) -> Present<'_> {
        self.0.fetch_add(1, Relaxed);
        Present(self)
    }
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

// === impl Histogram ===

impl Histogram {
    pub(crate) fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if let Some(bucket) = BOUNDS.iter().position(|bound| micros <= *bound) {
            self.buckets[bucket].fetch_add(1, Relaxed);
        }
        self.count.fetch_add(1, Relaxed);
        self.micros.fetch_add(micros, Relaxed);
    }
}

// === impl Metrics ===

impl Metrics {
    /// As `/metrics` answers.
    pub(crate) fn render(&self) -> String {
        let mut text = String::with_capacity(8 << 10);
        let gauges = [
            ("aa_proxy_connections", "Connections of clients that are open.", &self.connections),
            ("aa_proxy_requests_under_way", "Requests under way.", &self.requests_under_way),
        ];
        for (name, help, gauge) in gauges {
            head(&mut text, name, help, "gauge");
            let _ = writeln!(text, "{name} {}", gauge.0.load(Relaxed));
        }
        let counters = [
            (
                "aa_proxy_connections_accepted_total",
                "Connections of clients accepted.",
                &self.connections_accepted,
            ),
            (
                "aa_proxy_handshakes_failed_total",
                "TLS handshakes of clients that failed; most often the client does not trust this proxy's CA.",
                &self.handshakes_failed,
            ),
            ("aa_proxy_requests_total", "Requests received.", &self.requests),
            ("aa_proxy_refused_total", "Requests refused by a decision.", &self.refused),
            (
                "aa_proxy_malformed_total",
                "Requests refused because they are malformed or contradict themselves.",
                &self.malformed,
            ),
            (
                "aa_proxy_unknown_callers_total",
                "Requests refused because nothing says which agent calls.",
                &self.unknown_callers,
            ),
            (
                "aa_proxy_without_decision_total",
                "Requests refused because the gateway gave no decision.",
                &self.without_decision,
            ),
            (
                "aa_proxy_upstream_failures_total",
                "Requests that an upstream did not answer.",
                &self.upstream_failures,
            ),
            (
                "aa_proxy_calls_total",
                "Calls of models and tools recognised and let through.",
                &self.calls,
            ),
            (
                "aa_proxy_calls_cut_total",
                "Answers that were cut because a sensitive pattern matched.",
                &self.calls_cut,
            ),
            ("aa_proxy_matches_total", "Matches of sensitive patterns in answers.", &self.matches),
            (
                "aa_proxy_clients_gone_total",
                "Calls whose client went away before their answer ended.",
                &self.clients_gone,
            ),
            (
                "aa_proxy_input_tokens_total",
                "Tokens of prompts, as providers told.",
                &self.input_tokens,
            ),
            (
                "aa_proxy_output_tokens_total",
                "Tokens of answers, as providers told.",
                &self.output_tokens,
            ),
            (
                "aa_proxy_without_usage_total",
                "Answers of models whose provider told no usage.",
                &self.without_usage,
            ),
            (
                "aa_proxy_unsettled_total",
                "Results that could not be reported; their reservations are charged in full.",
                &self.unsettled,
            ),
            (
                "aa_proxy_unseen_total",
                "Connections passed through without being looked at.",
                &self.unseen,
            ),
        ];
        for (name, help, counter) in counters {
            head(&mut text, name, help, "counter");
            let _ = writeln!(text, "{name} {}", counter.get());
        }
        let histograms = [
            (
                "aa_proxy_decision_seconds",
                "From a request read to its decision.",
                &self.decision_time,
            ),
            (
                "aa_proxy_first_token_seconds",
                "From a call sent to the first of its answer's content.",
                &self.first_token_time,
            ),
            ("aa_proxy_call_seconds", "From a call sent to its answer's end.", &self.call_time),
        ];
        for (name, help, histogram) in histograms {
            head(&mut text, name, help, "histogram");
            let mut below = 0;
            for (bound, bucket) in BOUNDS.iter().zip(&histogram.buckets) {
                below += bucket.load(Relaxed);
                let _ = writeln!(text, "{name}_bucket{{le=\"{}\"}} {below}", seconds(*bound));
            }
            let count = histogram.count.load(Relaxed);
            let _ = writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {count}");
            let _ = writeln!(text, "{name}_sum {}", seconds(histogram.micros.load(Relaxed)));
            let _ = writeln!(text, "{name}_count {count}");
        }
        text
    }
}

fn head(text: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// Microseconds as seconds, exactly.
fn seconds(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_add_up() {
        let metrics = Metrics::default();
        for millis in [0, 1, 2, 2_000, 1_000_000] {
            metrics.call_time.observe(Duration::from_millis(millis));
        }
        let text = metrics.render();
        for line in [
            "aa_proxy_call_seconds_bucket{le=\"0.0005\"} 1",
            "aa_proxy_call_seconds_bucket{le=\"0.001\"} 2",
            "aa_proxy_call_seconds_bucket{le=\"5\"} 4",
            "aa_proxy_call_seconds_bucket{le=\"+Inf\"} 5",
            "aa_proxy_call_seconds_sum 1002.003",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
    }
}
