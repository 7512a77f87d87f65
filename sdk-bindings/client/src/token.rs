//! An agent's token and when it must be replaced.

use std::{fmt, time::Duration};

use aa_protocol::wire::v1;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};

use crate::{backoff::jittered, error::ClientError};

/// A token that can be sent and not printed.
#[derive(Clone)]
pub(crate) struct Token {
    jws: SecretString,
    pub(crate) renew_at: Instant,
    pub(crate) lapses_at: Instant,
}

#[derive(serde::Deserialize)]
struct Lifetime {
    iat: i64,
    exp: i64,
}

/// Taken when a token does not tell its own lifetime.
const ASSUMED_LIFETIME: Duration = Duration::from_secs(3600);
const SHORTEST_LIFETIME: Duration = Duration::from_millis(200);
const LONGEST_LIFETIME: Duration = Duration::from_secs(24 * 3600);

// === impl Token ===

impl Token {
    /// Takes a token just issued. Its lifetime is the difference of its own claims, so that a wrong clock
    /// on this machine neither shortens nor lengthens it. The gateway verifies tokens; this only plans.
    pub(crate) fn issued(token: v1::AgentToken) -> Self {
        let lifetime = lifetime(&token.token)
            .unwrap_or(ASSUMED_LIFETIME)
            .clamp(SHORTEST_LIFETIME, LONGEST_LIFETIME);
        let now = Instant::now();
        let spread = lifetime.mul_f64(0.75) - jittered(lifetime.mul_f64(0.1));
        Self { jws: token.token.into(), renew_at: now + spread, lapses_at: now + lifetime }
    }

    pub(crate) fn expose(&self) -> &str {
        self.jws.expose_secret()
    }

    /// The `authorization` metadata value.
    pub(crate) fn bearer(&self) -> Result<MetadataValue<Ascii>, ClientError> {
        bearer(self.expose())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The `authorization` metadata value of a credential, marked so that nothing logs it.
pub(crate) fn bearer(credential: &str) -> Result<MetadataValue<Ascii>, ClientError> {
    let mut value: MetadataValue<Ascii> = format!("Bearer {credential}").parse().map_err(|_| {
        ClientError::System("a credential holds characters that no gRPC metadata can".to_owned())
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn lifetime(jws: &str) -> Option<Duration> {
    let claims = URL_SAFE_NO_PAD.decode(jws.split('.').nth(1)?).ok()?;
    let Lifetime { iat, exp } = serde_json::from_slice(&claims).ok()?;
    exp.checked_sub(iat)?.try_into().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_is_renewed_at_about_three_quarters_of_its_own_lifetime() {
        let claims = URL_SAFE_NO_PAD.encode(r#"{"iat":1000,"exp":4600,"sub":"x"}"#);
        let token = Token::issued(v1::AgentToken {
            token: format!("e30.{claims}.c2ln"),
            ..Default::default()
        });
        let lifetime = token.lapses_at - Instant::now();
        assert!(lifetime > Duration::from_secs(3590) && lifetime <= Duration::from_secs(3600));
        let renewal = token.renew_at - Instant::now();
        assert!(renewal > Duration::from_secs(2300) && renewal < Duration::from_secs(2600));
        assert_eq!(format!("{token:?}"), "Token(…)");
    }
}
