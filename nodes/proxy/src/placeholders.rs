//! Secrets in the place of the placeholders that agents hold: `aasm-secret:NAME`, once in a header's value. What a secret
//! holds is not looked at again.
//!
//! The vault releases a secret to the proxy for one agent and one host, for a minute at most.

use std::{collections::HashMap, sync::Arc, time::Instant};

use aa_client::{Client, ClientError, SecretBytes};
use aa_dialect::{Refusal, RefusalCode};
use aa_protocol::AgentId;
use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;
use zeroize::Zeroizing;

use crate::{decide::unavailable, refusal};

/// What was released lately.
#[derive(Default)]
pub(crate) struct Releases {
    kept: Mutex<HashMap<Key, Kept>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    agent: AgentId,
    secret: Box<str>,
    host: Box<str>,
}

struct Kept {
    value: Arc<SecretBytes>,
    until: Instant,
}

/// What a placeholder begins with.
const PREFIX: &[u8] = b"aasm-secret:";
/// At most so many are kept; further ones are asked for each time.
const MAX_KEPT: usize = 4_096;
/// In one request, at most.
const MAX_PLACEHOLDERS: usize = 8;

// === impl Releases ===

impl Releases {
    /// Puts secrets in the place of the headers' placeholders.
    pub(crate) async fn fill(
        &self,
        client: &Client,
        agent: AgentId,
        host: &str,
        headers: &mut HeaderMap,
    ) -> Result<(), Box<Refusal>> {
        let mut filled = 0;
        for value in headers.values_mut() {
            if let Some((start, name)) = placeholder(value.as_bytes()) {
                filled += 1;
                if filled > MAX_PLACEHOLDERS {
                    return Err(refusal::bad_request(format!(
                        "the headers hold more than {MAX_PLACEHOLDERS} placeholders of secrets"
                    )));
                }
                let secret = self.secret(client, agent, name, host).await?;
                *value = replaced(value, start, name.len(), &secret)?;
            }
        }
        Ok(())
    }

    async fn secret(
        &self,
        client: &Client,
        agent: AgentId,
        name: &str,
        host: &str,
    ) -> Result<Arc<SecretBytes>, Box<Refusal>> {
        let key = Key { agent, secret: name.into(), host: host.into() };
        if let Some(kept) = self.kept.lock().get(&key)
            && kept.until > Instant::now()
        {
            return Ok(Arc::clone(&kept.value));
        }
        let asked_at = Instant::now();
        let released =
            client.release(agent, name, host).await.map_err(|error| refused(&error, name, host))?;
        let value = Arc::new(released.value);
        let mut kept = self.kept.lock();
        kept.retain(|_, kept| kept.until > asked_at);
        if kept.len() < MAX_KEPT {
            let until = asked_at + released.keep_for;
            kept.insert(key, Kept { value: Arc::clone(&value), until });
        }
        Ok(value)
    }
}

fn refused(error: &ClientError, name: &str, host: &str) -> Box<Refusal> {
    match error {
        ClientError::Refused { .. } => refusal::new(
            RefusalCode::Denied,
            format!("the secret `{name}` is not released for {host}: {error}"),
            "have its owner release it: `aasm secret set NAME --release-to HOST`; the proxy's key needs the role proxy",
        ),
        _ => unavailable(error),
    }
}

/// Where the first placeholder begins, and the secret that it names.
fn placeholder(value: &[u8]) -> Option<(usize, &str)> {
    let start = value.windows(PREFIX.len()).position(|window| window == PREFIX)?;
    let rest = &value[start + PREFIX.len()..];
    let length = rest
        .iter()
        .take_while(|byte| byte.is_ascii_alphanumeric() || b"_-./".contains(byte))
        .count();
    let name = std::str::from_utf8(&rest[..length]).ok()?;
    (!name.is_empty()).then_some((start, name))
}

fn replaced(
    value: &HeaderValue,
    start: usize,
    name: usize,
    secret: &SecretBytes,
) -> Result<HeaderValue, Box<Refusal>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(value.len() + secret.expose().len()));
    bytes.extend_from_slice(&value.as_bytes()[..start]);
    bytes.extend_from_slice(secret.expose());
    bytes.extend_from_slice(&value.as_bytes()[start + PREFIX.len() + name..]);
    let mut value = HeaderValue::from_bytes(&bytes).map_err(|_| {
        refusal::bad_request(
            "the secret holds bytes that no header can carry, such as a line break",
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placeholder_is_found_wherever_it_stands() {
        let found = |value: &'static str| {
            placeholder(value.as_bytes()).map(|(start, name)| (start, name.to_owned()))
        };
        assert_eq!(found("Bearer aasm-secret:openai/key"), Some((7, "openai/key".to_owned())));
        assert_eq!(found("aasm-secret:a;q=1"), Some((0, "a".to_owned())));
        assert_eq!(found("aasm-secret:"), None);
        assert_eq!(found("Bearer sk-real"), None);
    }
}
