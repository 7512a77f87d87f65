//! XAES-256-GCM (<https://c2sp.org/XAES-256-GCM>), the one cipher of this crate.
//!
//! It is AES-256-GCM (NIST SP 800-38D) under a key that NIST SP 800-108r1 derives from the key and half of
//! a 192-bit nonce. Plain AES-256-GCM has 96-bit nonces: random ones may not be drawn more than 2³² times
//! per key, and counted ones need a counter that no crash, backup or second process ever sets back. Random
//! nonces of 192 bits need no state at all: after 2⁸⁰ of them under one key the chance that any two are
//! equal is 2⁻³².

use xaes_256_gcm::{
    Key, Nonce, Tag, Xaes256Gcm,
    aead::{AeadInOut, KeyInit},
};
use zeroize::Zeroizing;

use crate::{
    locked_key::LockedKey,
    random::{self, RandomError},
};

const NONCE: usize = 24;
const TAG: usize = 16;

/// How many bytes longer a box is than what is in it.
pub(crate) const OVERHEAD: usize = NONCE + TAG;

/// The box does not open under this key and associated data, or is no box at all.
pub(crate) struct Unopenable;

/// Encrypts under a random nonce: nonce, ciphertext and tag in one.
pub(crate) fn seal(key: &LockedKey, data: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, RandomError> {
    let mut nonce = [0; NONCE];
    random::fill(&mut nonce)?;
    Ok(seal_with(key, &nonce, data, plaintext))
}

fn seal_with(key: &LockedKey, nonce: &[u8; NONCE], data: &[u8], plaintext: &[u8]) -> Vec<u8> {
    // Room for all of it, so that growing leaves no plaintext behind.
    let mut sealed = Vec::with_capacity(plaintext.len() + OVERHEAD);
    sealed.extend_from_slice(nonce);
    sealed.extend_from_slice(plaintext);
    let cipher = Xaes256Gcm::new(<&Key>::from(key.expose()));
    let tag = cipher
        .encrypt_inout_detached(<&Nonce>::from(nonce), data, (&mut sealed[NONCE..]).into())
        .expect("what is sealed here is bounded far below the 64 GiB of GCM");
    sealed.extend_from_slice(&tag);
    sealed
}

/// Decrypts what [`seal`] made with the same key and associated data.
pub(crate) fn open(
    key: &LockedKey,
    data: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Unopenable> {
    let (nonce, rest) = sealed.split_first_chunk::<NONCE>().ok_or(Unopenable)?;
    let (ciphertext, tag) = rest.split_last_chunk::<TAG>().ok_or(Unopenable)?;
    let mut plaintext = Zeroizing::new(ciphertext.to_vec());
    Xaes256Gcm::new(<&Key>::from(key.expose()))
        .decrypt_inout_detached(
            <&Nonce>::from(nonce),
            data,
            plaintext.as_mut_slice().into(),
            <&Tag>::from(tag),
        )
        .map_err(|_| Unopenable)?;
    Ok(plaintext)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> LockedKey {
        LockedKey::new(&Zeroizing::new([byte; 32]))
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_published_vectors_of_xaes_256_gcm_hold() {
        // https://c2sp.org/XAES-256-GCM, "Test vectors": the first has MSB₁(L) = 0, the second 1.
        let vectors: [(u8, &[u8], &str); 2] = [
            (0x01, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
            (
                0x03,
                b"c2sp.org/XAES-256-GCM",
                "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d",
            ),
        ];
        for (byte, data, expected) in vectors {
            let nonce = b"ABCDEFGHIJKLMNOPQRSTUVWX";
            let sealed = seal_with(&key(byte), nonce, data, b"XAES-256-GCM");
            assert_eq!(&sealed[..NONCE], nonce);
            assert_eq!(hex(&sealed[NONCE..]), expected);
            let opened = open(&key(byte), data, &sealed).ok().unwrap();
            assert_eq!(opened.as_slice(), b"XAES-256-GCM");
        }
    }

    #[test]
    fn the_same_plaintext_is_never_sealed_under_the_same_nonce() {
        let key = key(7);
        let nonces: BTreeSet<[u8; NONCE]> = (0..4_096)
            .map(|_| *seal(&key, b"", b"same").unwrap().first_chunk::<NONCE>().unwrap())
            .collect();
        assert_eq!(nonces.len(), 4_096);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_box_opens_whole_and_unchanged_or_not_at_all(
            plaintext in prop::collection::vec(any::<u8>(), 0..200),
            data in prop::collection::vec(any::<u8>(), 0..40),
            at: prop::sample::Index,
            bit in 0u8..8,
        ) {
            let sealed = seal(&key(9), &data, &plaintext).unwrap();
            let opened = open(&key(9), &data, &sealed).ok().unwrap();
            prop_assert_eq!(opened.as_slice(), &plaintext);

            let mut changed = sealed.clone();
            changed[at.index(sealed.len())] ^= 1 << bit;
            prop_assert!(open(&key(9), &data, &changed).is_err());
            prop_assert!(open(&key(9), &data, &sealed[..at.index(sealed.len())]).is_err());
            prop_assert!(open(&key(8), &data, &sealed).is_err());
            let mut other = data.clone();
            other.push(0);
            prop_assert!(open(&key(9), &other, &sealed).is_err());
        }
    }
}
