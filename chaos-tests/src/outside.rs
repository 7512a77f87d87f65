//! What the simulated processes reach outside of their stores.

use std::sync::Arc;

use aa_governance::Outside;
use aa_notify::{Guard, Roots, SendLimits, Sender, SystemLookup};
use aa_vault::master_key::env::EnvMasterKey;

/// The same in every process: a master key, and a sender that trusts nobody.
///
/// # Panics
/// Never: what it is made of is a key, and trusting nobody takes no certificate.
pub fn outside() -> Outside {
    let key = EnvMasterKey::from_lookup("TEST_MASTER_KEY", None, |_| Some("A".repeat(43)));
    let (roots, limits) = (Roots::Only(Vec::new()), SendLimits::default());
    let sender = Sender::new(Guard::public(), Arc::new(SystemLookup), &roots, limits);
    Outside {
        master_key: Arc::new(key.expect("43 characters of base64url")),
        sender: Arc::new(sender.expect("an HTTP client")),
    }
}
