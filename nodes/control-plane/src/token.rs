//! Agent tokens: compact JWS (RFC 7515) with EdDSA (RFC 8037) and nothing else. There is no algorithm
//! negotiation: a token's header must be, byte for byte, the one header this gateway writes.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use aa_protocol::{AgentId, Timestamp, WorkspaceId};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// How long a token stands, in seconds.
pub const LIFETIME_SECONDS: i64 = 3_600;

/// How far clocks may differ, in seconds.
pub const SKEW_SECONDS: i64 = 60;

/// The longest token that is looked at, in bytes.
const MAX_LENGTH: usize = 2_048;

const ISSUER: &str = "agent-assembly";

/// Verified tokens that are remembered.
const MAX_VERIFIED: usize = 65_536;

/// Issues and verifies tokens. Clones share what they have verified.
#[derive(Clone)]
pub struct TokenKey {
    key: SigningKey,
    public: VerifyingKey,
    header: String,
    verified: Arc<RwLock<Verified>>,
}

/// The claims of tokens whose signatures have been verified, by the tokens' digests: a unary caller shows
/// the same token with every call, and verifying it takes longer than deciding. Times are looked at each
/// time anew.
type Verified = HashMap<[u8; 32], Arc<Claims>>;

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    iss: String,
    /// The agent.
    pub sub: AgentId,
    /// Its workspace.
    pub ws: WorkspaceId,
    /// When it was issued, in seconds since the Unix epoch.
    pub iat: i64,
    /// When it ends, likewise.
    pub exp: i64,
    /// Unique per token.
    pub jti: String,
    /// The run of the agent's program: the same in every token that it gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<u64>,
}

/// Why a token was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is no compact JWS of the right form.
    #[error("the token is malformed; register the agent to get one")]
    Malformed,
    /// Its header names another algorithm or key.
    #[error("the token is not an EdDSA token of this gateway's current key; register again")]
    WrongHeader,
    /// The signature does not verify.
    #[error("the token's signature does not verify; register again")]
    BadSignature,
    /// It has ended. It was this gateway's own, so the agent is known.
    #[error("the token expired at {0}; register again")]
    Expired(Timestamp, Arc<Claims>),
    /// It was issued in the future: somebody's clock is wrong.
    #[error("the token is valid from {0} only; check the clocks")]
    NotYetValid(Timestamp, Arc<Claims>),
}

// === impl TokenKey ===

impl TokenKey {
    /// A key from its 32-byte seed.
    pub fn new(seed: &[u8; 32]) -> Self {
        let key = SigningKey::from_bytes(seed);
        let public = key.verifying_key();
        let kid = BASE64_URL_SAFE_NO_PAD.encode(&Sha256::digest(public.as_bytes())[..9]);
        let header = format!(r#"{{"alg":"EdDSA","kid":"{kid}","typ":"JWT"}}"#);
        let header = BASE64_URL_SAFE_NO_PAD.encode(header);
        Self { key, public, header, verified: Arc::default() }
    }

    /// A token for an agent, valid from `now` for [`LIFETIME_SECONDS`]. Returns it with its end in
    /// seconds since the Unix epoch.
    pub fn issue(
        &self,
        workspace: WorkspaceId,
        agent: AgentId,
        now: Timestamp,
        jti: uuid::Uuid,
    ) -> (String, i64) {
        self.issue_to(workspace, agent, None, now, jti)
    }

    /// A token for one run of an agent's program, as [`Self::issue`].
    pub fn issue_to(
        &self,
        workspace: WorkspaceId,
        agent: AgentId,
        sid: Option<u64>,
        now: Timestamp,
        jti: uuid::Uuid,
    ) -> (String, i64) {
        let iat = now.unix_seconds();
        let exp = iat + LIFETIME_SECONDS;
        let jti = jti.as_simple().to_string();
        let claims =
            Claims { iss: ISSUER.to_owned(), sub: agent, ws: workspace, iat, exp, jti, sid };
        // Strings and integers always serialize.
        let payload = serde_json::to_vec(&claims).unwrap_or_default();
        let signed = format!("{}.{}", self.header, BASE64_URL_SAFE_NO_PAD.encode(payload));
        let signature = self.key.sign(signed.as_bytes());
        let signature = BASE64_URL_SAFE_NO_PAD.encode(signature.to_bytes());
        (format!("{signed}.{signature}"), exp)
    }

    /// Checks a token.
    ///
    /// # Errors
    /// [`TokenError`], in the order form, header, signature, time.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Arc<Claims>, TokenError> {
        if token.len() > MAX_LENGTH {
            return Err(TokenError::Malformed);
        }
        let digest: [u8; 32] = Sha256::digest(token).into();
        let known =
            self.verified.read().unwrap_or_else(PoisonError::into_inner).get(&digest).cloned();
        let claims = match known {
            Some(claims) => claims,
            None => {
                let claims = Arc::new(self.verify_signature(token)?);
                self.remember(digest, &claims, now);
                claims
            }
        };
        let at = |seconds: i64| Timestamp::from_micros(seconds.saturating_mul(1_000_000));
        if claims.exp <= now.unix_seconds() {
            return Err(TokenError::Expired(at(claims.exp), claims));
        }
        if claims.iat > now.unix_seconds() + SKEW_SECONDS {
            return Err(TokenError::NotYetValid(at(claims.iat), claims));
        }
        Ok(claims)
    }

