//! A master key that never leaves a PKCS#11 token, such as an HSM.
//!
//! The token encrypts data keys with AES-256-GCM (`CKM_AES_GCM`, PKCS #11 v2.40 §2.12) under a key that is
//! sensitive and cannot be extracted. The nonce is 96 random bits: a key may be used so 2³² times (NIST
//! SP 800-38D §8.3), and data keys are wrapped a few times a year.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
    mechanism::{Mechanism, aead::GcmParams},
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    types::AuthPin,
};
use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::{
    MasterKey, MasterKeyAnswer, MasterKeyError, MasterKeyId, MasterKeyRefused,
    MasterKeyUnavailable, WrapContext, WrappedKey, data_key, unknown,
};
use crate::{
    DataKey, SecretValue,
    random::{self, RandomError},
};

/// Where a token's key is and how to get at it.
#[derive(Debug)]
pub struct TokenKeyConfig {
    /// The PKCS#11 module of the token's maker, a shared library.
    pub module: PathBuf,
    /// The label of the token.
    pub token: String,
    /// The label of the key: AES, 256 bits, sensitive, not extractable.
    pub key: String,
    /// The user's PIN.
    pub pin: SecretValue,
    /// How long one call to the token may take.
    pub timeout: Duration,
}

/// A master key in a token. Its id is `pkcs11:token=<label>;object=<label>`, after RFC 7512.
pub struct Pkcs11MasterKey {
    id: MasterKeyId,
    timeout: Duration,
    token: Arc<Token>,
}

/// Why the key of a token cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenKeyError {
    /// The module does not load.
    #[error(
        "the PKCS#11 module {module} cannot be used: {problem}; check its path and configuration"
    )]
    Module {
        /// Its path.
        module: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A label is empty, too long or not printable.
    #[error(
        "`{setting}` of the token is not usable; give a label of 1 to 32 printable ASCII characters"
    )]
    Label {
        /// `token` or `key`.
        setting: &'static str,
    },
    /// Not one token of that label.
    #[error("{found} tokens are labelled `{token}`; there must be one")]
    Tokens {
        /// The label.
        token: String,
        /// How many there are.
        found: usize,
    },
    /// The PIN is wrong, locked or expired.
    #[error(
        "the token `{token}` refused the PIN ({problem}); it is not tried again, for tokens lock after a \
         few wrong PINs: correct it and restart"
    )]
    Pin {
        /// The token.
        token: String,
        /// The token's reason.
        problem: String,
    },
    /// Not one key of that label.
    #[error("{found} secret keys in the token `{token}` are labelled `{key}`; there must be one")]
    Keys {
        /// The token.
        token: String,
        /// The label.
        key: String,
        /// How many there are.
        found: usize,
    },
    /// The key is not one to trust with data keys.
    #[error("the key `{key}` {problem}; make one of AES, 256 bits, sensitive and not extractable")]
    Weak {
        /// The label.
        key: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The token failed.
    #[error("the token `{token}` could not {attempt}: {problem}")]
    Failed {
        /// The token.
        token: String,
        /// What was asked.
        attempt: &'static str,
        /// The token's reason.
        problem: String,
    },
    /// The token does not answer.
    #[error("the token `{token}` gave no answer within {timeout:?}; check that its device is up")]
    Late {
        /// The token.
        token: String,
        /// How long it had.
        timeout: Duration,
    },
    /// No randomness.
    #[error(transparent)]
    Random(#[from] RandomError),
}

struct Token {
    module: PathBuf,
    label: String,
    key: String,
    pin: SecretValue,
    timeout: Duration,
    login: Mutex<Login>,
}

/// A session is kept, for a login takes long on real tokens and ends with the last session.
enum Login {
    None,
    Done {
        session: Session,
        key: ObjectHandle,
    },
    /// The token refused the PIN for this reason. A few more tries would lock it.
    Refused(String),
}

/// The initialized modules of this process, each once: a module has one state for the whole process, and
/// more than one of these keys may use it. They stay, for finalizing one would end it for all.
static MODULES: Mutex<BTreeMap<PathBuf, Pkcs11>> = Mutex::new(BTreeMap::new());

const IV: usize = 12;
const TAG_BITS: u64 = 128;

// === impl Pkcs11MasterKey ===

impl Pkcs11MasterKey {
    /// Logs in and finds the key.
    ///
    /// # Errors
    /// The module does not load, the token, the PIN or the key is not as configured, or there is no answer in
    /// time.
    pub async fn open(config: TokenKeyConfig) -> Result<Self, TokenKeyError> {
        let key = Self::new(config)?;
        key.run(|token| token.with_key(|_, _| Ok(()))).await?;
        Ok(key)
    }

    /// Makes the key in the token, which has none of that label yet, and opens it.
    ///
    /// # Errors
    /// As [`Pkcs11MasterKey::open`]; and there is such a key already, or the token makes none.
    pub async fn create(config: TokenKeyConfig) -> Result<Self, TokenKeyError> {
        let key = Self::new(config)?;
        key.run(Token::create_key).await?;
        key.run(|token| token.with_key(|_, _| Ok(()))).await?;
        Ok(key)
    }

    fn new(config: TokenKeyConfig) -> Result<Self, TokenKeyError> {
        let TokenKeyConfig { module, token, key, pin, timeout } = config;
        for (setting, label) in [("token", &token), ("key", &key)] {
            // A token pads its label with spaces to 32.
            let printable = label.bytes().all(|byte| (b' '..=b'~').contains(&byte));
            if label.is_empty() || label.len() > 32 || !printable || label.ends_with(' ') {
                return Err(TokenKeyError::Label { setting });
            }
        }
        let id = format!("pkcs11:token={};object={}", escape(&token), escape(&key));
        let id = id.parse().map_err(|_| TokenKeyError::Label { setting: "key" })?;
        let login = Mutex::new(Login::None);
        let token = Token { module, label: token, key, pin, timeout, login };
        Ok(Self { id, timeout, token: Arc::new(token) })
    }

    /// Runs `call` where it may block, for as long as it may.
    async fn run<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Token) -> Result<T, TokenKeyError> + Send + 'static,
    ) -> Result<T, TokenKeyError> {
        let token = Arc::clone(&self.token);
        let running = tokio::task::spawn_blocking(move || call(&token));
        match tokio::time::timeout(self.timeout, running).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(self.token.failed("answer", "its module panicked".to_owned())),
            Err(_) => Err(self.token.late()),
        }
    }

    fn error(&self, attempt: &'static str, error: TokenKeyError) -> MasterKeyError {
        let provider = self.describe();
        let problem = error.to_string();
        match error {
            TokenKeyError::Failed { .. }
            | TokenKeyError::Late { .. }
            | TokenKeyError::Tokens { found: 0, .. } => {
                MasterKeyUnavailable { provider, attempt, problem }.into()
            }
            TokenKeyError::Random(error) => error.into(),
            _ => {
                let remedy = "correct the configuration of the token";
                MasterKeyRefused { provider, attempt, problem, remedy }.into()
            }
        }
    }
}

