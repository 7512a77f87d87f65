//! The actor that tells people: it reads events off the workspace's audit log and delivers them.
//!
//! ```text
//! audit log ──gather──► events ──rules, folding──► deliveries ──attempts──► taken, or a dead letter
//!  cursor      aside              (one commit: cursor, folding, deliveries)
//! ```
//!
//! The log is the queue: an event is an entry that is committed, and the cursor moves in the commit that makes deliveries of
//! what it passes. So nothing that happened is lost between the two, whatever crashes, and deciding costs nothing for it.
//! A delivery is there until the destination took it: it goes out at least once, under the same id each time.

mod deliver;
mod gather;
mod load;
mod remote;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use aa_ledger::{Draft, Kind, Stream};
use aa_notify::{AlertBook, BookError, Destination, Folder, GuardError, Rule, SendError};
use aa_protocol::{Timestamp, WorkspaceId};
use aa_runtime::{Entity, Fault, Flow, LiveShard, LoadError, Record, Reply};
use aa_vault::SecretName;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use self::gather::Gathered;
use crate::{
    alert_record::{AlertStatus, Delivery, DestinationStatus},
    audit::Cursor,
    chain::Chain,
    keys,
    services::Services,
    stored,
};

/// What a notifier is asked.
#[derive(Debug)]
pub enum NotifierMessage {
    /// Sets where people are told.
    SetDestination(Destination, String, Reply<Result<Destination, AlertError>>),
    /// Takes a destination away, with what waits for it.
    RemoveDestination(String, String, Reply<Result<Destination, AlertError>>),
    /// Sets who is told of what.
    SetRule(Rule, String, Reply<Result<Rule, AlertError>>),
    /// Takes a rule away.
    RemoveRule(String, String, Reply<Result<Rule, AlertError>>),
    /// Sends a message that says it is a test, at once and once. Answers what became of it.
    Test(String, Reply<Result<(), AlertError>>),
    /// Sends dead letters again, all or those of a destination.
    Replay(Which, String, Reply<Result<Replayed, AlertError>>),
    /// Forgets dead letters. Answers how many.
    Discard(Which, String, Reply<Result<usize, AlertError>>),
    /// Tells where things stand.
    Read(Reply<AlertStatus>),
    /// Something may have happened, or be due.
    Look,
    /// What was read off the log.
    Gathered(Box<Result<Gathered, String>>),
    /// How an attempt to deliver ended, or that it did not end at all.
    Attempted(u64, Result<Result<(), SendError>, Fault>),
}

/// Dead letters that are on their way again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replayed {
    /// How many.
    pub count: usize,
    /// Whether there are more of those that were meant: one change takes only so many.
    pub is_more: bool,
}

/// Which dead letters are meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// All.
    All,
    /// Those that were for this destination.
    Of(String),
    /// This one.
    One(u64),
}

/// Why alerts are not as asked.
#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum AlertError {
    /// The book refused.
    #[error(transparent)]
    Book(#[from] BookError),
    /// The destination is one that is not dialled.
    #[error("destination `{0}`: {1}")]
    Guarded(String, GuardError),
    /// The secret is not one for alerts.
    #[error(
        "destination `{0}` names the secret `{1}`; alerts use secrets below `{ALERT_SECRETS}` only, so that nobody can \
         have another one sent away"
    )]
    Secret(String, SecretName),
    /// It has more than is kept.
    #[error("`{0}` has more than {MAX_RECORD} bytes; use fewer filters, or several rules")]
    TooLarge(String),
    /// There is no such destination.
    #[error("there is no destination `{0}` in this workspace")]
    NoDestination(String),
    /// There is no such dead letter.
    #[error("there is no dead letter {0} in this workspace")]
    NoDeadLetter(u64),
    /// It did not go out.
    #[error("destination `{0}` did not take the message: {1}")]
    NotSent(String, SendError),
    /// The store does not answer.
    #[error("{0}")]
    Unreadable(String),
}

