//! The stored formats: what an earlier build wrote is read by this one, and written the same.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, os::unix::fs::PermissionsExt};

use aa_protocol::Timestamp;
use aa_vault::{
    KeyRing, SealedSecret, Vault,
    master_key::file::FileMasterKey,
    rotation::{RotationStep, next_step},
};
use futures::executor::block_on;

const MASTER_KEY: &str = include_str!("golden/master-key.json");
const KEY_RING: &str = include_str!("golden/key-ring.json");
const OLDER_SECRET: &str = include_str!("golden/secret-decrypt-only.json");
const NEWER_SECRET: &str = include_str!("golden/secret-active.json");

#[test]
fn stored_secrets_of_an_earlier_build_open() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("master-key.json");
    fs::write(&path, MASTER_KEY).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let master = FileMasterKey::open(&path).unwrap();
    assert_eq!(master.generations().len(), 2);

    let ring = KeyRing::from_json(KEY_RING.trim_end().as_bytes()).unwrap();
    let states: Vec<&str> = ring.keys().map(|(_, key)| key.state.as_str()).collect();
    assert_eq!(states, ["retired", "decrypt-only", "active"]);
    assert_eq!(ring.to_json(), KEY_RING.trim_end().as_bytes(), "written as it was read");

    let mut vault = block_on(Vault::open_ring(ring, &master)).unwrap();
    let mut secrets = Vec::new();
    for (text, name, version, value) in [
        (OLDER_SECRET, "OPENAI_API_KEY", 1, "an older value"),
        (NEWER_SECRET, "slack/webhook", 7, "a newer value"),
    ] {
        let sealed = SealedSecret::from_json(text.trim_end().as_bytes()).unwrap();
        let opened = vault.open(&name.parse().unwrap(), version, &sealed).unwrap();
        assert_eq!(opened.expose_text(), Some(value));
        assert_eq!(sealed.to_json(), text.trim_end().as_bytes(), "written as it was read");
        secrets.push(sealed);
    }

    // The rotations that were under way go on.
    let mut steps = 0;
    while let Some(step) = next_step(vault.ring(), &secrets) {
        steps += 1;
        let change = match step {
            RotationStep::Rewrap(id) => block_on(vault.rewrap(id, &master)).unwrap().unwrap(),
            RotationStep::Reseal { .. } => {
                secrets[0] = vault.reseal(&secrets[0]).unwrap().unwrap();
                continue;
            }
            RotationStep::Retire(_) => {
                vault.retire(Timestamp::from_micros(0), &secrets).unwrap().unwrap()
            }
        };
        vault.adopt(change).unwrap();
    }
    assert_eq!(steps, 4, "two keys to wrap, one secret to seal, one key to retire");
}
