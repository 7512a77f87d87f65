//! What callers of an actor can rely on when its shard lives on one of many nodes that come, go and fall silent.
//! Time is simulated: every wait is bounded by it, and a test takes no longer than its work.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod counters;

use std::{sync::Arc, time::Duration};

use aa_runtime::{
    Clock, ClusterOptions, Entity, Fault, Heard, Protocols, ShardId, cluster, sim::Link,
};
use aa_store::{Fault as StoreFault, Faults, KeyRange, MemoryStore, Order, SystemClock};
use bytes::Bytes;

use self::counters::{Ask, Counter, PATIENCE, START, World, ids, options};

#[tokio::test(start_paused = true)]
async fn any_node_answers_for_any_actor() {
    let world = World::of(&["a", "b", "c"]).await;
    for (turn, at) in ["a", "b", "c"].into_iter().enumerate() {
        for id in ids() {
            assert_eq!(world.ask(at, &id, Ask::Add).await, Ok(turn as u64 + 1), "{id} by {at}");
        }
    }
    let sent: u64 = world.nodes.values().map(|member| member.node.relay().stats().sent).sum();
    assert!(sent > 40, "the test went over the network");
}

#[tokio::test(start_paused = true)]
async fn a_shard_has_one_owner_at_a_time_and_every_node_a_share() {
    let world = World::of(&["a", "b", "c"]).await;
    for _ in 0..500 {
        for shard in (0..256).map(aa_runtime::ShardId) {
            let owners = world.nodes.values().filter(|member| member.node.live(shard).is_some());
            assert!(owners.count() <= 1, "{shard}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world
        .until("all have their share", |world| {
            world.shares().values().all(|share| (68..=103).contains(share))
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn what_a_crashed_node_had_acknowledged_is_there_within_the_lease() {
    let mut world = World::of(&["a", "b", "c"]).await;
    for id in ids() {
        assert_eq!(world.ask("a", &id, Ask::Add).await, Ok(1));
    }
    world.crash("b");
    let crashed = tokio::time::Instant::now();
    for id in ids() {
        assert_eq!(world.ask("c", &id, Ask::Get).await, Ok(1), "{id}");
    }
    let took = crashed.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    world.settle().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_cut_off_from_the_store_stops_answering_before_others_take_over() {
    let world = World::of(&["a", "b", "c"]).await;
    let id = ids().find(|id| world.owner_of(id) == Some("b")).unwrap();
    assert_eq!(world.ask("b", &id, Ask::Add).await, Ok(1));
    world.nodes["b"].store.set_cut(true);
    let mut others = 0;
    while others == 0 {
        let here = |name: &&str| world.nodes[*name].directory.is_here(&id);
        let serving: Vec<_> = ["a", "b", "c"].into_iter().filter(here).collect();
        assert!(serving.len() <= 1, "two serve it: {serving:?}");
        others = serving.iter().filter(|name| **name != "b").count();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(world.ask("a", &id, Ask::Add).await, Ok(2));
    // Once it reaches the store again it is a member like the others, and knows where the shard is.
    world.nodes["b"].store.set_cut(false);
    world.until("it is back", |world| world.nodes["b"].node.serves()).await;
    assert_eq!(world.ask("b", &id, Ask::Add).await, Ok(3));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_nobody_reaches_for_a_while_moves_no_shard() {
    let world = World::of(&["a", "b", "c"]).await;
    let before = world.shares();
    world.nodes.values().for_each(|member| member.store.set_cut(true));
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(world.shares().values().all(|share| *share == 0), "nobody answers without the store");
    world.nodes.values().for_each(|member| member.store.set_cut(false));
    world.until("all are back", |world| world.shares() == before).await;
}

#[tokio::test(start_paused = true)]
async fn a_planned_move_loses_no_message() {
    let world = World::of(&["a", "b"]).await;
    let id = ids().find(|id| world.owner_of(id) == Some("a")).unwrap();
    let shard = aa_runtime::ShardId::of(Counter::KIND, id.as_bytes(), 256);
    let mut expected = 0;
    for to in ["b", "a", "b", "a"] {
        cluster::order_moves(&*world.store, &[(shard, to)]).await.unwrap();
        while world.owner_of(&id) != Some(to) {
            expected += 1;
            let at = if expected % 2 == 0 { "a" } else { "b" };
            assert_eq!(world.ask(at, &id, Ask::Add).await, Ok(expected));
        }
    }
    assert!(expected > 4, "the test exercised what it is about");
}

/// With a long lease, so that nobody is rescued by the next beat.
#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_beat_when_many_shards_move_at_once() {
    let mut world = World::new();
    for name in ["a", "b"] {
        let options = ClusterOptions { lease: Duration::from_secs(30), ..options(name) };
        world.start(name, options).await.unwrap();
    }
    world.settle().await;
    // Slow enough for readings of the owners to overlap with their changes.
    world.nodes.values().for_each(|member| member.store.set_round_trip(Duration::from_millis(50)));
    let clock = world.clock.clone();
    for (from, to) in [("a", "b"), ("b", "a"), ("a", "b"), ("b", "a"), ("a", "b"), ("b", "a")] {
        let moved: Vec<String> = ids().filter(|id| world.owner_of(id) == Some(from)).collect();
        let shard = |id: &String| ShardId::of(Counter::KIND, id.as_bytes(), 256);
        let ordering = async {
            for id in &moved {
                cluster::order_moves(&*world.store, &[(shard(id), to)]).await.unwrap();
                world.nodes[from].node.announce();
                tokio::time::sleep(Duration::from_millis(37)).await;
            }
        };
        let asking = moved.iter().map(async |id| {
            while world.owner_of(id) != Some(to) {
                let asked = clock.elapsed();
                world.ask(from, id, Ask::Add).await.unwrap();
                let waited = clock.elapsed().saturating_sub(asked);
                assert!(waited < Duration::from_secs(2), "{id} was answered after {waited:?}");
            }
        });
        futures::join!(ordering, futures::future::join_all(asking));
    }
}

#[tokio::test(start_paused = true)]
async fn a_drained_node_has_no_shard_and_is_given_none_until_it_may_take_some_again() {
    let mut world = World::of(&["a", "b", "c"]).await;
    cluster::order_drain(&*world.store, "b", true).await.unwrap();
    world.until("b is empty", |world| world.shares()["b"] == 0).await;
    world.crash("c");
    world.until("a has all", |world| world.shares()["a"] == 256).await;
    assert_eq!(world.shares()["b"], 0);
    cluster::order_drain(&*world.store, "b", false).await.unwrap();
    world.settle().await;
}

#[tokio::test(start_paused = true)]
async fn a_long_lease_makes_nobody_wait_who_joins_balances_drains_or_stops() {
    let mut took = Vec::new();
    for lease in [ClusterOptions::LEASE, Duration::from_secs(60)] {
        let lasting = |name| ClusterOptions { lease, ..options(name) };
        let mut world = World::new();
        world.start("a", lasting("a")).await.unwrap();
        world.until("a has all", |world| world.shares()["a"] == 256).await;
        let begun = tokio::time::Instant::now();
        world.start("b", lasting("b")).await.unwrap();
        let joined = begun.elapsed();
        world.settle().await;
        let balanced = begun.elapsed() - joined;

        let begun = tokio::time::Instant::now();
        cluster::order_drain(&*world.store, "b", true).await.unwrap();
        world.nodes["a"].node.announce();
        world.until("b is empty", |world| world.shares()["b"] == 0).await;
        let drained = begun.elapsed();
        cluster::order_drain(&*world.store, "b", false).await.unwrap();
        world.settle().await;

        let begun = tokio::time::Instant::now();
        world.nodes["a"].node.stop().await;
        world.until("b has all", |world| world.shares()["b"] == 256).await;
        took.push([joined, balanced, drained, begun.elapsed()]);
    }
    let few = Duration::from_secs(1);
    let [joined, balanced, drained, stopped] = took[1];
    // Of a node it takes two beats to know whether it is alive, and for one more nobody hears that it is there.
    assert!(joined < Duration::from_secs(11), "{took:?}");
    assert!(balanced < took[0][1] + Duration::from_secs(10), "{took:?}");
    assert!(drained < few && stopped < few, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_table_that_somebody_edited_is_mended() {
    let world = World::of(&["a", "b"]).await;
    let mut txn = world.store.begin().await.unwrap();
    let edits = [
        (0_u16, "{}"),
        (1, "not JSON"),
        (2, r#"{"owner":{"node":"nobody","incarnation":7}}"#),
        (3, r#"{"owner":{"node":"a","incarnation":7}}"#),
        (999, r#"{"owner":{"node":"a","incarnation":7}}"#),
    ];
    for (shard, edit) in edits {
        let key = [b"shard_owner/".as_slice(), &shard.to_be_bytes()].concat();
        txn.put(key.into(), Bytes::from_static(edit.as_bytes()));
    }
    txn.commit().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.settle().await;
    for id in ids() {
        assert_eq!(world.insist("a", &id, Ask::Add).await, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stops_hands_over_first() {
    let mut world = World::of(&["a", "b"]).await;
    for id in ids() {
        assert_eq!(world.ask("a", &id, Ask::Add).await, Ok(1));
    }
    let leaving = world.nodes.remove("b").unwrap();
    let begun = tokio::time::Instant::now();
    leaving.node.stop().await;
    world.net.pull_out("b");
    world.until("a has all", |world| world.shares()["a"] == 256).await;
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    for id in ids() {
        assert_eq!(world.ask("a", &id, Ask::Add).await, Ok(2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_partition_between_nodes_leaves_callers_with_an_answer_in_time() {
    let world = World::of(&["a", "b"]).await;
    let id = ids().find(|id| world.owner_of(id) == Some("b")).unwrap();
    for (from, to) in [("a", "b"), ("b", "a")] {
        world.net.set_link(from, to, Link { is_cut: true, ..Link::default() });
        let asked = tokio::time::Instant::now();
        let fault = world.ask("a", &id, Ask::Add).await.unwrap_err();
        assert!(matches!(fault, Fault::Unreachable { .. }), "{fault}");
        assert!(asked.elapsed() < Duration::from_secs(31));
        world.net.heal();
    }
    // The first was lost on its way there, the second on its way back.
    assert_eq!(world.ask("a", &id, Ask::Get).await, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_fit_in_is_refused_with_the_reason() {
    let mut world = World::of(&["a", "b"]).await;
    let cases: [(ClusterOptions, &str); 4] = [
        (ClusterOptions { cluster: "test".to_owned(), ..options("x") }, "key prefix of its own"),
        (ClusterOptions { identity: "forged".to_owned(), ..options("x") }, "certificate authority"),
        (
            ClusterOptions { protocols: Protocols { lowest: 8, highest: 9 }, ..options("x") },
            "bring `a` to a version that speaks protocol 8 first; upgrade by one version at a time",
        ),
        (
            ClusterOptions { protocols: Protocols { lowest: 0, highest: 0 }, ..options("x") },
            "too old for the cluster: run the version of the other nodes",
        ),
    ];
    for (options, advice) in cases {
        let refused = world.start("x", options).await.unwrap_err().to_string();
        assert!(refused.contains(advice), "{refused}");
    }
    let clock = world.clock.another();
    clock.set_skew(3_600_000_000);
    let refused = world.start_with("x", options("x"), clock).await.unwrap_err().to_string();
    assert!(refused.contains("3600") && refused.contains("NTP"), "{refused}");
    let elsewhere = ClusterOptions { address: "elsewhere:7100".to_owned(), ..options("a") };
    let refused = world.start("a", elsewhere).await.unwrap_err().to_string();
    assert!(refused.contains("a name of its own"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_wrong_while_it_runs_takes_its_node_out() {
    let mut world = World::of(&["a", "b"]).await;
    let clock = world.clock.another();
    world.start_with("c", options("c"), clock.clone()).await.unwrap();
    world.settle().await;
    clock.set_skew(-3_600_000_000);
    world.until("c serves nothing", |world| world.shares()["c"] == 0).await;
    assert!(world.nodes["a"].node.serves() && world.nodes["b"].node.serves());
    clock.set_skew(0);
    world.until("c serves", |world| world.nodes["c"].node.serves()).await;
    assert!(clock.now() > START);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_starts_again_under_its_name_takes_its_shards_at_once() {
    let mut world = World::of(&["a", "b"]).await;
    for id in ids() {
        assert_eq!(world.ask("a", &id, Ask::Add).await, Ok(1));
    }
    world.crash("b");
    world.start("b", options("b")).await.unwrap();
    let begun = tokio::time::Instant::now();
    for id in ids() {
        assert_eq!(world.ask("b", &id, Ask::Add).await, Ok(2));
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn news_reach_every_node_in_one_order_and_who_waits_for_all_waits_for_the_slowest() {
    let mut world = World::of(&["a", "b", "c"]).await;
    let mut readers: Vec<_> = world.nodes.values().map(|member| member.node.read_news()).collect();
    for id in ids() {
        assert_eq!(world.ask("a", &id, Ask::Shout).await, Ok(0));
    }
    let mut heard = Vec::new();
    for reader in &mut readers {
        let mut news = Vec::new();
        while news.len() < ids().count() {
            let next = tokio::time::timeout(PATIENCE, reader.recv()).await.unwrap().unwrap();
            let Heard::News { stamp, body } = next else { panic!("nothing was missed") };
            news.push((stamp, body));
        }
        heard.push(news);
    }
    assert!(heard[0].is_sorted_by(|left, right| left.0 < right.0));
    assert!(heard.iter().all(|news| *news == heard[0]), "all heard the same");

    let last = heard[0].last().unwrap().0;
    let waiting = world.nodes["a"].node.clone();
    let mut all_know = tokio::spawn(async move { waiting.until_all_know(last).await });
    world.nodes["a"].node.know(last);
    world.nodes["b"].node.know(last);
    let early = tokio::time::timeout(Duration::from_secs(10), &mut all_know).await;
    assert!(early.is_err(), "c does not know yet");
    world.crash("c");
    let waited = tokio::time::timeout(Duration::from_secs(4), all_know).await;
    assert!(waited.is_ok(), "nobody waits for a node whose lease has ended");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_joins_late_or_was_away_for_long_knows_that_it_missed_something() {
    let mut world = World::of(&["a"]).await;
    assert_eq!(world.ask("a", "x", Ask::Shout).await, Ok(0));
    world.start("b", options("b")).await.unwrap();
    let mut news = world.nodes["b"].node.read_news();
    world.settle().await;
    assert!(news.try_recv().is_err(), "it has read nothing that older news could tell of");
    world.nodes["b"].store.set_cut(true);
    for _ in 0..1_300 {
        world.insist("a", "x", Ask::Shout).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    world.nodes["b"].store.set_cut(false);
    let first = tokio::time::timeout(PATIENCE, news.recv()).await.unwrap();
    assert_eq!(first, Some(Heard::Missed));
    let mut txn = world.store.begin().await.unwrap();
    let kept = txn.range_snapshot(&KeyRange::prefix(b"news/"), 9_999, Order::Forward).await;
    assert!((590..=650).contains(&kept.as_ref().unwrap().len()), "{}", kept.unwrap().len());
}

#[tokio::test(start_paused = true)]
async fn clocks_that_run_at_different_speeds_never_make_two_owners() {
    let mut world = World::new();
    for (name, drift) in [("a", 50_000), ("b", -50_000), ("c", 0)] {
        let clock = world.clock.another();
        clock.set_drift(drift);
        let borne = ClusterOptions { max_skew: Duration::from_secs(600), ..options(name) };
        world.start_with(name, borne, clock).await.unwrap();
    }
    world.settle().await;
    for cut in ["a", "b", "c"] {
        world.nodes[cut].store.set_cut(true);
        for _ in 0..800 {
            for shard in (0..256).map(aa_runtime::ShardId) {
                let serving = world.nodes.values().filter(|m| m.node.live(shard).is_some());
                assert!(serving.count() <= 1, "{shard} when {cut} is cut off");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        world.nodes[cut].store.set_cut(false);
        world.until("it is back", |world| world.nodes[cut].node.serves()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_starts_though_others_are_in_the_way_of_its_first_writes() {
    let faults = Faults::none();
    let store = MemoryStore::with(Arc::new(SystemClock::default()), faults.clone());
    let mut world = World { store: Arc::new(store), ..World::new() };
    for name in ["a", "b", "c"] {
        let conflict = [Some(StoreFault::Conflict), Some(StoreFault::UnknownLost)];
        faults.script(conflict.into_iter().chain([None]).cycle().take(9));
        world.start(name, options(name)).await.unwrap();
    }
    world
        .until("every shard is served", |world| world.shares().values().sum::<usize>() == 256)
        .await;
}
