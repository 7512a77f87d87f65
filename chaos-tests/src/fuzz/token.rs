//! Agent tokens: nothing but what the key signed is accepted, and only in its time.

use std::sync::LazyLock;

use aa_control_plane::token::{LIFETIME_SECONDS, SKEW_SECONDS, TokenError, TokenKey};
use aa_protocol::{AgentId, Timestamp, WorkspaceId};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer, SigningKey};

use super::subject::NOW;

const SEED: [u8; 32] = [7; 32];
/// Inputs that start with less are recipes; all others are tokens as they stand.
const FIRST_TEXT_BYTE: u8 = 0x20;

struct Issuer {
    key: TokenKey,
    signing: SigningKey,
    token: String,
    header: String,
}

static ISSUER: LazyLock<Issuer> = LazyLock::new(|| {
    let key = TokenKey::new(&SEED);
    let workspace = WorkspaceId::from_uuid(uuid::Uuid::from_u128(1));
    let agent = AgentId::of_name(workspace, "researcher");
    let (token, _) = key.issue(workspace, agent, NOW, uuid::Uuid::nil());
    let header = token.split('.').next().unwrap_or_default().to_owned();
    Issuer { key, signing: SigningKey::from_bytes(&SEED), token, header }
});

/// Offers the bytes as a token, as a change of a valid token, or as the payload that the key signs.
///
/// # Panics
/// When a forgery is accepted, or a token out of its time.
pub fn target(data: &[u8]) {
    match data.split_first() {
        Some((0, payload)) => signed(payload),
        Some((first, change)) if *first < FIRST_TEXT_BYTE => changed(change),
        _ => {
            if let Ok(text) = std::str::from_utf8(data) {
                refused(text);
            }
        }
    }
}

fn refused(token: &str) {
    if token != ISSUER.token {
        let outcome = ISSUER.key.verify(token, NOW);
        assert!(outcome.is_err(), "{token} was never issued and is accepted");
        let named = outcome.is_err_and(|error| error.claims().is_some());
        assert!(!named, "{token} was never issued and names an agent");
    }
}

/// Replaces the bytes from one place to another by others.
fn changed(change: &[u8]) {
    let &[from, length, ref replacement @ ..] = change else { return };
    let mut token = ISSUER.token.clone().into_bytes();
    let from = usize::from(from) * 2 % token.len();
    let to = (from + usize::from(length)).min(token.len());
    token.splice(from..to, replacement.iter().copied());
    if let Ok(token) = String::from_utf8(token) {
        refused(&token);
    }
}

/// What the key signs without having been asked by the gateway: the payload is still checked.
fn signed(payload: &[u8]) {
    let signed = format!("{}.{}", ISSUER.header, BASE64_URL_SAFE_NO_PAD.encode(payload));
    let signature = ISSUER.signing.sign(signed.as_bytes()).to_bytes();
    let token = format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature));
    for now in [NOW, Timestamp::from_micros(0), Timestamp::from_micros(i64::MAX)] {
        let seconds = now.unix_seconds();
        match ISSUER.key.verify(&token, now) {
            Ok(claims) => {
                assert!(claims.exp > seconds, "accepted after its end");
                assert!(claims.iat <= seconds + SKEW_SECONDS, "accepted before its start");
            }
            Err(TokenError::Expired(_, claims)) => assert!(claims.exp <= seconds),
            Err(TokenError::NotYetValid(_, claims)) => assert!(claims.iat > seconds),
            Err(TokenError::WrongHeader | TokenError::BadSignature) => {
                panic!("header and signature are the key's own");
            }
            Err(TokenError::Malformed) => {}
        }
    }
    const { assert!(LIFETIME_SECONDS > SKEW_SECONDS) };
}
