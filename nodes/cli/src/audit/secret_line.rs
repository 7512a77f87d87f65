//! What an entry about secrets says, in words.

use aa_ledger::{Entry, Kind};

/// What happened to a secret or its keys; `None` for what this version does not know. `name` gives the name of an agent
/// by its id.
pub(super) fn describe<'a>(entry: &'a Entry, name: impl Fn(&'a str) -> &'a str) -> Option<String> {
    if entry.kind != Kind::Secret {
        return None;
    }
    let text = |key: &str| entry.detail.get(key).map(String::as_str);
    Some(match text("change")? {
        "set" => {
            let set = format!("secret {} set, version {}", text("name")?, text("version")?);
            match text("release_to") {
                Some(hosts) => {
                    format!("{set}, released to {}{}", hosts.replace(',', ", "), only(entry, &name))
                }
                None => set,
            }
        }
        "released" => format!(
            "secret {}, version {}, released for {} to {}",
            text("name")?,
            text("version")?,
            name(text("agent")?),
            text("host")?
        ),
        "release_denied" => format!(
            "secret {} not released for {} to {}: {}",
            text("name")?,
            name(text("agent")?),
            text("host")?,
            why(text("reason")?)
        ),
        "release_withdrawn" => format!("secret {} released to no host any more", text("name")?),
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

/// Whom a release is restricted to.
fn only<'a>(entry: &'a Entry, name: impl Fn(&'a str) -> &'a str) -> String {
    let listed = |key: &str| entry.detail.get(key).map(String::as_str).unwrap_or_default();
    let items = |key| listed(key).split(',').filter(|item| !item.is_empty());
    let agents = items("release_agents").map(|agent| format!("agent {}", name(agent)));
    let teams = items("release_teams").map(|team| format!("team {team}"));
    let only: Vec<_> = agents.chain(teams).collect();
    if only.is_empty() { String::new() } else { format!(" for {}", only.join(", ")) }
}

fn why(reason: &str) -> &str {
    match reason {
        "agent_unknown" => "no such agent is registered",
        "agent_suspended" => "the agent is suspended",
        "unknown_secret" => "there is no such secret",
        "not_released" => "it is released to no host",
        "host" => "it is released to other hosts",
        "agent" => "it is released for other agents",
        // A later version may know more reasons.
        reason => reason,
    }
}

#[cfg(test)]
mod tests {
    use aa_ledger::{ChainHead, Draft, MacKey, Stream, seal};
    use aa_protocol::Timestamp;

    use super::*;

    fn described(detail: &str) -> Option<String> {
        let workspace = "ws-a1b2c3d4-e5f6-7890-abcd-ef1234567890".parse().unwrap();
        let event = "evt_01m82gee73000000000000001a".parse().unwrap();
        let detail: Vec<_> = detail.split(';').filter_map(|pair| pair.split_once('=')).collect();
        let (stream, time) = (Stream::Vault, Timestamp::from_micros(0));
        let draft =
            Draft { detail: &detail, ..Draft::new(event, workspace, stream, time, Kind::Secret) };
        let mut line = Vec::new();
        let key = MacKey::new("k1", &[7; 32]).unwrap();
        seal(&draft, &mut ChainHead::default(), &key, &mut line);
        let entry = Entry::parse(&line).unwrap();
        describe(&entry, |id| if id == "a-1" { "researcher" } else { id })
    }

    #[test]
    fn what_happens_to_a_secret_is_said_in_words() {
        for (detail, words) in [
            ("change=set;name=K;version=2", "secret K set, version 2"),
            (
                "change=set;name=K;version=2;release_to=a.example,*.b.example",
                "secret K set, version 2, released to a.example, *.b.example",
            ),
            (
                "change=set;name=K;version=2;release_to=a.example;release_agents=a-1;release_teams=x,y",
                "secret K set, version 2, released to a.example for agent researcher, team x, team y",
            ),
            (
                "change=released;name=K;version=2;agent=a-1;host=a.example",
                "secret K, version 2, released for researcher to a.example",
            ),
            (
                "change=release_denied;name=K;agent=a-2;host=e.example;reason=host",
                "secret K not released for a-2 to e.example: it is released to other hosts",
            ),
            ("change=release_withdrawn;name=K", "secret K released to no host any more"),
        ] {
            assert_eq!(described(detail).as_deref(), Some(words));
        }
        // A later version may tell more than this one knows.
        assert_eq!(described("change=lent;name=K"), None);
    }
}
