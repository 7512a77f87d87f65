//! What is left to do of a rotation.
//!
//! A rotation has no record of its progress that could contradict the rest: the next step follows from the
//! stored ring and secrets. Each step is one durable write, and doing it twice does no harm. So a rotation
//! that was cut off anywhere goes on by asking for the next step, and at every point each secret opens.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{DataKeyId, KeyRing, KeyState, SealedSecret, SecretName};

/// A step of a rotation: one durable write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RotationStep {
    /// Wrap this data key under the new master key: [`Vault::rewrap`](crate::Vault::rewrap).
    Rewrap(DataKeyId),
    /// Seal this secret under the active key: [`Vault::reseal`](crate::Vault::reseal).
    Reseal {
        /// The secret.
        name: SecretName,
        /// Its version.
        version: u64,
    },
    /// Retire these keys, under which nothing is sealed: [`Vault::retire`](crate::Vault::retire).
    Retire(BTreeSet<DataKeyId>),
}

/// How far the rotations of a ring are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationProgress {
    /// Data keys that are still to be wrapped under the new master key.
    pub to_rewrap: usize,
    /// Secrets that are still to be sealed under the active key.
    pub to_reseal: usize,
    /// Data keys that only open.
    pub to_retire: usize,
}

/// The next step of the rotations of `ring`, whose workspace stores `secrets`, all of them; `None` when
/// nothing is left to do.
pub fn next_step<'a>(
    ring: &KeyRing,
    secrets: impl IntoIterator<Item = &'a SealedSecret>,
) -> Option<RotationStep> {
    // First, for each write under the old master key is one more that its holder can read.
    if let Some(id) = ring.rewrap().and_then(|rewrap| rewrap.pending.first()) {
        return Some(RotationStep::Rewrap(*id));
    }
    let active = ring.active();
    if let Some(secret) = secrets.into_iter().find(|secret| secret.key() != active) {
        let (name, version) = (secret.name().clone(), secret.version());
        return Some(RotationStep::Reseal { name, version });
    }
    let unused = decrypt_only(ring);
    (!unused.is_empty()).then_some(RotationStep::Retire(unused))
}

/// How far the rotations of `ring` are, whose workspace stores `secrets`.
pub fn progress<'a>(
    ring: &KeyRing,
    secrets: impl IntoIterator<Item = &'a SealedSecret>,
) -> RotationProgress {
    let active = ring.active();
    RotationProgress {
        to_rewrap: ring.rewrap().map_or(0, |rewrap| rewrap.pending.len()),
        to_reseal: secrets.into_iter().filter(|secret| secret.key() != active).count(),
        to_retire: decrypt_only(ring).len(),
    }
}

fn decrypt_only(ring: &KeyRing) -> BTreeSet<DataKeyId> {
    let decrypt_only = ring.keys().filter(|(_, key)| matches!(key.state, KeyState::DecryptOnly(_)));
    decrypt_only.map(|(id, _)| id).collect()
}
