//! Where the secrets of a deployment are kept: those of a control plane by itself in its data directory, those of a
//! cluster in its store.

use std::{path::PathBuf, sync::Arc};

use aa_ledger::MacKey;
use aa_runtime::{Clock, Entropy};

use super::StartError;
use crate::{
    cluster_secrets::{ClusterSecrets, SharedSecrets},
    pki::Authority,
    secrets::{Secrets, current_mac_key},
};

/// A deployment's secrets at rest.
pub(super) enum KeptSecrets {
    /// In files.
    Files {
        /// The data directory.
        data: PathBuf,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    },
    /// In the store.
    Store {
        secrets: ClusterSecrets,
        /// The data directory, in which clients look for the authority's certificate.
        data: PathBuf,
    },
}

// === impl KeptSecrets ===

impl KeptSecrets {
    /// Reads them, making them first where there are none.
    pub(super) async fn open(&self) -> Result<(Authority, Secrets), StartError> {
        match self {
            Self::Files { data, clock, entropy } => {
                let secrets = Secrets::open(data, &**clock, &**entropy)?;
                Ok((Authority::open(data)?, secrets))
            }
            Self::Store { secrets, data } => {
                let SharedSecrets { authority, secrets } = secrets.open(data).await?;
                Ok((Authority::of_cluster(data, &authority)?, secrets))
            }
        }
    }

    /// The key that authenticates audit entries from now on.
    pub(super) async fn current_mac_key(&self) -> Result<MacKey, StartError> {
        match self {
            Self::Files { data, clock, entropy } => {
                Ok(current_mac_key(data, &**clock, &**entropy)?)
            }
            Self::Store { secrets, .. } => Ok(secrets.current_mac_key().await?),
        }
    }
}