/// The actor.
pub struct NotifierActor {
    workspace: WorkspaceId,
    shard: Arc<LiveShard>,
    services: Arc<Services>,
    chain: Chain,
    book: AlertBook,
    /// How far the log is read; none while no rule wants it read.
    cursor: Option<Cursor>,
    folders: BTreeMap<String, Folder>,
    /// What is not taken yet, by id.
    deliveries: BTreeMap<u64, Delivery>,
    /// How much of that waits for each destination.
    waiting: HashMap<String, usize>,
    next_delivery: u64,
    /// The dead letters, the oldest first.
    dead_letters: VecDeque<u64>,
    /// Deliveries that are being attempted.
    in_flight: HashSet<u64>,
    health: HashMap<String, Health>,
    is_gathering: bool,
    /// The shard that is read first the next time, so that none is always last.
    first_shard: u16,
    /// Why the log was not read the last time.
    problem: Option<String>,
}

/// How a destination is doing, since the actor was loaded.
#[derive(Default)]
struct Health {
    problem: Option<String>,
    last_taken: Option<Timestamp>,
}

/// State that changes together.
#[derive(Default)]
struct Changes {
    writes: Vec<(Bytes, Bytes)>,
    removes: Vec<Bytes>,
    /// The destinations whose folding has changed.
    folders: BTreeSet<String>,
    /// Messages that found too many waiting for their destination, and dead letters that made room for others.
    overflowed: usize,
    dropped: usize,
}

/// What the names of the secrets that alerts use begin with.
pub const ALERT_SECRETS: &str = "alerts/";

/// The largest destination or rule, as stored, in bytes.
const MAX_RECORD: usize = 64 << 10;

// === impl NotifierActor ===

impl Entity for NotifierActor {
    type Id = WorkspaceId;
    type Message = NotifierMessage;
    type Context = Arc<Services>;

    const KIND: &'static str = "notifier";

    fn shard_key(id: &WorkspaceId) -> Vec<u8> {
        id.as_uuid().as_bytes().to_vec()
    }

    async fn load(
        id: WorkspaceId,
        shard: Arc<LiveShard>,
        services: Arc<Services>,
    ) -> Result<Self, LoadError> {
        let loaded = Self::read(id, shard, services).await;
        loaded.map_err(|error| LoadError::new::<Self>(&id, error))
    }

    async fn handle(&mut self, message: NotifierMessage) -> Flow {
        let now = self.services.clock.now();
        match message {
            NotifierMessage::SetDestination(destination, actor, reply) => {
                self.set_destination(destination, &actor, now, reply);
            }
            NotifierMessage::RemoveDestination(name, actor, reply) => {
                self.remove_destination(&name, &actor, now, reply);
            }
            NotifierMessage::SetRule(rule, actor, reply) => {
                self.set_rule(rule, &actor, now, reply).await;
            }
            NotifierMessage::RemoveRule(name, actor, reply) => {
                self.remove_rule(&name, &actor, now, reply);
            }
            NotifierMessage::Test(name, reply) => self.test(&name, now, reply),
            NotifierMessage::Replay(which, actor, reply) => {
                self.replay(&which, &actor, now, reply).await;
            }
            NotifierMessage::Discard(which, actor, reply) => {
                self.discard(&which, &actor, now, reply).await;
            }
            NotifierMessage::Read(reply) => {
                self.shard.journal.answer_after(reply, self.status());
            }
            NotifierMessage::Look => {
                self.gather();
                self.tell_due(now);
            }
            NotifierMessage::Gathered(gathered) => self.take_in(*gathered, now),
            NotifierMessage::Attempted(id, outcome) => self.attempted(id, outcome, now),
        }
        self.attempt_due(now);
        Flow::Continue
    }

    fn is_waiting(&self) -> bool {
        !self.in_flight.is_empty() || self.is_gathering
    }
}

