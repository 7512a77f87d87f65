//! How webhooks are signed and checked: the Standard Webhooks specification 1.0.0
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>), for which receivers
//! find libraries in most languages.
//!
//! A request carries [`ID`], [`TIMESTAMP`] (Unix seconds of the attempt) and [`SIGNATURE`]: `v1,<base64>`, HMAC-SHA256
//! over `<id>.<timestamp>.<body>`, one for each key with a space between. The id stays the same when a delivery is tried
//! again, so a receiver can tell a repeat.

use std::time::Duration;

use aa_protocol::Timestamp;
use aa_vault::SecretValue;
use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use sha2::Sha256;
use zeroize::Zeroizing;

/// The header with the message's id.
pub const ID: &str = "webhook-id";
/// The header with the time of the attempt.
pub const TIMESTAMP: &str = "webhook-timestamp";
/// The header with the signatures.
pub const SIGNATURE: &str = "webhook-signature";
/// How far the time of a request may be from the receiver's.
pub const TOLERANCE: Duration = Duration::from_secs(300);
/// What secrets begin with.
pub const SECRET_PREFIX: &str = "whsec_";

const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// More signatures than this are not looked at.
const MAX_SIGNATURES: usize = 8;
const MAX_SIGNATURE_HEADER: usize = 1_024;

/// A key that webhooks are signed with. It is wiped on drop and shown nowhere.
#[derive(Clone)]
pub struct WebhookKey(Hmac<Sha256>);

/// A secret that is no key for webhooks. It says nothing of the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the secret is no key for webhooks; use `{SECRET_PREFIX}` followed by 24 to 64 random bytes in base64, such as \
     `openssl rand -base64 32` prints"
)]
pub struct WebhookKeyError;

/// Why a request is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotVerified {
    /// A header is missing, there twice or not of the form it must have.
    #[error("the header `{0}` is missing or malformed")]
    Header(&'static str),
    /// It was sent too long ago, or the clocks differ.
    #[error(
        "the request is {seconds} s away from now, more than allowed; it is a replay, or a clock is wrong"
    )]
    Time {
        /// How far.
        seconds: u64,
    },
    /// No signature is of a known key.
    #[error("no signature of the request is of a known key")]
    Signature,
}

// === impl WebhookKey ===

impl WebhookKey {
    /// Reads the key from its text form.
    ///
    /// # Errors
    /// It is not of that form.
    pub fn read(secret: &SecretValue) -> Result<Self, WebhookKeyError> {
        let text = secret.expose_text().map(str::trim).ok_or(WebhookKeyError)?;
        let text = text.strip_prefix(SECRET_PREFIX).unwrap_or(text);
        let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
        BASE64_STANDARD.decode_vec(text, &mut bytes).map_err(|_| WebhookKeyError)?;
        if !KEY_BYTES.contains(&bytes.len()) {
            return Err(WebhookKeyError);
        }
        Hmac::new_from_slice(&bytes).map(Self).map_err(|_| WebhookKeyError)
    }

    /// The text form of a new key of these random bytes.
    pub fn text_form(random: &Zeroizing<[u8; 32]>) -> SecretValue {
        let mut text = Zeroizing::new(String::with_capacity(64));
        text.push_str(SECRET_PREFIX);
        BASE64_STANDARD.encode_string(random.as_slice(), &mut text);
        SecretValue::copy_of(text.as_bytes()).expect("50 characters are a secret")
    }

    /// The signature of a request, `v1,<base64>`.
    pub fn sign(&self, id: &str, at: Timestamp, body: &[u8]) -> String {
        let code = self.over(id, &at.unix_seconds().to_string(), body).finalize().into_bytes();
        format!("v1,{}", BASE64_STANDARD.encode(code))
    }

    fn over(&self, id: &str, timestamp: &str, body: &[u8]) -> Hmac<Sha256> {
        let mut code = self.0.clone();
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            code.update(part);
        }
        code
    }
}

/// The value of [`SIGNATURE`] for all of `keys`.
pub fn signatures(keys: &[WebhookKey], id: &str, at: Timestamp, body: &[u8]) -> String {
    let all: Vec<_> = keys.iter().map(|key| key.sign(id, at, body)).collect();
    all.join(" ")
}

/// Checks a request as its receiver: that it was signed with one of `keys` within `tolerance` of `now`. Returns its id,
/// by which the receiver leaves out repeats. Signatures are compared in constant time.
///
/// # Errors
/// [`NotVerified`].
pub fn verify<'h>(
    keys: &[WebhookKey],
    headers: &'h HeaderMap,
    body: &[u8],
    now: Timestamp,
    tolerance: Duration,
) -> Result<&'h str, NotVerified> {
    let id = header(headers, ID)?;
    let timestamp = header(headers, TIMESTAMP)?;
    let signatures = header(headers, SIGNATURE)?;
    if id.is_empty() || id.contains('.') {
        return Err(NotVerified::Header(ID));
    }
    check_time(timestamp, now, tolerance).ok_or(NotVerified::Header(TIMESTAMP))??;
    if signatures.len() > MAX_SIGNATURE_HEADER {
        return Err(NotVerified::Header(SIGNATURE));
    }
    let candidates = signatures.split(' ').take(MAX_SIGNATURES);
    for signature in candidates.filter_map(|text| text.strip_prefix("v1,")) {
        let Ok(signature) = BASE64_STANDARD.decode(signature) else { continue };
        let is_of =
            |key: &WebhookKey| key.over(id, timestamp, body).verify_slice(&signature).is_ok();
        if keys.iter().any(is_of) {
            return Ok(id);
        }
    }
    Err(NotVerified::Signature)
}

