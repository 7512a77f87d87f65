//! The files that tell clients and operators how to connect.

use std::path::{Path, PathBuf};

use aa_governance::{Governance, GovernanceError, Grant};
use aa_protocol::WorkspaceId;
use zeroize::Zeroizing;

use super::Summary;
use crate::secrets::{SecretError, read_secret, write_secret};

/// The files could not be written.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The file system refused.
    #[error(transparent)]
    File(#[from] SecretError),
    /// A key could not be made.
    #[error("no API key could be made: {0}")]
    Key(#[from] GovernanceError),
    /// A path that a shell cannot be told.
    #[error("the path {0:?} is not UTF-8; choose another data directory")]
    Path(PathBuf),
}

/// Writes `client.env` and `operator.env`. Keys of an earlier start are kept; a file that is missing gets
/// a new key, because the old one is stored nowhere.
pub(super) async fn write(
    governance: &Governance,
    workspace: WorkspaceId,
    summary: &Summary,
) -> Result<(), FilesError> {
    let ca_file = absolute(&summary.ca_file)?;
    let agent_key = known_key(&summary.client_env, "AAA_API_KEY")?;
    let owner_key = known_key(&summary.operator_env, "AASM_API_KEY")?;
    if agent_key.is_none() || owner_key.is_none() {
        // A key is made whether or not its secret arrives here: first something is asked that can be asked in vain.
        governance.found_workspace(workspace, &summary.workspace_name).await?;
    }
    let agent_key = match agent_key {
        Some(known) => known,
        None => new_key(governance, workspace, &summary.client_env, Grant::Agent).await?,
    };
    let owner_key = match owner_key {
        Some(known) => known,
        None => new_key(governance, workspace, &summary.operator_env, Grant::Owner).await?,
    };
    let client = [
        ("AAA_WORKSPACE_ID", summary.workspace_id.as_str()),
        ("AAA_API_KEY", &*agent_key),
        ("AAA_GATEWAY_URL", &summary.gateway_url),
        ("AAA_CA_FILE", &ca_file),
    ]
    .map(|(name, value)| export(name, value));
    let operator = [
        ("AASM_API_URL", summary.api_url.as_str()),
        ("AASM_API_KEY", &*owner_key),
        ("AASM_CA_FILE", &ca_file),
    ]
    .map(|(name, value)| export(name, value));
    write_secret(&summary.operator_env, Zeroizing::new(operator.concat()).as_bytes())?;
    write_secret(&summary.client_env, Zeroizing::new(client.concat()).as_bytes())?;
    Ok(())
}

/// The key that an earlier start wrote into the file.
fn known_key(file: &Path, variable: &str) -> Result<Option<Zeroizing<String>>, SecretError> {
    let Some(stored) = read_secret(file)? else { return Ok(None) };
    let text = Zeroizing::new(String::from_utf8_lossy(&stored).into_owned());
    let prefix = format!("export {variable}='");
    let known = text.lines().find_map(|line| line.strip_prefix(&prefix)?.strip_suffix('\''));
    Ok(known.map(|key| Zeroizing::new(key.to_owned())))
}

async fn new_key(
    governance: &Governance,
    workspace: WorkspaceId,
    file: &Path,
    grant: Grant,
) -> Result<Zeroizing<String>, FilesError> {
    let file = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let name = format!("made by aasm up for {file}");
    let (_, key) = governance.set_up_key(workspace, &name, grant).await?;
    Ok(Zeroizing::new(key.expose().to_owned()))
}

fn absolute(path: &Path) -> Result<String, FilesError> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.to_str().map(ToOwned::to_owned).ok_or(FilesError::Path(path))
}

/// One line for a POSIX shell.
fn export(name: &str, value: &str) -> String {
    format!("export {name}='{}'\n", value.replace('\'', r"'\''"))
}
