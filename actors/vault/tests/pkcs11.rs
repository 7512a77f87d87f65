//! A master key in a PKCS#11 token, tried with SoftHSM2 (Debian package `softhsm2`).
//!
//! One test, for the module and its token directory are one for the whole process. Where SoftHSM2 is missing
//! it says so and proves nothing; `AA_SOFTHSM2_MODULE` names a module in another place.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use aa_protocol::{Timestamp, WorkspaceId};
use aa_vault::{
    DataKey, MasterKey, MasterKeyError, SecretValue, Vault, WrapContext,
    master_key::pkcs11::{Pkcs11MasterKey, TokenKeyConfig, TokenKeyError},
};
use uuid::Uuid;
use zeroize::Zeroizing;

const CONFIGURATION: &str = "AA_TEST_SOFTHSM2_READY";
const PIN: &str = "PIN-MARKER-1";

fn soft_hsm() -> Option<PathBuf> {
    let named = std::env::var_os("AA_SOFTHSM2_MODULE").map(PathBuf::from);
    let usual = [
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/local/lib/softhsm/libsofthsm2.so",
    ];
    named.into_iter().chain(usual.map(PathBuf::from)).find(|path| path.exists())
}

fn config(module: &Path, key: &str) -> TokenKeyConfig {
    TokenKeyConfig {
        module: module.to_owned(),
        token: "agents".to_owned(),
        key: key.to_owned(),
        pin: SecretValue::copy_of(PIN.as_bytes()).unwrap(),
        timeout: Duration::from_secs(20),
    }
}

/// SoftHSM2 reads where its tokens are from its environment, so the test runs itself again with that set.
#[test]
fn data_keys_are_wrapped_by_a_key_that_never_leaves_the_token() {
    let Some(module) = soft_hsm() else {
        eprintln!(
            "\n*** NOT TESTED: no SoftHSM2 found, so nothing was tried with a PKCS#11 token."
        );
        eprintln!(
            "*** Install the Debian package softhsm2, or name its module in AA_SOFTHSM2_MODULE.\n"
        );
        return;
    };
    if std::env::var_os(CONFIGURATION).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(with_token(&module));
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let tokens = home.path().join("tokens");
    std::fs::create_dir(&tokens).unwrap();
    let configuration = home.path().join("softhsm2.conf");
    let text = format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.display());
    std::fs::write(&configuration, text).unwrap();
    let made = Command::new("softhsm2-util")
        .env("SOFTHSM2_CONF", &configuration)
        .args(["--init-token", "--free", "--label", "agents", "--so-pin", "87654321", "--pin", PIN])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let ran = Command::new(std::env::current_exe().unwrap())
        .env("SOFTHSM2_CONF", &configuration)
        .env(CONFIGURATION, "1")
        .args([
            "--exact",
            "data_keys_are_wrapped_by_a_key_that_never_leaves_the_token",
            "--nocapture",
        ])
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success() && out.contains("1 passed"), "{out}{err}");
    assert!(!out.contains("MARKER") && !err.contains("MARKER"), "{out}{err}");
}

async fn with_token(module: &Path) {
    let now = Timestamp::from_micros(1_700_000_000_000_000);
    let workspace = WorkspaceId::from_uuid(Uuid::from_u128(1));
    let id = "dk_00000000000000000000000007".parse().unwrap();
    let context = WrapContext { workspace, data_key: id };
    let key = DataKey::from_bytes(id, &Zeroizing::new([7; 32]));

    // A key that is missing is not made by opening it.
    let missing = Pkcs11MasterKey::open(config(module, "master 1")).await;
    assert!(matches!(missing, Err(TokenKeyError::Keys { found: 0, .. })));
    let first = Pkcs11MasterKey::create(config(module, "master 1")).await.unwrap();
    assert_eq!(first.id().as_str(), "pkcs11:token=agents;object=master%201");
    let again = Pkcs11MasterKey::create(config(module, "master 1")).await;
    assert!(matches!(again, Err(TokenKeyError::Keys { found: 2, .. })));

    // What it wraps, it opens; for nothing but what it was wrapped for.
    let wrapped = first.wrap(&key, &context).await.unwrap();
    let opened = first.unwrap(&wrapped, &context).await.unwrap();
    assert_eq!(opened.expose(), &[7; 32]);
    let other = WrapContext { workspace: WorkspaceId::from_uuid(Uuid::from_u128(2)), ..context };
    let mut damaged = wrapped.clone();
    damaged.ciphertext[20] ^= 1;
    let mut short = wrapped.clone();
    short.ciphertext.truncate(15);
    let mut empty = wrapped.clone();
    empty.ciphertext.clear();
    for (wrapping, context) in
        [(&wrapped, &other), (&damaged, &context), (&short, &context), (&empty, &context)]
    {
        let error = first.unwrap(wrapping, context).await.unwrap_err();
        assert!(matches!(error, MasterKeyError::Unopenable(_)), "{error}");
    }
    // And goes on working after that.
    first.unwrap(&wrapped, &context).await.unwrap();
    let twice = first.wrap(&key, &context).await.unwrap();
    assert_ne!(twice.ciphertext[..12], wrapped.ciphertext[..12], "a nonce of its own");

    // A vault moves to the next key of the token.
    let mut vault = Vault::found(Vault::create(workspace, now, &first).await.unwrap());
    let second = Pkcs11MasterKey::create(config(module, "master 2")).await.unwrap();
    vault.adopt(vault.rotate_master(&second)).unwrap();
    let active = vault.ring().active();
    let change = vault.rewrap(active, &second).await.unwrap().unwrap();
    vault.adopt(change).unwrap();
    drop(first);
    Vault::open_ring(vault.ring().clone(), &second).await.unwrap();
    let error = second.unwrap(&wrapped, &context).await.unwrap_err();
    assert!(matches!(error, MasterKeyError::Unknown(_)), "{error}");

    // Many at once take turns.
    let second = std::sync::Arc::new(second);
    let calls = (0..8).map(|_| {
        let second = std::sync::Arc::clone(&second);
        tokio::spawn(async move {
            let key = DataKey::from_bytes(id, &Zeroizing::new([7; 32]));
            let wrapped = second.wrap(&key, &context).await.unwrap();
            second.unwrap(&wrapped, &context).await.unwrap();
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    drop(second);

    // A wrong PIN is tried once, or the token would lock.
    let mut wrong = config(module, "master 1");
    wrong.pin = SecretValue::copy_of(b"PIN-MARKER-WRONG").unwrap();
    let error = Pkcs11MasterKey::open(wrong).await.err().unwrap();
    assert!(matches!(error, TokenKeyError::Pin { .. }), "{error}");
    let mut nowhere = config(module, "master 1");
    nowhere.token = "elsewhere".to_owned();
    let error = Pkcs11MasterKey::open(nowhere).await.err().unwrap();
    assert!(matches!(error, TokenKeyError::Tokens { found: 0, .. }), "{error}");
    let mut missing = config(module, "master 1");
    missing.module = PathBuf::from("/nonexistent/module.so");
    let error = Pkcs11MasterKey::open(missing).await.err().unwrap();
    assert!(matches!(error, TokenKeyError::Module { .. }), "{error}");
    let error = Pkcs11MasterKey::open(config(module, "tab\tbed")).await.err().unwrap();
    assert!(matches!(error, TokenKeyError::Label { .. }), "{error}");
}
