//! Secrets on their way to proxies: to whom, for how long, and what the log tells of it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use std::time::Duration;

use aa_governance::{
    GovernanceError, Grant, Permit, Principal,
    agent::AgentKeyId,
    permission::{ManageSecrets, ReleaseSecrets},
    release::{KEEP_FOR, Release, ReleaseError, Released},
};
use aa_ledger::{Entry, Kind};
use aa_policy::host::Host;
use aa_vault::SecretValue;
use world::World;

const MARKER: &str = "sk-marker-58d1";
const HOST: &str = "api.openai.com";

fn rule(hosts: &[&str], teams: &[&str]) -> Option<Release> {
    Some(Release::new(hosts, &[], teams).unwrap())
}

impl World {
    async fn set(&self, name: &str, value: &str, release: Option<Release>) -> u64 {
        let value = SecretValue::copy_of(value.as_bytes()).unwrap();
        let permit = self.permit::<ManageSecrets>();
        let set = self.governance.set_secret(&permit, name.parse().unwrap(), value, release);
        set.await.unwrap().version
    }

    async fn ask_as(
        &self,
        permit: &Permit<ReleaseSecrets>,
        agent: &AgentKeyId,
        secret: &str,
        host: &str,
    ) -> Result<Released, ReleaseError> {
        let (secret, host) = (secret.parse().unwrap(), Host::parse(host).unwrap());
        let released = self.governance.release_secret(permit, agent.agent, secret, &host).await;
        released.map_err(|error| match error {
            GovernanceError::Release(refused) => refused,
            error => panic!("{error}"),
        })
    }

    async fn release(&self, agent: &AgentKeyId, host: &str) -> Result<Released, ReleaseError> {
        let permit = self.permit_of("sidecar", Grant::Proxy);
        self.ask_as(&permit, agent, "openai", host).await
    }

    /// What the log tells of releases, oldest first: what, which version or why not, and the host.
    async fn told(&self) -> Vec<(String, String, String)> {
        let entries = self.verified_entries().await;
        let of = |entry: &Entry, key: &str| entry.detail.get(key).cloned().unwrap_or_default();
        let released = entries.iter().filter(|entry| {
            entry.kind == Kind::Secret && entry.detail["change"].starts_with("release")
        });
        released
            .map(|entry| {
                let what = of(entry, "version") + &of(entry, "reason");
                (of(entry, "change"), what, of(entry, "host"))
            })
            .collect()
    }
}

fn line(change: &str, what: &str, host: &str) -> (String, String, String) {
    (change.to_owned(), what.to_owned(), host.to_owned())
}

#[tokio::test]
async fn a_released_secret_is_in_the_log_once_for_as_long_as_it_may_be_kept() {
    let world = World::new().await;
    let agent = world.register("a").await;
    world.set("openai", MARKER, rule(&[HOST, "*.azure.example"], &[])).await;
    for _ in 0..3 {
        let released = world.release(&agent, HOST).await.unwrap();
        assert_eq!(released.value.expose_text(), Some(MARKER));
        assert_eq!((released.version, released.keep_for), (1, KEEP_FOR));
        assert!(!format!("{released:?}").contains(MARKER));
    }
    world.release(&agent, "x.azure.example").await.unwrap();
    let another = world.permit_of("other-sidecar", Grant::Proxy);
    world.ask_as(&another, &agent, "openai", HOST).await.unwrap();
    world.clock.advance(KEEP_FOR);
    world.release(&agent, HOST).await.unwrap();

    // A new value goes where the one before went, at once.
    assert_eq!(world.set("openai", "sk-rotated", None).await, 2);
    let rotated = world.release(&agent, HOST).await.unwrap();
    assert_eq!((rotated.value.expose_text(), rotated.version), (Some("sk-rotated"), 2));
    let first = line("released", "1", HOST);
    assert_eq!(
        world.told().await,
        [
            first.clone(),
            line("released", "1", "x.azure.example"),
            first.clone(),
            first,
            line("released", "2", HOST),
        ]
    );
    let entries = world.verified_entries().await;
    let entry = entries.iter().find(|entry| entry.detail.contains_key("host")).unwrap();
    assert_eq!(entry.actor.as_deref(), Some("key:sidecar"));
    assert_eq!(entry.detail["agent"], agent.agent.to_string());
    assert_eq!(entry.detail["name"], "openai");
    let export = world.export().await;
    assert!(!export.windows(MARKER.len()).any(|window| window == MARKER.as_bytes()));

    // What was told before is not known to the next process, which tells it again.
    let world = world.restarted().await;
    world.release(&agent, HOST).await.unwrap();
    assert_eq!(world.told().await.len(), 6);
}

#[tokio::test]
async fn who_may_not_have_a_secret_does_not_learn_whether_there_is_one() {
    let world = World::new().await;
    let agent = world.register("a").await;
    world.set("openai", MARKER, rule(&[HOST], &[])).await;
    world.set("kept", MARKER, None).await;
    world.set("theirs", MARKER, rule(&[HOST], &["finance"])).await;
    world.set("ours", MARKER, rule(&[HOST], &["finance", "platform"])).await;
    let permit = world.permit_of("sidecar", Grant::Proxy);
    for (secret, host) in [
        ("openai", "evil.example"),
        ("openai", "evil.api.openai.com"),
        ("openai", "api.openai.com.evil.example"),
        ("kept", HOST),
        ("none", HOST),
        ("theirs", HOST),
        // Asked twice, it is in the log once.
        ("none", HOST),
    ] {
        let refused = world.ask_as(&permit, &agent, secret, host).await.unwrap_err();
        assert_eq!(refused, ReleaseError::Denied, "{secret} {host}");
    }
    world.ask_as(&permit, &agent, "ours", HOST).await.unwrap();
    let told = world.told().await;
    let reasons: Vec<_> = told.iter().map(|(_, what, _)| what.as_str()).collect();
    let expected = ["host", "host", "host", "not_released", "unknown_secret", "agent", "4"];
    assert_eq!(reasons, expected);
}

