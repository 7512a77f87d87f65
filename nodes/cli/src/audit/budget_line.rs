//! What an entry about a budget says, in words.

use aa_ledger::{Entry, Kind, Stream};
use aa_protocol::NanoUsd;

use crate::moment::short;

/// What happened to a budget or to the prices, without who did it; `None` for what this version does not know. `name`
/// gives the name of an agent by its id.
pub(super) fn describe<'a>(entry: &'a Entry, name: impl Fn(&'a str) -> &'a str) -> Option<String> {
    if entry.kind != Kind::Budget {
        return None;
    }
    let text = |key: &str| entry.detail.get(key).map(String::as_str);
    let change = text("change")?;
    if change == "prices" {
        return Some(format!("prices set, {} of them the workspace's own", text("overrides")?));
    }
    let window = text("window")?;
    let budget = match entry.stream {
        // The line begins with whose it is.
        Stream::Budget(_) => format!("{window} budget"),
        _ => format!("{window} budget of {}", spender(text("spender")?, &name)),
    };
    let money = |key: &str| text(key)?.parse().ok().map(NanoUsd).map(|money| money.to_string());
    let limits = || {
        let tokens = text("limit_tokens").map(|tokens| format!("{tokens} tokens"));
        money("limit_nano_usd").into_iter().chain(tokens).collect::<Vec<_>>().join(" and ")
    };
    let standing = || {
        let (spent, reserved) = (money("spent_nano_usd")?, money("reserved_nano_usd")?);
        let tokens = text("spent_tokens")?;
        let (limits, resets) = (limits(), short(text("resets_at")?));
        let of = if limits.is_empty() { String::new() } else { format!(" of {limits}") };
        Some(format!("{spent} ({tokens} tokens){of} spent, {reserved} reserved, resets {resets}"))
    };
    match change {
        "set" => {
            let (limits, action) = (limits(), text("action")?);
            let alerts = match text("alert_at")? {
                "" => "no alerts".to_owned(),
                alerts => format!("alerts at {} %", alerts.replace(',', ", ")),
            };
            Some(format!("{budget} set: {limits}; {action} when exceeded; {alerts}"))
        }
        "removed" => Some(format!("{budget} removed")),
        "threshold" => Some(format!("{budget} reached {} %: {}", text("percent")?, standing()?)),
        "refused" => Some(format!("{budget} refuses calls: {}", standing()?)),
        "expired" => {
            let (posted, agent) = (money("posted_nano_usd")?, name(text("agent")?));
            let call = format!("{posted} for a call of {agent} that nobody settled");
            Some(format!("{budget} charged {call}: {}", standing()?))
        }
        _ => None,
    }
}

/// Whose budget it is, an agent by its name.
pub(super) fn spender<'a>(spender: &'a str, name: impl Fn(&'a str) -> &'a str) -> String {
    match spender.strip_prefix("agent ") {
        Some(id) => name(id).to_owned(),
        None => spender.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use aa_ledger::{ChainHead, Draft, MacKey, seal};
    use aa_protocol::{AgentId, BudgetId, Timestamp, WorkspaceId};

    use super::*;

    fn described(stream: Stream, detail: &[(&str, &str)]) -> Option<String> {
        let (event, workspace, _) = ids();
        let key = MacKey::new("k1", &[7; 32]).unwrap();
        let draft = Draft {
            detail,
            ..Draft::new(event, workspace, stream, Timestamp::from_micros(0), Kind::Budget)
        };
        let mut line = Vec::new();
        seal(&draft, &mut ChainHead::default(), &key, &mut line);
        let entry = Entry::parse(line.trim_ascii_end()).unwrap();
        describe(&entry, |_| "researcher")
    }

    fn ids() -> (aa_protocol::EventId, WorkspaceId, BudgetId) {
        let workspace = "ws-a1b2c3d4-e5f6-7890-abcd-ef1234567890".parse().unwrap();
        let event = "evt_01m82gee73000000000000001a".parse().unwrap();
        (event, workspace, BudgetId::of_name(workspace, "b"))
    }

    const STANDING: [(&str, &str); 8] = [
        ("spender", "team platform"),
        ("window", "daily"),
        ("resets_at", "2026-11-24T00:00:00.000000Z"),
        ("spent_nano_usd", "20000000000"),
        ("reserved_nano_usd", "1000000000"),
        ("spent_tokens", "1200"),
        ("limit_nano_usd", "25000000000"),
        ("zone", "UTC"),
    ];

    #[test]
    fn what_a_window_tells_is_said_with_where_it_stands() {
        let (_, _, budget) = ids();
        let told = |change: &[(&str, &str)]| {
            let detail: Vec<_> = STANDING.iter().chain(change).copied().collect();
            described(Stream::Budget(budget), &detail)
        };
        let standing =
            "$20.00 (1200 tokens) of $25.00 spent, $1.00 reserved, resets 2026-11-24 00:00:00";
        assert_eq!(
            told(&[("change", "threshold"), ("percent", "80")]).unwrap(),
            format!("daily budget reached 80 %: {standing}")
        );
        assert_eq!(
            told(&[("change", "refused")]).unwrap(),
            format!("daily budget refuses calls: {standing}")
        );
        let agent = AgentId::of_name(ids().1, "a").to_string();
        let expired = [
            ("change", "expired"),
            ("agent", agent.as_str()),
            ("action", "x"),
            ("posted_nano_usd", "125000"),
            ("posted_tokens", "3"),
        ];
        assert_eq!(
            told(&expired).unwrap(),
            format!(
                "daily budget charged $0.000125 for a call of researcher that nobody settled: \
                 {standing}"
            )
        );
        // A later version may tell more than this one knows.
        assert_eq!(told(&[("change", "frozen")]), None);
        assert_eq!(told(&[]), None);
    }

    #[test]
    fn what_an_operator_changes_names_the_budget() {
        let policies = |detail: &[(&str, &str)]| described(Stream::Policies, detail).unwrap();
        let set = [
            ("action", "deny"),
            ("alert_at", "50,80"),
            ("change", "set"),
            ("limit_nano_usd", "25000000000"),
            ("limit_tokens", "1000"),
            ("spender", "team platform"),
            ("window", "daily"),
        ];
        assert_eq!(
            policies(&set),
            "daily budget of team platform set: $25.00 and 1000 tokens; deny when exceeded; alerts \
             at 50, 80 %"
        );
        let removed = [("change", "removed"), ("spender", "workspace"), ("window", "monthly")];
        assert_eq!(policies(&removed), "monthly budget of workspace removed");
        let prices = [("change", "prices"), ("overrides", "3"), ("sha256", "x")];
        assert_eq!(policies(&prices), "prices set, 3 of them the workspace's own");
    }

    #[test]
    fn an_agent_is_named() {
        assert_eq!(spender("agent 1234", |_| "researcher"), "researcher");
        assert_eq!(spender("team agent x", |_| "researcher"), "team agent x");
    }
}
