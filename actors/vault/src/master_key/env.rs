//! A master key from the environment, for machines whose operator already has a place for secrets.
//!
//! The environment of a process can be read by its user through `/proc`, and children inherit it. Where a
//! file can be kept instead, [`FileMasterKey`](super::file::FileMasterKey) is the better home.

use async_trait::async_trait;
use zeroize::Zeroizing;

use super::{
    MasterKey, MasterKeyError, MasterKeyId, WrapContext, WrappedKey,
    local::{LocalKey, fingerprint},
    unknown,
};
use crate::{DataKey, encoding::read_key};

/// A master key from one environment variable, and the one before it from another. Both are 32 random bytes
/// in base64url without padding, 43 characters. Ids are `env:` and a fingerprint of the key.
#[derive(Debug)]
pub struct EnvMasterKey {
    variable: String,
    current: LocalKey,
    previous: Option<LocalKey>,
}

/// Why no master key came from the environment. It never shows a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvKeyError {
    /// The variable is not set.
    #[error(
        "the environment variable {variable} is not set; put a master key there: 32 random bytes in \
         base64url, 43 characters"
    )]
    Missing {
        /// Its name.
        variable: String,
    },
    /// The variable holds something else.
    #[error(
        "the environment variable {variable} holds {characters} characters that are not a master key; it \
         must be 32 random bytes in base64url without padding, 43 characters"
    )]
    Malformed {
        /// Its name.
        variable: String,
        /// The length of its value.
        characters: usize,
    },
    /// Both variables hold one key.
    #[error("{current} and {previous} hold the same master key; put a new one into {current}")]
    Same {
        /// The variable of the current key.
        current: String,
        /// The variable of the previous key.
        previous: String,
    },
}

// === impl EnvMasterKey ===

impl EnvMasterKey {
    /// Reads the key from the variable `current`, and the one before it from `previous`, where that is set.
    ///
    /// # Errors
    /// `current` is not set, one of them holds no key, or both the same.
    pub fn from_env(current: &str, previous: Option<&str>) -> Result<Self, EnvKeyError> {
        Self::from_lookup(current, previous, |name| std::env::var(name).ok())
    }

    /// The same with another source of variables.
    ///
    /// # Errors
    /// As [`EnvMasterKey::from_env`].
    pub fn from_lookup(
        current: &str,
        previous: Option<&str>,
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, EnvKeyError> {
        let read = |variable: &str| lookup(variable).map(|value| local_key(variable, value));
        let missing = || EnvKeyError::Missing { variable: current.to_owned() };
        let current_key = read(current).ok_or_else(missing)??;
        let previous_key = previous.and_then(read).transpose()?;
        if let (Some(previous), Some(key)) = (previous, &previous_key)
            && key.id() == current_key.id()
        {
            let (current, previous) = (current.to_owned(), previous.to_owned());
            return Err(EnvKeyError::Same { current, previous });
        }
        Ok(Self { variable: current.to_owned(), current: current_key, previous: previous_key })
    }

    fn key(&self, id: &MasterKeyId) -> Option<&LocalKey> {
        std::iter::once(&self.current).chain(&self.previous).find(|key| key.id() == id)
    }
}

#[async_trait]
impl MasterKey for EnvMasterKey {
    fn id(&self) -> MasterKeyId {
        self.current.id().clone()
    }

    fn opens(&self, id: &MasterKeyId) -> bool {
        self.key(id).is_some()
    }

    fn describe(&self) -> String {
        format!("the environment variable {}", self.variable)
    }

    async fn wrap(
        &self,
        key: &DataKey,
        context: &WrapContext,
    ) -> Result<WrappedKey, MasterKeyError> {
        self.current.wrap(key, context)
    }

    async fn unwrap(
        &self,
        wrapped: &WrappedKey,
        context: &WrapContext,
    ) -> Result<DataKey, MasterKeyError> {
        let key = self.key(&wrapped.master).ok_or_else(|| unknown(self, &wrapped.master))?;
        key.unwrap(wrapped, context)
    }
}

fn local_key(variable: &str, value: String) -> Result<LocalKey, EnvKeyError> {
    let value = Zeroizing::new(value);
    let malformed = || EnvKeyError::Malformed {
        variable: variable.to_owned(),
        characters: value.chars().count(),
    };
    let key = read_key(&value).ok_or_else(malformed)?;
    let id = format!("env:{}", fingerprint(&key));
    let id = id.parse().expect("a word, a colon and 16 hexadecimal digits");
    Ok(LocalKey::new(id, &key))
}
