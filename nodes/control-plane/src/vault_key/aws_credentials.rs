//! Credentials for AWS: from the environment, or from a file that another program keeps up to date.

use std::{path::PathBuf, sync::Arc};

use aa_vault::{
    SecretValue,
    master_key::aws_kms::{AwsCredentialSource, AwsCredentials},
};
use async_trait::async_trait;
use zeroize::Zeroizing;

use crate::secrets::read_secret;

/// Where credentials come from.
pub(super) struct Credentials {
    file: Option<PathBuf>,
    profile: String,
}

// === impl Credentials ===

impl Credentials {
    pub(super) const fn new(file: Option<PathBuf>, profile: String) -> Self {
        Self { file, profile }
    }
}

#[async_trait]
impl AwsCredentialSource for Credentials {
    async fn credentials(&self) -> Result<Arc<AwsCredentials>, String> {
        let Some(path) = &self.file else {
            let read = |name: &str| std::env::var(name).ok().map(Zeroizing::new);
            return assemble("the environment", |name| read(&name.to_ascii_uppercase()));
        };
        let stored = read_secret(path).map_err(|error| error.to_string())?;
        let stored = stored.ok_or_else(|| format!("there is no file {}", path.display()))?;
        let text =
            std::str::from_utf8(&stored).map_err(|_| format!("{} is not UTF-8", path.display()))?;
        let place = format!("the profile `{}` of {}", self.profile, path.display());
        assemble(&place, |name| value(text, &self.profile, name).map(Zeroizing::new))
    }
}

fn assemble(
    place: &str,
    read: impl Fn(&str) -> Option<Zeroizing<String>>,
) -> Result<Arc<AwsCredentials>, String> {
    let missing = |name: &str| format!("{place} has no {name}");
    let secret = |name: &str| {
        let value = read(name).filter(|value| !value.is_empty());
        value.map(|value| SecretValue::copy_of(value.as_bytes())).transpose()
    };
    let required = |name: &str| {
        let value = secret(name).map_err(|error| format!("{name} of {place}: {error}"))?;
        value.ok_or_else(|| missing(name))
    };
    let id = read("aws_access_key_id").filter(|id| !id.is_empty());
    let access_key_id = id.ok_or_else(|| missing("aws_access_key_id"))?.to_string();
    let session_token = secret("aws_session_token")
        .map_err(|error| format!("aws_session_token of {place}: {error}"))?;
    let secret_access_key = required("aws_secret_access_key")?;
    Ok(Arc::new(AwsCredentials { access_key_id, secret_access_key, session_token }))
}

/// A value of an INI section.
fn value(text: &str, profile: &str, name: &str) -> Option<String> {
    let heading = format!("[{profile}]");
    let mut lines = text.lines().map(str::trim).skip_while(|line| *line != heading).skip(1);
    let section = lines.by_ref().take_while(|line| !line.starts_with('['));
    section
        .filter_map(|line| line.split_once('='))
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_read_as_the_aws_tools_write_it() {
        let text = "[default]\naws_access_key_id = A\n\n[ci]\naws_access_key_id=B\naws_session_token = x=y\n";
        assert_eq!(value(text, "default", "aws_access_key_id").unwrap(), "A");
        assert_eq!(value(text, "ci", "aws_access_key_id").unwrap(), "B");
        assert_eq!(value(text, "ci", "aws_session_token").unwrap(), "x=y");
        assert_eq!(value(text, "default", "aws_session_token"), None);
        assert_eq!(value(text, "other", "aws_access_key_id"), None);
    }

    #[tokio::test]
    async fn credentials_of_a_file_are_read_anew_and_not_printed_when_they_are_missing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("credentials");
        let source = Credentials::new(Some(path.clone()), "default".to_owned());
        assert!(source.credentials().await.err().unwrap().contains("there is no file"));
        let write = |text: &str| crate::secrets::write_secret(&path, text.as_bytes()).unwrap();
        write("[default]\naws_secret_access_key = marker\n");
        let error = source.credentials().await.err().unwrap();
        assert!(error.contains("aws_access_key_id") && !error.contains("marker"), "{error}");
        write("[default]\naws_access_key_id = A\naws_secret_access_key = marker\n");
        let read = source.credentials().await.unwrap();
        assert_eq!(
            (read.access_key_id.as_str(), read.secret_access_key.expose()),
            ("A", &b"marker"[..])
        );
    }
}
