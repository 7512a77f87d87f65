//! The agents of a soak, each with its manners.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use aa_chaos_tests::{
    invariants::Acknowledged,
    peer::{Peer, connect},
};
use aa_protocol::{ActionId, wire::v1};
use futures::stream;
use tokio::{io::AsyncWriteExt, sync::mpsc, time::MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::world::{Phase, World, count, latency};

/// How an agent on a session behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manners {
    /// Most actions it has in flight.
    pub(crate) in_flight: usize,
    /// How long it waits between two actions.
    pub(crate) every: Duration,
    /// After how many answers it drops its connection with whatever is in flight and makes another one.
    pub(crate) reconnects_after: Option<u64>,
    /// Whether half of what it sends is malformed.
    pub(crate) malformed: bool,
}

/// Something sent and not answered yet.
struct Owed {
    id: ActionId,
    what: What,
    sent: Instant,
    since: Instant,
    again: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Decision,
    Event,
    /// Nothing: it was malformed.
    Refusal,
}

/// Why a conversation ended.
enum Ended {
    /// Nothing is owed and nothing more is asked.
    Done,
    /// By the agent's own wish.
    Left,
    /// By the other side or the line.
    Broken(Status),
}

/// Without an answer for this long while the process serves, something is lost.
const OVERDUE: Duration = Duration::from_secs(90);

/// One attempt to connect, open or register.
const ATTEMPT: Duration = Duration::from_secs(20);

