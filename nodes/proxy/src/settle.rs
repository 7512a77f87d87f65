//! Tells the gateway how a call ended: what was reserved for it is settled by what it did cost.

use std::{sync::Arc, time::Duration};

use aa_client::{ClientError, Options};
use aa_protocol::{Action, wire::v1::action::Kind};
use tokio_util::task::TaskTracker;

use crate::{agents::Governed, metrics::Metrics, trace::Trace};

/// Reports in the background; whoever ends the proxy waits for them.
#[derive(Clone, Debug)]
pub(crate) struct Settlements {
    tasks: TaskTracker,
    metrics: Arc<Metrics>,
}

/// Between two attempts to report. The gateway charges the whole reservation of a call that nobody settles.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(30),
];

// === impl Settlements ===

impl Settlements {
    pub(crate) fn new(tasks: TaskTracker, metrics: Arc<Metrics>) -> Self {
        Self { tasks, metrics }
    }

    /// Reports a result, tries again while no gateway answers.
    pub(crate) fn report(&self, governed: Arc<Governed>, result: &Action, trace: Option<Trace>) {
        let kind = Kind::from(result);
        let metrics = Arc::clone(&self.metrics);
        self.tasks.spawn(async move {
            let options =
                Options {
                    trace_id: trace.map(|trace| trace.id),
                    parent_span: trace.map(|trace| trace.parent),
                    ..Options::default()
                };
            for pause in PAUSES.into_iter().map(Some).chain([None]) {
                match governed.agent.check_with(kind.clone(), options.clone()).await {
                    Ok(_) => return,
                    // It is in the log without its content: too long to send, not too long to have happened.
                    Err(ClientError::TooLarge { .. }) => break,
                    Err(error) => {
                        tracing::warn!(agent = %governed.name, %error, "result not reported yet");
                    }
                }
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => break,
                }
            }
            metrics.unsettled.increment();
            tracing::error!(
                agent = %governed.name,
                "result not reported; what was reserved for the call is charged in full when it expires"
            );
        });
    }
}
