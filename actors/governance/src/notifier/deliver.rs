//! Deliveries: made of events, attempted until a destination took them or they are given up.

use std::{collections::HashMap, sync::Arc, time::Duration};

use aa_notify::{Destination, Event, Message, RetrySchedule, Secrets, SendError};
use aa_protocol::{Timestamp, WorkspaceId};
use aa_runtime::{Fault, Reply};
use aa_store::Order;
use aa_vault::SecretName;
use bytes::Bytes;

use super::{AlertError, Changes, NotifierActor, NotifierMessage, Replayed, Which};
use crate::{
    alert_record::{DeadLetter, Delivery, MAX_DEAD_LETTERS, MAX_WAITING},
    keys,
    services::Services,
    stored,
};

/// Attempts under way for one destination at a time: a slow one waits for itself.
const AT_A_TIME: usize = 4;

/// Dead letters read at a time.
const PAGE: usize = 100;

/// One change that sends dead letters again is closed past this many bytes.
const REPLAY_BYTES: usize = 1 << 20;

/// The pause after an attempt that panicked.
const CRASHED_AGAIN: Duration = Duration::from_secs(60);

/// How long the secrets of an attempt may take to be opened: their master key may be a service that is down.
const SECRETS_WITHIN: Duration = Duration::from_secs(10);

impl NotifierActor {
    /// Sends an event on its way to those who want it.
    pub(super) fn offer(&mut self, event: &Event, now: Timestamp, changes: &mut Changes) {
        let routed: Vec<_> =
            self.book.route(event).into_iter().map(|to| (to.name.clone(), to.window())).collect();
        for (name, window) in routed {
            let folder = self.folders.entry(name.clone()).or_default();
            let messages = folder.offer(event, now, window);
            changes.folders.insert(name.clone());
            for message in messages {
                self.deliver(&name, message, now, changes);
            }
        }
    }

    /// Tells what was counted, where the time for that has come.
    pub(super) fn tell_due(&mut self, now: Timestamp) {
        let names: Vec<_> = self.folders.keys().cloned().collect();
        for name in names {
            let Some(folder) = self.folders.get_mut(&name) else { continue };
            let messages = folder.due(now);
            if messages.is_empty() {
                continue;
            }
            // A commit for each: what one has counted fits a transaction by far.
            let mut changes = Changes::default();
            changes.folders.insert(name.clone());
            for message in messages {
                self.deliver(&name, message, now, &mut changes);
            }
            self.note(changes);
        }
    }

    /// How many messages wait for a destination.
    pub(super) fn waiting_for(&self, destination: &str) -> usize {
        self.waiting.get(destination).copied().unwrap_or(0)
    }

    pub(super) fn keep_delivery(&mut self, delivery: Delivery) {
        *self.waiting.entry(delivery.destination.clone()).or_default() += 1;
        self.deliveries.insert(delivery.id, delivery);
    }

    pub(super) fn forget_delivery(&mut self, id: u64) -> Option<Delivery> {
        let delivery = self.deliveries.remove(&id)?;
        if let Some(waiting) = self.waiting.get_mut(&delivery.destination) {
            *waiting = waiting.saturating_sub(1);
        }
        Some(delivery)
    }

    fn deliver(
        &mut self,
        destination: &str,
        message: Message,
        now: Timestamp,
        changes: &mut Changes,
    ) {
        let id = self.next_delivery;
        self.next_delivery += 1;
        let next = Bytes::copy_from_slice(&self.next_delivery.to_be_bytes());
        changes.put(keys::next_delivery(self.workspace), next);
        let destination = destination.to_owned();
        let (attempts, first_at, next_at, problem) = (0, now, now, None);
        let delivery = Delivery { id, destination, message, attempts, first_at, next_at, problem };
        if self.waiting_for(&delivery.destination) >= MAX_WAITING {
            changes.overflowed += 1;
            let problem = format!("{MAX_WAITING} messages wait for the destination already");
            let delivery = Delivery { problem: Some(problem), ..delivery };
            self.bury(delivery, now, changes);
            return;
        }
        changes.put(keys::delivery(self.workspace, id), stored::encode(&delivery));
        self.keep_delivery(delivery);
    }