#[async_trait]
impl MasterKey for Pkcs11MasterKey {
    fn id(&self) -> MasterKeyId {
        self.id.clone()
    }

    fn describe(&self) -> String {
        format!("the key {} in {}", self.id, self.token.module.display())
    }

    async fn wrap(
        &self,
        key: &DataKey,
        context: &WrapContext,
    ) -> Result<WrappedKey, MasterKeyError> {
        let data = context.associated_data(&self.id);
        let plaintext = Zeroizing::new(*key.expose());
        let mut ciphertext = [0; IV];
        random::fill(&mut ciphertext)?;
        let mut iv = ciphertext;
        let sealed = self.run(move |token| {
            token.with_key(|session, key| {
                let mechanism = gcm(&mut iv, &data)?;
                session.encrypt(&mechanism, key, &*plaintext)
            })
        });
        let sealed = sealed.await.map_err(|error| self.error("wrap", error))?;
        let ciphertext = [&ciphertext[..], &sealed].concat();
        if sealed.len() != 32 + TAG_BITS as usize / 8 {
            let problem = format!("a ciphertext of {} bytes", sealed.len());
            let provider = self.describe();
            return Err(MasterKeyAnswer { provider, attempt: "wrap", problem }.into());
        }
        Ok(WrappedKey { master: self.id.clone(), ciphertext })
    }

