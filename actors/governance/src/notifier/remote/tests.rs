#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, time::Duration};

use aa_notify::{
    BookError, Channel, Destination, DestinationError, EmailChannel, EventKind, Failure,
    GuardError, Rule, Security, SendError, Severity, SlackChannel, WebhookChannel, guard::Reach,
};
use aa_vault::SecretName;

use super::*;
use crate::{
    alert_record::{AlertStatus, DestinationStatus},
    crossing::{Crossing, NOW, agent, reply_of},
    notifier::{AlertError, Replayed, Which},
};

fn ops() -> String {
    "ops".to_owned()
}

fn actor() -> String {
    "key:k".to_owned()
}

fn secret() -> SecretName {
    "alerts/ops".parse().unwrap()
}

fn destinations() -> [Destination; 3] {
    let webhook = WebhookChannel {
        url: "https://hooks.example.com/a".to_owned(),
        secret: secret(),
        previous_secret: Some(secret()),
    };
    let slack = SlackChannel {
        url_secret: secret(),
        signing_secret: None,
        approvers: [("U1".to_owned(), "k".to_owned())].into(),
    };
    let email = EmailChannel {
        server: "mail.example.com".to_owned(),
        port: 587,
        security: Security::Starttls,
        username: None,
        password: Some(secret()),
        from: "a@example.com".to_owned(),
        to: vec!["b@example.com".to_owned()],
    };
    [Channel::Webhook(webhook), Channel::Slack(slack), Channel::Email(email)]
        .map(|channel| Destination { name: ops(), channel, fold_seconds: 0 })
}

fn rules() -> [Rule; 2] {
    let rule = Rule::all("all", "ops");
    let filtered = Rule {
        events: BTreeSet::from([EventKind::Test]),
        agents: BTreeSet::from([agent()]),
        teams: BTreeSet::from(["t".to_owned()]),
        min_severity: Some(Severity::Critical),
        ..rule.clone()
    };
    [rule, filtered]
}

fn refusals() -> Vec<AlertError> {
    let host = || "h".to_owned();
    let book = [
        BookError::Destination(DestinationError {
            destination: ops(),
            field: "url".into(),
            problem: "is none".to_owned(),
        }),
        BookError::Rule { rule: ops(), field: "name".into(), problem: "is none".to_owned() },
        BookError::UnknownDestination { rule: ops(), destination: ops() },
        BookError::InUse { destination: ops(), rule: ops() },
        BookError::Unknown { what: "rule".into(), name: ops() },
        BookError::Full { what: "rule".into(), most: 1 },
    ];
    let reaches = [
        Reach::Public,
        Reach::Private,
        Reach::Loopback,
        Reach::Shared,
        Reach::LinkLocal,
        Reach::Metadata,
        Reach::Multicast,
        Reach::Reserved,
    ];
    let guard = [
        GuardError::Url("it is no URL".into()),
        GuardError::Host,
        GuardError::Unencrypted { host: host() },
        GuardError::Port { host: host(), port: 22, usual: "443".into() },
        GuardError::Unresolved { host: host(), problem: "no such name".to_owned() },
    ];
    let addresses = reaches.map(|reach| GuardError::Address { host: host(), reach });
    let failures = [
        Failure::ForNow { retry_after: None },
        Failure::ForNow { retry_after: Some(Duration::new(3, 999_999_999)) },
        Failure::ForGood,
        Failure::Gone,
    ];
    let unsent = failures.map(|failure| SendError {
        place: "the webhook at h".to_owned(),
        problem: "said 500".to_owned(),
        remedy: "it is tried again".into(),
        failure,
    });
    book.into_iter()
        .map(AlertError::Book)
        .chain(guard.into_iter().chain(addresses).map(|error| AlertError::Guarded(ops(), error)))
        .chain(unsent.map(|error| AlertError::NotSent(ops(), error)))
        .chain([
            AlertError::Secret(ops(), secret()),
            AlertError::TooLarge(ops()),
            AlertError::NoDestination(ops()),
            AlertError::NoDeadLetter(7),
            AlertError::Unreadable("the store is away".to_owned()),
        ])
        .collect()
}

fn refused<T>() -> impl Iterator<Item = Result<T, AlertError>> {
    refusals().into_iter().map(Err)
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_about_destinations_and_rules_crosses_between_nodes() {
    let mut crossing = Crossing::new().await;
    for destination in destinations() {
        let answers = || [Ok(destination.clone())].into_iter().chain(refused());
        crossing
            .is_answered(
                |reply| NotifierMessage::SetDestination(destination.clone(), actor(), reply),
                reply_of!(NotifierMessage::SetDestination(_, _, reply) => reply),
                answers(),
            )
            .await;
        crossing
            .is_answered(
                |reply| NotifierMessage::RemoveDestination(ops(), actor(), reply),
                reply_of!(NotifierMessage::RemoveDestination(_, _, reply) => reply),
                answers(),
            )
            .await;
    }
    for rule in rules() {
        let answers = || [Ok(rule.clone())].into_iter().chain(refused());
        crossing
            .is_answered(
                |reply| NotifierMessage::SetRule(rule.clone(), actor(), reply),
                reply_of!(NotifierMessage::SetRule(_, _, reply) => reply),
                answers(),
            )
            .await;
        crossing
            .is_answered(
                |reply| NotifierMessage::RemoveRule(ops(), actor(), reply),
                reply_of!(NotifierMessage::RemoveRule(_, _, reply) => reply),
                answers(),
            )
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_about_messages_crosses_between_nodes() {
    let mut crossing = Crossing::new().await;
    crossing
        .is_answered(
            |reply| NotifierMessage::Test(ops(), reply),
            reply_of!(NotifierMessage::Test(_, reply) => reply),
            [Ok(())].into_iter().chain(refused()),
        )
        .await;
    for which in [Which::All, Which::Of(ops()), Which::One(u64::MAX)] {
        crossing
            .is_answered(
                |reply| NotifierMessage::Replay(which.clone(), actor(), reply),
                reply_of!(NotifierMessage::Replay(_, _, reply) => reply),
                [Ok(Replayed { count: 3, is_more: true }), Err(AlertError::NoDeadLetter(7))],
            )
            .await;
        crossing
            .is_answered(
                |reply| NotifierMessage::Discard(which.clone(), actor(), reply),
                reply_of!(NotifierMessage::Discard(_, _, reply) => reply),
                [Ok(3), Err(AlertError::NoDeadLetter(7))],
            )
            .await;
    }
    let status = |problem: Option<&str>| AlertStatus {
        destinations: destinations()
            .map(|destination| DestinationStatus {
                destination,
                waiting: 1,
                folded: 2,
                problem: problem.map(str::to_owned),
                last_taken: problem.is_none().then_some(NOW),
            })
            .into(),
        rules: rules().into(),
        dead_letters: 3,
        problem: problem.map(str::to_owned),
    };
    crossing
        .is_answered(
            NotifierMessage::Read,
            reply_of!(NotifierMessage::Read(reply) => reply),
            [status(None), status(Some("the store is away"))],
        )
        .await;
    assert!(matches!(crossing.carry(NotifierMessage::Look).await, NotifierMessage::Look));
    crossing.stays(NotifierMessage::Gathered(Box::new(Err("none".to_owned()))));
    crossing.stays(NotifierMessage::Attempted(1, Ok(Ok(()))));
}
