//! Randomness for keys and nonces, from the operating system and nowhere else.
//!
//! Elsewhere in the project randomness is passed in, so that a simulation can repeat it. Here it is not: a
//! repeated nonce gives the plaintext away, so there is no seam through which one could come.

/// The operating system gave no random bytes.
#[derive(Debug, thiserror::Error)]
#[error(
    "the operating system gave no random bytes ({0}), so no key or nonce was made; check that \
     `getrandom` is not forbidden to this process"
)]
pub struct RandomError(getrandom::Error);

/// Fills `bytes`.
pub(crate) fn fill(bytes: &mut [u8]) -> Result<(), RandomError> {
    getrandom::fill(bytes).map_err(RandomError)
}
