//! What a sealed secret opens to, and where.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use aa_protocol::{Timestamp, WorkspaceId};
use aa_vault::{
    KeyRing, SealedSecret, SecretName, SecretValue, Vault, VaultError,
    master_key::env::EnvMasterKey,
};
use futures::executor::block_on;
use proptest::prelude::*;
use uuid::Uuid;

fn workspace(number: u128) -> WorkspaceId {
    WorkspaceId::from_uuid(Uuid::from_u128(number))
}

/// A master key of 43 equal letters but the last, which carries two bits only.
fn master(letter: char) -> EnvMasterKey {
    let value: String = std::iter::repeat_n(letter, 42).chain(['A']).collect();
    EnvMasterKey::from_lookup("AA_MASTER_KEY", None, |_| Some(value.clone())).unwrap()
}

fn vault(number: u128) -> Vault {
    let now = Timestamp::from_micros(1_700_000_000_000_000);
    Vault::found(block_on(Vault::create(workspace(number), now, &master('a'))).unwrap())
}

fn name(text: &str) -> SecretName {
    text.parse().unwrap()
}

fn value(text: &str) -> SecretValue {
    SecretValue::copy_of(text.as_bytes()).unwrap()
}

#[test]
fn a_sealed_secret_opens_after_a_restart() {
    let first = vault(1);
    let stored = first.seal(&name("OPENAI_API_KEY"), 3, &value("sk-1")).unwrap().to_json();
    let ring = first.ring().to_json();
    drop(first);

    let ring = KeyRing::from_json(&ring).unwrap();
    let again = block_on(Vault::open_ring(ring, &master('a'))).unwrap();
    let sealed = SealedSecret::from_json(&stored).unwrap();
    assert!(again.open(&name("OPENAI_API_KEY"), 3, &sealed).unwrap() == value("sk-1"));
}

#[test]
fn a_record_in_anothers_place_is_refused_by_name() {
    let vault = vault(1);
    let sealed = vault.seal(&name("a"), 1, &value("x")).unwrap();
    for (asked, version) in [("b", 1), ("a", 2)] {
        let error = vault.open(&name(asked), version, &sealed).unwrap_err();
        assert!(matches!(error, VaultError::Mismatch(_)), "{error}");
    }
}

