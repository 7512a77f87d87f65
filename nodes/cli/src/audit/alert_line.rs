//! What an entry about alerts says, in words.

use aa_ledger::{Entry, Kind};

/// What was set of alerts, or was not delivered; `None` for what this version does not know.
pub(super) fn describe(entry: &Entry) -> Option<String> {
    if entry.kind != Kind::Alert {
        return None;
    }
    let text = |key: &str| entry.detail.get(key).map(String::as_str);
    Some(match text("change")? {
        "destination_set" => format!("{} destination {} set", text("channel")?, text("name")?),
        "destination_removed" => {
            let dropped = match text("dropped")? {
                "0" => String::new(),
                dropped => format!("; {dropped} messages for it were dropped"),
            };
            format!("destination {} removed{dropped}", text("name")?)
        }
        "rule_set" => {
            format!("rule {} set: {} are told of {}", text("name")?, text("to")?, text("events")?)
        }
        "rule_removed" => format!("rule {} removed", text("name")?),
        "undelivered" => format!(
            "{} did not take the message about {}, tried {} times: {}",
            text("name")?,
            text("event")?,
            text("attempts")?,
            text("problem")?
        ),
        "overflow" => {
            let (dead, dropped) = (text("dead")?, text("dropped")?);
            format!("{dead} messages found too many waiting; {dropped} dead letters made room")
        }
        "replayed" => format!("{} dead letters sent again", text("count")?),
        "discarded" => format!("{} dead letters discarded", text("count")?),
        _ => return None,
    })
}
