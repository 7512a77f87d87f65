#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use aa_runtime::Reply;
use aa_vault::rotation::RotationProgress;

use super::*;
use crate::{
    crossing::{Crossing, NOW, agent, reply_of},
    release::{KEEP_FOR, ReleaseRequest, Standing},
    secret_record::{DataKeyStatus, SecretStatus, VaultStatus},
};

/// Bytes that are no text, among them every one that MessagePack itself uses.
fn value() -> SecretValue {
    SecretValue::new((0..=255).collect()).unwrap()
}

fn name() -> SecretName {
    "alerts/ops".parse().unwrap()
}

fn actor() -> String {
    "key:k".to_owned()
}

fn status() -> SecretStatus {
    SecretStatus {
        name: name(),
        version: 7,
        key: "dk_01arz3ndektsv4rrffq69g5fav".parse().unwrap(),
        created_at: NOW,
        updated_at: NOW,
        updated_by: actor(),
        release: Some(release()),
    }
}

fn release() -> Release {
    let agent = agent();
    Release::new(&["api.openai.com", "*.openai.azure.com"], &[agent], &["platform"]).unwrap()
}

fn new() -> NewSecret {
    NewSecret { name: name(), value: value(), release: Some(release()), actor: actor() }
}

fn asked(standing: Standing) -> ReleaseRequest {
    ReleaseRequest {
        agent: agent(),
        standing,
        secret: name(),
        host: "api.openai.com".to_owned(),
        actor: actor(),
    }
}

fn vault() -> VaultStatus {
    let key = |state: &'static str, master: Option<&str>| DataKeyStatus {
        id: status().key,
        state: state.into(),
        created_at: NOW,
        master: master.map(|master| master.parse().unwrap()),
    };
    VaultStatus {
        secrets: vec![status()],
        keys: vec![key("retired", None), key("active", Some("file:1"))],
        progress: RotationProgress { to_rewrap: 1, to_reseal: 2, to_retire: 3 },
        master: "a file".to_owned(),
    }
}

fn refusals() -> [SecretError; 6] {
    [
        SecretError::Unknown(name()),
        SecretError::TooMany,
        SecretError::TooLarge(9),
        SecretError::Empty,
        SecretError::Vault("the master key did not answer".to_owned()),
        SecretError::HeldBack("it did not answer".to_owned()),
    ]
}

#[tokio::test(start_paused = true)]
async fn what_a_vault_is_asked_and_answers_crosses_between_nodes() {
    let mut crossing = Crossing::new().await;
    let statuses = || [Ok(status())].into_iter().chain(refusals().map(Err));
    let vaults = || [Ok(vault())].into_iter().chain(refusals().map(Err));
    crossing
        .is_answered(
            |reply| VaultMessage::Set(new(), reply),
            reply_of!(VaultMessage::Set(_, reply) => reply),
            statuses(),
        )
        .await;
    crossing
        .is_answered(
            |reply| VaultMessage::Delete(name(), actor(), reply),
            reply_of!(VaultMessage::Delete(_, _, reply) => reply),
            statuses(),
        )
        .await;
    crossing
        .is_answered(
            |reply| VaultMessage::Open(name(), reply),
            reply_of!(VaultMessage::Open(_, reply) => reply),
            refusals().map(Err),
        )
        .await;
    crossing
        .is_answered(
            |reply| VaultMessage::Withdraw(name(), actor(), reply),
            reply_of!(VaultMessage::Withdraw(_, _, reply) => reply),
            statuses(),
        )
        .await;
    for standing in [
        Standing::Unknown,
        Standing::Suspended,
        Standing::Active(None),
        Standing::Active(Some("platform".to_owned())),
    ] {
        crossing
            .is_answered(
                |reply| VaultMessage::Release(asked(standing.clone()), reply),
                reply_of!(VaultMessage::Release(_, reply) => reply),
                [
                    Ok(Released { value: value(), version: 7, keep_for: KEEP_FOR }),
                    Err(ReleaseError::AgentUnknown(agent())),
                    Err(ReleaseError::AgentSuspended(agent())),
                    Err(ReleaseError::Denied),
                    Err(ReleaseError::Vault("the master key did not answer".to_owned())),
                ],
            )
            .await;
    }
    crossing
        .is_answered(VaultMessage::Read, reply_of!(VaultMessage::Read(reply) => reply), [vault()])
        .await;
    crossing
        .is_answered(
            |reply| VaultMessage::Rotate(actor(), reply),
            reply_of!(VaultMessage::Rotate(_, reply) => reply),
            vaults(),
        )
        .await;
    crossing
        .is_answered(
            |reply| VaultMessage::RotateMaster(actor(), reply),
            reply_of!(VaultMessage::RotateMaster(_, reply) => reply),
            vaults(),
        )
        .await;
    // The next step of a rotation, for a vault that has moved, is to look where it stands.
    for sent in [VaultMessage::Tend, VaultMessage::Step] {
        assert!(matches!(crossing.carry(sent).await, VaultMessage::Tend));
    }
}

#[tokio::test(start_paused = true)]
async fn a_secret_crosses_to_the_last_byte_and_prints_nowhere() {
    let mut crossing = Crossing::new().await;
    let arrived = crossing.carry(VaultMessage::Set(new(), Reply::ignored())).await;
    let VaultMessage::Set(NewSecret { value: found, release: to, .. }, _) = arrived else {
        panic!("{arrived:?}")
    };
    assert!(found == value() && to == Some(release()));
    assert!(!format!("{found:?}").contains("255"));

    let (reply, received) = Reply::channel();
    let arrived = crossing.carry(VaultMessage::Open(name(), reply)).await;
    let VaultMessage::Open(_, reply) = arrived else { panic!("{arrived:?}") };
    reply.send(Ok(Ok(value())));
    assert!(received.await.unwrap().unwrap().unwrap() == value());

    let (reply, received) = Reply::channel();
    let arrived = crossing.carry(VaultMessage::Release(asked(Standing::Active(None)), reply)).await;
    let VaultMessage::Release(request, reply) = arrived else { panic!("{arrived:?}") };
    assert_eq!(request.host, "api.openai.com");
    reply.send(Ok(Ok(Released { value: value(), version: 7, keep_for: KEEP_FOR })));
    let released = received.await.unwrap().unwrap().unwrap();
    assert!(released.value == value() && released.keep_for == KEEP_FOR);
}
