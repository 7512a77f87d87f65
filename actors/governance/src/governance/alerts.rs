//! The operations on alerts: who is told of what, and what was not taken.

use std::{collections::BTreeSet, time::Duration};

use aa_notify::{Channel, Destination, Rule};
use aa_protocol::WorkspaceId;
use aa_runtime::{Fault, Reply};
use aa_store::Order;

use super::{Governance, GovernanceError, MAX_PAGE};
use crate::{
    alert_record::{AlertStatus, DeadLetter, MAX_DEAD_LETTERS},
    keys,
    notifier::{AlertError, NotifierMessage, Replayed, Which},
    permission::{ManageAlerts, Permit, ReadAlerts},
    stored,
};

/// How often notifiers look for news.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Rounds of looking after which all rules are looked for again.
const FIND_AGAIN: u64 = 600;

/// Keys read at a time.
const PAGE: usize = 256;

impl Governance {
    /// Where people are told, of what, and how that is going.
    ///
    /// # Errors
    /// The actor does not answer.
    pub async fn alerts(
        &self,
        permit: &Permit<ReadAlerts>,
    ) -> Result<AlertStatus, GovernanceError> {
        let (reply, answer) = Reply::channel();
        self.services.send_notifier(&permit.workspace(), NotifierMessage::Read(reply));
        Ok(answer.await.unwrap_or(Err(Fault::Gone))?)
    }

    /// Sets a destination, in the place of the one there was.
    ///
    /// # Errors
    /// What is wrong with it, or the actor does not answer.
    pub async fn set_alert_destination(
        &self,
        permit: &Permit<ManageAlerts>,
        destination: Destination,
    ) -> Result<Destination, GovernanceError> {
        if let Channel::Slack(channel) = &destination.channel
            && !channel.approvers.is_empty()
        {
            permit.check_voices()?;
        }
        let actor = permit.actor();
        let set = |reply| NotifierMessage::SetDestination(destination, actor, reply);
        self.ask_notifier(permit.workspace(), set).await
    }

    /// Takes a destination away, with what waits for it. Its dead letters stay.
    ///
    /// # Errors
    /// There is none, a rule names it, or the actor does not answer.
    pub async fn remove_alert_destination(
        &self,
        permit: &Permit<ManageAlerts>,
        name: String,
    ) -> Result<Destination, GovernanceError> {
        let actor = permit.actor();
        let remove = |reply| NotifierMessage::RemoveDestination(name, actor, reply);
        self.ask_notifier(permit.workspace(), remove).await
    }

    /// Sets a rule, in the place of the one there was. It holds for what happens from now on.
    ///
    /// # Errors
    /// What is wrong with it, or the actor does not answer.
    pub async fn set_alert_rule(
        &self,
        permit: &Permit<ManageAlerts>,
        rule: Rule,
    ) -> Result<Rule, GovernanceError> {
        let actor = permit.actor();
        let set = |reply| NotifierMessage::SetRule(rule, actor, reply);
        self.ask_notifier(permit.workspace(), set).await
    }

    /// Takes a rule away.
    ///
    /// # Errors
    /// There is none, or the actor does not answer.
    pub async fn remove_alert_rule(
        &self,
        permit: &Permit<ManageAlerts>,
        name: String,
    ) -> Result<Rule, GovernanceError> {
        let actor = permit.actor();
        let remove = |reply| NotifierMessage::RemoveRule(name, actor, reply);
        self.ask_notifier(permit.workspace(), remove).await
    }

    /// Sends a destination a message that says it is a test, once.
    ///
    /// # Errors
    /// There is none, it did not take the message, or the actor does not answer.
    pub async fn test_alert_destination(
        &self,
        permit: &Permit<ManageAlerts>,
        name: String,
    ) -> Result<(), GovernanceError> {
        let test = |reply| NotifierMessage::Test(name, reply);
        self.ask_notifier(permit.workspace(), test).await
    }

