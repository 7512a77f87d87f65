//! A secret in the clear, for as long as somebody needs it.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

/// The longest secret, in bytes.
pub const MAX_SECRET_BYTES: usize = 64 * 1024;

/// A secret in the clear: 1 to [`MAX_SECRET_BYTES`] bytes. It is wiped on drop and compared in constant
/// time. It cannot be serialized, and its debug form shows nothing of it, not even its length.
///
/// Its pages are not locked, unlike those of keys: it lives as long as one use of it.
/// [`Swap::Nothing`](crate::Swap::Nothing) keeps it out of swap too.
pub struct SecretValue(Zeroizing<Vec<u8>>);

/// A secret is empty or too long. The error knows its length only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the secret has {bytes} bytes; give one of 1 to {MAX_SECRET_BYTES} bytes")]
pub struct SecretLengthError {
    /// The length of what was given.
    pub bytes: usize,
}

// === impl SecretValue ===

impl SecretValue {
    /// Takes `bytes` over; spare room behind them is wiped with them.
    ///
    /// # Errors
    /// There are no bytes or more than [`MAX_SECRET_BYTES`]; they are wiped then too.
    pub fn new(bytes: Vec<u8>) -> Result<Self, SecretLengthError> {
        Self::from_zeroizing(Zeroizing::new(bytes))
    }

    /// Copies `bytes`, which stay the caller's to wipe.
    ///
    /// # Errors
    /// There are no bytes or more than [`MAX_SECRET_BYTES`].
    pub fn copy_of(bytes: &[u8]) -> Result<Self, SecretLengthError> {
        check(bytes.len())?;
        Ok(Self(Zeroizing::new(bytes.to_vec())))
    }

    /// The same for bytes that are already wiped on drop.
    pub(crate) fn from_zeroizing(bytes: Zeroizing<Vec<u8>>) -> Result<Self, SecretLengthError> {
        check(bytes.len())?;
        Ok(Self(bytes))
    }

    /// The bytes. Whoever asks answers for where they go.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as text; `None` when they are not UTF-8.
    pub fn expose_text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl PartialEq for SecretValue {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }
}

impl Eq for SecretValue {}

impl Zeroize for SecretValue {
    fn zeroize(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretValue").finish_non_exhaustive()
    }
}

const fn check(bytes: usize) -> Result<(), SecretLengthError> {
    if bytes == 0 || bytes > MAX_SECRET_BYTES {
        return Err(SecretLengthError { bytes });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_has_one_to_64_ki_bytes() {
        assert_eq!(SecretValue::new(Vec::new()).unwrap_err(), SecretLengthError { bytes: 0 });
        assert!(SecretValue::new(vec![1; MAX_SECRET_BYTES]).is_ok());
        let error = SecretValue::copy_of(&vec![b'x'; MAX_SECRET_BYTES + 1]).unwrap_err();
        assert_eq!(error.to_string(), "the secret has 65537 bytes; give one of 1 to 65536 bytes");
    }

    #[test]
    fn secrets_are_equal_when_their_bytes_are() {
        let secret = |text: &str| SecretValue::copy_of(text.as_bytes()).unwrap();
        assert!(secret("same") == secret("same"));
        assert!(secret("same") != secret("other"));
        assert!(secret("same") != secret("same and more"));
    }
}
