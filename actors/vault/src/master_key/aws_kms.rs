//! A master key in AWS KMS.
//!
//! Interface: <https://docs.aws.amazon.com/kms/latest/APIReference/API_Encrypt.html> and `API_Decrypt`, JSON
//! 1.1 over HTTPS, signed with Signature Version 4. The encryption context names workspace and data key, so
//! that KMS binds the wrapping to them and shows them in its own log. The identity needs `kms:Encrypt` and
//! `kms:Decrypt` on the key.
//!
//! The official SDK would bring some forty crates for these two requests of one fixed shape.

use std::sync::Arc;

use aa_protocol::Timestamp;
use async_trait::async_trait;
use reqwest::{
    Method, Request, StatusCode,
    header::{HeaderName, HeaderValue},
};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{
    MasterKey, MasterKeyAnswer, MasterKeyError, MasterKeyId, MasterKeyRefused,
    MasterKeyUnavailable, WrapContext, WrappedKey, data_key,
    key_service::{
        Answer, CallLimits, KeyService, KeyServiceError, is_temporary, read_base64, wiped_json,
        write_base64,
    },
    unknown,
};
use crate::{DataKey, SecretValue};

mod sigv4;

/// Who asks KMS.
pub struct AwsCredentials {
    /// The access key id, which is not secret.
    pub access_key_id: String,
    /// The secret access key.
    pub secret_access_key: SecretValue,
    /// The session token of temporary credentials.
    pub session_token: Option<SecretValue>,
}

/// Where credentials come from. Asked before each call, so that temporary ones can be renewed.
#[async_trait]
pub trait AwsCredentialSource: Send + Sync {
    /// The credentials to sign with now; or, for people, why there are none.
    async fn credentials(&self) -> Result<Arc<AwsCredentials>, String>;
}

/// Which KMS key to use, and how.
pub struct AwsKmsConfig {
    /// The ARN of a symmetric encryption key, `arn:aws:kms:<region>:<account>:key/<id>`. Not an alias: that
    /// may one day point to another key, which opens nothing of what this one wrapped.
    pub key_arn: String,
    /// The address, where it is not `https://kms.<region>.amazonaws.com`, as for a VPC endpoint.
    pub endpoint: Option<String>,
    /// Certificates (PEM) to trust in place of the system's.
    pub authorities: Option<Vec<u8>>,
    /// Who asks.
    pub credentials: Arc<dyn AwsCredentialSource>,
    /// The time to sign with; KMS refuses one that is more than 5 minutes off.
    pub now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// Bounds of its calls.
    pub limits: CallLimits,
}

/// A master key in AWS KMS. Its id is `aws-kms:<key ARN>`.
pub struct AwsKmsMasterKey {
    service: KeyService,
    id: MasterKeyId,
    key_arn: String,
    region: String,
    /// The host as the signature covers it.
    host: String,
    credentials: Arc<dyn AwsCredentialSource>,
    now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct EncryptRequest<'a> {
    key_id: &'a str,
    plaintext: &'a str,
    encryption_context: EncryptionContext,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DecryptRequest<'a> {
    key_id: &'a str,
    ciphertext_blob: &'a str,
    encryption_context: EncryptionContext,
}

#[derive(Serialize)]
struct EncryptionContext {
    #[serde(rename = "agent-assembly:workspace")]
    workspace: String,
    #[serde(rename = "agent-assembly:data-key")]
    data_key: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Encrypted {
    ciphertext_blob: String,
    key_id: String,
}

#[derive(Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(rename_all = "PascalCase")]
struct Decrypted {
    plaintext: String,
    key_id: String,
}

#[derive(Deserialize)]
struct Failure {
    #[serde(rename = "__type")]
    kind: String,
}

// === impl AwsKmsMasterKey ===

impl AwsKmsMasterKey {
    /// Prepares calls; makes none.
    ///
    /// # Errors
    /// The ARN is not that of a key, or the address or the certificates cannot be used.
    pub fn new(config: AwsKmsConfig) -> Result<Self, KeyServiceError> {
        let AwsKmsConfig { key_arn, endpoint, authorities, credentials, now, limits } = config;
        let problem = "it must be arn:aws:kms:<region>:<account>:key/<id>, not an alias";
        let refused = || KeyServiceError::Setting { setting: "key_arn", problem };
        let (partition, region) = parse_arn(&key_arn).ok_or_else(refused)?;
        let domain = if partition == "aws-cn" { "amazonaws.com.cn" } else { "amazonaws.com" };
        let address = endpoint.unwrap_or_else(|| format!("https://kms.{region}.{domain}"));
        let service = KeyService::new(&address, authorities.as_deref(), limits)?;
        if service.address().path() != "/" {
            return Err(KeyServiceError::Setting { setting: "endpoint", problem: "it has a path" });
        }
        let host = service.address().host_str().unwrap_or_default().to_owned();
        let host = match service.address().port() {
            Some(port) => format!("{host}:{port}"),
            None => host,
        };
        let id = format!("aws-kms:{key_arn}").parse().map_err(|_| refused())?;
        let region = region.to_owned();
        Ok(Self { service, id, key_arn, region, host, credentials, now })
    }

