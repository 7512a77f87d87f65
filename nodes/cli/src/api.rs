//! The operator API as a client sees it.

use std::{io, time::Duration};

use aa_control_plane::rest::Problem;
use futures::StreamExt;
use reqwest::{
    Certificate, Client, Method, Response, StatusCode, Url,
    header::{ACCEPT, CONTENT_TYPE},
    redirect, tls,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::runtime::{Builder, Runtime};

use crate::{
    connection::{ApiArguments, SecretText},
    outcome::Failure,
    terminal::printable,
};

/// A client of one operator API.
pub(crate) struct Api {
    client: Client,
    base: Url,
    key: Option<SecretText>,
    runtime: Runtime,
}

/// Why a request brought no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// Nothing was understood at the other end.
    #[error("cannot reach the operator API at {url}: {cause}{advice}")]
    Unreachable { url: String, cause: String, advice: &'static str },
    /// The API refused.
    #[error("{}", describe(.0))]
    Problem(Box<Problem>),
    /// Something answered that is not the API.
    #[error("{url} answered {status}, but not as the operator API does")]
    Foreign { url: String, status: StatusCode },
    /// The answer broke off.
    #[error("the answer broke off before its end; the control plane's log says why")]
    BrokenOff,
}

/// A request under construction.
pub(crate) struct Request<'a> {
    api: &'a Api,
    method: Method,
    url: Url,
    content: Option<(&'static str, Vec<u8>)>,
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The API answers within 30 s, if only to say that it cannot.
const READ_TIMEOUT: Duration = Duration::from_secs(40);

// === impl Api ===

impl Api {
    /// A client of the API that the arguments name.
    pub(crate) fn open(arguments: &ApiArguments) -> Result<Self, Failure> {
        let connection = arguments.connection()?;
        let base: Url = connection
            .url
            .parse()
            .map_err(|error| Failure::bad_input(format_args!("the API's URL: {error}")))?;
        if base.scheme() != "https" || base.host().is_none() {
            let message = "the API's URL must begin with https://: a key is not sent in the clear";
            return Err(Failure::bad_input(message));
        }
        let mut client = Client::builder()
            .https_only(true)
            .tls_version_min(tls::Version::TLS_1_3)
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .user_agent(concat!("aasm/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = &connection.ca_file {
            let name = path.display();
            let pem = std::fs::read(path).map_err(|error| {
                Failure::bad_input(format_args!("cannot read the CA file {name}: {error}"))
            })?;
            let authorities = Certificate::from_pem_bundle(&pem).map_err(|_| {
                Failure::bad_input(format_args!("the CA file {name} holds no PEM certificates"))
            })?;
            client = client.tls_certs_only(authorities);
        }
        let client = client.build().map_err(|error| Failure::refused(causes(&error)))?;
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| {
            Failure::refused(format_args!("cannot start an asynchronous runtime: {error}"))
        })?;
        Ok(Self { client, base, key: connection.key, runtime })
    }

    /// Where the API is.
    pub(crate) fn url(&self) -> String {
        self.base.as_str().trim_end_matches('/').to_owned()
    }

    /// A request for `/api/v1/<segments>`.
    pub(crate) fn request(&self, method: Method, segments: &[&str]) -> Request<'_> {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["api", "v1"]).extend(segments);
        }
        Request { api: self, method, url, content: None }
    }

    /// A request that reads `/api/v1/<segments>`.
    pub(crate) fn get(&self, segments: &[&str]) -> Request<'_> {
        self.request(Method::GET, segments)
    }

    /// A request that changes `/api/v1/<segments>`.
    pub(crate) fn post(&self, segments: &[&str]) -> Request<'_> {
        self.request(Method::POST, segments)
    }

    async fn send(&self, request: Request<'_>) -> Result<Response, ApiError> {
        let mut built = self.client.request(request.method, request.url);
        if let Some(key) = &self.key {
            built = built.bearer_auth(key.expose());
        }
        if let Some((content_type, content)) = request.content {
            built = built.header(CONTENT_TYPE, content_type).body(content);
        }
        let sent = built.header(ACCEPT, "*/*").send().await;
        let response = sent.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.unwrap_or_default();
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Err(ApiError::Problem(Box::new(problem))),
            Err(_) => Err(ApiError::Foreign { url: self.url(), status }),
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> ApiError {
        let cause = causes(error);
        let advice = if cause.contains("certificate") {
            "; AASM_CA_FILE (--ca-file) must be the CA of this very control plane"
        } else if error.is_connect() || error.is_timeout() {
            "; is `aasm up` running?"
        } else {
            ""
        };
        ApiError::Unreachable { url: self.url(), cause, advice }
    }
}

// === impl Request ===

impl Request<'_> {
    /// Adds a query parameter, if there is a value.
    pub(crate) fn query(mut self, name: &str, value: Option<impl ToString>) -> Self {
        if let Some(value) = value {
            self.url.query_pairs_mut().append_pair(name, &value.to_string());
        }
        self
    }

    /// Sends a value as JSON.
    pub(crate) fn json(mut self, value: &impl Serialize) -> Result<Self, Failure> {
        let content = serde_json::to_vec(value).map_err(Failure::refused)?;
        self.content = Some(("application/json", content));
        Ok(self)
    }

    /// Sends a policy document.
    pub(crate) fn document(mut self, source: Vec<u8>) -> Self {
        self.content = Some(("application/yaml", source));
        self
    }

    /// Sends bytes as they are.
    pub(crate) fn bytes_body(mut self, bytes: &[u8]) -> Self {
        self.content = Some(("application/octet-stream", bytes.to_vec()));
        self
    }

    /// The answer's bytes.
    pub(crate) fn bytes(self) -> Result<Vec<u8>, ApiError> {
        let api = self.api;
        api.runtime.block_on(async {
            let response = api.send(self).await?;
            let bytes = response.bytes().await;
            bytes.map(Into::into).map_err(|_| ApiError::BrokenOff)
        })
    }

    /// The answer, read from JSON.
    pub(crate) fn read<T: DeserializeOwned>(self) -> Result<T, ApiError> {
        let url = self.api.url();
        let bytes = self.bytes()?;
        serde_json::from_slice(&bytes)
            .map_err(|_| ApiError::Foreign { url, status: StatusCode::OK })
    }

    /// Hands the answer to `write`, piece by piece.
    pub(crate) fn stream(
        self,
        mut write: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let api = self.api;
        api.runtime.block_on(async {
            let mut pieces = api.send(self).await?.bytes_stream();
            while let Some(piece) = pieces.next().await {
                let piece = piece.map_err(|_| ApiError::BrokenOff)?;
                write(&piece)?;
            }
            Ok(())
        })
    }
}

// === impl ApiError ===

impl ApiError {
    /// Whether it may pass by itself: nobody refused, the other end was not there or could not answer.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::BrokenOff => true,
            Self::Problem(problem) => problem.status >= 500 || problem.status == 429,
            Self::Foreign { status, .. } => status.is_server_error(),
        }
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::Refused(error.to_string())
    }
}

fn describe(problem: &Problem) -> String {
    let detail = printable(&problem.detail);
    match problem.status {
        401 => format!("the operator API does not know the caller: {detail} (AASM_API_KEY)"),
        _ => detail.into_owned(),
    }
}

/// An error and what it stems from. reqwest names the URL and hides the cause in its sources; here it is
/// the other way round.
fn causes(error: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
