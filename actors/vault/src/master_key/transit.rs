//! A master key in the transit engine of HashiCorp Vault.
//!
//! Interface: <https://developer.hashicorp.com/vault/api-docs/secret/transit>. The token needs `update` on
//! `<mount>/encrypt/<key>` and `<mount>/decrypt/<key>`; without `create` on the former, an engine cannot make
//! a missing key of its own accord. The key stays in the engine and has versions there; after
//! `vault write -f <mount>/keys/<key>/rotate`, rotating the master key here wraps all data keys under the
//! newest. That is done by wrapping anew and not by the engine's `rewrap`, because a vault holds its data keys
//! open anyway and so checks that what it will store gives them back.

use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use reqwest::{Method, Request, StatusCode, Url, header::HeaderValue};
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

/// Where a transit key is and how to get at it.
#[derive(Debug)]
pub struct TransitConfig {
    /// The server: `https://host[:port]`, or `http://` on this machine only.
    pub address: String,
    /// Certificates (PEM) to trust in place of the system's.
    pub authorities: Option<Vec<u8>>,
    /// The namespace, where the server has them.
    pub namespace: Option<String>,
    /// Where the engine is mounted, such as `transit`; it may have several parts.
    pub mount: String,
    /// The name of the key, of an AEAD type such as `aes256-gcm96`: letters, digits, `_`, `-` and `.`.
    pub key: String,
    /// What the key was made with.
    pub binding: TransitBinding,
    /// The token.
    pub token: SecretValue,
    /// Bounds of its calls.
    pub limits: CallLimits,
}

/// How a transit key binds a data key to its workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransitBinding {
    /// By associated data; for keys made without `derived`.
    AssociatedData,
    /// By a key derived of workspace and data key, and associated data; for keys made with `derived=true`.
    DerivedKey,
}

/// A master key in the transit engine. Its id is `transit:<mount>/<key>`.
pub struct TransitMasterKey {
    service: KeyService,
    id: MasterKeyId,
    encrypt: Url,
    decrypt: Url,
    namespace: Option<HeaderValue>,
    binding: TransitBinding,
    token: RwLock<Arc<SecretValue>>,
}

#[derive(Serialize)]
struct EncryptRequest<'a> {
    plaintext: &'a str,
    associated_data: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<&'a str>,
}

#[derive(Serialize)]
struct DecryptRequest<'a> {
    ciphertext: &'a str,
    associated_data: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<&'a str>,
}

#[derive(Deserialize)]
struct Reply<T> {
    data: T,
}

#[derive(Deserialize)]
struct Encrypted {
    ciphertext: String,
}

#[derive(Deserialize, Zeroize, ZeroizeOnDrop)]
struct Decrypted {
    plaintext: String,
}

#[derive(Deserialize)]
struct Failure {
    #[serde(default)]
    errors: Vec<String>,
}

// === impl TransitMasterKey ===

impl TransitMasterKey {
    /// Prepares calls; makes none.
    ///
    /// # Errors
    /// The address, a name, the token or the certificates are not of the form they must have.
    pub fn new(config: TransitConfig) -> Result<Self, KeyServiceError> {
        let TransitConfig { address, authorities, namespace, mount, key, binding, token, limits } =
            config;
        let service = KeyService::new(&address, authorities.as_deref(), limits)?;
        let mount_parts: Vec<_> = mount.split('/').collect();
        if !mount_parts.iter().all(|part| is_name(part)) {
            return Err(setting("mount", "its parts are letters, digits, `_`, `-` and `.`"));
        }
        if !is_name(&key) {
            return Err(setting("key", "it has letters, digits, `_`, `-` and `.` only"));
        }
        let id = format!("transit:{mount}/{key}");
        let id = id.parse().map_err(|_| setting("mount", "mount and key are too long"))?;
        let namespace = namespace.map(|text| HeaderValue::from_str(&text)).transpose();
        let namespace = namespace.map_err(|_| setting("namespace", "it has control characters"))?;
        check_token(&token)?;
        let endpoint = |verb: &str| {
            let mut url = service.address().clone();
            if let Ok(mut path) = url.path_segments_mut() {
                path.pop_if_empty().push("v1").extend(&mount_parts).push(verb).push(&key);
            }
            url
        };
        let (encrypt, decrypt) = (endpoint("encrypt"), endpoint("decrypt"));
        let token = RwLock::new(Arc::new(token));
        Ok(Self { service, id, encrypt, decrypt, namespace, binding, token })
    }

    /// Goes on with another token, as after a renewal.
    ///
    /// # Errors
    /// It is not of the form of a token; the present one stays.
    pub fn set_token(&self, token: SecretValue) -> Result<(), KeyServiceError> {
        check_token(&token)?;
        *self.token.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(token);
        Ok(())
    }

    async fn call(
        &self,
        attempt: &'static str,
        url: &Url,
        body: &(impl Serialize + Sync),
    ) -> Result<Answer, MasterKeyError> {
        let request = || {
            let body = wiped_json(body)
                .ok_or_else(|| self.answered(attempt, "the request has no JSON form".to_owned()))?;
            let mut request = Request::new(Method::POST, url.clone());
            let token = Arc::clone(&self.token.read().unwrap_or_else(PoisonError::into_inner));
            let mut token = HeaderValue::from_bytes(token.expose())
                .map_err(|_| self.answered(attempt, "the token is no header value".to_owned()))?;
            token.set_sensitive(true);
            let headers = request.headers_mut();
            headers.insert("x-vault-token", token);
            headers.insert("x-vault-request", HeaderValue::from_static("true"));
            headers.insert("content-type", HeaderValue::from_static("application/json"));
            if let Some(namespace) = &self.namespace {
                headers.insert("x-vault-namespace", namespace.clone());
            }
            *request.body_mut() = Some(body.into());
            Ok(request)
        };
        let temporary = |answer: &Answer| is_temporary(answer.status);
        let answer = self.service.call(self, attempt, request, temporary).await?;
        if answer.status.is_success() { Ok(answer) } else { Err(self.failure(attempt, &answer)) }
    }

