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
    client::Registrar,
    decided::Decided,
    error::{ClientError, may_pass, status_problem},
    gateways::{Gateways, Way},
    rounds::Rounds,
    session::{Answer, Closed, Session},
    token::Token,
};

/// The way to a gateway, as callers see it.
#[derive(Clone, Debug)]
pub(crate) enum Link {
    /// No stream yet, or not any more; one is being opened.
    Down {
        problem: String,
        /// Whether every gateway was tried since a stream was open.
        all_tried: bool,
    },
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
    pub(crate) gateways: Gateways,
    pub(crate) link: watch::Sender<Link>,
    pub(crate) news: watch::Sender<News>,
    /// The requests for approval that were decided, as they are.
    pub(crate) decided: Decided,
    pub(crate) agent_id: Arc<OnceLock<AgentId>>,
    /// Rung by callers whose frame was refused because the token lapsed or the agent is not known.
    pub(crate) unregistered: Arc<Notify>,
}

const RENEWAL_PAUSE: Duration = Duration::from_secs(15);

// === impl Supervisor ===

impl Supervisor {
    pub(crate) async fn run(self) {
        let mut rounds = Rounds::over(self.gateways.count());
        let mut token = None;
        loop {
            let mut way = self.gateways.in_use();
            let closed = match self.open(&mut way, &mut token).await {
                Err(status) => {
                    rounds.not_opened();
                    self.report(&way, &status, rounds.all_tried());
                    Closed::with(&status)
                }
                Ok((session, standing)) => {
                    let opened = Instant::now();
                    let session = Arc::new(session);
                    self.link.send_replace(Link::Up(Arc::clone(&session)));
                    let (closed, standing) = self.attend(&mut way, &session, standing).await;
                    token = standing;
                    rounds.ended(opened.elapsed());
                    let problem = self.gateways.problem_of(&way, closed.problem.clone());
                    self.link.send_replace(Link::Down { problem, all_tried: rounds.all_tried() });
                    closed
                }
            };
            if closed.of_gateway {
                self.gateways.leave(&way, &closed.problem);
            }
            sleep(rounds.pause(closed.of_gateway)).await;
        }
    }

    /// Opens a stream, under a new registration when no token stands.
    async fn open(
        &self,
        way: &mut Way,
        token: &mut Option<Token>,
    ) -> Result<(Session, Token), Status> {
        if let Some(standing) = token.take().filter(|token| token.lapses_at > Instant::now()) {
            let opened = self.open_under(&standing, way, token).await;
            // Another node's clock or key may end a token early: nothing that a caller need hear of.
            if !opened.as_ref().is_err_and(|status| status.code() == Code::Unauthenticated) {
                return opened;
            }
        }
        let issued = self.register(way).await?;
        self.open_under(&issued, way, token).await
    }

    /// Opens a stream under a token and keeps that, unless the gateway does not take it.
    async fn open_under(
        &self,
        standing: &Token,
        way: &mut Way,
        token: &mut Option<Token>,
    ) -> Result<(Session, Token), Status> {
        let (news, decided) = (self.news.clone(), self.decided.clone());
        let opening = Session::open(way, standing, self.gateways.silence(), news, decided);
        let session = within(self.gateways.patience(), opening).await;
        if session.as_ref().err().is_none_or(|status| status.code() != Code::Unauthenticated) {
            *token = Some(standing.clone());
        }
        Ok((session?, standing.clone()))
    }

    async fn register(&self, way: &mut Way) -> Result<Token, Status> {
        let registering = self.registrar.register(way);
        let registration = within(self.gateways.patience(), registering).await?;
        let agent_id = registration.agent_id.parse().map_err(|error: aa_protocol::IdError| {
            Status::internal(format!("the gateway's agent id cannot be read: {error}"))
        })?;
        let _ = self.agent_id.set(agent_id);
        Ok(registration.token)
    }

    /// Keeps the token of an open stream fresh until the stream takes no more; returns why it does not,
    /// and the token that stands.
    async fn attend(
        &self,
        way: &mut Way,
        session: &Session,
        mut token: Token,
    ) -> (Closed, Option<Token>) {
        let mut renew_at = token.renew_at;
        loop {
            let asked = tokio::select! {
                closed = session.closed() => return (closed, Some(token)),
                () = sleep_until(renew_at) => false,
                () = self.unregistered.notified() => true,
            };
            let lapsed = asked || token.lapses_at <= Instant::now();
            match self.refresh(way, &token, lapsed).await {
                Ok(fresh) => {
                    let offer = client_frame::Body::Token(fresh.expose().to_owned());
                    let offered = session.exchange(offer);
                    let accepted = timeout(self.gateways.patience(), offered).await;
                    token = fresh;
                    renew_at = token.renew_at;
                    if !matches!(accepted, Ok(Ok(Answer::TokenAccepted))) {
                        let problem = "the session did not take its renewed token";
                        return (Closed::by_gateway(problem), Some(token));
                    }
                }
                Err(status) if lapsed => return (Closed::with(&status), None),
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

    async fn refresh(&self, way: &mut Way, token: &Token, lapsed: bool) -> Result<Token, Status> {
        if lapsed {
            return self.register(way).await;
        }
        within(self.gateways.patience(), Registrar::renew(way, token)).await
    }

    fn report(&self, way: &Way, status: &Status, all_tried: bool) {
        let link = if may_pass(status.code()) {
            let problem = self.gateways.problem_of(way, status_problem(status));
            Link::Down { problem, all_tried }
        } else {
            Link::Refused(ClientError::of_status(status))
        };
        tracing::debug!(?link, "no session");
        self.link.send_replace(link);
    }
}

async fn within<T>(
    patience: Duration,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    timeout(patience, call)
        .await
        .unwrap_or_else(|_| Err(Status::deadline_exceeded("the gateway did not answer in time")))
}