/// Registers an agent, as often as it takes.
pub(crate) async fn registered(world: &World, channel: Option<Channel>, name: &str) -> Peer {
    loop {
        let Phase { life, .. } = world.until_up().await;
        let attempt = async {
            let channel = match &channel {
                Some(channel) => channel.clone(),
                None => connect(&world.env).await?,
            };
            Peer::register(channel, &world.env, name).await
        };
        let failed = match tokio::time::timeout(ATTEMPT, attempt).await {
            Ok(Ok(peer)) => return peer,
            Ok(Err(error)) => Status::unavailable(error.to_string()),
            Err(_) => Status::deadline_exceeded("no answer"),
        };
        world.broke("registration", life, &failed);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// An agent on sessions, until the run stops and everything it is owed has come.
pub(crate) async fn on_sessions(
    world: Arc<World>,
    channel: Channel,
    number: u64,
    manners: Manners,
) {
    let name = format!("soak-{number}");
    let mut random = world.random(number);
    let mut peer = registered(&world, Some(channel), &name).await;
    let mut owed = VecDeque::new();
    loop {
        let Phase { life, .. } = world.until_up().await;
        match converse(&world, &peer, &mut owed, manners, &mut random).await {
            Ended::Done => return,
            Ended::Left => {}
            Ended::Broken(status) if status.code() == Code::Unauthenticated => {
                peer = registered(&world, None, &name).await;
            }
            Ended::Broken(status) => {
                world.broke("session", life, &status);
                tokio::time::sleep(Duration::from_millis(random.u64(20..200))).await;
            }
        }
        if manners.reconnects_after.is_some() {
            world.until_up().await;
            if let Ok(Ok(other)) = tokio::time::timeout(ATTEMPT, peer.reconnected(&world.env)).await
            {
                peer = other;
            }
        }
    }
}

async fn converse(
    world: &World,
    peer: &Peer,
    owed: &mut VecDeque<Owed>,
    manners: Manners,
    random: &mut fastrand::Rng,
) -> Ended {
    let (frames, outgoing) = mpsc::channel(2 * manners.in_flight + 8);
    let opening = tokio::time::timeout(ATTEMPT, peer.session_of(ReceiverStream::new(outgoing)));
    let mut answers = match opening.await {
        Ok(Ok(answers)) => answers,
        Ok(Err(status)) => return Ended::Broken(status),
        Err(_) => return Ended::Broken(Status::deadline_exceeded("the session does not open")),
    };
    count(&world.counts.sessions);
    let mut conversation = Conversation {
        world,
        frames,
        pending: HashMap::new(),
        tag: 0,
        answered: 0,
        draining: false,
    };
    // What an earlier session left unanswered comes first, under the same ids.
    let mut retry = std::mem::take(owed);
    let ended = conversation.go_on(&mut answers, &mut retry, manners, random).await;
    let unanswered = conversation.pending.into_values().filter(|owed| owed.what != What::Refusal);
    *owed = unanswered.chain(retry).collect();
    ended
}

/// One session.
struct Conversation<'w> {
    world: &'w World,
    frames: mpsc::Sender<v1::ClientFrame>,
    pending: HashMap<u64, Owed>,
    tag: u64,
    answered: u64,
    /// The gateway is about to stop: it takes nothing more.
    draining: bool,
}

// === impl Conversation ===

impl Conversation<'_> {
    async fn go_on(
        &mut self,
        answers: &mut Streaming<v1::ServerFrame>,
        retry: &mut VecDeque<Owed>,
        manners: Manners,
        random: &mut fastrand::Rng,
    ) -> Ended {
        let mut pace = tokio::time::interval(manners.every);
        pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut look = tokio::time::interval(Duration::from_secs(2));
        let leaves_after = manners.reconnects_after.unwrap_or(u64::MAX);
        loop {
            tokio::select! {
                answer = answers.message() => match answer {
                    Ok(Some(frame)) => self.take(frame, retry),
                    Ok(None) => return Ended::Broken(Status::aborted("the session ended")),
                    Err(status) => return Ended::Broken(status),
                },
                _ = pace.tick(), if !self.draining && self.pending.len() < manners.in_flight => {
                    let next = match retry.pop_front() {
                        Some(owed) => Owed { again: true, ..owed },
                        None if self.world.phase().stopping => {
                            if self.pending.is_empty() {
                                return Ended::Done;
                            }
                            continue;
                        }
                        None => fresh(self.world, manners, random),
                    };
                    if !self.send(next).await {
                        return Ended::Broken(Status::aborted("the session takes no more frames"));
                    }
                }
                _ = look.tick() => {
                    let overdue = |owed: &Owed| owed.sent.elapsed() > OVERDUE;
                    if let Some(owed) = self.pending.values().find(|owed| overdue(owed)) {
                        let (id, age) = (owed.id, owed.since.elapsed());
                        return Ended::Broken(Status::deadline_exceeded(format!("{id} is unanswered after {age:?}")));
                    }
                }
            }
            if self.answered >= leaves_after || self.draining && self.pending.is_empty() {
                return Ended::Left;
            }
        }
    }

    async fn send(&mut self, owed: Owed) -> bool {
        self.tag += 1;
        let Some(action) = self.world.actions.of(owed.id) else { return true };
        let mut message = v1::Action::from_parts(owed.id, None, action);
        let body = match owed.what {
            What::Decision => v1::client_frame::Body::Check(message),
            What::Event => v1::client_frame::Body::Record(v1::Event {
                action: Some(message),
                outcome: v1::Outcome::Ok.into(),
                duration_us: 1_500,
                occurred_at_unix_us: 0,
            }),
            What::Refusal => {
                malform(&mut message, self.tag);
                v1::client_frame::Body::Check(message)
            }
        };
        if owed.again {
            count(&self.world.counts.again);
        }
        self.pending.insert(self.tag, Owed { sent: Instant::now(), ..owed });
        self.frames.send(v1::ClientFrame { tag: self.tag, body: Some(body) }).await.is_ok()
    }

    fn take(&mut self, frame: v1::ServerFrame, retry: &mut VecDeque<Owed>) {
        use v1::server_frame::Body::{Decision, Recorded, Refusal};
        let v1::ServerFrame { tag, body: Some(body) } = frame else { return };
        if !matches!(body, Decision(_) | Recorded(_) | Refusal(_)) {
            self.draining |= matches!(body, v1::server_frame::Body::Draining(_));
            return;
        }
        let Some(owed) = self.pending.remove(&tag) else {
            self.world.surprise("an answer to a tag that was not sent, or a second one");
            return;
        };
        self.answered += 1;
        match (body, owed.what) {
            (Decision(decision), What::Decision) => told(self.world, &owed, &decision),
            (Recorded(_), What::Event) => count(&self.world.counts.recorded),
            (Refusal(refusal), what) => match Code::from(refusal.code) {
                Code::InvalidArgument if what == What::Refusal => {
                    count(&self.world.counts.malformed);
                }
                code @ (Code::ResourceExhausted | Code::Unavailable) => {
                    let room = code == Code::ResourceExhausted;
                    let counts = &self.world.counts;
                    count(if room { &counts.overloaded } else { &counts.unavailable });
                    if what != What::Refusal {
                        retry.push_back(owed);
                    }
                }
                code => self
                    .world
                    .surprise(format!("{what:?} was refused: {code:?}: {}", refusal.message)),
            },
            (_, what) => self.world.surprise(format!("{what:?} was due and something else came")),
        }
    }
}

