//! The client and its agents.

use std::{
    collections::{BTreeMap, HashMap},
    sync::mpsc,
    thread,
    time::Duration,
};

use aa_client::{
    AgentSpec, Approval, ClientError, Config, Event, OnUnreachable, Options, Outcome, blocking,
};
use aa_protocol::ApprovalId;
use pyo3::{
    exceptions::{PyRuntimeError, PyValueError},
    prelude::*,
};

use crate::{
    action::{Action, without_payload},
    answer::{Checked, Failure, into_python},
};

/// The gateways of a workspace, of which one is used at a time.
#[pyclass(module = "agent_assembly._native", frozen)]
pub(crate) struct Client {
    client: blocking::Client,
    callbacks: mpsc::Sender<Callback>,
}

/// A registered agent.
#[pyclass(module = "agent_assembly._native", frozen)]
pub(crate) struct Agent {
    agent: blocking::Agent,
    callbacks: mpsc::Sender<Callback>,
}

/// An answer on its way to the Python function that waits for it.
struct Callback {
    function: Py<PyAny>,
    answer: Result<aa_client::Checked, ClientError>,
}

/// Asks the interpreter for pending signals, so that Ctrl-C ends a wait.
#[derive(Default)]
struct Signals(Option<PyErr>);

#[pymethods]
impl Client {
    #[new]
    #[pyo3(signature = (settings, request_timeout=None, connect_timeout=None))]
    fn new(
        settings: HashMap<String, String>,
        request_timeout: Option<f64>,
        connect_timeout: Option<f64>,
    ) -> PyResult<Self> {
        let mut config = Config::from_settings(|name| settings.get(name).cloned())
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        if let Some(seconds) = request_timeout {
            config.request_timeout = duration("request_timeout", seconds)?;
        }
        if let Some(seconds) = connect_timeout {
            config.connect_timeout = duration("connect_timeout", seconds)?;
        }
        let client = blocking::Client::connect(config)
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        let callbacks = call_back_in_own_thread()?;
        Ok(Self { client, callbacks })
    }

    #[getter]
    fn workspace_id(&self) -> String {
        self.client.config().workspace_id.to_string()
    }

    #[getter]
    fn gateway_url(&self) -> String {
        self.client.config().gateway_urls.to_string()
    }

    #[getter]
    fn lets_through_unreachable(&self) -> bool {
        self.client.config().on_unreachable == OnUnreachable::Allow
    }

    #[pyo3(signature = (name, id=None, org="", team="", governance_level="L0", labels=BTreeMap::new()))]
    #[allow(clippy::too_many_arguments, reason = "they are Python's keyword arguments")]
    fn register(
        &self,
        py: Python<'_>,
        name: &str,
        id: Option<&str>,
        org: &str,
        team: &str,
        governance_level: &str,
        labels: BTreeMap<String, String>,
    ) -> PyResult<Py<PyAny>> {
        let unusable = |error: String| PyValueError::new_err(error);
        let spec = AgentSpec {
            name: name.to_owned(),
            id: id
                .map(str::parse)
                .transpose()
                .map_err(|error: aa_protocol::IdError| unusable(error.to_string()))?,
            org: org.to_owned(),
            team: team.to_owned(),
            governance_level: governance_level.parse().map_err(
                |error: aa_protocol::agent::GovernanceLevelError| unusable(error.to_string()),
            )?,
            labels,
        };
        let mut signals = Signals::default();
        let registered = py.detach(|| self.client.register(spec, &mut || signals.none()));
        signals.raise()?;
        Ok(match registered {
            Ok(agent) => {
                Py::new(py, Agent { agent, callbacks: self.callbacks.clone() })?.into_any()
            }
            Err(error) => Py::new(py, Failure::from(error))?.into_any(),
        })
    }
}

#[pymethods]
impl Agent {
    #[getter]
    fn name(&self) -> &str {
        self.agent.name()
    }

    #[getter]
    fn id(&self) -> PyResult<String> {
        self.agent
            .id()
            .map(|id| id.to_string())
            .map_err(|error| PyRuntimeError::new_err(error.to_string()))
    }

    #[getter]
    fn suspended(&self) -> bool {
        self.agent.news().is_ok_and(|news| news.suspended)
    }

    #[getter]
    fn connected(&self) -> bool {
        self.agent.is_connected().unwrap_or(false)
    }