impl NotifierActor {
    fn set_destination(
        &mut self,
        destination: Destination,
        actor: &str,
        now: Timestamp,
        reply: Reply<Result<Destination, AlertError>>,
    ) {
        let name = destination.name.clone();
        if let Err(error) = self.admit(&destination) {
            reply.send(Ok(Err(error)));
            return;
        }
        let mut changes = Changes::default();
        changes.put(keys::alert_destination(self.workspace, &name), stored::encode(&destination));
        let channel = destination.channel.type_name();
        let detail = [("change", "destination_set"), ("channel", channel), ("name", &name)];
        self.commit(Some(actor), &detail, changes, now, reply, Ok(destination.clone()));
    }

    fn admit(&mut self, destination: &Destination) -> Result<(), AlertError> {
        let name = &destination.name;
        let foreign = |secret: &&&SecretName| !secret.as_str().starts_with(ALERT_SECRETS);
        if let Some(secret) = destination.channel.all_secrets().iter().find(foreign) {
            return Err(AlertError::Secret(name.clone(), (*secret).clone()));
        }
        if stored::encode(destination).len() > MAX_RECORD {
            return Err(AlertError::TooLarge(name.clone()));
        }
        let admitted = self.services.sender.guard().admit(&destination.channel);
        admitted.map_err(|error| AlertError::Guarded(name.clone(), error))?;
        self.book.set_destination(destination.clone())?;
        Ok(())
    }

    fn remove_destination(
        &mut self,
        name: &str,
        actor: &str,
        now: Timestamp,
        reply: Reply<Result<Destination, AlertError>>,
    ) {
        let destination = match self.book.remove_destination(name) {
            Err(error) => return reply.send(Ok(Err(error.into()))),
            Ok(destination) => destination,
        };
        let mut changes = Changes::default();
        changes.remove(keys::alert_destination(self.workspace, name));
        if self.folders.remove(name).is_some() {
            changes.remove(keys::alert_folder(self.workspace, name));
        }
        let waiting = self.deliveries.values().filter(|delivery| delivery.destination == name);
        let gone: Vec<_> = waiting.map(|delivery| delivery.id).collect();
        gone.iter().for_each(|id| drop(self.forget_delivery(*id)));
        changes.removes.extend(gone.iter().map(|id| keys::delivery(self.workspace, *id)));
        let dropped = gone.len().to_string();
        let detail = [("change", "destination_removed"), ("dropped", &dropped), ("name", name)];
        self.commit(Some(actor), &detail, changes, now, reply, Ok(destination));
    }

    async fn set_rule(
        &mut self,
        rule: Rule,
        actor: &str,
        now: Timestamp,
        reply: Reply<Result<Rule, AlertError>>,
    ) {
        let stored_rule = stored::encode(&rule);
        if stored_rule.len() > MAX_RECORD {
            return reply.send(Ok(Err(AlertError::TooLarge(rule.name))));
        }
        let mut changes = Changes::default();
        let is_first = self.book.is_idle();
        // What was before the first rule, nobody asked to be told of.
        let end = match is_first {
            true => gather::end_of_log(&self.services, self.workspace).await.map(Some),
            false => Ok(None),
        };
        let end = match end {
            Ok(end) => end,
            Err(error) => return reply.send(Ok(Err(AlertError::Unreadable(error)))),
        };
        if let Err(error) = self.book.set_rule(rule.clone()) {
            return reply.send(Ok(Err(error.into())));
        }
        if let Some(end) = end {
            changes.put(keys::alert_cursor(self.workspace), stored::encode(&end));
            self.cursor = Some(end);
        }
        self.services.alerting.lock().insert(self.workspace);
        changes.put(keys::alert_rule(self.workspace, &rule.name), stored_rule);
        let to: Vec<_> = rule.destinations.iter().map(String::as_str).collect();
        let (to, events) = (to.join(","), events_of(&rule));
        let detail =
            [("change", "rule_set"), ("events", &events), ("name", &rule.name), ("to", &to)];
        self.commit(Some(actor), &detail, changes, now, reply, Ok(rule.clone()));
    }

