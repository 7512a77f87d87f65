//! The proxy as all its connections see it.

use std::sync::Arc;

use aa_client::Client;
use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use crate::{
    agents::{Fleet, Governed},
    caller::Entry,
    exchange::Exchange,
    metrics::Metrics,
    placeholders::Releases,
    screen::Screen,
    settings::Settings,
    settle::Settlements,
    tls::Leaves,
};

/// What all connections share.
pub(crate) struct Proxy {
    settings: ArcSwap<Settings>,
    pub(crate) fleet: Fleet,
    pub(crate) releases: Releases,
    pub(crate) leaves: Leaves,
    pub(crate) metrics: Arc<Metrics>,
    /// What is to be waited for at the end.
    pub(crate) tasks: TaskTracker,
    pub(crate) settlements: Settlements,
    /// Places for connections.
    pub(crate) places: Arc<Semaphore>,
    draining: watch::Receiver<bool>,
}

/// The end of serving, as one who serves sees it.
#[derive(Clone, Debug)]
pub(crate) struct Draining(watch::Receiver<bool>);

// === impl Proxy ===

impl Proxy {
    pub(crate) fn new(
        settings: Settings,
        client: Client,
        leaves: Leaves,
        draining: watch::Receiver<bool>,
    ) -> Arc<Self> {
        let metrics = Arc::new(Metrics::default());
        let tasks = TaskTracker::new();
        Arc::new(Self {
            places: Arc::new(Semaphore::new(settings.limits.connections)),
            settings: ArcSwap::from_pointee(settings),
            fleet: Fleet::new(client),
            releases: Releases::default(),
            leaves,
            settlements: Settlements::new(tasks.clone(), Arc::clone(&metrics)),
            metrics,
            tasks,
            draining,
        })
    }

    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Goes by other settings from the next request on.
    pub(crate) fn change(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
        self.fleet.forget();
    }

    pub(crate) fn draining(&self) -> Draining {
        Draining(self.draining.clone())
    }

    /// The agent of an entry, registered.
    pub(crate) async fn governed(
        &self,
        settings: &Settings,
        entry: &Entry,
    ) -> Result<Arc<Governed>, aa_client::ClientError> {
        self.fleet.agent(&entry.spec, entry.max_requests, || settings.upstreams(entry)).await
    }
}

// === impl Draining ===

impl Draining {
    /// Completes once the proxy drains.
    pub(crate) async fn ended(&mut self) {
        // A sender that is gone means the same.
        let _ = self.0.wait_for(|draining| *draining).await;
    }
}

// === impl Exchange ===

impl Exchange {
    /// Reports a result in the background.
    pub(crate) fn report(&self, result: &aa_protocol::Action) {
        self.proxy.settlements.report(Arc::clone(&self.governed), result, self.trace);
    }

    /// What looks at an answer.
    pub(crate) fn screen(&self) -> Screen {
        Screen::new(&self.settings.screening)
    }
}
