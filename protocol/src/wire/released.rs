//! The one message with a secret in it: it is not printed, and wiped as far as that is in anybody's hands here.

use std::{fmt, time::Duration};

use zeroize::Zeroize;

use super::v1::ReleaseSecretResponse;

// === impl ReleaseSecretResponse ===

impl ReleaseSecretResponse {
    /// The answer with a copy of `value`, to be kept for `keep_for` at most.
    pub fn new(value: &[u8], version: u64, keep_for: Duration) -> Self {
        let keep_for_ms = u64::try_from(keep_for.as_millis()).unwrap_or(u64::MAX);
        Self { value: value.to_vec().into(), version, keep_for_ms }
    }
}

/// All but the secret.
impl fmt::Debug for ReleaseSecretResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReleaseSecretResponse")
            .field("version", &self.version)
            .field("keep_for_ms", &self.keep_for_ms)
            .finish_non_exhaustive()
    }
}

/// Wipes the bytes that nobody else holds. What the connection has buffered besides, encoded or decoded and under TLS,
/// nobody can wipe from here.
impl Drop for ReleaseSecretResponse {
    fn drop(&mut self) {
        if let Ok(mut bytes) = std::mem::take(&mut self.value).try_into_mut() {
            bytes.as_mut().zeroize();
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn a_secret_survives_the_wire_and_is_not_printed() {
        let sent = ReleaseSecretResponse::new(b"sk-marker", 3, Duration::from_secs(60));
        let shown = format!("{sent:?}");
        assert!(!shown.contains("sk-marker") && !shown.contains("115"), "{shown}");
        let bytes = sent.encode_to_vec();
        let read = ReleaseSecretResponse::decode(bytes.as_slice()).unwrap();
        assert_eq!(read.value.as_ref(), b"sk-marker");
        assert_eq!((read.version, read.keep_for_ms), (3, 60_000));
    }
}
