//! The public half of the key that signs a workspace's log.

use aa_ledger::VerifierKey;

use crate::{
    governance::{Governance, GovernanceError},
    permission::{Permit, ReadAudit},
    tenant::CheckpointFailed,
};

impl Governance {
    /// The key that verifies the checkpoints of the caller's workspace.
    ///
    /// # Errors
    /// The log has no usable key.
    pub fn log_verifier(&self, permit: &Permit<ReadAudit>) -> Result<VerifierKey, GovernanceError> {
        let key = self.services.log_key(permit.workspace());
        let key = key.map_err(|error| CheckpointFailed(error.to_string()))?;
        Ok(key.verifier().clone())
    }
}
