//! Secrets for proxies: what agents hold placeholders for.

use std::{fmt, time::Duration};

use aa_protocol::{AgentId, wire::v1};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::{Code, Request, Status};
use zeroize::Zeroizing;

use crate::{
    backoff::{Backoff, jittered},
    client::Client,
    error::{ClientError, status_problem},
    gateways::Way,
    token::bearer,
};

/// A secret as the vault released it, for one agent and one host.
#[derive(Debug)]
pub struct Released {
    /// What it is.
    pub value: SecretBytes,
    /// Which value of the secret that is: numbers grow with every value that is set in the workspace.
    pub version: u64,
    /// The longest it may be kept, from now on; then it is to be asked for again, so that what was rotated or revoked is
    /// gone by then. At most 60 s.
    pub keep_for: Duration,
}

/// The bytes of a secret. They are wiped when dropped, and never printed.
pub struct SecretBytes(Zeroizing<Vec<u8>>);

/// The longest that any release is kept, whatever the gateway says.
const KEEP_AT_MOST: Duration = Duration::from_secs(60);

/// The least pause after a refusal for overload.
const RETRY_AT_LEAST: Duration = Duration::from_millis(5);
/// The longest.
const RETRY_AT_MOST: Duration = Duration::from_secs(2);

// === impl Client ===

impl Client {
    /// Asks for a secret of the vault, to be sent to `host` on behalf of `agent` in the place of its placeholder. The
    /// client's API key must have the role `proxy`. Tries every gateway, for the configured time to wait.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `PermissionDenied` when it is not released: nobody is told whether the secret
    /// exists. Otherwise there was no answer in time.
    pub async fn release(
        &self,
        agent: AgentId,
        secret: &str,
        host: &str,
    ) -> Result<Released, ClientError> {
        let request = v1::ReleaseSecretRequest {
            workspace_id: self.config().workspace_id.to_string(),
            agent_id: agent.to_string(),
            secret: secret.to_owned(),
            host: host.to_owned(),
        };
        let patience = self.config().request_timeout;
        let mut obstacle = None;
        let asking = self.ask_for_release(&request, &mut obstacle);
        if let Ok(answer) = timeout_at(Instant::now() + patience, asking).await {
            return answer;
        }
        Err(match obstacle {
            Some((Code::ResourceExhausted, _)) => ClientError::Overloaded { waited: patience },
            obstacle => ClientError::Unreachable {
                gateways: self.config().gateway_urls.clone(),
                waited: patience,
                problem: obstacle
                    .map_or_else(|| "no answer came".to_owned(), |(_, problem)| problem),
            },
        })
    }

    /// Until somebody answers for good.
    async fn ask_for_release(
        &self,
        request: &v1::ReleaseSecretRequest,
        obstacle: &mut Option<(Code, String)>,
    ) -> Result<Released, ClientError> {
        let mut backoff = Backoff::new();
        let mut failed = 0_usize;
        loop {
            let mut way = self.gateways().in_use();
            let attempt = self.try_release(&mut way, request);
            let answer = timeout(self.gateways().patience(), attempt).await.unwrap_or_else(|_| {
                Err(Status::deadline_exceeded("the gateway did not answer in time"))
            });
            let status = match answer {
                Ok(released) => return Ok(released),
                Err(status) => status,
            };
            let problem = self.gateways().problem_of(&way, status_problem(&status));
            *obstacle = Some((status.code(), problem.clone()));
            match (status.code(), hint_of(&status)) {
                // The gateway is there, and says when to ask it again.
                (Code::ResourceExhausted, hint) | (Code::Unavailable, hint @ Some(_)) => {
                    let hint = hint.unwrap_or_default().clamp(RETRY_AT_LEAST, RETRY_AT_MOST);
                    sleep(jittered(2 * hint)).await;
                }
                // What the way to one gateway failed, the way to the next may not.
                (
                    Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown,
                    _,
                ) => {
                    self.gateways().leave(&way, &problem);
                    failed += 1;
                    if failed.is_multiple_of(self.gateways().count()) {
                        sleep(backoff.pause()).await;
                    }
                }
                _ => return Err(ClientError::of_status(&status)),
            }
        }
    }

    async fn try_release(
        &self,
        way: &mut Way,
        request: &v1::ReleaseSecretRequest,
    ) -> Result<Released, Status> {
        let mut request = Request::new(request.clone());
        let api_key = bearer(self.config().api_key.expose())
            .map_err(|error| Status::internal(error.to_string()))?;
        request.metadata_mut().insert("authorization", api_key);
        let answer = way.grpc.release_secret(request).await?.into_inner();
        Ok(Released {
            value: SecretBytes(Zeroizing::new(answer.value.to_vec())),
            version: answer.version,
            keep_for: Duration::from_millis(answer.keep_for_ms).min(KEEP_AT_MOST),
        })
    }
}

// === impl SecretBytes ===

impl SecretBytes {
    /// The bytes. Whoever asks answers for where they go.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(…)")
    }
}

/// When the gateway that refused wants to be asked again.
fn hint_of(status: &Status) -> Option<Duration> {
    let hint = status.metadata().get("retry-after-ms")?.to_str().ok()?;
    hint.parse().ok().map(Duration::from_millis)
}