    /// Sends dead letters again; tells how many.
    ///
    /// # Errors
    /// There is none of this id, or the actor does not answer.
    pub async fn replay_dead_letters(
        &self,
        permit: &Permit<ManageAlerts>,
        which: Which,
    ) -> Result<usize, GovernanceError> {
        let mut all = 0;
        loop {
            let (which, actor) = (which.clone(), permit.actor());
            let replay = |reply| NotifierMessage::Replay(which, actor, reply);
            let Replayed { count, is_more } = self.ask_notifier(permit.workspace(), replay).await?;
            all += count;
            if !is_more || all >= MAX_DEAD_LETTERS {
                return Ok(all);
            }
        }
    }

    /// Forgets dead letters; tells how many.
    ///
    /// # Errors
    /// There is none of this id, or the actor does not answer.
    pub async fn discard_dead_letters(
        &self,
        permit: &Permit<ManageAlerts>,
        which: Which,
    ) -> Result<usize, GovernanceError> {
        let actor = permit.actor();
        let discard = |reply| NotifierMessage::Discard(which, actor, reply);
        self.ask_notifier(permit.workspace(), discard).await
    }

    /// Dead letters, the oldest first, from the one after `after`; at most `limit`, itself at most [`MAX_PAGE`].
    ///
    /// # Errors
    /// The store does not answer, or a record is damaged.
    pub async fn dead_letters(
        &self,
        permit: &Permit<ReadAlerts>,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, GovernanceError> {
        let workspace = permit.workspace();
        let all = keys::dead_letters(workspace);
        let range = match after {
            Some(after) => all.after(&keys::dead_letter(workspace, after)),
            None => all,
        };
        let mut txn = self.services.node.store().begin().await?;
        let page = txn.range_snapshot(&range, limit.min(MAX_PAGE), Order::Forward).await?;
        let letters = page.iter().map(|(key, value)| stored::decode(key, value));
        Ok(letters.collect::<Result<_, _>>()?)
    }

    async fn ask_notifier<T: Send + 'static>(
        &self,
        workspace: WorkspaceId,
        message: impl FnOnce(Reply<Result<T, AlertError>>) -> NotifierMessage,
    ) -> Result<T, GovernanceError> {
        let (reply, answer) = Reply::channel();
        self.services.send_notifier(&workspace, message(reply));
        Ok(answer.await.unwrap_or(Err(Fault::Gone))??)
    }

    /// Has every notifier look for news that has rules or something to deliver.
    pub(super) async fn keep_notifiers_looking(self) {
        let node = self.services.node.clone();
        while let Err(error) = self.find_notifiers().await {
            if node.has_stopped() {
                return;
            }
            tracing::warn!(%error, "the rules of alerts could not be read yet");
            self.services.clock.sleep(LOOK_EVERY).await;
        }
        for round in (1_u64..).take_while(|_| !node.has_stopped()) {
            // What came with a shard from elsewhere is found again by and by.
            if round.is_multiple_of(FIND_AGAIN)
                && let Err(error) = self.find_notifiers().await
            {
                tracing::warn!(%error, "the rules of alerts could not be read");
            }
            let alerting = self.services.alerting.lock().clone();
            let here = |workspace: &WorkspaceId| self.services.is_notifier_here(*workspace);
            for workspace in alerting.into_iter().filter(here) {
                self.services.send_notifier(&workspace, NotifierMessage::Look);
            }
            self.services.clock.sleep(LOOK_EVERY).await;
        }
    }

    async fn find_notifiers(&self) -> Result<(), aa_store::StoreError> {
        for mut range in
            [keys::all_alert_rules(), keys::all_deliveries(), keys::all_alert_folders()]
        {
            let mut found = BTreeSet::new();
            loop {
                let mut txn = self.services.node.store().begin().await?;
                let page = txn.range_snapshot(&range, PAGE, Order::Forward).await?;
                let Some((last, _)) = page.last() else { break };
                let rest = range.clone().after(last);
                found.extend(page.iter().filter_map(|(key, _)| keys::workspace_of(key)));
                range = rest;
            }
            for workspace in found {
                if self.services.is_there(workspace).await? {
                    self.services.alerting.lock().insert(workspace);
                }
            }
        }
        Ok(())
    }
}
