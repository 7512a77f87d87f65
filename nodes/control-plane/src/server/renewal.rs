//! Replaces what ages while the server runs: certificates well before they end, and the key of audit entries once it
//! has served its time.

use std::{net::IpAddr, sync::Arc, time::Duration};

use aa_governance::Governance;

use super::{join::NodeCertificate, kept::KeptSecrets};
use crate::pki::{Authority, RENEW_EVERY_DAYS, ServerCertificate};

/// What is renewed, and from what.
pub(super) struct Renewal {
    pub(super) kept: KeptSecrets,
    pub(super) authority: Authority,
    /// What clients see.
    pub(super) certificate: Arc<ServerCertificate>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) host: Option<String>,
    /// What other nodes see.
    pub(super) node: Option<NodeCertificate>,
    pub(super) governance: Governance,
}

/// How often it is looked whether something is due. The nodes of a cluster take each other's keys, so not one of
/// them should be long behind.
const EVERY: Duration = Duration::from_secs(3_600);

/// In how many of these certificates are renewed.
const CERTIFICATES_EVERY: u32 = RENEW_EVERY_DAYS * 24;

// === impl Renewal ===

impl Renewal {
    pub(super) async fn run(self) {
        let mut turns = 0_u32;
        loop {
            tokio::time::sleep(EVERY).await;
            turns += 1;
            if turns.is_multiple_of(CERTIFICATES_EVERY) {
                self.renew_certificates();
            }
            let services = self.governance.services();
            match self.kept.current_mac_key().await {
                Ok(key) => services.replace_mac_key(key),
                Err(error) => tracing::error!(%error, "the key of audit entries was not renewed"),
            }
        }
    }

    fn renew_certificates(&self) {
        match self.authority.issue(&self.addresses, self.host.as_deref()) {
            Ok(renewed) => self.certificate.replace(renewed),
            Err(error) => tracing::error!(%error, "the server certificate was not renewed"),
        }
        if let Some(Err(error)) = self.node.as_ref().map(|node| node.renew(&self.authority)) {
            tracing::error!(%error, "the certificate between nodes was not renewed");
        }
    }
}
