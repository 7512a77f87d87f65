//! What rows may say: those that would reach beyond their workspace, or that a restore builds on, are read.

use std::collections::BTreeSet;

use aa_ledger::Stream;
use aa_protocol::WorkspaceId;
use aa_vault::KeyRing;
use serde::de::DeserializeOwned;

use crate::{
    api_key::{KeyRecord, MAX_KEYS},
    approval_record::ApprovalRecord,
    audit::Cursor,
    keys::{self, Space},
    secret_record::SecretRecord,
    tenant::WorkspaceRecord,
};

/// What the rows tell of the workspace.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The workspace's name.
    pub(super) name: Option<String>,
    /// What its data keys are wrapped under.
    pub(super) master_keys: BTreeSet<String>,
    /// API keys in use.
    live_keys: usize,
}

/// Checks a row; the error says what it does that it must not.
pub(super) fn check(
    workspace: WorkspaceId,
    space: Space,
    key: &[u8],
    value: &[u8],
    found: &mut Found,
) -> Result<(), String> {
    let whole_key = || [&space.prefix(workspace)[..], key].concat();
    match space {
        Space::Workspace => {
            let record: WorkspaceRecord = read(value)?;
            if record.id != workspace || !key.is_empty() {
                return Err(format!("is of {}", record.id));
            }
            found.name = Some(record.name);
        }
        Space::ApiKeyId => {
            let record: KeyRecord = read(value)?;
            // It is by this record that a caller's workspace is found out.
            if record.workspace != workspace
                || whole_key() != keys::api_key_id(workspace, &record.id)
                || record.digest_bytes().is_none()
            {
                return Err("is no API key of the workspace".to_owned());
            }
            found.live_keys += usize::from(record.revoked_at.is_none());
            if found.live_keys > MAX_KEYS {
                return Err(format!("is one of more than {MAX_KEYS} API keys in use"));
            }
        }
        Space::KeyRing => {
            let ring = KeyRing::from_json(value).map_err(|error| error.to_string())?;
            if ring.workspace() != workspace {
                return Err(format!("is of {}", ring.workspace()));
            }
            found.master_keys = ring.master_keys().iter().map(ToString::to_string).collect();
        }
        Space::Secret => {
            let record: SecretRecord = read(value)?;
            if record.sealed.workspace() != workspace {
                return Err(format!("is of {}", record.sealed.workspace()));
            }
        }
        Space::Approval => {
            let record: ApprovalRecord = read(value)?;
            if record.workspace != workspace {
                return Err(format!("is of {}", record.workspace));
            }
        }
        Space::Window => {
            keys::window_of(workspace, &whole_key()).ok_or("names no window")?;
        }
        Space::AlertCursor => {
            read::<Cursor>(value)?;
        }
        _ => {}
    }
    Ok(())
}

/// The stream of a row of chains' heads.
pub(super) fn head_stream(workspace: WorkspaceId, key: &[u8]) -> Option<Stream> {
    keys::head_stream(workspace, &[&Space::Head.prefix(workspace)[..], key].concat())
}

fn read<T: DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    serde_json::from_slice(value).map_err(|error| format!("does not read: {error}"))
}
