//! The client for callers without a Rust runtime: each call blocks its own thread, while one worker
//! thread does the talking for all.
//!
//! A process that forks keeps the parent's memory and none of its threads. A handle used in the child
//! answers [`ClientError::Forked`] and touches nothing it inherited, so the child can make its own.

use std::{future::Future, mem, process, sync::Arc, time::Duration};

use aa_protocol::{AgentId, EventId, wire::v1::action::Kind};
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};

use crate::{
    agent::{Checked, Event, Options},
    client::AgentSpec,
    config::Config,
    error::ClientError,
    link::News,
};

/// See [`crate::Client`].
#[derive(Clone, Debug)]
pub struct Client {
    client: Arc<Inherited<crate::Client>>,
    config: Arc<Config>,
    engine: Arc<Engine>,
}

/// See [`crate::Agent`].
#[derive(Clone, Debug)]
pub struct Agent {
    agent: Arc<Inherited<crate::Agent>>,
    engine: Arc<Engine>,
    name: Arc<str>,
}

/// The runtime, and the process it belongs to.
#[derive(Debug)]
struct Engine {
    runtime: Inherited<Runtime>,
}

/// A value that may not even be dropped in a forked child: its locks may be held by threads that are not
/// there, and its wakers belong to a runtime that does not run.
#[derive(Debug)]
struct Inherited<T> {
    /// Absent only while it is being dropped.
    value: Option<T>,
    process: u32,
}

/// How often a blocked caller is asked whether it still wants to wait.
const ATTENTION: Duration = Duration::from_millis(100);

// === impl Client ===

impl Client {
    /// Starts the worker thread and prepares the connection.
    ///
    /// # Errors
    /// As [`crate::Client::connect`], and [`ClientError::System`] when no thread can be started.
    pub fn connect(config: Config) -> Result<Self, ClientError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("agent-assembly")
            .enable_io()
            .enable_time()
            .build()
            .map_err(|error| ClientError::System(error.to_string()))?;
        let client = {
            let _entered = runtime.enter();
            crate::Client::connect(config)?
        };
        Ok(Self {
            config: Arc::new(client.config().clone()),
            client: Arc::new(Inherited::new(client)),
            engine: Arc::new(Engine { runtime: Inherited::new(runtime) }),
        })
    }

    /// The configuration in use.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// See [`crate::Client::register`]. `go_on` is asked every 100 ms whether to keep waiting.
    ///
    /// # Errors
    /// As [`crate::Client::register`], and [`ClientError::Interrupted`].
    pub fn register(
        &self,
        spec: AgentSpec,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Agent, ClientError> {
        let client = self.client.get()?;
        let name = Arc::from(spec.name.as_str());
        let agent = self.engine.wait(client.register(spec), go_on)?;
        Ok(Agent { agent: Arc::new(Inherited::new(agent)), engine: Arc::clone(&self.engine), name })
    }
}

// === impl Agent ===

impl Agent {
    /// The agent's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// See [`crate::Agent::id`].
    ///
    /// # Errors
    /// [`ClientError::Forked`].
    pub fn id(&self) -> Result<AgentId, ClientError> {
        self.agent.get().map(crate::Agent::id)
    }

    /// What the gateway pushed last.
    ///
    /// # Errors
    /// [`ClientError::Forked`].
    pub fn news(&self) -> Result<News, ClientError> {
        Ok(*self.agent.get()?.news().borrow())
    }

    /// Whether a session is open right now.
    ///
    /// # Errors
    /// [`ClientError::Forked`].
    pub fn is_connected(&self) -> Result<bool, ClientError> {
        self.agent.get().map(crate::Agent::is_connected)
    }

    /// See [`crate::Agent::check_with`]. `go_on` is asked every 100 ms whether to keep waiting.
    ///
    /// # Errors
    /// As [`crate::Agent::check`], and [`ClientError::Interrupted`].
    pub fn check(
        &self,
        action: impl Into<Kind>,
        options: Options,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Checked, ClientError> {
        self.engine.wait(self.agent.get()?.check_with(action, options), go_on)
    }

    /// Starts a check and calls `answered` with the answer, from the worker thread. `answered` must not
    /// block: every call of the process waits behind it.
    pub fn check_then(
        &self,
        action: impl Into<Kind>,
        options: Options,
        answered: impl FnOnce(Result<Checked, ClientError>) + Send + 'static,
    ) {
        let (agent, runtime) = match (self.agent.get(), self.engine.runtime.get()) {
            (Ok(agent), Ok(runtime)) => (agent.clone(), runtime),
            (Err(error), _) | (_, Err(error)) => return answered(Err(error)),
        };
        let action = action.into();
        runtime.spawn(async move {
            answered(agent.check_with(action, options).await);
        });
    }

    /// See [`crate::Agent::record`].
    ///
    /// # Errors
    /// As [`crate::Agent::record`], and [`ClientError::Interrupted`].
    pub fn record(
        &self,
        event: Event,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<EventId, ClientError> {
        self.engine.wait(self.agent.get()?.record(event), go_on)
    }

    /// See [`crate::Agent::record_later`].
    ///
    /// # Errors
    /// As [`crate::Agent::record_later`].
    pub fn record_later(&self, event: Event) -> Result<(), ClientError> {
        self.agent.get()?.record_later(event)
    }

    /// See [`crate::Agent::flush`].
    ///
    /// # Errors
    /// [`ClientError::Interrupted`].
    pub fn flush(
        &self,
        patience: Duration,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<bool, ClientError> {
        let agent = self.agent.get()?;
        self.engine.wait(async { Ok(agent.flush(patience).await) }, go_on)
    }
}

// === impl Engine ===

impl Engine {
    /// Drives a future on this thread, asking `go_on` now and then.
    fn wait<T>(
        &self,
        future: impl Future<Output = Result<T, ClientError>>,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<T, ClientError> {
        self.runtime.get()?.block_on(async {
            let mut future = std::pin::pin!(future);
            loop {
                if let Ok(output) = timeout(ATTENTION, &mut future).await {
                    return output;
                }
                if !go_on() {
                    return Err(ClientError::Interrupted);
                }
            }
        })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.runtime.get().is_ok()
            && let Some(runtime) = self.runtime.value.take()
        {
            runtime.shutdown_background();
        }
    }
}

// === impl Inherited ===

impl<T> Inherited<T> {
    fn new(value: T) -> Self {
        Self { value: Some(value), process: process::id() }
    }

    fn get(&self) -> Result<&T, ClientError> {
        let child = process::id();
        match &self.value {
            Some(value) if child == self.process => Ok(value),
            _ => Err(ClientError::Forked { parent: self.process, child }),
        }
    }
}

impl<T> Drop for Inherited<T> {
    fn drop(&mut self) {
        if process::id() != self.process {
            mem::forget(self.value.take());
        }
    }
}