#[test]
fn a_record_whose_labels_were_rewritten_does_not_open() {
    let vault = vault(1);
    let text = vault.seal(&name("a"), 1, &value("x")).unwrap().to_json();
    let text = String::from_utf8(text).unwrap();
    let open = |text: &str, asked: &str, version| {
        let sealed = SealedSecret::from_json(text.as_bytes()).unwrap();
        vault.open(&name(asked), version, &sealed)
    };
    assert!(open(&text, "a", 1).is_ok());
    let renamed = text.replace(r#""name":"a""#, r#""name":"b""#);
    assert!(matches!(open(&renamed, "b", 1), Err(VaultError::Unopenable(_))));
    let renewed = text.replace(r#""version":1"#, r#""version":2"#);
    assert!(matches!(open(&renewed, "a", 2), Err(VaultError::Unopenable(_))));
}

#[test]
fn one_workspace_never_opens_anothers_secret() {
    let (mine, other) = (vault(1), vault(2));
    let sealed = mine.seal(&name("a"), 1, &value("x")).unwrap();
    assert!(matches!(other.open(&name("a"), 1, &sealed), Err(VaultError::Foreign(_))));
    let text = String::from_utf8(sealed.to_json()).unwrap();
    let moved = text.replace(&workspace(1).to_string(), &workspace(2).to_string());
    let moved = SealedSecret::from_json(moved.as_bytes()).unwrap();
    assert!(matches!(other.open(&name("a"), 1, &moved), Err(VaultError::UnknownKey(_))));
    // Nor does the ring of one open as the other's.
    let ring = String::from_utf8(mine.ring().to_json()).unwrap();
    let moved = ring.replace(&workspace(1).to_string(), &workspace(2).to_string());
    let moved = KeyRing::from_json(moved.as_bytes()).unwrap();
    let error = block_on(Vault::open_ring(moved, &master('a'))).unwrap_err();
    assert!(error.to_string().contains("another key or workspace"), "{error}");
}

#[test]
fn another_master_key_is_named_in_the_refusal() {
    let ring = vault(1).ring().clone();
    let wanted = ring.master_keys().pop_first().unwrap();
    let error = block_on(Vault::open_ring(ring, &master('b'))).unwrap_err();
    assert!(error.to_string().contains(wanted.as_str()), "{error}");
    assert!(error.to_string().contains("AA_MASTER_KEY"), "{error}");
}

#[test]
fn a_change_of_an_older_ring_is_not_adopted() {
    let mut vault = vault(1);
    let now = Timestamp::from_micros(1_700_000_000_000_001);
    let first = block_on(vault.rotate(now, &master('a'))).unwrap();
    let second = block_on(vault.rotate(now, &master('a'))).unwrap();
    vault.adopt(first).unwrap();
    let active = vault.ring().active();
    assert!(matches!(vault.adopt(second), Err(VaultError::Stale(_))));
    assert_eq!(vault.ring().active(), active);
}

#[test]
fn a_ring_takes_no_more_keys_than_its_bound() {
    let mut vault = vault(1);
    let now = Timestamp::from_micros(1_700_000_000_000_000);
    for _ in 1..aa_vault::MAX_LIVE_KEYS {
        let change = block_on(vault.rotate(now, &master('a'))).unwrap();
        vault.adopt(change).unwrap();
    }
    let error = block_on(vault.rotate(now, &master('a'))).unwrap_err();
    assert!(matches!(error, VaultError::TooManyKeys(_)), "{error}");
    assert!(vault.ring().to_json().len() < aa_vault::MAX_RING_BYTES);
    KeyRing::from_json(&vault.ring().to_json()).unwrap();
}

#[test]
fn a_damaged_ring_is_refused_with_what_is_wrong() {
    let text = String::from_utf8(vault(1).ring().to_json()).unwrap();
    let cases = [
        (text.replace("\"format\":1", "\"format\":2"), "format 2"),
        (text.replace("\"state\":\"active\"", "\"state\":\"decrypt-only\""), "0 of its keys"),
        (text.replace("\"state\":\"active\"", "\"state\":\"retired\""), "does not fit"),
        (text.replace("\"revision\":1", "\"revision\":0"), "revision"),
        (text.replace("\"revision\":1", "\"revision\":1,\"extra\":1"), "unknown field"),
        (text.replace("\"master\":\"env:", "\"master\":\"env "), "not a master key id"),
        ("x".repeat(aa_vault::MAX_RING_BYTES + 1), "at most"),
        (
            text.replacen(
                "\"keys\":[",
                "\"rewrap\":{\"target\":\"a:b\",\"pending\":[]},\"keys\":[",
                1,
            ),
            "re-wrap",
        ),
    ];
    for (text, expected) in cases {
        let error = KeyRing::from_json(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn the_largest_secret_fits_its_bound_and_comes_back() {
    let vault = vault(1);
    let secret = SecretValue::new(vec![7; aa_vault::MAX_SECRET_BYTES]).unwrap();
    let longest = name(&"n".repeat(aa_vault::MAX_NAME_BYTES));
    let stored = vault.seal(&longest, u64::MAX, &secret).unwrap().to_json();
    assert!(stored.len() <= aa_vault::MAX_SEALED_BYTES, "{}", stored.len());
    let sealed = SealedSecret::from_json(&stored).unwrap();
    assert!(vault.open(&longest, u64::MAX, &sealed).unwrap() == secret);
}

#[test]
fn the_yearly_cadence_of_data_keys_is_told() {
    let ring = vault(1).ring().clone();
    let made = ring.key(ring.active()).unwrap().created_at;
    let last = made.saturating_add(aa_vault::DATA_KEY_LIFETIME);
    assert!(!ring.is_due(Timestamp::from_micros(last.as_micros() - 1)));
    assert!(ring.is_due(last));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_value_opens_to_itself_and_no_damaged_record_opens(
        bytes in prop::collection::vec(any::<u8>(), 1..300),
        version: u64,
        at: prop::sample::Index,
        letter in "[a-zA-Z0-9_-]",
    ) {
        let vault = vault(1);
        let secret = SecretValue::copy_of(&bytes).unwrap();
        let sealed = vault.seal(&name("n"), version, &secret).unwrap();
        let opened = vault.open(&name("n"), version, &sealed).unwrap();
        prop_assert!(opened == secret);

        let text = String::from_utf8(sealed.to_json()).unwrap();
        let start = text.find("\"box\":\"").unwrap() + 7;
        let place = start + at.index(text.len() - 2 - start);
        let mut damaged = text.clone();
        damaged.replace_range(place..=place, &letter);
        if damaged != text && let Ok(read) = SealedSecret::from_json(damaged.as_bytes()) {
            prop_assert!(vault.open(&name("n"), version, &read).is_err());
        }
    }

    #[test]
    fn stored_text_of_any_kind_is_read_or_refused_without_a_panic(text in ".{0,200}") {
        let _ = SealedSecret::from_json(text.as_bytes());
        let _ = KeyRing::from_json(text.as_bytes());
    }
}
