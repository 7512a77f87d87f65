#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use aa_ledger::{Checkpoint, Hash};
use aa_runtime::{Reply, SystemEntropy};

use super::*;
use crate::{
    crossing::{Crossing, NOW, reply_of, workspace},
    permission::Grant,
    tenant::{
        CheckpointFailed, NewKey, NewWorkspace, Revocation, SignedCheckpoint, WorkspaceRecord,
    },
};

fn new_key() -> NewKey {
    NewKey { name: "ci".to_owned(), grant: Grant::Developer, actor: "key:k".to_owned() }
}

fn key_record(revoked: bool) -> KeyRecord {
    KeyRecord {
        id: "k2".to_owned(),
        workspace: workspace(),
        name: "ci".to_owned(),
        grant: Grant::Owner,
        created_at: NOW,
        created_by: "key:k".to_owned(),
        revoked_at: revoked.then_some(NOW),
        digest: "00".repeat(32),
    }
}

fn refusals() -> [KeyError; 4] {
    let id = || "k2".to_owned();
    [
        KeyError::TooMany,
        KeyError::Unknown(id()),
        KeyError::NotYours(id()),
        KeyError::LastOwner(id()),
    ]
}

#[tokio::test(start_paused = true)]
async fn what_a_tenant_is_asked_and_answers_crosses_between_nodes() {
    let mut crossing = Crossing::new().await;
    let name = || "acme".to_owned();
    crossing
        .is_answered(
            |reply| {
                let new = NewWorkspace { name: name(), actor: "setup".to_owned() };
                TenantMessage::Create(new, reply)
            },
            reply_of!(TenantMessage::Create(_, reply) => reply),
            [WorkspaceRecord { id: workspace(), name: name(), created_at: NOW }],
        )
        .await;
    crossing
        .is_answered(
            |reply| TenantMessage::CreateKey(new_key(), reply),
            reply_of!(TenantMessage::CreateKey(_, reply) => reply),
            refusals().map(Err),
        )
        .await;
    for created_by in [None, Some("key:k".to_owned())] {
        let revocation = || {
            let (id, actor) = ("k2".to_owned(), "key:k".to_owned());
            Revocation { id, actor, created_by: created_by.clone() }
        };
        let answers = [Ok(key_record(true)), Ok(key_record(false))];
        crossing
            .is_answered(
                |reply| TenantMessage::RevokeKey(revocation(), reply),
                reply_of!(TenantMessage::RevokeKey(_, reply) => reply),
                answers.into_iter().chain(refusals().map(Err)),
            )
            .await;
    }
    crossing
        .is_answered(
            |reply| TenantMessage::NoteBroken("a hash differs".to_owned(), reply),
            reply_of!(TenantMessage::NoteBroken(_, reply) => reply),
            [()],
        )
        .await;
    let root = Hash::of_leaf(b"x");
    let checkpoint = Checkpoint { workspace: workspace(), size: u64::MAX, root, time: NOW };
    crossing
        .is_answered(
            TenantMessage::Checkpoint,
            reply_of!(TenantMessage::Checkpoint(reply) => reply),
            [
                Ok(SignedCheckpoint { checkpoint, note: "a\nb\n\n— c d\n".to_owned() }),
                Err(CheckpointFailed("the store is away".to_owned())),
            ],
        )
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_key_that_another_node_made_is_shown_whole() {
    let mut crossing = Crossing::new().await;
    let (reply, received) = Reply::channel();
    let arrived = crossing.carry(TenantMessage::CreateKey(new_key(), reply)).await;
    let TenantMessage::CreateKey(_, reply) = arrived else { panic!("{arrived:?}") };
    let (_, key) = ApiKey::generate(&SystemEntropy);
    let shown = key.expose().to_owned();
    reply.send(Ok(Ok((key_record(false), key))));
    let (record, key) = received.await.unwrap().unwrap().unwrap();
    assert_eq!((record, key.expose()), (key_record(false), shown.as_str()));
}