#[tokio::test]
async fn nothing_is_released_for_an_agent_that_is_suspended_unknown_or_of_another_workspace() {
    let world = World::new().await;
    let agent = world.register("a").await;
    world.set("openai", MARKER, rule(&[HOST], &[])).await;
    let suspend = async |suspended| {
        let permit = world.permit();
        let set = world.governance.set_agent_status(&permit, agent.agent, suspended, String::new());
        set.await.unwrap();
    };
    suspend(true).await;
    let refused = world.release(&agent, HOST).await.unwrap_err();
    assert_eq!(refused, ReleaseError::AgentSuspended(agent.agent));
    suspend(false).await;
    world.release(&agent, HOST).await.unwrap();
    let nobody = world.id("nobody");
    let refused = world.release(&nobody, HOST).await.unwrap_err();
    assert_eq!(refused, ReleaseError::AgentUnknown(nobody.agent));

    let workspace = "ws-ffffffff-e5f6-7890-abcd-ef1234567890".parse().unwrap();
    world.governance.set_up_workspace(workspace, "other").await.unwrap();
    let stranger = Principal { workspace, key_id: "x".into(), grant: Grant::Proxy };
    let refused = world.ask_as(&stranger.authorize().unwrap(), &agent, "openai", HOST).await;
    assert_eq!(refused.unwrap_err(), ReleaseError::AgentUnknown(agent.agent));
    let reasons: Vec<_> = world.told().await.into_iter().map(|(_, what, _)| what).collect();
    assert_eq!(reasons, ["agent_suspended", "1", "agent_unknown"], "the stranger's own log has it");
}

#[tokio::test]
async fn where_a_secret_goes_is_changed_by_those_who_know_it_and_ended_by_others_too() {
    let world = World::new().await;
    let agent = world.register("a").await;
    world.set("openai", MARKER, rule(&[HOST], &[])).await;
    world.set("later", "x", None).await;
    // The same value for another host keeps its number.
    assert_eq!(world.set("openai", MARKER, rule(&["b.example"], &["platform"])).await, 1);
    assert_eq!(world.release(&agent, HOST).await.unwrap_err(), ReleaseError::Denied);
    world.release(&agent, "b.example").await.unwrap();
    // Who does not know the value has another one sent, not this.
    assert_eq!(world.set("openai", "guessed", rule(&["evil.example"], &[])).await, 3);
    let released = world.release(&agent, "evil.example").await.unwrap();
    assert_eq!(released.value.expose_text(), Some("guessed"));

    let world = world.restarted().await;
    world.release(&agent, "evil.example").await.unwrap();
    let permit = world.permit::<ManageSecrets>();
    for _ in 0..2 {
        let name = "openai".parse().unwrap();
        let status = world.governance.withdraw_secret(&permit, name).await.unwrap();
        assert_eq!((status.version, status.release), (3, None));
    }
    assert_eq!(world.release(&agent, "evil.example").await.unwrap_err(), ReleaseError::Denied);
    assert_eq!(world.set("openai", "guessed", None).await, 3);
    assert_eq!(world.release(&agent, "evil.example").await.unwrap_err(), ReleaseError::Denied);
    assert_eq!(world.set("next", "x", None).await, 4, "numbers go on where they were");

    let entries = world.verified_entries().await;
    let secrets = entries.iter().filter(|entry| entry.kind == Kind::Secret);
    let changes: Vec<_> = secrets
        .filter(|entry| !entry.detail.contains_key("host"))
        .map(|entry| {
            let listed = |key: &str| entry.detail.get(key).map(String::as_str).unwrap_or_default();
            (listed("change"), listed("release_to"), listed("release_teams"))
        })
        .collect();
    assert_eq!(
        changes,
        [
            ("set", HOST, ""),
            ("set", "", ""),
            ("set", "b.example", "platform"),
            ("set", "evil.example", ""),
            ("release_withdrawn", "", ""),
            ("set", "", ""),
        ]
    );
}

#[tokio::test]
async fn a_secret_is_released_while_its_keys_are_rotated() {
    let world = World::new().await;
    let agent = world.register("a").await;
    world.set("openai", MARKER, rule(&[HOST], &[])).await;
    world.governance.rotate_data_key(&world.permit()).await.unwrap();
    for _ in 0..20 {
        let released = world.release(&agent, HOST).await.unwrap();
        assert_eq!(released.value.expose_text(), Some(MARKER));
        world.clock.advance(Duration::from_secs(1));
        tokio::task::yield_now().await;
    }
    let status = world.governance.secrets(&world.permit()).await.unwrap();
    assert!(status.secrets[0].release.is_some(), "a value that is sealed anew keeps its rule");
}
