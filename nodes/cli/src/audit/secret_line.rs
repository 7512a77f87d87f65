//! What an entry about secrets says, in words.

use aa_ledger::{Entry, Kind};

/// What happened to a secret or its keys; `None` for what this version does not know.
pub(super) fn describe(entry: &Entry) -> Option<String> {
    if entry.kind != Kind::Secret {
        return None;
    }
    let text = |key: &str| entry.detail.get(key).map(String::as_str);
    Some(match text("change")? {
        "set" => format!("secret {} set, version {}", text("name")?, text("version")?),
        "deleted" => format!("secret {} deleted", text("name")?),
        "rotated" => format!("data key rotated; {} seals from now on", text("key")?),
        "rotation_finished" => "rotation of the data key finished: the old one is gone".to_owned(),
        "master_rotated" => format!("master key rotated to {}", text("master")?),
        "master_rotation_finished" => {
            "rotation of the master key finished: all data keys are under it".to_owned()
        }
        _ => return None,
    })
}
