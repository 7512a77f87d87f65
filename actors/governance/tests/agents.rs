//! What an agent, its operator and its auditor can rely on.

mod world;

use std::{sync::Arc, time::Duration};

use aa_governance::{GovernanceError, Grant, Principal, policy_set::PolicyError};
use aa_ledger::Kind;
use aa_protocol::{ActionId, ReasonCode, Verdict};
use aa_runtime::{Fault, Reply, sim::SimStore};
use aa_store::Fault as StoreFault;
use world::{BASH, World, settled};

const NO_SHELL: &str = "\
apiVersion: agent-assembly/v1
kind: Policy
metadata: {name: no-shell, version: '1'}
spec:
  tools:
    bash: {allow: false}
";

const TWO_PER_HOUR: &str = "\
apiVersion: agent-assembly/v1
kind: Policy
metadata: {name: two-per-hour, version: '1'}
spec:
  tools:
    bash: {limit_per_hour: 2}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_workspace_starts_with_the_starter_policy() {
    let world = World::new().await;
    let agent = world.register("a").await;
    let answer = world.check(&agent, 1, BASH).await.unwrap();
    assert_eq!(answer.decision.verdict, Verdict::Allow);
    assert_eq!(answer.decision.reasons[0].policy.as_deref(), Some("starter"));
    assert_eq!(answer.decision.reasons[0].revision, Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_removes_every_policy_fails_closed() {
    let world = World::new().await;
    let agent = world.register("a").await;
    world.governance.remove_policy(&world.permit(), "starter".into()).await.unwrap();
    let answer = world.check(&agent, 1, BASH).await.unwrap();
    assert_eq!(answer.decision.verdict, Verdict::Deny);
    assert_eq!(answer.decision.reasons[0].code, ReasonCode::NoApplicablePolicy);
    // It stays so after a restart: setting up again brings no starter back.
    let world = world.restarted().await;
    world.governance.set_up_workspace(world.workspace, "test").await.unwrap();
    let answer = world.check(&agent, 2, BASH).await.unwrap();
    assert_eq!(answer.decision.verdict, Verdict::Deny);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_action_after_an_applied_policy_is_decided_by_it() {
    let world = World::new().await;
    let agent = world.register("a").await;
    assert_eq!(world.check(&agent, 1, BASH).await.unwrap().decision.verdict, Verdict::Allow);
    let applied = world.apply(NO_SHELL).await;
    assert!(applied.changed);
    let denied = world.check(&agent, 2, BASH).await.unwrap();
    assert_eq!(denied.decision.verdict, Verdict::Deny);
    let reason = &denied.decision.reasons[0];
    assert_eq!((reason.line, reason.path.as_deref()), (Some(6), Some("spec.tools.bash.allow")));
    assert!(!world.apply(NO_SHELL).await.changed, "the same bytes change nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_is_a_new_revision_of_the_earlier_source() {
    let world = World::new().await;
    let agent = world.register("a").await;
    world.apply(NO_SHELL).await;
    world.apply(&NO_SHELL.replace("false", "true")).await;
    assert_eq!(world.check(&agent, 1, BASH).await.unwrap().decision.verdict, Verdict::Allow);
    let back = world.governance.rollback_policy(&world.permit(), "no-shell".into(), None).await;
    let back = back.unwrap().revision;
    assert_eq!((back.revision, back.rollback_of), (3, Some(1)));
    assert_eq!(world.check(&agent, 2, BASH).await.unwrap().decision.verdict, Verdict::Deny);
    let history = world.governance.policy_history(&world.permit(), "no-shell").await.unwrap();
    assert_eq!(history.iter().map(|revision| revision.revision).collect::<Vec<_>>(), [3, 2, 1]);
    let unknown =
        world.governance.rollback_policy(&world.permit(), "no-shell".into(), Some(9)).await;
    assert!(matches!(
        unknown,
        Err(GovernanceError::Policy(PolicyError::UnknownRevision { latest: 3, .. }))
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_action_gets_the_recorded_decision_and_no_second_entry() {
    let world = World::new().await;
    let agent = world.register("a").await;
    let first = world.check(&agent, 7, BASH).await.unwrap();
    world.apply(NO_SHELL).await;
    let again = world.check(&agent, 7, BASH).await.unwrap();
    assert!(again.repeated && !first.repeated);
    assert_eq!(again.event, first.event);
    assert_eq!(again.decision.verdict, Verdict::Allow, "what was recorded, not a new decision");
    let world = world.restarted().await;
    let again = world.check(&agent, 7, BASH).await.unwrap();
    assert_eq!((again.event, again.repeated), (first.event, true), "after a restart too");
    let decisions = world.verified_entries().await;
    let decisions = decisions.iter().filter(|entry| entry.kind == Kind::Decision);
    assert_eq!(decisions.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_has_done_much_comes_back_from_a_slow_store() {
    const ACTIONS: u128 = 600;
    const RECENT: u128 = 512;
    let world = World::new().await;
    let agent = world.register("a").await;
    let mut events = Vec::new();
    for action in 0..ACTIONS {
        events.push(world.check(&agent, action, BASH).await.unwrap().event);
    }
    let store = SimStore::new(Arc::clone(&world.store), 1);
    let way = Arc::new(store.clone());
    let world = world.restarted_over(|_| way).await;
    // As many reads as there are recent actions would take longer than a transaction lasts.
    store.set_round_trip(Duration::from_millis(40));
    assert!(!world.check(&agent, ACTIONS, BASH).await.unwrap().repeated);
    store.set_round_trip(Duration::ZERO);
    for action in ACTIONS + 1 - RECENT..ACTIONS {
        let again = world.check(&agent, action, BASH).await.unwrap();
        assert_eq!((again.event, again.repeated), (events[action as usize], true));
    }
    let decisions = world.verified_entries().await;
    let decisions = decisions.iter().filter(|entry| entry.kind == Kind::Decision);
    assert_eq!(decisions.count() as u128, ACTIONS + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_at_once_with_one_id_get_one_decision() {
    let world = World::new().await;
    let agent = world.register("a").await;
    let (first, second) = tokio::join!(world.check(&agent, 1, BASH), world.check(&agent, 1, BASH));
    assert_eq!(first.unwrap().event, second.unwrap().event);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_commit_yields_exactly_one_entry() {
    for fault in [StoreFault::UnknownApplied, StoreFault::UnknownLost, StoreFault::Conflict] {
        // Once, and for longer than it is looked for.
        for times in [1, 8] {
            let world = World::new().await;
            let agent = world.register("a").await;
            world.check(&agent, 1, BASH).await.unwrap();
            world.faults.script(std::iter::repeat_n(Some(fault), times));
            let answer = world.check(&agent, 2, BASH).await;
            if times == 1 || fault == StoreFault::UnknownApplied {
                assert!(answer.is_ok(), "it finds out: {fault:?}, {answer:?}");
            } else {
                assert!(matches!(answer, Err(Fault::NotDurable(_) | Fault::Gone)), "{answer:?}");
            }
            world.check_again(&agent, 2, BASH).await;
            let id = ActionId::from_bytes(2_u128.to_be_bytes());
            let entries = world.verified_entries().await;
            let of_action =
                entries.iter().filter(|entry| entry.action.as_ref().is_some_and(|a| a.id == id));
            assert_eq!(of_action.count(), 1, "{fault:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_whose_commit_was_unknown_is_in_force_if_and_only_if_it_is_in_the_store() {
    for (fault, times, in_force) in [
        (StoreFault::UnknownApplied, 1, true),
        (StoreFault::UnknownLost, 1, true),
        (StoreFault::UnknownLost, 6, false),
    ] {
        let world = World::new().await;
        let agent = world.register("a").await;
        world.check(&agent, 1, BASH).await.unwrap();
        world.faults.script(std::iter::repeat_n(Some(fault), times));
        let source = bytes::Bytes::from_static(NO_SHELL.as_bytes());
        let applied =
            world.governance.apply_policy(&world.permit(), source, "flat".into(), false).await;
        if in_force {
            applied.unwrap();
        } else {
            let fault = applied.unwrap_err();
            assert!(matches!(fault, GovernanceError::Fault(Fault::NotDurable(_))), "{fault}");
        }
        let due = if in_force { Verdict::Deny } else { Verdict::Allow };
        let answer = world.check_again(&agent, 2, BASH).await;
        assert_eq!(answer.decision.verdict, due, "{fault:?}, {times} times");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_limit_holds_over_restarts_and_ends_after_an_hour() {
    let world = World::new().await;
    world.apply(TWO_PER_HOUR).await;
    let agent = world.register("a").await;
    assert_eq!(world.check(&agent, 1, BASH).await.unwrap().decision.verdict, Verdict::Allow);
    assert_eq!(world.check(&agent, 2, BASH).await.unwrap().decision.verdict, Verdict::Allow);
    let world = world.restarted().await;
    let third = world.check(&agent, 3, BASH).await.unwrap();
    assert_eq!(third.decision.verdict, Verdict::Deny);
    assert_eq!(third.decision.reasons[0].code, ReasonCode::RateLimited);
    world.clock.advance(Duration::from_secs(3_600));
    let later = world.check_again(&agent, 4, BASH).await;
    assert_eq!(later.decision.verdict, Verdict::Allow);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_agent_leaves_memory_and_comes_back_with_chain_counters_and_status() {
    let world = World::new().await;
    world.apply(TWO_PER_HOUR).await;
    let agent = world.register("a").await;
    let first = world.check(&agent, 1, BASH).await.unwrap();
    world.check(&agent, 2, BASH).await.unwrap();
    let idle = async {
        while world.governance.agent_stats().passivated == 0 {
            world.clock.advance(Duration::from_secs(1));
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(world::PATIENCE, idle).await.expect("it leaves memory");
    assert_eq!(world.governance.agent_stats().active, 0);
    // The hour since the two calls may be over by the hurried clock; the repeat and the chain are not.
    let again = world.check_again(&agent, 1, BASH).await;
    assert_eq!((again.event, again.repeated), (first.event, true));
    let status = world.governance.agent(&world.permit(), agent.agent).await.unwrap();
    assert_eq!(status.entries, 3);
    world.verified_entries().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_agent_is_denied_everything_until_it_is_resumed() {
    let world = World::new().await;
    let agent = world.register("a").await;
    let mut notices = world.governance.notices(world.workspace);
    let suspend = |suspend| {
        let (governance, permit) = (world.governance.clone(), world.permit());
        let reason = "under review".to_owned();
        async move { governance.set_agent_status(&permit, agent.agent, suspend, reason).await }
    };
    let record = suspend(true).await.unwrap();
    assert_eq!(record.suspended.unwrap().by, "key:test");
    let denied = world.check(&agent, 1, BASH).await.unwrap();
    assert_eq!(denied.decision.verdict, Verdict::Deny);
    assert_eq!(denied.decision.reasons[0].code, ReasonCode::AgentSuspended);
    assert_eq!(
        notices.recv().await.unwrap(),
        aa_governance::notice::Notice::StatusChanged { agent: agent.agent, suspended: true }
    );
    // Registering anew is no way out.
    world.register("a").await;
    assert_eq!(world.check(&agent, 2, BASH).await.unwrap().decision.verdict, Verdict::Deny);
    suspend(false).await.unwrap();
    assert_eq!(world.check(&agent, 3, BASH).await.unwrap().decision.verdict, Verdict::Allow);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_never_registered_is_told_so() {
    let world = World::new().await;
    let (reply, answer) = Reply::channel();
    let request = aa_governance::agent::Request::new(
        ActionId::from_bytes([1; 16]),
        world::action_of(BASH),
        aa_protocol::Timestamp::from_micros(0),
    );
    world.governance.check(&world.id("ghost"), request, reply);
    assert!(settled(answer).await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sensitive_match_is_in_no_entry() {
    let world = World::new().await;
    world
        .apply("version: '1'\nscope: global\ndata:\n  sensitive_patterns: ['sk-[a-z0-9]{8}']\n")
        .await;
    let agent = world.register("a").await;
    let action = r#"{"kind":"network_connect","host":"sk-abcdef12","port":443}"#;
    let answer = world.check(&agent, 1, action).await.unwrap();
    assert_eq!(answer.decision.verdict, Verdict::Deny);
    assert_eq!(answer.decision.findings[0].pointer, "/host");
    let text = String::from_utf8(world.export().await).unwrap();
    assert!(!text.contains("sk-abcdef12"));
    assert!(text.contains("[redacted]"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_chain_of_many_agents_is_in_one_verified_tree() {
    let world = World::new().await;
    let mut agents = Vec::new();
    for number in 0..20 {
        agents.push(world.register(&format!("agent-{number}")).await);
    }
    for round in 0..30_u128 {
        for agent in &agents {
            world.check(agent, round, BASH).await.unwrap();
        }
        if round % 10 == 0 {
            // Checkpoints in between: the tree grows in several steps.
            world.governance.checkpoint(&world.permit()).await.unwrap();
        }
    }
    let entries = world.verified_entries().await;
    assert_eq!(entries.iter().filter(|entry| entry.kind == Kind::Decision).count(), 600);
    let world = world.restarted().await;
    world.check(&agents[0], 1_000, BASH).await.unwrap();
    assert_eq!(world.verified_entries().await.len(), entries.len() + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_entries_goes_on_where_the_last_one_ended() {
    use aa_governance::audit::Filter;
    let world = World::new().await;
    let agents = [world.register("a").await, world.register("b").await, world.register("c").await];
    for number in 0..60 {
        world.clock.advance(Duration::from_micros(1));
        world.check(&agents[number % 3], number as u128, BASH).await.unwrap();
    }
    let all = world.verified_entries().await.len();
    let (permit, filter) = (world.permit(), Filter::default());
    let mut seen = Vec::new();
    let mut cursor = None;
    loop {
        let page = world.governance.entries(&permit, &filter, cursor.as_ref(), 7).await.unwrap();
        seen.extend(page.lines);
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    let times: Vec<_> =
        seen.iter().map(|line| aa_ledger::Entry::parse(line).unwrap().time).collect();
    assert!(times.is_sorted_by(|newer, older| newer >= older));
    let unique: std::collections::HashSet<_> = seen.iter().collect();
    assert_eq!((unique.len(), seen.len()), (all, all));

    let mut tail = world.governance.entries_after(&permit, &filter, None, 10).await.unwrap();
    assert!(tail.lines.is_empty());
    world.check(&agents[0], 100, BASH).await.unwrap();
    let at = tail.next.take();
    tail = world.governance.entries_after(&permit, &filter, at.as_ref(), 10).await.unwrap();
    assert_eq!(tail.lines.len(), 1);
    let at = tail.next;
    let rest = world.governance.entries_after(&permit, &filter, at.as_ref(), 10).await.unwrap();
    assert!(rest.lines.is_empty(), "nothing comes twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_one_workspace_is_readable_from_another() {
    let world = World::new().await;
    let agent = world.register("a").await;
    world.check(&agent, 1, BASH).await.unwrap();
    let other = "ws-ffffffff-e5f6-7890-abcd-ef1234567890".parse().unwrap();
    world.governance.set_up_workspace(other, "other").await.unwrap();
    let stranger = Principal { workspace: other, key_id: "x".into(), grant: Grant::Owner };
    let (governance, read) = (&world.governance, stranger.authorize().unwrap());
    assert!(governance.agent(&read, agent.agent).await.is_err());
    assert!(governance.agents(&read, None, 10).await.unwrap().is_empty());
    let audit = stranger.authorize().unwrap();
    let page = governance.entries(&audit, &Default::default(), None, 100).await.unwrap();
    let other_text = other.to_string();
    assert!(page.lines.iter().all(|line| { String::from_utf8_lossy(line).contains(&other_text) }));
    let manage = stranger.authorize().unwrap();
    assert!(governance.set_agent_status(&manage, agent.agent, true, String::new()).await.is_err());
}