fn fresh(world: &World, manners: Manners, random: &mut fastrand::Rng) -> Owed {
    let (id, _) = world.actions.any(random);
    let what = match random.u8(..8) {
        number if manners.malformed && number < 4 => What::Refusal,
        7 => What::Event,
        _ => What::Decision,
    };
    let now = Instant::now();
    Owed { id, what, sent: now, since: now, again: false }
}

/// Spoils a message in one of several ways.
fn malform(message: &mut v1::Action, way: u64) {
    let tool = |tool: &str, args: &str| {
        let call = v1::ToolCall { tool: tool.to_owned(), args_json: args.to_owned() };
        Some(v1::action::Kind::ToolCall(call))
    };
    match way % 5 {
        0 => message.id = vec![1, 2, 3].into(),
        1 => message.kind = None,
        2 => message.kind = tool("", "{}"),
        3 => message.kind = tool("search", "{\"open\": [1, 2"),
        _ => message.kind = tool("se\0arch", "{}"),
    }
}

fn told(world: &World, owed: &Owed, decision: &v1::Decision) {
    match (decision.event_id.parse(), decision.to_decision()) {
        (Ok(event), Ok(read)) => {
            let told = Acknowledged { action: owed.id, event, verdict: Some(read.verdict) };
            world.acknowledge(told, latency(owed.sent, owed.again));
        }
        (event, read) => world.surprise(format!("a decision does not read: {event:?}, {read:?}")),
    }
}

/// An agent that asks one unary call after the other.
pub(crate) async fn one_by_one(world: Arc<World>, channel: Channel, number: u64, every: Duration) {
    let name = format!("soak-{number}");
    let mut random = world.random(number);
    let mut peer = registered(&world, Some(channel), &name).await;
    let mut pace = tokio::time::interval(every);
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while !world.phase().stopping {
        pace.tick().await;
        let (id, action) = world.actions.any(&mut random);
        let since = Instant::now();
        let mut again = false;
        loop {
            let Phase { life, .. } = world.until_up().await;
            let sent = Instant::now();
            let asking = peer.check(v1::Action::from_parts(id, None, action));
            let status = match tokio::time::timeout(OVERDUE, asking).await {
                Ok(Ok(decision)) => {
                    let owed = Owed { id, what: What::Decision, sent, since, again };
                    told(&world, &owed, &decision);
                    break;
                }
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded(format!("{id} is unanswered")),
            };
            if status.code() == Code::Unauthenticated {
                peer = registered(&world, None, &name).await;
            } else {
                world.broke("unary call", life, &status);
                tokio::time::sleep(Duration::from_millis(random.u64(20..200))).await;
            }
            again = true;
            count(&world.counts.again);
        }
    }
}

