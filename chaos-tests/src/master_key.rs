//! The master key of the simulated processes.

use std::sync::Arc;

use aa_vault::master_key::env::EnvMasterKey;

/// One that is the same in every process.
///
/// # Panics
/// Never: what it is made of is a key.
pub fn master_key() -> Arc<EnvMasterKey> {
    let key = EnvMasterKey::from_lookup("TEST_MASTER_KEY", None, |_| Some("A".repeat(43)));
    Arc::new(key.expect("43 characters of base64url"))
}
