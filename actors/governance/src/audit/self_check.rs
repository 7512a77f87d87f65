//! The log proves itself: what is stored is exported from time to time and verified as a stranger would, and people
//! are told when it does not hold.

use std::{
    collections::BTreeMap,
    io::{self, BufReader, Seek, Write},
    time::Duration,
};

use aa_ledger::{Keys, PinnedCheckpoint, verify};
use aa_protocol::WorkspaceId;
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::{
    audit::ExportFormat,
    governance::{Governance, GovernanceError},
    permission::{Grant, Permit, Principal, ReadAudit},
    tenant::{SignedCheckpoint, TenantMessage},
};

/// What a check found.
enum Found {
    /// Everything since the last check holds, and continues what was seen then.
    Intact(SignedCheckpoint),
    /// Something does not.
    Broken(String),
}

/// Why a check could not be made. It says nothing about the log.
#[derive(Debug, thiserror::Error)]
enum NotChecked {
    #[error(transparent)]
    Governance(#[from] GovernanceError),
    #[error("no room for the export that is checked: {0}")]
    Room(#[from] io::Error),
    #[error(
        "what is to be checked has more than {MAX_BYTES} bytes; export and verify it elsewhere"
    )]
    TooLarge,
    #[error("the check ended early: {0}")]
    Ended(#[from] tokio::task::JoinError),
}

/// The pause before the first check: a start has better things to do.
const FIRST_AFTER: Duration = Duration::from_secs(300);

/// The most that is checked at a time.
const MAX_BYTES: u64 = 4 << 30;

impl Governance {
    /// Verifies the logs of all workspaces: whole when the process is new, and then what was added.
    pub(crate) async fn keep_verifying(self, every: Duration) {
        let mut seen = BTreeMap::new();
        let mut pause = FIRST_AFTER.min(every);
        while !self.services.node.has_stopped() {
            self.services.clock.sleep(pause).await;
            pause = every;
            let Ok(workspaces) = self.workspaces().await else { continue };
            for workspace in workspaces {
                // What moved here was checked elsewhere so far: the next check of it is a whole one.
                if !self.is_tenant_here(workspace) {
                    seen.remove(&workspace);
                    continue;
                }
                match self.self_check(workspace, seen.get(&workspace)).await {
                    Ok(Found::Intact(checkpoint)) => {
                        self.services.metrics.count_verification(true);
                        seen.insert(workspace, checkpoint);
                    }
                    Ok(Found::Broken(problem)) => {
                        tracing::error!(%workspace, problem, "the audit log does not verify");
                        self.services.metrics.count_verification(false);
                        // Whole again the next time.
                        seen.remove(&workspace);
                        self.tell_broken(workspace, problem).await;
                    }
                    Err(error) => {
                        tracing::warn!(%workspace, %error, "the audit log was not verified");
                    }
                }
            }
        }
    }

    async fn tell_broken(&self, workspace: WorkspaceId, problem: String) {
        let note = |reply| TenantMessage::NoteBroken(problem, reply);
        // Whether it is in the log or not, it is in the process's own.
        let _ = self.ask_tenant(workspace, note).await;
    }

    async fn self_check(
        &self,
        workspace: WorkspaceId,
        seen: Option<&SignedCheckpoint>,
    ) -> Result<Found, NotChecked> {
        let key_id = "self-check".to_owned();
        let principal = Principal { workspace, key_id, grant: Grant::Viewer };
        let permit: Permit<ReadAudit> = principal.authorize().map_err(GovernanceError::from)?;
        let since = seen.map(|seen| seen.checkpoint.time);
        let export = self.export(&permit, ExportFormat::JsonLines, since, "self-check").await;
        let export = match export {
            Err(GovernanceError::Damaged(damaged)) => {
                return Ok(Found::Broken(damaged.to_string()));
            }
            export => export?,
        };
        let log_key = self.log_verifier(&permit)?.to_string();
        let pinned = seen.map(|seen| seen.note.clone());
        let checkpoint = export.checkpoint.clone();
        let checking = tokio::task::spawn_blocking(move || check(export.chunks, &log_key, pinned));
        Ok(match checking.await?? {
            None => Found::Intact(checkpoint),
            Some(problem) => Found::Broken(problem),
        })
    }
}

/// What is wrong with an export, if anything is.
fn check(
    mut chunks: mpsc::Receiver<Result<Bytes, GovernanceError>>,
    log_key: &str,
    pinned: Option<String>,
) -> Result<Option<String>, NotChecked> {
    // Without a name: it goes with this process, and holds no more than the store does.
    let mut file = tempfile::tempfile()?;
    let mut bytes = 0;
    while let Some(chunk) = chunks.blocking_recv() {
        let chunk = match chunk {
            Err(GovernanceError::Damaged(damaged)) => return Ok(Some(damaged.to_string())),
            chunk => chunk?,
        };
        bytes += chunk.len() as u64;
        if bytes > MAX_BYTES {
            return Err(NotChecked::TooLarge);
        }
        file.write_all(&chunk)?;
    }
    file.rewind()?;
    let keys = serde_json::json!({"log_keys": [{"key": log_key}], "mac_keys": []});
    let keys = match Keys::parse(&keys.to_string()) {
        Ok(keys) => keys,
        Err(error) => return Ok(Some(error.to_string())),
    };
    let mut reader = BufReader::new(file);
    let mut exports = [aa_ledger::Export { name: "the log", reader: &mut reader }];
    let pinned = pinned.as_deref().map(|note| PinnedCheckpoint { name: "the last check", note });
    Ok(match verify(&mut exports, Some(&keys), pinned.as_ref()) {
        Ok(report) if report.intact => None,
        Ok(report) => Some(report.failure.map_or_else(String::new, |failure| failure.message)),
        Err(unreadable) => Some(unreadable.to_string()),
    })
}