    fn remove_rule(
        &mut self,
        name: &str,
        actor: &str,
        now: Timestamp,
        reply: Reply<Result<Rule, AlertError>>,
    ) {
        let rule = match self.book.remove_rule(name) {
            Err(error) => return reply.send(Ok(Err(error.into()))),
            Ok(rule) => rule,
        };
        let mut changes = Changes::default();
        changes.remove(keys::alert_rule(self.workspace, name));
        if self.book.is_idle() {
            self.cursor = None;
            changes.remove(keys::alert_cursor(self.workspace));
        }
        let detail = [("change", "rule_removed"), ("name", name)];
        self.commit(Some(actor), &detail, changes, now, reply, Ok(rule));
    }

    fn status(&self) -> AlertStatus {
        let destination = |destination: &Destination| {
            let health = self.health.get(&destination.name);
            DestinationStatus {
                destination: destination.clone(),
                waiting: self.waiting_for(&destination.name),
                folded: self.folders.get(&destination.name).map_or(0, Folder::waiting),
                problem: health.and_then(|health| health.problem.clone()),
                last_taken: health.and_then(|health| health.last_taken),
            }
        };
        AlertStatus {
            destinations: self.book.destinations().map(destination).collect(),
            rules: self.book.rules().cloned().collect(),
            dead_letters: self.dead_letters.len(),
            problem: self.problem.clone(),
        }
    }

    /// The one way a change that people made becomes real: its entry and its state in one commit.
    fn commit<T: Send + 'static>(
        &mut self,
        actor: Option<&str>,
        detail: &[(&str, &str)],
        changes: Changes,
        now: Timestamp,
        reply: Reply<T>,
        answer: T,
    ) {
        let event = self.services.entropy.event_id(now);
        let draft = Draft {
            actor,
            detail,
            ..Draft::new(event, self.workspace, Stream::Alerts, now, Kind::Alert)
        };
        let entry = self.chain.seal(&draft, &self.services.mac_key());
        let (writes, removes) = self.written(changes);
        let done =
            Reply::new(move |committed: Result<(), Fault>| reply.send(committed.map(|()| answer)));
        self.chain.commit(
            &self.shard,
            Record { entry: Some(entry), writes, removes, news: Vec::new(), done },
        );
    }

    fn written(&self, changes: Changes) -> (Vec<(Bytes, Bytes)>, Vec<Bytes>) {
        let Changes { mut writes, removes, folders, .. } = changes;
        writes.extend(folders.iter().filter_map(|name| {
            let state = stored::encode(self.folders.get(name)?);
            Some((keys::alert_folder(self.workspace, name), state))
        }));
        (writes, removes)
    }

    /// State that changes without anything to tell an auditor.
    fn note(&mut self, changes: Changes) {
        self.note_then(changes, Reply::ignored());
    }

    fn note_then(&mut self, changes: Changes, done: Reply<()>) {
        let (overflowed, dropped) = (changes.overflowed, changes.dropped);
        if overflowed > 0 || dropped > 0 {
            let now = self.services.clock.now();
            let (overflowed, dropped) = (overflowed.to_string(), dropped.to_string());
            let detail =
                [("change", "overflow"), ("dead", overflowed.as_str()), ("dropped", &dropped)];
            let done = done.map(|()| ());
            return self.commit(None, &detail, changes, now, done, ());
        }
        let (writes, removes) = self.written(changes);
        if writes.is_empty() && removes.is_empty() {
            return done.send(Ok(()));
        }
        self.chain
            .commit(&self.shard, Record { entry: None, writes, removes, news: Vec::new(), done });
    }
}

fn events_of(rule: &Rule) -> String {
    match rule.events.len() {
        0 => "all".to_owned(),
        _ => rule.events.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(","),
    }
}

// === impl Changes ===

impl Changes {
    fn put(&mut self, key: Bytes, value: Bytes) {
        self.writes.push((key, value));
    }

    fn remove(&mut self, key: Bytes) {
        self.removes.push(key);
    }

    /// What is to be written, without the folding.
    fn bytes(&self) -> usize {
        self.writes.iter().map(|(key, value)| key.len() + value.len()).sum()
    }
}
