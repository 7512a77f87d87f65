//! Master keys that fail or lie: nothing is stored that would not open.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use aa_protocol::{Timestamp, WorkspaceId};
use aa_vault::{
    DataKey, MAX_WRAPPED_BYTES, MasterKey, MasterKeyError, MasterKeyId, MasterKeyUnavailable,
    SecretName, SecretValue, Vault, VaultError, WrapContext, WrappedKey,
    master_key::env::EnvMasterKey,
};
use async_trait::async_trait;
use futures::executor::block_on;
use uuid::Uuid;
use zeroize::Zeroizing;

const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

/// A provider that does one thing wrong.
struct Faulty {
    inner: EnvMasterKey,
    fault: Fault,
}

#[derive(Clone, Copy)]
enum Fault {
    /// It does not answer.
    Down,
    /// It wraps another key than it was given.
    WrapsAnother,
    /// It gives a wrapping that no ring takes.
    WrapsLong,
}

#[async_trait]
impl MasterKey for Faulty {
    fn id(&self) -> MasterKeyId {
        self.inner.id()
    }

    fn describe(&self) -> String {
        "the faulty provider".to_owned()
    }

    async fn wrap(
        &self,
        key: &DataKey,
        context: &WrapContext,
    ) -> Result<WrappedKey, MasterKeyError> {
        match self.fault {
            Fault::Down => {
                let (provider, problem) = (self.describe(), "no answer".to_owned());
                Err(MasterKeyUnavailable { provider, attempt: "wrap", problem }.into())
            }
            Fault::WrapsAnother => {
                let other = DataKey::from_bytes(key.id(), &Zeroizing::new([1; 32]));
                self.inner.wrap(&other, context).await
            }
            Fault::WrapsLong => {
                let ciphertext = vec![0; MAX_WRAPPED_BYTES + 1];
                Ok(WrappedKey { master: self.id(), ciphertext })
            }
        }
    }

    async fn unwrap(
        &self,
        wrapped: &WrappedKey,
        context: &WrapContext,
    ) -> Result<DataKey, MasterKeyError> {
        self.inner.unwrap(wrapped, context).await
    }
}

fn sound() -> EnvMasterKey {
    EnvMasterKey::from_lookup("X", None, |_| Some("a".repeat(42) + "A")).unwrap()
}

#[test]
fn a_wrapping_that_does_not_give_the_key_back_is_never_stored() {
    let workspace = WorkspaceId::from_uuid(Uuid::from_u128(1));
    let mut vault = Vault::found(block_on(Vault::create(workspace, NOW, &sound())).unwrap());
    let name: SecretName = "a".parse().unwrap();
    let sealed = vault.seal(&name, 1, &SecretValue::copy_of(b"x").unwrap()).unwrap();
    vault.adopt(vault.rotate_master(&sound())).unwrap();
    let before = vault.ring().clone();

    for (fault, expected) in [
        (Fault::Down, "no answer"),
        (Fault::WrapsAnother, "opens as another key"),
        (Fault::WrapsLong, "longer than any"),
    ] {
        let faulty = Faulty { inner: sound(), fault };
        let errors: [VaultError; 3] = [
            block_on(Vault::create(workspace, NOW, &faulty)).unwrap_err(),
            block_on(vault.rotate(NOW, &faulty)).unwrap_err(),
            block_on(vault.rewrap(before.active(), &faulty)).unwrap_err(),
        ];
        for error in errors {
            assert!(error.to_string().contains(expected), "{error}");
            assert!(error.to_string().contains("the faulty provider"), "{error}");
        }
        assert_eq!(*vault.ring(), before);
    }
    let again = block_on(Vault::open_ring(before, &sound())).unwrap();
    assert_eq!(again.open(&name, 1, &sealed).unwrap().expose(), b"x");
}