    async fn call(
        &self,
        attempt: &'static str,
        target: &'static str,
        context: &WrapContext,
        body: &(impl Serialize + Sync),
    ) -> Result<Answer, MasterKeyError> {
        let unavailable = |problem| {
            let problem = format!("no credentials for it: {problem}");
            MasterKeyUnavailable { provider: self.describe(), attempt, problem }
        };
        let credentials = self.credentials.credentials().await.map_err(unavailable)?;
        let temporary = |answer: &Answer| {
            is_temporary(answer.status) || kind(answer).is_some_and(|kind| is_overload(&kind))
        };
        let request = || self.request(attempt, target, &credentials, body);
        let answer = self.service.call(self, attempt, request, temporary).await?;
        if answer.status == StatusCode::OK {
            return Ok(answer);
        }
        if temporary(&answer) {
            let problem = self.problem(&answer);
            return Err(MasterKeyUnavailable { provider: self.describe(), attempt, problem }.into());
        }
        Err(self.failure(attempt, context, &answer))
    }

    fn request(
        &self,
        attempt: &'static str,
        target: &'static str,
        credentials: &AwsCredentials,
        body: &impl Serialize,
    ) -> Result<Request, MasterKeyError> {
        let body = wiped_json(body)
            .ok_or_else(|| self.answered(attempt, "the request has no JSON form".to_owned()))?;
        let date = sigv4::date((self.now)());
        let mut headers = vec![
            ("content-type", "application/x-amz-json-1.1"),
            ("host", &self.host),
            ("x-amz-date", &date),
            ("x-amz-target", target),
        ];
        let session_token = credentials.session_token.as_ref().map(SecretValue::expose_text);
        if let Some(token) = session_token {
            headers.push(("x-amz-security-token", token.unwrap_or_default()));
        }
        let signature = sigv4::authorization(
            credentials,
            &sigv4::Scope { date: &date, region: &self.region, service: "kms" },
            &mut headers,
            &body,
        );
        let mut request = Request::new(Method::POST, self.service.address().clone());
        let signed = headers.iter().copied().chain([("authorization", signature.as_str())]);
        // The client writes the host itself, from the same address.
        for (name, value) in signed.filter(|(name, _)| *name != "host") {
            let mut value = HeaderValue::from_str(value).map_err(|_| MasterKeyRefused {
                provider: self.describe(),
                attempt,
                problem: "the credentials have characters that no credentials have".to_owned(),
                remedy: "check them for a line feed at the end",
            })?;
            value.set_sensitive(name == "authorization" || name == "x-amz-security-token");
            request.headers_mut().insert(HeaderName::from_static(header(name)), value);
        }
        *request.body_mut() = Some(body.into());
        Ok(request)
    }

    /// What an answer other than a success means.
    fn failure(
        &self,
        attempt: &'static str,
        context: &WrapContext,
        answer: &Answer,
    ) -> MasterKeyError {
        let Some(kind) = kind(answer) else {
            return self.answered(attempt, self.problem(answer));
        };
        let remedy = match kind.as_str() {
            "InvalidCiphertextException" | "IncorrectKeyException" => {
                return context.unopenable(&self.id);
            }
            "AccessDeniedException" => {
                "check that a policy allows kms:Encrypt and kms:Decrypt on the key to this identity"
            }
            "DisabledException" | "KMSInvalidStateException" => "enable the key in KMS",
            "NotFoundException" => "check the ARN of the key and its region",
            "ExpiredTokenException" => "renew the temporary credentials",
            "InvalidSignatureException"
            | "UnrecognizedClientException"
            | "InvalidClientTokenId"
            | "MissingAuthenticationToken"
            | "MissingAuthenticationTokenException"
            | "IncompleteSignatureException" => {
                "check the credentials and the clock of this machine"
            }
            _ => "look this answer up in the reference of AWS KMS",
        };
        let problem = self.problem(answer);
        MasterKeyRefused { provider: self.describe(), attempt, problem, remedy }.into()
    }

    /// The answer in short. Its message is left out: it may repeat what was sent.
    fn problem(&self, answer: &Answer) -> String {
        match kind(answer) {
            Some(kind) => format!("it answered {} ({kind})", answer.status),
            None => format!("it answered {}", answer.status),
        }
    }

