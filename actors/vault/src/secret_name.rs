//! What a secret is called within its workspace.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// The longest name, in bytes.
pub const MAX_NAME_BYTES: usize = 128;

/// The name of a secret: 1 to [`MAX_NAME_BYTES`] of `a`–`z`, `A`–`Z`, `0`–`9`, `_`, `-`, `.` and `/`, the
/// first a letter or a digit. Names are public: they stand in lists, errors and audit entries.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretName(Box<str>);

/// A text that is not the name of a secret. The text itself is not repeated: who mixes up the arguments
/// gives the secret as its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a text of {bytes} bytes is no name for a secret; use 1 to {MAX_NAME_BYTES} of a-z, A-Z, 0-9, `_`, \
     `-`, `.` and `/`, beginning with a letter or a digit"
)]
pub struct SecretNameError {
    /// The length of the text.
    pub bytes: usize,
}

// === impl SecretName ===

impl SecretName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretName {
    type Err = SecretNameError;

    fn from_str(text: &str) -> Result<Self, SecretNameError> {
        let well_formed = text.len() <= MAX_NAME_BYTES
            && text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte));
        if well_formed { Ok(Self(text.into())) } else { Err(SecretNameError { bytes: text.len() }) }
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for SecretName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SecretName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_words_and_a_refusal_does_not_repeat_them() {
        for name in ["OPENAI_API_KEY", "slack/webhook.v2", "7", &"n".repeat(128)] {
            assert_eq!(name.parse::<SecretName>().unwrap().as_str(), name);
        }
        for name in ["", "_a", "/etc", "a b", "a\n", "ä", "a:b", &"n".repeat(129)] {
            let error = name.parse::<SecretName>().unwrap_err();
            assert_eq!(error, SecretNameError { bytes: name.len() });
        }
        let error = "sk-proj+SECRET".parse::<SecretName>().unwrap_err();
        assert!(!error.to_string().contains("SECRET"));
    }
}