    /// Attempts what is due and not under way.
    pub(super) fn attempt_due(&mut self, now: Timestamp) {
        let mut under_way: HashMap<&str, usize> = HashMap::new();
        for delivery in self.in_flight.iter().filter_map(|id| self.deliveries.get(id)) {
            *under_way.entry(&delivery.destination).or_default() += 1;
        }
        let mut due = Vec::new();
        for delivery in self.deliveries.values() {
            if delivery.next_at > now || self.in_flight.contains(&delivery.id) {
                continue;
            }
            let count = under_way.entry(&delivery.destination).or_default();
            if *count < AT_A_TIME {
                *count += 1;
                due.push(delivery.id);
            }
        }
        for id in due {
            let Some(delivery) = self.deliveries.get(&id) else { continue };
            let Some(destination) = self.book.destination(&delivery.destination) else { continue };
            let (services, workspace) = (Arc::clone(&self.services), self.workspace);
            let (destination, message) = (destination.clone(), delivery.message.clone());
            self.in_flight.insert(id);
            let teller = Arc::clone(&services);
            // A reply tells its notifier even if the attempt panics.
            let reply = Reply::new(move |outcome| {
                teller.send_notifier(&workspace, NotifierMessage::Attempted(id, outcome));
            });
            tokio::spawn(async move {
                let outcome = attempt(&services, workspace, &destination, &message).await;
                reply.send(Ok(outcome));
            });
        }
    }

