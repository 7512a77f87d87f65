//! What keeps an agent connected: registers it, opens streams one after another, renews its token.

use std::{
    future::Future,
    sync::{Arc, OnceLock},
    time::Duration,
};

use aa_protocol::{AgentId, wire::v1::client_frame};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tonic::{Code, Status};

use crate::{
    backoff::Backoff,
    client::Registrar,
    decided::Decided,
    error::{ClientError, status_problem},
    session::{Answer, Session},
    token::Token,
};

/// The way to the gateway, as callers see it.
#[derive(Clone, Debug)]
pub(crate) enum Link {
    /// No stream yet, or not any more; one is being opened.
    Down { problem: String },
    /// A stream is open.
    Up(Arc<Session>),
    /// The gateway does not take this agent. Tried again all the same: an operator may mend it.
    Refused(ClientError),
}

/// What the gateway pushed to an agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Counts the changes of the workspace's policies; 0 until the first change is heard of.
    pub policy_generation: u64,
    /// Whether an operator suspended the agent.
    pub suspended: bool,
}

pub(crate) struct Supervisor {
    pub(crate) registrar: Registrar,
    pub(crate) link: watch::Sender<Link>,
    pub(crate) news: watch::Sender<News>,
    /// The requests for approval that were decided, as they are.
    pub(crate) decided: Decided,
    pub(crate) agent_id: Arc<OnceLock<AgentId>>,
    /// Rung by callers whose frame was refused because the token lapsed or the agent is not known.
    pub(crate) unregistered: Arc<Notify>,
}

/// A stream that lived this long was healthy, and its end is no reason to hesitate.
const HEALTHY: Duration = Duration::from_secs(5);
const RENEWAL_PAUSE: Duration = Duration::from_secs(15);

// === impl Supervisor ===

impl Supervisor {
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new();
        let mut token = None;
        loop {
            match self.open(&mut token).await {
                Err(status) => self.report(&status),
                Ok((session, standing)) => {
                    let opened = Instant::now();
                    let session = Arc::new(session);
                    self.link.send_replace(Link::Up(Arc::clone(&session)));
                    let (problem, standing) = self.attend(&session, standing).await;
                    token = standing;
                    self.link.send_replace(Link::Down { problem });
                    if opened.elapsed() >= HEALTHY {
                        backoff.reset();
                    }
                }
            }
            sleep(backoff.pause()).await;
        }
    }

    /// Opens a stream, under a new registration when no token stands.
    async fn open(&mut self, token: &mut Option<Token>) -> Result<(Session, Token), Status> {
        let standing = token.take().filter(|token| token.lapses_at > Instant::now());
        let standing = match standing {
            Some(standing) => standing,
            None => self.register().await?,
        };
        let patience = self.registrar.patience();
        let opening = Session::open(
            &mut self.registrar.grpc,
            &standing,
            self.news.clone(),
            self.decided.clone(),
        );
        let session = within(patience, opening).await;
        // A token the gateway no longer takes is forgotten, any other survives the attempt.
        if session.as_ref().err().is_none_or(|status| status.code() != Code::Unauthenticated) {
            *token = Some(standing.clone());
        }
        Ok((session?, standing))
    }

    async fn register(&mut self) -> Result<Token, Status> {
        let patience = self.registrar.patience();
        let registration = within(patience, self.registrar.register()).await?;
        let agent_id = registration.agent_id.parse().map_err(|error: aa_protocol::IdError| {
            Status::internal(format!("the gateway's agent id cannot be read: {error}"))
        })?;
        let _ = self.agent_id.set(agent_id);
        Ok(registration.token)
    }

    /// Keeps the token of an open stream fresh until the stream takes no more; returns why it does not,
    /// and the token that stands.
    async fn attend(&mut self, session: &Session, mut token: Token) -> (String, Option<Token>) {
        let mut renew_at = token.renew_at;
        loop {
            let asked = tokio::select! {
                problem = session.closed() => return (problem, Some(token)),
                () = sleep_until(renew_at) => false,
                () = self.unregistered.notified() => true,
            };
            let lapsed = asked || token.lapses_at <= Instant::now();
            match self.refresh(&token, lapsed).await {
                Ok(fresh) => {
                    let offer = client_frame::Body::Token(fresh.expose().to_owned());
                    let accepted =
                        timeout(self.registrar.patience(), session.exchange(offer)).await;
                    token = fresh;
                    renew_at = token.renew_at;
                    if !matches!(accepted, Ok(Ok(Answer::TokenAccepted))) {
                        return (
                            "the session did not take its renewed token".to_owned(),
                            Some(token),
                        );
                    }
                }
                Err(status) if lapsed => return (status_problem(&status), None),
                Err(status) => {
                    tracing::debug!(problem = %status_problem(&status), "token not renewed yet");
                    let left = token.lapses_at.saturating_duration_since(Instant::now());
                    renew_at = Instant::now() + (left / 4).min(RENEWAL_PAUSE);
                    if status.code() == Code::Unauthenticated {
                        renew_at = token.lapses_at;
                    }
                }
            }
        }
    }

    async fn refresh(&mut self, token: &Token, lapsed: bool) -> Result<Token, Status> {
        if lapsed {
            return self.register().await;
        }
        let patience = self.registrar.patience();
        within(patience, self.registrar.renew(token)).await
    }

    fn report(&self, status: &Status) {
        let link = if may_pass(status.code()) {
            Link::Down { problem: status_problem(status) }
        } else {
            Link::Refused(ClientError::of_status(status))
        };
        tracing::debug!(?link, "no session");
        self.link.send_replace(link);
    }
}

/// Whether a later attempt can end differently without anyone changing anything.
const fn may_pass(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Cancelled
            | Code::Internal
            | Code::Unknown
            // The nonce expired on the way.
            | Code::FailedPrecondition
    )
}

async fn within<T>(
    patience: Duration,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    timeout(patience, call)
        .await
        .unwrap_or_else(|_| Err(Status::deadline_exceeded("the gateway did not answer in time")))
}
