//! Secrets at rest: envelope encryption with keys that rotate in place.
//!
//! It refuses to know how anything is stored, what time it is and who may ask: the keeper of a [`Vault`]
//! passes in stored bytes and makes new ones durable.
//!
//! The path of a value: a [`SecretValue`] is sealed by the workspace's [`Vault`] under its active
//! [`DataKey`] and becomes a [`SealedSecret`], which is stored. The data keys are wrapped by a [`MasterKey`]
//! that stands elsewhere (a file, the environment and, behind features, a PKCS#11 token, HashiCorp Vault or
//! AWS KMS) and stored in the [`KeyRing`].
//!
//! ```text
//! master key ──wraps──► data key ──XAES-256-GCM──► secret
//!  elsewhere             KeyRing                    SealedSecret
//! ```
//!
//! - **Nonces never repeat**: 192 random bits each, in XAES-256-GCM, which needs no state that a crash, a
//!   backup or a second process could set back (see `cipher.rs`).
//! - **Everything is bound to its place**: a sealed secret to workspace, name, version and data key; a
//!   wrapped key to workspace, id and master key.
//! - **Rotation is a series of single writes** ([`rotation`]), each of which leaves every secret readable.
//! - **No way out but [`SecretValue::expose`]**: neither secrets nor keys can be printed, serialized or
//!   copied; they are wiped on drop, keys are locked in memory, and [`harden_process`] keeps the process
//!   out of core dumps. What a library or the allocator copied for a moment, nobody wipes.
//!
//! It does not detect that the whole store was set back to an older state; the audit log does.

mod cipher;
mod data_key;
mod encoding;
mod harden;
mod key_ring;
mod locked_key;
pub mod master_key;
mod random;
pub mod rotation;
mod sealed_secret;
mod secret_name;
mod secret_value;
mod vault;

pub use data_key::{DataKey, DataKeyId, DataKeyIdError};
pub use encoding::FORMAT;
pub use harden::{HardenError, Swap, harden_process, lockable_bytes};
pub use key_ring::{
    DATA_KEY_LIFETIME, KeyRecord, KeyRing, KeyRingError, KeyState, MAX_LIVE_KEYS, MAX_RETIRED_KEYS,
    MAX_RING_BYTES, Rewrap, TooManyKeys,
};
pub use master_key::{
    FileKeeper, MAX_MASTER_KEY_ID, MAX_WRAPPED_BYTES, MasterKey, MasterKeyAnswer, MasterKeyError,
    MasterKeyId, MasterKeyIdError, MasterKeyNotRenewed, MasterKeyRefused, MasterKeyUnavailable,
    MasterKeys, UnknownMasterKey, UnopenableWrapping, WrapContext, WrappedKey,
};
pub use random::RandomError;
pub use sealed_secret::{MAX_SEALED_BYTES, SealedSecret, SealedSecretError};
pub use secret_name::{MAX_NAME_BYTES, SecretName, SecretNameError};
pub use secret_value::{MAX_SECRET_BYTES, SecretLengthError, SecretValue};
pub use vault::{
    ForeignSecret, OtherMasterKey, RingChange, SecretMismatch, StaleChange, UnfaithfulWrapping,
    UnknownDataKey, UnopenableSecret, Vault, VaultError,
};
