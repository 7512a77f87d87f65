//! AWS Signature Version 4 for requests of one shape: `POST /` without a query.
//!
//! Source: <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>.

use std::fmt::Write;

use aa_protocol::Timestamp;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::AwsCredentials;

/// What a signature is good for.
pub(super) struct Scope<'a> {
    /// As [`date`] writes it.
    pub(super) date: &'a str,
    pub(super) region: &'a str,
    pub(super) service: &'a str,
}

/// The time in the form of `X-Amz-Date`, such as `20150830T123600Z`.
pub(super) fn date(now: Timestamp) -> String {
    let text = now.to_ascii();
    let seconds = text[..19].iter().filter(|byte| !b"-:".contains(byte));
    seconds.map(|byte| char::from(*byte)).chain(['Z']).collect()
}

/// The value of the `Authorization` header for `headers`, all of which are signed; it sorts them. Names are in
/// lower case, values without spaces around or runs of spaces within.
pub(super) fn authorization(
    credentials: &AwsCredentials,
    scope: &Scope<'_>,
    headers: &mut [(&str, &str)],
    body: &[u8],
) -> String {
    headers.sort_unstable();
    let names: Vec<_> = headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let mut canonical = Sha256::new();
    canonical.update("POST\n/\n\n");
    for (name, value) in headers.iter() {
        canonical.update(format!("{name}:{value}\n"));
    }
    canonical.update(format!("\n{names}\n{}", hex(&Sha256::digest(body))));

    let Scope { date, region, service } = scope;
    let day = &date[..8];
    let area = format!("{day}/{region}/{service}/aws4_request");
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{area}\n{}", hex(&canonical.finalize()));
    let signature =
        hex(&*code(&*signing_key(credentials, day, region, service), to_sign.as_bytes()));
    format!(
        "AWS4-HMAC-SHA256 Credential={}/{area}, SignedHeaders={names}, Signature={signature}",
        credentials.access_key_id
    )
}

fn signing_key(
    credentials: &AwsCredentials,
    day: &str,
    region: &str,
    service: &str,
) -> Zeroizing<[u8; 32]> {
    let secret = credentials.secret_access_key.expose();
    let mut key = Zeroizing::new(Vec::with_capacity(4 + secret.len()));
    key.extend_from_slice(b"AWS4");
    key.extend_from_slice(secret);
    let key = code(&key, day.as_bytes());
    let key = code(&*key, region.as_bytes());
    let key = code(&*key, service.as_bytes());
    code(&*key, b"aws4_request")
}

fn code(key: &[u8], message: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    Zeroizing::new(mac.finalize().into_bytes().into())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SecretValue;

    const DATE: &str = "20150830T123600Z";

    fn credentials() -> AwsCredentials {
        AwsCredentials {
            access_key_id: "AKIDEXAMPLE".to_owned(),
            secret_access_key: SecretValue::copy_of(b"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
                .unwrap(),
            session_token: None,
        }
    }

    fn signed(headers: &mut [(&str, &str)], body: &[u8]) -> String {
        let scope = Scope { date: DATE, region: "us-east-1", service: "service" };
        authorization(&credentials(), &scope, headers, body)
    }

    /// Of the signing test suite that AWS publishes with aws-c-auth.
    #[test]
    fn the_published_vector_post_vanilla_holds() {
        let mut headers = [("x-amz-date", DATE), ("host", "example.amazonaws.com")];
        assert_eq!(
            signed(&mut headers, b""),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders=host;x-amz-date, \
             Signature=5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"
        );
    }

    #[test]
    fn the_published_vector_post_sts_header_before_holds() {
        let token = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";
        let mut headers = [
            ("host", "example.amazonaws.com"),
            ("x-amz-security-token", token),
            ("x-amz-date", DATE),
        ];
        let signature = signed(&mut headers, b"");
        assert!(
            signature
                .ends_with("=85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead"),
            "{signature}"
        );
    }

    #[test]
    fn the_published_vector_with_a_body_holds() {
        let body = b"Param1=value1";
        let hash = "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e";
        let mut headers = [
            ("content-type", "application/x-www-form-urlencoded"),
            ("host", "example.amazonaws.com"),
            ("content-length", "13"),
            ("x-amz-content-sha256", hash),
            ("x-amz-date", DATE),
        ];
        let signature = signed(&mut headers, body);
        assert!(
            signature
                .ends_with("=d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b"),
            "{signature}"
        );
    }

    #[test]
    fn the_time_is_written_as_aws_reads_it() {
        let time: Timestamp = "2015-08-30T12:36:00.999Z".parse().unwrap();
        assert_eq!(date(time), DATE);
    }
}