    /// What an answer other than a success means.
    fn failure(&self, attempt: &'static str, answer: &Answer) -> MasterKeyError {
        let provider = self.describe();
        let reason = self.reason(&answer.body);
        let problem = format!("it answered {}{reason}", answer.status);
        let refused = |remedy| {
            let problem = problem.clone();
            MasterKeyRefused { provider: provider.clone(), attempt, problem, remedy }.into()
        };
        match answer.status {
            StatusCode::BAD_REQUEST => refused(
                "check that the key is of an AEAD type, and `derived` as configured, and not below its \
                 `min_decryption_version`",
            ),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => refused(
                "check the token and that its policy allows `update` on encrypt and decrypt of this key",
            ),
            StatusCode::NOT_FOUND => refused("check mount, key and namespace"),
            status if is_temporary(status) => {
                MasterKeyUnavailable { provider, attempt, problem }.into()
            }
            _ => self.answered(attempt, problem),
        }
    }

    /// The server's own words, unless they could repeat a secret.
    fn reason(&self, body: &[u8]) -> String {
        let errors =
            serde_json::from_slice(body).map_or(Vec::new(), |failure: Failure| failure.errors);
        let Some(first) = errors.first() else { return String::new() };
        let token = Arc::clone(&self.token.read().unwrap_or_else(PoisonError::into_inner));
        let plain = first.len() <= 200 && first.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        // Keys are written in 44 characters of base64: no word of a message is that long.
        let short = first.split(' ').all(|word| word.len() < 40);
        if plain && short && !token.expose_text().is_some_and(|token| first.contains(token)) {
            format!(" ({})", first.trim())
        } else {
            String::new()
        }
    }

    fn answered(&self, attempt: &'static str, problem: String) -> MasterKeyError {
        MasterKeyAnswer { provider: self.describe(), attempt, problem }.into()
    }
}

#[async_trait]
impl MasterKey for TransitMasterKey {
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
        let data = write_base64(&context.associated_data(&self.id));
        let request = EncryptRequest {
            plaintext: &plaintext,
            associated_data: &data,
            context: self.binding.context(&data),
        };
        let answer = self.call("wrap", &self.encrypt, &request).await?;
        let reply: Reply<Encrypted> = serde_json::from_slice(&answer.body)
            .map_err(|_| self.answered("wrap", "no `data.ciphertext`".to_owned()))?;
        let ciphertext = reply.data.ciphertext;
        if !ciphertext.starts_with("vault:v") || ciphertext.len() > crate::MAX_WRAPPED_BYTES {
            return Err(self.answered("wrap", "`data.ciphertext` is no ciphertext".to_owned()));
        }
        Ok(WrappedKey { master: self.id.clone(), ciphertext: ciphertext.into_bytes() })
    }

    async fn unwrap(
        &self,
        wrapped: &WrappedKey,
        context: &WrapContext,
    ) -> Result<DataKey, MasterKeyError> {
        if !self.opens(&wrapped.master) {
            return Err(unknown(self, &wrapped.master));
        }
        let Ok(ciphertext) = std::str::from_utf8(&wrapped.ciphertext) else {
            return Err(context.unopenable(&self.id));
        };
        let data = write_base64(&context.associated_data(&self.id));
        let request = DecryptRequest {
            ciphertext,
            associated_data: &data,
            context: self.binding.context(&data),
        };
        let answer = match self.call("unwrap", &self.decrypt, &request).await {
            // The engine's words for a tag that does not match.
            Err(MasterKeyError::Refused(refused))
                if refused.problem.contains("message authentication failed")
                    || refused.problem.contains("invalid ciphertext") =>
            {
                return Err(context.unopenable(&self.id));
            }
            answer => answer?,
        };
        let reply: Reply<Decrypted> = serde_json::from_slice(&answer.body)
            .map_err(|_| self.answered("unwrap", "no `data.plaintext`".to_owned()))?;
        read_base64(&reply.data.plaintext)
            .and_then(|bytes| data_key(context, &bytes))
            .ok_or_else(|| self.answered("unwrap", "`data.plaintext` is no data key".to_owned()))
    }
}

// === impl TransitBinding ===

impl TransitBinding {
    /// The engine's `context`, which derived keys need.
    fn context(self, data: &str) -> Option<&str> {
        match self {
            Self::AssociatedData => None,
            Self::DerivedKey => Some(data),
        }
    }
}

fn setting(setting: &'static str, problem: &'static str) -> KeyServiceError {
    KeyServiceError::Setting { setting, problem }
}

fn check_token(token: &SecretValue) -> Result<(), KeyServiceError> {
    if token.expose().iter().all(u8::is_ascii_graphic) {
        return Ok(());
    }
    Err(setting("token", "it has characters that no token has, perhaps a line feed at its end"))
}

fn is_name(text: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    !text.is_empty() && !text.bytes().all(|byte| byte == b'.') && text.bytes().all(letter)
}
