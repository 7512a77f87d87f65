//! What an entry about approval says, in words.

use aa_ledger::{Entry, Kind, Stream};

use crate::{approval::short_id, moment::short};

/// What became of a request, or who is asked from now on, without who did it; `None` for what this version does not
/// know.
pub(super) fn describe(entry: &Entry) -> Option<String> {
    if entry.kind != Kind::Approval {
        return None;
    }
    let text = |key: &str| entry.detail.get(key).map(String::as_str);
    let change = text("change")?;
    match entry.stream {
        Stream::Approval(id) => {
            // The line begins with whose it is.
            let what = of_request(change, text)?;
            Some(format!("request {} {what}", short_id(&id.to_string())))
        }
        _ => of_approvers(change, text),
    }
}

fn of_request<'a>(change: &str, text: impl Fn(&str) -> Option<&'a str>) -> Option<String> {
    match change {
        "asked" => {
            let (asks, deadline) = (text("asks")?, short(text("deadline")?));
            Some(format!("is before {asks} until {deadline}"))
        }
        "escalated" => {
            let groups = match text("asks")? {
                "" => "the workspace's owners and admins",
                groups => groups,
            };
            Some(format!("is before {groups} as well"))
        }
        "answered" => {
            let reason = text("reason").map(|reason| format!(": {reason}")).unwrap_or_default();
            match (text("answer")?, text("state")?) {
                ("approve", "approved") => {
                    let scope = match text("scope")? {
                        "session" => "for the session",
                        scope => scope,
                    };
                    Some(format!("approved, {scope}{reason}"))
                }
                ("approve", _) => Some(format!("approved, but others must as well{reason}")),
                ("deny", _) => Some(format!("denied{reason}")),
                _ => None,
            }
        }
        "expired" => Some("expired: nobody decided in time".to_owned()),
        "used" => Some("used".to_owned()),
        _ => None,
    }
}

fn of_approvers<'a>(change: &str, text: impl Fn(&str) -> Option<&'a str>) -> Option<String> {
    let chain = || match text("team")? {
        "" => Some("approval chain of the workspace".to_owned()),
        team => Some(format!("approval chain of team {team}")),
    };
    match change {
        "group_set" => {
            let members = match text("members")? {
                "" => "the owners and admins".to_owned(),
                members => members.replace(',', ", "),
            };
            let (name, needed) = (text("name")?, text("needed")?);
            Some(format!("approver group {name} set: {needed} of {members}"))
        }
        "group_removed" => Some(format!("approver group {} removed", text("name")?)),
        "chain_set" => {
            let stages: Vec<_> = text("stages")?.split(',').map(stage).collect();
            Some(format!("{} set: {}", chain()?, stages.join(", then ")))
        }
        "chain_removed" => Some(format!("{} removed", chain()?)),
        _ => None,
    }
}

/// `group:needed@share%` in words; as it is in entries of an earlier form.
fn stage(text: &str) -> String {
    let parts = text.rsplit_once(':').and_then(|(group, rest)| {
        let (needed, share) = rest.split_once('@')?;
        Some((group, needed, share))
    });
    match parts {
        None => text.to_owned(),
        Some(("", needed, share)) => format!("{needed} of the owners and admins {share}"),
        Some((group, needed, share)) => format!("{needed} of {group} {share}"),
    }
}

#[cfg(test)]
mod tests {
    use aa_ledger::{ChainHead, Draft, MacKey, seal};
    use aa_protocol::Timestamp;

    use super::*;

    fn described(stream: Stream, detail: &str) -> Option<String> {
        let pairs = detail.split(';').filter_map(|pair| pair.split_once('='));
        let mut detail: Vec<(&str, &str)> = pairs.collect();
        detail.sort_unstable();
        let event = "evt_01m82gee73000000000000001a".parse().unwrap();
        let workspace = "ws-a1b2c3d4-e5f6-7890-abcd-ef1234567890".parse().unwrap();
        let key = MacKey::new("k1", &[7; 32]).unwrap();
        let draft = Draft {
            detail: &detail,
            ..Draft::new(event, workspace, stream, Timestamp::from_micros(0), Kind::Approval)
        };
        let mut line = Vec::new();
        seal(&draft, &mut ChainHead::default(), &key, &mut line);
        describe(&Entry::parse(line.trim_ascii_end()).unwrap())
    }

    #[test]
    fn what_becomes_of_a_request_is_said_in_words() {
        let id = "11112222-3333-4444-8555-666600000001".parse().unwrap();
        for (detail, words) in [
            (
                "change=asked;asks=the group `leads`;deadline=2026-11-24T00:00:00.000000Z",
                "is before the group `leads` until 2026-11-24 00:00:00",
            ),
            ("change=escalated;asks=directors", "is before directors as well"),
            ("change=escalated;asks=", "is before the workspace's owners and admins as well"),
            (
                "change=answered;answer=approve;state=approved;scope=session;reason=fine",
                "approved, for the session: fine",
            ),
            (
                "change=answered;answer=approve;state=pending;scope=once",
                "approved, but others must as well",
            ),
            (
                "change=answered;answer=deny;state=denied;reason=not on a Friday",
                "denied: not on a Friday",
            ),
            ("change=expired;state=expired", "expired: nobody decided in time"),
            ("change=used", "used"),
        ] {
            let told = described(Stream::Approval(id), detail);
            assert_eq!(told, Some(format!("request 11112222 {words}")));
        }
        // A later version may tell more than this one knows.
        assert_eq!(described(Stream::Approval(id), "change=delegated"), None);
    }

    #[test]
    fn who_is_asked_from_now_on_is_said_in_words() {
        for (detail, words) in [
            (
                "change=group_set;members=a,b;name=leads;needed=2",
                "approver group leads set: 2 of a, b",
            ),
            (
                "change=group_set;members=;name=leads;needed=1",
                "approver group leads set: 1 of the owners and admins",
            ),
            ("change=group_removed;name=leads", "approver group leads removed"),
            (
                "change=chain_set;stages=leads:1@60%,directors:2@40%;team=x",
                "approval chain of team x set: 1 of leads 60%, then 2 of directors 40%",
            ),
            ("change=chain_removed;team=", "approval chain of the workspace removed"),
        ] {
            assert_eq!(described(Stream::Policies, detail).as_deref(), Some(words));
        }
    }
}
