//! Secrets as their keeper's callers see them: kept, opened, rotated, and nowhere in the clear.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use std::time::Duration;

use aa_governance::{
    GovernanceError, Grant,
    permission::{ManageSecrets, ReadSecrets},
    secret_record::VaultStatus,
    vault::SecretError,
};
use aa_ledger::Kind;
use aa_store::{Fault as StoreFault, KeyRange, Order};
use aa_vault::{SecretName, SecretValue};
use world::{PATIENCE, World};

const MARKER: &str = "sk-marker-7f3a";

fn name(text: &str) -> SecretName {
    text.parse().unwrap()
}

fn value(text: &str) -> SecretValue {
    SecretValue::copy_of(text.as_bytes()).unwrap()
}

impl World {
    async fn set(&self, at: &str, text: &str) -> u64 {
        let permit = self.permit::<ManageSecrets>();
        loop {
            match self.governance.set_secret(&permit, name(at), value(text), None).await {
                Ok(status) => return status.version,
                Err(GovernanceError::Fault(fault)) if fault.is_retryable() => self.pass().await,
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn opened(&self, at: &str) -> String {
        loop {
            match self.governance.open_secret(self.workspace, name(at)).await {
                Ok(value) => return value.expose_text().unwrap().to_owned(),
                Err(GovernanceError::Fault(fault)) if fault.is_retryable() => self.pass().await,
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn vault(&self) -> VaultStatus {
        loop {
            match self.governance.secrets(&self.permit::<ReadSecrets>()).await {
                Ok(status) => return status,
                Err(GovernanceError::Fault(fault)) if fault.is_retryable() => self.pass().await,
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn pass(&self) {
        self.clock.advance(Duration::from_millis(10));
        tokio::task::yield_now().await;
    }

    /// Until nothing is left of rotations; every secret opens all the while.
    async fn settled(&self, secrets: &[(String, String)]) {
        let settling = async {
            loop {
                for (at, text) in secrets {
                    assert_eq!(self.opened(at).await, *text);
                }
                let progress = self.vault().await.progress;
                if progress.to_rewrap + progress.to_reseal + progress.to_retire == 0 {
                    return;
                }
                self.clock.advance(Duration::from_secs(1));
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, settling).await.expect("rotations end");
    }

    /// Every byte that the store holds.
    async fn stored(&self) -> Vec<u8> {
        let mut txn = self.store.begin().await.unwrap();
        let mut range = KeyRange::new(&b"\x00"[..], &b"\xff"[..]);
        let mut all = Vec::new();
        loop {
            let page = txn.range_snapshot(&range, 1_000, Order::Forward).await.unwrap();
            let Some((last, _)) = page.last() else { return all };
            let rest = range.clone().after(last);
            for (key, value) in &page {
                all.extend_from_slice(key);
                all.extend_from_slice(value);
            }
            range = rest;
        }
    }
}

fn contains(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle.as_bytes())
}

#[tokio::test]
async fn a_secret_is_kept_opened_replaced_and_forgotten_and_every_change_is_in_the_log() {
    let world = World::new().await;
    assert_eq!(world.set("openai", "first").await, 1);
    assert_eq!(world.set("openai", "first").await, 1, "the same value again changes nothing");
    assert_eq!(world.set("openai", "second").await, 2);
    assert_eq!(world.set("slack/webhook", "third").await, 3);
    let world = world.restarted().await;
    assert_eq!(world.opened("openai").await, "second");
    assert_eq!(world.set("openai", "second").await, 2);

    let permit = world.permit::<ManageSecrets>();
    world.governance.delete_secret(&permit, name("openai")).await.unwrap();
    let gone = world.governance.open_secret(world.workspace, name("openai")).await.unwrap_err();
    assert!(matches!(gone, GovernanceError::Secret(SecretError::Unknown(_))), "{gone}");
    assert_eq!(world.set("openai", "fourth").await, 4, "a number is never given twice");

    let entries = world.verified_entries().await;
    let told: Vec<_> = entries
        .iter()
        .filter(|entry| entry.kind == Kind::Secret)
        .map(|entry| (entry.detail["change"].as_str(), entry.actor.as_deref()))
        .collect();
    let set = ("set", Some("key:test"));
    assert_eq!(told, [set, set, set, ("deleted", Some("key:test")), set]);
}

#[tokio::test]
async fn a_secret_is_nowhere_in_the_clear() {
    let world = World::new().await;
    world.set("openai", MARKER).await;
    world.governance.rotate_data_key(&world.permit()).await.unwrap();
    world.settled(&[("openai".to_owned(), MARKER.to_owned())]).await;
    assert!(!contains(&world.stored().await, MARKER));
    assert!(!contains(&world.export().await, MARKER));
    assert!(!format!("{:?}", world.vault().await).contains(MARKER));
    let too_long = SecretValue::copy_of(&vec![b'x'; 65_537]).unwrap_err();
    assert!(!too_long.to_string().contains('x'.to_string().repeat(5).as_str()));
}

#[tokio::test]
async fn only_owners_and_admins_change_secrets_and_viewers_do_not_see_their_names() {
    let world = World::new().await;
    for grant in [Grant::Developer, Grant::Viewer, Grant::Agent] {
        assert!(world.principal(grant).authorize::<ManageSecrets>().is_err());
    }
    assert!(world.principal(Grant::Viewer).authorize::<ReadSecrets>().is_err());
    assert!(world.principal(Grant::Developer).authorize::<ReadSecrets>().is_ok());
}

#[tokio::test]
async fn keys_are_not_rotated_where_there_is_nothing_to_rotate() {
    let world = World::new().await;
    let error = world.governance.rotate_data_key(&world.permit()).await.unwrap_err();
    assert!(matches!(error, GovernanceError::Secret(SecretError::Empty)), "{error}");
}

/// A data key serves a year; the next takes over by itself.
#[tokio::test]
async fn a_data_key_that_has_served_its_time_is_rotated_by_itself() {
    let world = World::new().await;
    world.set("openai", MARKER).await;
    let before = world.vault().await.keys[0].id;
    world.clock.advance(Duration::from_secs(366 * 24 * 3_600));
    let world = world.restarted().await;
    let rotating = async {
        while world.vault().await.secrets[0].key == before {
            world.pass().await;
        }
    };
    tokio::time::timeout(PATIENCE, rotating).await.expect("the key is rotated");
    world.settled(&[("openai".to_owned(), MARKER.to_owned())]).await;
    let states: Vec<_> = world.vault().await.keys.iter().map(|key| key.state.clone()).collect();
    assert_eq!(states, ["retired", "active"]);
}

/// Both rotations, cut off by every fault at every write, in the same process and across a restart.
#[tokio::test]
async fn a_rotation_that_is_cut_off_anywhere_goes_on_and_every_secret_opens_all_the_while() {
    let secrets: Vec<_> =
        (0..3).map(|n| (format!("secret-{n}"), format!("value of secret {n}"))).collect();
    let faults = [StoreFault::UnknownLost, StoreFault::UnknownApplied, StoreFault::Unavailable];
    for is_master in [false, true] {
        for fault in faults {
            for earlier in 0..6 {
                for restarts in [false, true] {
                    let mut world = World::new().await;
                    for (at, text) in &secrets {
                        world.set(at, text).await;
                    }
                    let before = world.vault().await.keys[0].id;
                    if !restarts {
                        world.faults.script((0..earlier).map(|_| None).chain([Some(fault)]));
                    }
                    let permit = world.permit();
                    let begun = match is_master {
                        true => world.governance.rotate_master_key(&permit).await,
                        false => world.governance.rotate_data_key(&permit).await,
                    };
                    if restarts {
                        for _ in 0..earlier {
                            world.pass().await;
                        }
                        world = world.restarted().await;
                    }
                    world.settled(&secrets).await;
                    let keys = world.vault().await.keys;
                    if begun.is_ok() && !is_master {
                        assert!(world.vault().await.secrets.iter().all(|s| s.key != before));
                    }
                    assert_eq!(keys.iter().filter(|key| key.state == "active").count(), 1);
                    assert!(keys.iter().all(|key| key.state != "decrypt-only"));
                }
            }
        }
    }
}