/// An agent that sends `burst` actions at once every now and then and takes the answers as they come. What is
/// unanswered when its session breaks it forgets.
pub(crate) async fn floods(world: Arc<World>, number: u64, burst: u64, every: Duration) {
    let mut random = world.random(number);
    let peer = registered(&world, None, &format!("soak-{number}")).await;
    while pause(&world, every).await {
        let Phase { life, .. } = world.until_up().await;
        let Ok(Ok(peer)) = tokio::time::timeout(ATTEMPT, peer.reconnected(&world.env)).await else {
            continue;
        };
        let ids: Vec<ActionId> = (0..burst).map(|_| world.actions.any(&mut random).0).collect();
        let frames: Vec<_> = ids
            .iter()
            .zip(1..)
            .filter_map(|(id, tag)| {
                let message = v1::Action::from_parts(*id, None, world.actions.of(*id)?);
                Some(v1::ClientFrame { tag, body: Some(v1::client_frame::Body::Check(message)) })
            })
            .collect();
        let taken = take_flood(&world, &peer, frames, &ids);
        match tokio::time::timeout(OVERDUE, taken).await {
            Ok(Ok(())) => {}
            Ok(Err(status)) if status.code() == Code::Unauthenticated => return,
            Ok(Err(status)) => world.broke("flood", life, &status),
            Err(_) => world.broke("flood", life, &Status::deadline_exceeded("it is not answered")),
        }
    }
}

async fn take_flood(
    world: &World,
    peer: &Peer,
    frames: Vec<v1::ClientFrame>,
    ids: &[ActionId],
) -> Result<(), Status> {
    // The stream stays open until everything is answered, for its end would end the session; and it does
    // end when this function returns, or its connection would stay for good.
    let (_open, rest) = mpsc::channel(1);
    let frames = futures::StreamExt::chain(stream::iter(frames), ReceiverStream::new(rest));
    let mut answers = peer.session_of(frames).await?;
    count(&world.counts.sessions);
    let since = Instant::now();
    let mut left = ids.len();
    while left > 0 {
        let Some(frame) = answers.message().await? else {
            return Err(Status::aborted("the session ended"));
        };
        let Some(id) = ids.get((frame.tag as usize).wrapping_sub(1)).copied() else { continue };
        match frame.body {
            Some(v1::server_frame::Body::Decision(decision)) => {
                let owed = Owed { id, what: What::Decision, sent: since, since, again: true };
                told(world, &owed, &decision);
                left -= 1;
            }
            Some(v1::server_frame::Body::Refusal(refusal)) => {
                let room = Code::from(refusal.code) == Code::ResourceExhausted;
                count(if room { &world.counts.overloaded } else { &world.counts.unavailable });
                left -= 1;
            }
            _ => {}
        }
    }
    Ok(())
}

/// A session that says nothing, opened again when it ends.
pub(crate) async fn idles(world: Arc<World>, channel: Channel, number: u64) {
    let mut peer = registered(&world, Some(channel), &format!("idle-{number}")).await;
    while !world.phase().stopping {
        let Phase { life, .. } = world.until_up().await;
        let listening = async {
            let mut answers = peer.session_of(stream::pending()).await?;
            count(&world.counts.sessions);
            while answers.message().await?.is_some() {}
            Err::<(), _>(Status::aborted("the session ended"))
        };
        let mut phases = world.phases();
        let ended = tokio::select! {
            ended = listening => ended,
            _ = phases.wait_for(|phase| phase.stopping) => return,
        };
        match ended {
            Err(status) if status.code() == Code::Unauthenticated => {
                peer = registered(&world, None, &format!("idle-{number}")).await;
            }
            Err(status) => world.broke("idle session", life, &status),
            Ok(()) => {}
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Connections that are no conversation: bytes that are no TLS, connections that end at once.
pub(crate) async fn strangers(world: Arc<World>, every: Duration) {
    let address = world.env.gateway_url.trim_start_matches("https://").to_owned();
    let mut random = world.random(u64::MAX);
    while pause(&world, every).await {
        // Whether it connects at all is the process's affair of the moment.
        let Ok(mut stream) = tokio::net::TcpStream::connect(&address).await else { continue };
        let noise: Vec<u8> = (0..random.usize(..400)).map(|_| random.u8(..)).collect();
        let _ = stream.write_all(&noise).await;
    }
}

/// Waits; false once the run stops.
pub(crate) async fn pause(world: &World, time: Duration) -> bool {
    let mut phases = world.phases();
    let stopped = tokio::time::timeout(time, phases.wait_for(|phase| phase.stopping)).await.is_ok();
    !stopped
}