    async fn unwrap(
        &self,
        wrapped: &WrappedKey,
        context: &WrapContext,
    ) -> Result<DataKey, MasterKeyError> {
        if !self.opens(&wrapped.master) {
            return Err(unknown(self, &wrapped.master));
        }
        let data = context.associated_data(&self.id);
        let Some((iv, sealed)) = wrapped.ciphertext.split_first_chunk::<IV>() else {
            return Err(context.unopenable(&self.id));
        };
        let (mut iv, sealed) = (*iv, sealed.to_vec());
        let opened = self.run(move |token| {
            token.with_key(|session, key| {
                let mechanism = gcm(&mut iv, &data)?;
                match session.decrypt(&mechanism, key, &sealed) {
                    Ok(bytes) => Ok(Some(Zeroizing::new(bytes))),
                    Err(error) if is_wrong_tag(&error) => Ok(None),
                    Err(error) if is_vague(&error) && is_healthy(session, key) => Ok(None),
                    Err(error) => Err(error),
                }
            })
        });
        let opened = opened.await.map_err(|error| self.error("unwrap", error))?;
        opened
            .and_then(|bytes| data_key(context, &bytes))
            .ok_or_else(|| context.unopenable(&self.id))
    }
}

// === impl Token ===

impl Token {
    /// Calls `work` with a session and the key; once more with new ones when the session has ended, as after
    /// the token was unplugged.
    fn with_key<T>(
        &self,
        mut work: impl FnMut(&Session, ObjectHandle) -> Result<T, Error>,
    ) -> Result<T, TokenKeyError> {
        let mut login = self.login.try_lock_for(self.timeout).ok_or_else(|| self.late())?;
        if let Login::Done { session, key } = &*login {
            match work(session, *key) {
                Err(error) if is_ended_session(&error) => *login = Login::None,
                result => {
                    return result.map_err(|error| self.failed("use the key", error.to_string()));
                }
            }
        }
        let session = self.log_in(&mut login)?;
        let key = self.find_key(&session)?;
        let result = work(&session, key);
        *login = Login::Done { session, key };
        result.map_err(|error| self.failed("use the key", error.to_string()))
    }

    /// A new session of the user.
    fn log_in(&self, login: &mut Login) -> Result<Session, TokenKeyError> {
        let refused = |problem: String| TokenKeyError::Pin { token: self.label.clone(), problem };
        if let Login::Refused(problem) = login {
            return Err(refused(problem.clone()));
        }
        let pkcs11 = module(&self.module)?;
        let failed = |attempt| move |error: Error| self.failed(attempt, error.to_string());
        let slots = pkcs11.get_slots_with_token().map_err(failed("list the slots"))?;
        let labelled = |slot| {
            let info = pkcs11.get_token_info(slot).ok()?;
            (info.label() == self.label).then_some(slot)
        };
        let slots: Vec<_> = slots.into_iter().filter_map(labelled).collect();
        let [slot] = slots[..] else {
            return Err(TokenKeyError::Tokens { token: self.label.clone(), found: slots.len() });
        };
        let session = pkcs11.open_rw_session(slot).map_err(failed("open a session"))?;
        let pin = self.pin.expose_text().ok_or_else(|| refused("it is not text".to_owned()))?;
        match session.login(UserType::User, Some(&AuthPin::from(pin.to_owned()))) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(session),
            Err(error) if is_refused_pin(&error) => {
                *login = Login::Refused(error.to_string());
                Err(refused(error.to_string()))
            }
            Err(error) => Err(self.failed("log in", error.to_string())),
        }
    }

    fn find_key(&self, session: &Session) -> Result<ObjectHandle, TokenKeyError> {
        let failed = |error: Error| self.failed("find the key", error.to_string());
        let found = session.find_objects(&self.template()).map_err(failed)?;
        let [key] = found[..] else {
            let (token, key) = (self.label.clone(), self.key.clone());
            return Err(TokenKeyError::Keys { token, key, found: found.len() });
        };
        let wanted = [
            (Attribute::KeyType(KeyType::AES), "is not an AES key"),
            (Attribute::ValueLen(32.into()), "has not 256 bits"),
            (Attribute::Sensitive(true), "is not sensitive"),
            (Attribute::Extractable(false), "can be extracted"),
            (Attribute::Encrypt(true), "may not encrypt"),
            (Attribute::Decrypt(true), "may not decrypt"),
        ];
        let types: Vec<AttributeType> =
            wanted.iter().map(|(attribute, _)| attribute.attribute_type()).collect();
        let has = session.get_attributes(key, &types).map_err(failed)?;
        match wanted.into_iter().find(|(attribute, _)| !has.contains(attribute)) {
            Some((_, problem)) => Err(TokenKeyError::Weak { key: self.key.clone(), problem }),
            None => Ok(key),
        }
    }

    fn create_key(&self) -> Result<(), TokenKeyError> {
        let mut login = self.login.try_lock_for(self.timeout).ok_or_else(|| self.late())?;
        let session = self.log_in(&mut login)?;
        let failed = |error: Error| self.failed("make the key", error.to_string());
        let found = session.find_objects(&self.template()).map_err(failed)?.len();
        if found > 0 {
            let (token, key) = (self.label.clone(), self.key.clone());
            return Err(TokenKeyError::Keys { token, key, found: found + 1 });
        }
        let mut template = self.template();
        template.extend([
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::ValueLen(32.into()),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
        ]);
        session.generate_key(&Mechanism::AesKeyGen, &template).map_err(failed)?;
        Ok(())
    }

    fn template(&self) -> Vec<Attribute> {
        let label = self.key.as_bytes().to_vec();
        vec![Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Label(label)]
    }

    fn failed(&self, attempt: &'static str, problem: String) -> TokenKeyError {
        TokenKeyError::Failed { token: self.label.clone(), attempt, problem }
    }

    fn late(&self) -> TokenKeyError {
        TokenKeyError::Late { token: self.label.clone(), timeout: self.timeout }
    }
}