    /// Checks everything about a token that never changes.
    fn verify_signature(&self, token: &str) -> Result<Claims, TokenError> {
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        if header != self.header {
            return Err(TokenError::WrongHeader);
        }
        let signature =
            BASE64_URL_SAFE_NO_PAD.decode(signature).map_err(|_| TokenError::Malformed)?;
        let signature = Signature::from_slice(&signature).map_err(|_| TokenError::Malformed)?;
        self.public
            .verify_strict(signed.as_bytes(), &signature)
            .map_err(|_| TokenError::BadSignature)?;
        let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).map_err(|_| TokenError::Malformed)?;
        let claims: Claims = serde_json::from_slice(&payload).map_err(|_| TokenError::Malformed)?;
        if claims.iss == ISSUER { Ok(claims) } else { Err(TokenError::Malformed) }
    }

    fn remember(&self, digest: [u8; 32], claims: &Arc<Claims>, now: Timestamp) {
        let mut verified = self.verified.write().unwrap_or_else(PoisonError::into_inner);
        if verified.len() >= MAX_VERIFIED {
            verified.retain(|_, claims| claims.exp > now.unix_seconds());
        }
        if verified.len() >= MAX_VERIFIED {
            // All of them are verified again when they come again.
            verified.clear();
        }
        verified.insert(digest, Arc::clone(claims));
    }
}

impl TokenError {
    /// The agent that a token of this gateway's own names.
    pub fn claims(&self) -> Option<&Claims> {
        match self {
            Self::Expired(_, claims) | Self::NotYetValid(_, claims) => Some(claims),
            Self::Malformed | Self::WrongHeader | Self::BadSignature => None,
        }
    }

    /// A stable name for audit entries.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed => "token_malformed",
            Self::WrongHeader => "token_wrong_header",
            Self::BadSignature => "token_bad_signature",
            Self::Expired(..) => "token_expired",
            Self::NotYetValid(..) => "token_not_yet_valid",
        }
    }
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

    fn issued(key: &TokenKey) -> (String, WorkspaceId, AgentId) {
        let workspace: WorkspaceId = "ws-a1b2c3d4-e5f6-7890-abcd-ef1234567890".parse().unwrap();
        let agent = AgentId::of_name(workspace, "a");
        let (token, exp) = key.issue(workspace, agent, NOW, uuid::Uuid::nil());
        assert_eq!(exp, 1_800_003_600);
        (token, workspace, agent)
    }

    fn later(seconds: i64) -> Timestamp {
        Timestamp::from_micros(NOW.as_micros() + seconds * 1_000_000)
    }

    #[test]
    fn a_token_stands_for_one_hour() {
        let key = TokenKey::new(&[7; 32]);
        let (token, workspace, agent) = issued(&key);
        let claims = key.verify(&token, later(3_599)).unwrap();
        assert_eq!((claims.ws, claims.sub), (workspace, agent));
        assert!(matches!(key.verify(&token, later(3_600)), Err(TokenError::Expired(..))));
        assert!(key.verify(&token, later(-60)).is_ok());
        assert!(matches!(key.verify(&token, later(-61)), Err(TokenError::NotYetValid(..))));
    }

    #[test]
    fn any_changed_byte_is_refused() {
        let key = TokenKey::new(&[7; 32]);
        let (token, ..) = issued(&key);
        for index in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(key.verify(&changed, NOW).is_err(), "byte {index}");
        }
    }

    #[test]
    fn another_algorithm_is_refused_whatever_it_signs() {
        let key = TokenKey::new(&[7; 32]);
        let (token, ..) = issued(&key);
        let (_, rest) = token.split_once('.').unwrap();
        for header in [r#"{"alg":"none"}"#, r#"{"alg":"HS256","typ":"JWT"}"#, r#"{"alg":"EdDSA"}"#]
        {
            let forged = format!("{}.{rest}", BASE64_URL_SAFE_NO_PAD.encode(header));
            assert_eq!(key.verify(&forged, NOW), Err(TokenError::WrongHeader), "{header}");
        }
        let other = TokenKey::new(&[8; 32]);
        let (foreign, ..) = issued(&other);
        assert_eq!(key.verify(&foreign, NOW), Err(TokenError::WrongHeader));
    }

    #[test]
    fn garbage_is_refused() {
        let key = TokenKey::new(&[7; 32]);
        for token in ["", ".", "..", "a.b", "a.b.c", &"a.".repeat(5_000)] {
            assert!(key.verify(token, NOW).is_err(), "{token:.20}");
        }
    }
    #[test]
    fn a_remembered_token_still_ends_and_a_changed_one_is_another() {
        let key = TokenKey::new(&[7; 32]);
        let (token, ..) = issued(&key);
        assert!(key.verify(&token, NOW).is_ok());
        assert!(key.clone().verify(&token, NOW).is_ok());
        assert_eq!(key.verified.read().unwrap().len(), 1);
        let ended = key.verify(&token, later(LIFETIME_SECONDS)).unwrap_err();
        assert_eq!(ended.code(), "token_expired");
        let early = key.verify(&token, later(-SKEW_SECONDS - 1)).unwrap_err();
        assert_eq!(early.code(), "token_not_yet_valid");
        let forged = format!("{}A", &token[..token.len() - 1]);
        assert_ne!(forged, token);
        assert!(key.verify(&forged, NOW).is_err());
        assert_eq!(key.verified.read().unwrap().len(), 1);
    }
}