    pub(super) fn attempted(
        &mut self,
        id: u64,
        outcome: Result<Result<(), SendError>, Fault>,
        now: Timestamp,
    ) {
        // One that an earlier life of this actor began is none of this one's, which makes its own.
        if !self.in_flight.remove(&id) {
            return;
        }
        // Its destination may be gone.
        let Some(mut delivery) = self.forget_delivery(id) else { return };
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(fault) => {
                tracing::error!(workspace = %self.workspace, %fault, "an attempt to tell somebody did not end");
                delivery.next_at = now.saturating_add(CRASHED_AGAIN);
                self.keep_delivery(delivery);
                return;
            }
        };
        let health = self.health.entry(delivery.destination.clone()).or_default();
        health.problem = outcome.as_ref().err().map(ToString::to_string);
        let key = keys::delivery(self.workspace, id);
        let mut changes = Changes::default();
        let error = match outcome {
            Ok(()) => {
                health.last_taken = Some(now);
                self.services.metrics.count_alert(true);
                changes.remove(key);
                return self.note(changes);
            }
            Err(error) => error,
        };
        self.services.metrics.count_alert(false);
        if delivery.attempts == 0 {
            delivery.first_at = now;
        }
        delivery.attempts += 1;
        delivery.problem = Some(error.to_string());
        let mut random = [0; 8];
        self.services.entropy.fill(&mut random);
        let next = RetrySchedule::default().next(
            delivery.attempts,
            delivery.first_at,
            now,
            error.retry_after(),
            u64::from_be_bytes(random),
        );
        match next.filter(|_| !error.is_permanent()) {
            Some(next_at) => {
                delivery.next_at = next_at;
                changes.put(key, stored::encode(&delivery));
                self.keep_delivery(delivery);
                self.note(changes);
            }
            None => {
                changes.remove(key);
                self.give_up(delivery, changes, now);
            }
        }
    }

    /// Keeps a message that nobody takes for an operator, and says so in the log.
    fn give_up(&mut self, delivery: Delivery, mut changes: Changes, now: Timestamp) {
        let (id, attempts) = (delivery.id.to_string(), delivery.attempts.to_string());
        let (name, event) = (delivery.destination.clone(), delivery.message.event.id.to_string());
        let problem = delivery.problem.clone().unwrap_or_default();
        self.bury(delivery, now, &mut changes);
        let detail = [
            ("attempts", attempts.as_str()),
            ("change", "undelivered"),
            ("dead_letter", &id),
            ("event", &event),
            ("name", &name),
            ("problem", &problem),
        ];
        self.commit(None, &detail, changes, now, Reply::ignored(), ());
    }

    fn bury(&mut self, delivery: Delivery, now: Timestamp, changes: &mut Changes) {
        tracing::warn!(
            workspace = %self.workspace, destination = delivery.destination,
            problem = delivery.problem, "an alert was not delivered and is a dead letter"
        );
        let key = keys::dead_letter(self.workspace, delivery.id);
        let letter = DeadLetter { delivery, given_up_at: now };
        changes.put(key, stored::encode(&letter));
        self.dead_letters.push_back(letter.delivery.id);
        while self.dead_letters.len() > MAX_DEAD_LETTERS {
            if let Some(oldest) = self.dead_letters.pop_front() {
                changes.dropped += 1;
                changes.remove(keys::dead_letter(self.workspace, oldest));
            }
        }
    }

    pub(super) async fn replay(
        &mut self,
        which: &Which,
        actor: &str,
        now: Timestamp,
        reply: Reply<Result<Replayed, AlertError>>,
    ) {
        let letters = match self.letters(which).await {
            Ok(letters) => letters,
            Err(error) => return reply.send(Ok(Err(error))),
        };
        let (mut changes, mut count, mut is_more) = (Changes::default(), 0, false);
        for DeadLetter { delivery, .. } in letters {
            // What a removed destination was to be told stays until somebody discards it.
            if self.book.destination(&delivery.destination).is_none()
                || self.waiting_for(&delivery.destination) >= MAX_WAITING
            {
                continue;
            }
            // The rest stays for the next call.
            if changes.bytes() > REPLAY_BYTES {
                is_more = true;
                break;
            }
            let id = delivery.id;
            let delivery = Delivery { attempts: 0, first_at: now, next_at: now, ..delivery };
            self.dead_letters.retain(|known| *known != id);
            changes.remove(keys::dead_letter(self.workspace, id));
            changes.put(keys::delivery(self.workspace, id), stored::encode(&delivery));
            self.keep_delivery(delivery);
            count += 1;
        }
        let replayed = Replayed { count, is_more };
        if count == 0 {
            return self.shard.journal.answer_after(reply, Ok(replayed));
        }
        let told = count.to_string();
        let detail = [("change", "replayed"), ("count", told.as_str())];
        self.commit(Some(actor), &detail, changes, now, reply, Ok(replayed));
    }

    pub(super) async fn discard(
        &mut self,
        which: &Which,
        actor: &str,
        now: Timestamp,
        reply: Reply<Result<usize, AlertError>>,
    ) {
        let letters = match self.letters(which).await {
            Ok(letters) => letters,
            Err(error) => return reply.send(Ok(Err(error))),
        };
        let (mut changes, count) = (Changes::default(), letters.len());
        for DeadLetter { delivery, .. } in letters {
            self.dead_letters.retain(|known| *known != delivery.id);
            changes.remove(keys::dead_letter(self.workspace, delivery.id));
        }
        if count == 0 {
            return self.shard.journal.answer_after(reply, Ok(0));
        }
        let told = count.to_string();
        let detail = [("change", "discarded"), ("count", told.as_str())];
        self.commit(Some(actor), &detail, changes, now, reply, Ok(count));
    }

    /// Dead letters, the oldest first: as many as one change takes.
    async fn letters(&self, which: &Which) -> Result<Vec<DeadLetter>, AlertError> {
        let text = |error: &dyn std::fmt::Display| AlertError::Unreadable(error.to_string());
        // What was given up a moment ago is to be found.
        self.shard.journal.barrier().await.map_err(|fault| text(&fault))?;
        let mut txn = self.services.node.store().begin().await.map_err(|error| text(&error))?;
        let mut letters = Vec::new();
        let mut range = keys::dead_letters(self.workspace);
        while letters.len() < MAX_DEAD_LETTERS {
            let page = txn.range_snapshot(&range, PAGE, Order::Forward).await;
            let page = page.map_err(|error| text(&error))?;
            let Some((last, _)) = page.last() else { break };
            let rest = range.clone().after(last);
            for (key, value) in &page {
                let letter: DeadLetter =
                    stored::decode(key, value).map_err(|error| text(&error))?;
                let is_meant = match which {
                    Which::All => true,
                    Which::Of(name) => letter.delivery.destination == *name,
                    Which::One(id) => letter.delivery.id == *id,
                };
                if is_meant {
                    letters.push(letter);
                }
            }
            range = rest;
        }
        match which {
            Which::One(id) if letters.is_empty() => Err(AlertError::NoDeadLetter(*id)),
            _ => Ok(letters),
        }
    }

    /// Sends a message that says it is a test.
    pub(super) fn test(&self, name: &str, now: Timestamp, reply: Reply<Result<(), AlertError>>) {
        let Some(destination) = self.book.destination(name).cloned() else {
            return reply.send(Ok(Err(AlertError::NoDestination(name.to_owned()))));
        };
        let id = self.services.entropy.event_id(now);
        let event = Event::test(id, self.workspace, now, name);
        let message = Message::of_event(event);
        let (services, workspace) = (Arc::clone(&self.services), self.workspace);
        tokio::spawn(async move {
            let sent = attempt(&services, workspace, &destination, &message).await;
            let not_sent = |error| AlertError::NotSent(destination.name.clone(), error);
            reply.send(Ok(sent.map_err(not_sent)));
        });
    }
}

async fn attempt(
    services: &Services,
    workspace: WorkspaceId,
    destination: &Destination,
    message: &Message,
) -> Result<(), SendError> {
    let mut secrets = Secrets::default();
    let is_for_alerts = |name: &&SecretName| name.as_str().starts_with(super::ALERT_SECRETS);
    for name in destination.channel.secrets().into_iter().filter(is_for_alerts) {
        let opening = services.open_secret(workspace, name.clone());
        let opened = tokio::time::timeout(SECRETS_WITHIN, opening).await;
        match opened.unwrap_or(Err(Fault::Gone)) {
            Ok(Ok(value)) => secrets.insert(name.clone(), value),
            // What is missing, the sender says.
            Ok(Err(error)) => tracing::warn!(%workspace, %error, "an alert lacks a secret"),
            Err(fault) => tracing::warn!(%workspace, %fault, "the vault did not answer an alert"),
        }
    }
    let now = services.clock.now();
    services.sender.send(&destination.channel, &secrets, message, now).await.map(drop)
}