fn gcm<'a>(iv: &'a mut [u8; IV], data: &'a [u8]) -> Result<Mechanism<'a>, Error> {
    Ok(Mechanism::AesGcm(GcmParams::new(iv, data, TAG_BITS.into())?))
}

fn module(path: &Path) -> Result<Pkcs11, TokenKeyError> {
    let refused = |error: Error| {
        let (module, problem) = (path.to_owned(), error.to_string());
        TokenKeyError::Module { module, problem }
    };
    let mut modules = MODULES.lock();
    if let Some(module) = modules.get(path) {
        return Ok(module.clone());
    }
    let module = Pkcs11::new(path).map_err(refused)?;
    match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
        Err(error) => return Err(refused(error)),
    }
    modules.insert(path.to_owned(), module.clone());
    Ok(module)
}

const fn is_refused_pin(error: &Error) -> bool {
    use RvError::{PinExpired, PinIncorrect, PinInvalid, PinLenRange, PinLocked};
    matches!(
        error,
        Error::Pkcs11(PinExpired | PinIncorrect | PinInvalid | PinLenRange | PinLocked, _)
    )
}

const fn is_ended_session(error: &Error) -> bool {
    use RvError::{
        DeviceRemoved, KeyHandleInvalid, ObjectHandleInvalid, SessionClosed, SessionHandleInvalid,
        TokenNotPresent, UserNotLoggedIn,
    };
    matches!(
        error,
        Error::Pkcs11(
            DeviceRemoved
                | KeyHandleInvalid
                | ObjectHandleInvalid
                | SessionClosed
                | SessionHandleInvalid
                | TokenNotPresent
                | UserNotLoggedIn,
            _
        )
    )
}

/// SoftHSM says no more than this of a tag that does not match, and others of a device that is on fire.
const fn is_vague(error: &Error) -> bool {
    matches!(error, Error::Pkcs11(RvError::GeneralError | RvError::FunctionFailed, _))
}

/// Whether the key opens what it just sealed. If so, a failure is that of what was to be opened.
fn is_healthy(session: &Session, key: ObjectHandle) -> bool {
    let probe = || {
        let (mut iv, text) = ([0; IV], [0; 32]);
        random::fill(&mut iv).ok()?;
        let mut again = iv;
        let sealed = session.encrypt(&gcm(&mut iv, b"probe").ok()?, key, &text).ok()?;
        let opened = session.decrypt(&gcm(&mut again, b"probe").ok()?, key, &sealed).ok()?;
        Some(opened == text)
    };
    probe() == Some(true)
}

/// What the standard has for a tag that does not match, or a text too short to have one.
const fn is_wrong_tag(error: &Error) -> bool {
    use RvError::{EncryptedDataInvalid, EncryptedDataLenRange};
    matches!(error, Error::Pkcs11(EncryptedDataInvalid | EncryptedDataLenRange, _))
}

/// Percent-encodes what RFC 7512 does not allow as it is.
fn escape(label: &str) -> String {
    let mut text = String::with_capacity(label.len());
    for byte in label.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}