/// Whether Unix seconds in a header are near enough to now; `None` when they are not such.
pub(crate) fn check_time(
    text: &str,
    now: Timestamp,
    tolerance: Duration,
) -> Option<Result<(), NotVerified>> {
    let digits = (1..=12).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let at: i64 = text.parse().ok().filter(|_| digits)?;
    let seconds = at.abs_diff(now.unix_seconds());
    let near = seconds <= tolerance.as_secs();
    Some(near.then_some(()).ok_or(NotVerified::Time { seconds }))
}

/// A header that is there once.
fn header<'h>(headers: &'h HeaderMap, name: &'static str) -> Result<&'h str, NotVerified> {
    let mut values = headers.get_all(name).iter();
    let only = values.next().filter(|_| values.next().is_none());
    only.and_then(|value| value.to_str().ok()).ok_or(NotVerified::Header(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_614_265_330_000_000);
    const BODY: &[u8] = br#"{"test": 2432232314}"#;

    fn key(text: &str) -> WebhookKey {
        WebhookKey::read(&SecretValue::copy_of(text.as_bytes()).unwrap()).unwrap()
    }

    fn example() -> (WebhookKey, HeaderMap) {
        let mut headers = HeaderMap::new();
        headers.insert(ID, "msg_p5jXN8AQM9LWM0D4loKWxJek".parse().unwrap());
        headers.insert(TIMESTAMP, "1614265330".parse().unwrap());
        let signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        headers.insert(SIGNATURE, signature.parse().unwrap());
        (key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), headers)
    }

    #[test]
    fn the_example_of_the_reference_libraries_is_signed_and_verified() {
        let (key, headers) = example();
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        assert_eq!(key.sign(id, NOW, BODY), headers[SIGNATURE].to_str().unwrap());
        assert_eq!(verify(&[key], &headers, BODY, NOW, TOLERANCE), Ok(id));
    }

    #[test]
    fn what_is_altered_late_or_of_another_key_is_refused() {
        let (key, headers) = example();
        let keys = [key.clone()];
        let other = [self::key("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")];
        let check =
            |headers: &HeaderMap| verify(&keys, headers, BODY, NOW, TOLERANCE).map(str::to_owned);
        assert_eq!(verify(&other, &headers, BODY, NOW, TOLERANCE), Err(NotVerified::Signature));
        assert_eq!(verify(&[], &headers, BODY, NOW, TOLERANCE), Err(NotVerified::Signature));
        assert_eq!(verify(&keys, &headers, b"{}", NOW, TOLERANCE), Err(NotVerified::Signature));
        for seconds in [301, -301] {
            let now = Timestamp::from_micros(NOW.as_micros() + seconds * 1_000_000);
            let error = verify(&keys, &headers, BODY, now, TOLERANCE).unwrap_err();
            assert_eq!(error, NotVerified::Time { seconds: 301 });
        }
        for (name, value) in [
            (ID, "msg_other"),
            (TIMESTAMP, "1614265331"),
            (SIGNATURE, "v1,"),
            (SIGNATURE, "v1a,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
            (SIGNATURE, "v1,g0hM9SsE"),
        ] {
            let mut altered = headers.clone();
            altered.insert(name, value.parse().unwrap());
            assert_eq!(check(&altered), Err(NotVerified::Signature), "{name}: {value}");
        }
        for (name, value) in [
            (TIMESTAMP, "+1614265330"),
            (TIMESTAMP, "9999999999999999999999"),
            (ID, "a.b"),
            (ID, ""),
        ] {
            let mut altered = headers.clone();
            altered.insert(name, value.parse().unwrap());
            assert_eq!(check(&altered), Err(NotVerified::Header(name)), "{name}: {value}");
        }
        let mut twice = headers.clone();
        twice.append(ID, "msg_p5jXN8AQM9LWM0D4loKWxJek".parse().unwrap());
        assert_eq!(check(&twice), Err(NotVerified::Header(ID)));
    }

    #[test]
    fn while_secrets_rotate_either_verifies() {
        let random = |byte| WebhookKey::text_form(&Zeroizing::new([byte; 32]));
        let (new, old) = (random(1), random(2));
        let keys = [WebhookKey::read(&new).unwrap(), WebhookKey::read(&old).unwrap()];
        let (_, mut headers) = example();
        headers.insert(ID, "m".parse().unwrap());
        headers.insert(SIGNATURE, signatures(&keys, "m", NOW, BODY).parse().unwrap());
        for key in keys {
            assert_eq!(verify(&[key], &headers, BODY, NOW, TOLERANCE), Ok("m"));
        }
    }

    #[test]
    fn a_weak_secret_is_refused_without_being_repeated() {
        for text in ["hunter2", "whsec_", "whsec_aHVudGVyMg==", "whsec_!!!!", &"A".repeat(92)] {
            let secret = SecretValue::copy_of(text.as_bytes()).unwrap();
            let error = WebhookKey::read(&secret).err().unwrap();
            assert!(!error.to_string().contains("hunter2"));
        }
    }
}
