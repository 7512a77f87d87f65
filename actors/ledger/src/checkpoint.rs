//! Checkpoints: the signed statement of a log's size and root (C2SP `tlog-checkpoint`).

use aa_protocol::{Timestamp, WorkspaceId};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use crate::{
    Hash, LogKey, NoteError, VerifierKey,
    format::{ORIGIN_PREFIX, TIME_LINE},
};

/// The state of one workspace's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Whose log it is.
    pub workspace: WorkspaceId,
    /// How many entries it has.
    pub size: u64,
    /// The root of the tree over them.
    pub root: Hash,
    /// When the statement was made.
    pub time: Timestamp,
}

/// Why a note is not a checkpoint of the wanted key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The note is malformed or not signed by the key.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// A line of the text is missing or has another form.
    #[error("the checkpoint's {0} is missing or malformed")]
    Line(&'static str),
}

// === impl Checkpoint ===

impl Checkpoint {
    /// The origin line of a workspace's checkpoints, which is also the name of its log keys.
    pub fn origin(workspace: WorkspaceId) -> String {
        format!("{ORIGIN_PREFIX}{workspace}")
    }

    /// The text that is signed.
    pub fn text(&self) -> String {
        let origin = Self::origin(self.workspace);
        let root = STANDARD.encode(self.root.as_bytes());
        format!("{origin}\n{}\n{root}\n{TIME_LINE}{}\n", self.size, self.time)
    }

    /// The signed note. A log must never sign two checkpoints of which one is not a prefix of the other.
    pub fn sign(&self, key: &LogKey) -> String {
        key.sign(&self.text())
    }

    /// Reads a note signed by `key`.
    ///
    /// # Errors
    /// The note is not signed by the key or its text is not a checkpoint's.
    pub fn open(note: &str, key: &VerifierKey) -> Result<Self, CheckpointError> {
        let text = key.open(note)?;
        let mut lines = text.lines();
        let mut line = |name| lines.next().ok_or(CheckpointError::Line(name));
        let workspace = line("origin")?
            .strip_prefix(ORIGIN_PREFIX)
            .and_then(|workspace| workspace.parse().ok())
            .ok_or(CheckpointError::Line("origin"))?;
        let size = line("size")?.parse().map_err(|_| CheckpointError::Line("size"))?;
        let root: [u8; 32] = STANDARD
            .decode(line("root")?)
            .ok()
            .and_then(|root| root.try_into().ok())
            .ok_or(CheckpointError::Line("root"))?;
        let time = line("time")?
            .strip_prefix(TIME_LINE)
            .and_then(|time| time.parse().ok())
            .ok_or(CheckpointError::Line("time"))?;
        let checkpoint = Self { workspace, size, root: Hash::from_bytes(root), time };
        // One text form each: what reads back differently was not written by a log.
        if checkpoint.text() != text {
            return Err(CheckpointError::Line("text"));
        }
        Ok(checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_reads_back_what_was_signed() {
        let workspace = "ws-a1b2c3d4-e5f6-7890-abcd-ef1234567890".parse().unwrap();
        let key = LogKey::new(&Checkpoint::origin(workspace), &[3; 32]).unwrap();
        let time = "2026-11-22T20:51:29.123456Z".parse().unwrap();
        let checkpoint = Checkpoint { workspace, size: 42, root: Hash::of_leaf(b"x"), time };
        let note = checkpoint.sign(&key);
        let expected = "agent-assembly/ws-a1b2c3d4-e5f6-7890-abcd-ef1234567890\n42\n";
        assert!(note.starts_with(expected), "{note}");
        assert!(note.contains("\ntime 2026-11-22T20:51:29.123456Z\n\n— agent-assembly/ws-"));
        assert_eq!(Checkpoint::open(&note, key.verifier()).unwrap(), checkpoint);
    }

    #[test]
    fn a_signed_text_in_another_form_is_refused() {
        let key = LogKey::new("log", &[3; 32]).unwrap();
        let root = STANDARD.encode([0; 32]);
        let origin = "agent-assembly/ws-a1b2c3d4-e5f6-7890-abcd-ef1234567890";
        for text in [
            format!("{origin}\n042\n{root}\ntime 2026-11-22T20:51:29.123456Z\n"),
            format!("{origin}\n42\n{root}\n"),
            format!("{origin}\n42\n{root}\ntime 2026-11-22T20:51:29Z\n"),
            format!("elsewhere\n42\n{root}\ntime 2026-11-22T20:51:29.123456Z\n"),
        ] {
            let refused = Checkpoint::open(&key.sign(&text), key.verifier());
            assert!(matches!(refused, Err(CheckpointError::Line(_))), "{text}");
        }
    }
}