    #[pyo3(signature = (action, trace_id=None, approval=None, context=None))]
    fn check(
        &self,
        py: Python<'_>,
        action: &Action,
        trace_id: Option<[u8; 16]>,
        approval: Option<([u8; 16], f64)>,
        context: Option<&str>,
    ) -> PyResult<Py<PyAny>> {
        let context = context.map(Into::into);
        let options =
            Options { trace_id, approval: awaited(approval)?, context, ..Options::default() };
        let kind = action.kind.clone();
        let mut signals = Signals::default();
        let answer = py.detach(|| self.agent.check(kind, options, &mut || signals.none()));
        signals.raise()?;
        into_python(py, answer)
    }

    #[pyo3(signature = (action, callback, trace_id=None, approval=None, context=None))]
    fn check_then(
        &self,
        action: &Action,
        callback: Py<PyAny>,
        trace_id: Option<[u8; 16]>,
        approval: Option<([u8; 16], f64)>,
        context: Option<&str>,
    ) -> PyResult<()> {
        let context = context.map(Into::into);
        let options =
            Options { trace_id, approval: awaited(approval)?, context, ..Options::default() };
        let callbacks = self.callbacks.clone();
        self.agent.check_then(action.kind.clone(), options, move |answer| {
            // The receiver goes only when the interpreter does.
            let _ = callbacks.send(Callback { function: callback, answer });
        });
        Ok(())
    }

    #[pyo3(signature = (action, checked, outcome, duration, trace_id=None))]
    fn record_outcome(
        &self,
        action: &Action,
        checked: &Checked,
        outcome: &str,
        duration: f64,
        trace_id: Option<[u8; 16]>,
    ) -> PyResult<Option<Failure>> {
        let outcome = match outcome {
            "ok" => Outcome::Ok,
            "error" => Outcome::Error,
            "cancelled" => Outcome::Cancelled,
            other => return Err(PyValueError::new_err(format!("`{other}` is no outcome"))),
        };
        let recorded = self.agent.record_later(Event {
            action: without_payload(&action.kind),
            action_id: checked.action_id(),
            trace_id,
            parent_span: None,
            outcome,
            duration: Duration::try_from_secs_f64(duration).unwrap_or_default(),
            occurred_at: None,
        });
        Ok(recorded.err().map(Failure::from))
    }

    fn flush(&self, py: Python<'_>, patience: f64) -> PyResult<bool> {
        let patience = duration("patience", patience)?;
        let mut signals = Signals::default();
        let flushed = py.detach(|| self.agent.flush(patience, &mut || signals.none()));
        signals.raise()?;
        Ok(flushed.unwrap_or(false))
    }
}

/// The request to wait for, and for how long, from its id and seconds.
fn awaited(approval: Option<([u8; 16], f64)>) -> PyResult<Option<Approval>> {
    let awaited = approval.map(|(id, seconds)| {
        let wait = duration("wait_for_approval", seconds.min(A_YEAR))?;
        Ok(Approval { id: ApprovalId::from_bytes(id), wait })
    });
    awaited.transpose()
}

/// In seconds.
const A_YEAR: f64 = 31_536_000.0;

// === impl Signals ===

impl Signals {
    /// Whether no signal asks the caller to stop waiting.
    fn none(&mut self) -> bool {
        // A path to the method is not general enough in its lifetime.
        #[allow(clippy::redundant_closure_for_method_calls)]
        let checked = Python::try_attach(|py| py.check_signals());
        match checked {
            Some(Err(raised)) => {
                self.0 = Some(raised);
                false
            }
            Some(Ok(())) => true,
            // The interpreter is going away.
            None => false,
        }
    }

    fn raise(self) -> PyResult<()> {
        self.0.map_or(Ok(()), Err)
    }
}

fn call_back_in_own_thread() -> PyResult<mpsc::Sender<Callback>> {
    let (sender, callbacks) = mpsc::channel::<Callback>();
    thread::Builder::new()
        .name("agent-assembly-callbacks".to_owned())
        .spawn(move || {
            while let Ok(Callback { function, answer }) = callbacks.recv() {
                let called = Python::try_attach(|py| {
                    let outcome = into_python(py, answer)
                        .and_then(|answer| function.call1(py, (answer,)))
                        .map(drop);
                    if let Err(error) = outcome {
                        error.write_unraisable(py, None);
                    }
                    drop(function);
                });
                if called.is_none() {
                    return;
                }
            }
        })
        .map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
    Ok(sender)
}

fn duration(name: &str, seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds).ok().filter(|duration| !duration.is_zero()).ok_or_else(
        || PyValueError::new_err(format!("{name} must be a positive number of seconds")),
    )
}