    fn answered(&self, attempt: &'static str, problem: String) -> MasterKeyError {
        MasterKeyAnswer { provider: self.describe(), attempt, problem }.into()
    }
}

#[async_trait]
impl MasterKey for AwsKmsMasterKey {
    fn id(&self) -> MasterKeyId {
        self.id.clone()
    }

    fn describe(&self) -> String {
        format!("the key {} at {}", self.id, self.service.address())
    }

    async fn wrap(
        &self,
        key: &DataKey,
        context: &WrapContext,
    ) -> Result<WrappedKey, MasterKeyError> {
        let plaintext = write_base64(key.expose());
        let request = EncryptRequest {
            key_id: &self.key_arn,
            plaintext: &plaintext,
            encryption_context: EncryptionContext::of(context),
        };
        let answer = self.call("wrap", "TrentService.Encrypt", context, &request).await?;
        let reply: Encrypted = serde_json::from_slice(&answer.body)
            .map_err(|_| self.answered("wrap", "no `CiphertextBlob`".to_owned()))?;
        if reply.key_id != self.key_arn {
            return Err(self.answered("wrap", "it used another key".to_owned()));
        }
        let ciphertext = read_base64(&reply.ciphertext_blob)
            .filter(|bytes| (1..=crate::MAX_WRAPPED_BYTES).contains(&bytes.len()))
            .ok_or_else(|| self.answered("wrap", "`CiphertextBlob` is no ciphertext".to_owned()))?;
        Ok(WrappedKey { master: self.id.clone(), ciphertext: ciphertext.to_vec() })
    }

    async fn unwrap(
        &self,
        wrapped: &WrappedKey,
        context: &WrapContext,
    ) -> Result<DataKey, MasterKeyError> {
        if !self.opens(&wrapped.master) {
            return Err(unknown(self, &wrapped.master));
        }
        let ciphertext = write_base64(&wrapped.ciphertext);
        let request = DecryptRequest {
            key_id: &self.key_arn,
            ciphertext_blob: &ciphertext,
            encryption_context: EncryptionContext::of(context),
        };
        let answer = self.call("unwrap", "TrentService.Decrypt", context, &request).await?;
        let reply: Decrypted = serde_json::from_slice(&answer.body)
            .map_err(|_| self.answered("unwrap", "no `Plaintext`".to_owned()))?;
        if reply.key_id != self.key_arn {
            return Err(self.answered("unwrap", "it used another key".to_owned()));
        }
        read_base64(&reply.plaintext)
            .and_then(|bytes| data_key(context, &bytes))
            .ok_or_else(|| self.answered("unwrap", "`Plaintext` is no data key".to_owned()))
    }
}

// === impl AwsCredentials ===

#[async_trait]
impl AwsCredentialSource for Arc<AwsCredentials> {
    async fn credentials(&self) -> Result<Arc<AwsCredentials>, String> {
        Ok(Arc::clone(self))
    }
}

impl std::fmt::Debug for AwsCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AwsCredentials")
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

// === impl EncryptionContext ===

impl EncryptionContext {
    fn of(context: &WrapContext) -> Self {
        Self { workspace: context.workspace.to_string(), data_key: context.data_key.to_string() }
    }
}

/// The name of the exception that an answer carries, if it is a name.
fn kind(answer: &Answer) -> Option<String> {
    let failure: Failure = serde_json::from_slice(&answer.body).ok()?;
    let kind = failure.kind.rsplit('#').next()?;
    let is_name =
        (1..=64).contains(&kind.len()) && kind.bytes().all(|byte| byte.is_ascii_alphabetic());
    is_name.then(|| kind.to_owned())
}

/// KMS says so with status 400.
fn is_overload(kind: &str) -> bool {
    matches!(kind, "ThrottlingException" | "LimitExceededException" | "RequestLimitExceeded")
}

/// The partition and the region of a key's ARN.
fn parse_arn(arn: &str) -> Option<(&str, &str)> {
    let parts: Vec<_> = arn.split(':').collect();
    let ["arn", partition, "kms", region, account, resource] = parts[..] else { return None };
    let word = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let key = resource.strip_prefix("key/")?;
    let well_formed = word(partition) && word(region) && word(account) && word(key);
    well_formed.then_some((partition, region))
}

/// The static name of a header that this file sends.
fn header(name: &str) -> &'static str {
    match name {
        "content-type" => "content-type",
        "x-amz-date" => "x-amz-date",
        "x-amz-security-token" => "x-amz-security-token",
        "x-amz-target" => "x-amz-target",
        _ => "authorization",
    }
}
