//! What a caller of an actor on another node can rely on.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod world;

use aa_relay::LinkLimits;
use aa_runtime::{Fault, Frame, Reply, Request, Transport};
use bytes::Bytes;
use futures::future::join_all;
use world::{PATIENCE, SHARDS, World, counter::Ask, ids, shard_of, until};

#[tokio::test]
async fn a_message_for_an_actor_of_another_node_is_answered() {
    let (world, nodes) = World::of(&["a", "b"]).await;
    let ids = ids(2);
    world.give(&ids[0], "b", &nodes).await;
    assert_eq!(nodes[0].add(&ids[0], 1).await, Ok(1));
    assert_eq!(nodes[0].add(&ids[0], 2).await, Ok(2));
    assert_eq!(nodes[1].add(&ids[1], 1).await, Ok(1), "and the other way");
    assert_eq!(nodes[1].add(&ids[0], 3).await, Ok(3), "where it lives");
    let sent = nodes[0].transport.stats();
    assert_eq!((sent.frames_in, sent.frames_out), (2, 1), "{sent:?}");
    assert_eq!((sent.links_out, sent.links_in), (1, 1), "{sent:?}");
    assert_eq!(nodes[1].node.relay().stats().taken, 2);
}

#[tokio::test]
async fn messages_of_one_caller_to_one_actor_are_handled_in_their_order() {
    let (world, nodes) = World::of(&["a", "b"]).await;
    let id = ids(1).remove(0);
    world.give(&id, "b", &nodes).await;
    let directory = nodes[0].directory.clone();
    let sending = nodes[0].handle().spawn(async move {
        let mut answers = Vec::new();
        for op in 0..500 {
            let (reply, answer) = Reply::channel();
            directory.send(&id, Ask::Add(op, reply));
            answers.push(answer);
        }
        join_all(answers).await
    });
    let answers = tokio::time::timeout(PATIENCE, sending).await.unwrap().unwrap();
    for (count, answer) in (1..).zip(answers) {
        assert_eq!(answer.unwrap(), Ok(count));
    }
}

#[tokio::test]
async fn many_callers_on_many_nodes_each_get_their_own_answers() {
    let (world, nodes) = World::of(&["a", "b", "c"]).await;
    let ids = ids(2 * usize::from(SHARDS));
    for (at, id) in ids.iter().take(usize::from(SHARDS)).enumerate() {
        world.give(id, ["a", "b", "c"][at % 3], &nodes).await;
    }
    let callers = nodes.iter().enumerate().flat_map(|(node, member)| {
        ids.iter().map(move |id| (node as u64, member.asker(), id.clone()))
    });
    let adding = callers.map(|(node, asker, id)| async move {
        for op in 0..20 {
            let op = node * 1_000 + op;
            asker.ask(&id, move |reply| Ask::Add(op, reply)).await.unwrap();
        }
    });
    join_all(adding).await;
    for id in &ids {
        assert_eq!(nodes[0].asker().ask(id, Ask::Get).await, Ok(60));
    }
}

#[tokio::test]
async fn past_the_bound_of_calls_under_way_a_message_is_refused_at_once() {
    let world = World::new().await;
    let limits = LinkLimits { calls: 4, ..LinkLimits::default() };
    let nodes = [world.join_within("a", limits).await, world.join("b").await];
    world.settle(&nodes).await;
    let id = ids(1).remove(0);
    world.give(&id, "b", &nodes).await;
    let hold = || {
        let (asker, id) = (nodes[0].asker(), id.clone());
        tokio::spawn(async move { asker.ask(&id, Ask::Hold).await })
    };
    let holding: Vec<_> = (0..4).map(|_| hold()).collect();
    until("four are held", || nodes[1].held.lock().len() == 4).await;
    let refused = nodes[0].add(&id, 1).await;
    assert_eq!(refused, Err(Fault::Congested { node: "b".to_owned() }));
    assert_eq!(nodes[0].transport.stats().congested, 1);
    for held in nodes[1].held.lock().drain(..) {
        held.send(Ok(7));
    }
    for held in holding {
        assert_eq!(held.await.unwrap(), Ok(7));
    }
    assert_eq!(nodes[0].asker().add_surely(&id, 1).await, 1, "there is room again");
}

#[tokio::test]
async fn a_node_that_gives_more_to_do_than_it_may_waits_and_all_is_answered() {
    let world = World::new().await;
    let limits = LinkLimits { open_calls: 8, ..LinkLimits::default() };
    let nodes = [world.join("a").await, world.join_within("b", limits).await];
    world.settle(&nodes).await;
    let id = ids(1).remove(0);
    world.give(&id, "b", &nodes).await;
    let callers = (0..100).map(|_| {
        let (asker, id) = (nodes[0].asker(), id.clone());
        tokio::spawn(async move { asker.ask(&id, Ask::Hold).await })
    });
    let callers: Vec<_> = callers.collect();
    let mut answered = 0;
    while answered < callers.len() {
        let expected = 8.min(callers.len() - answered);
        until("as many as may are held", || nodes[1].held.lock().len() >= expected).await;
        let held = std::mem::take(&mut *nodes[1].held.lock());
        assert!(held.len() <= 8, "{} are held", held.len());
        answered += held.len();
        held.into_iter().for_each(|held| held.send(Ok(7)));
    }
    for caller in callers {
        assert_eq!(caller.await.unwrap(), Ok(7));
    }
}

#[tokio::test]
async fn a_large_body_comes_through_and_one_over_the_limit_is_refused() {
    let (world, nodes) = World::of(&["a", "b"]).await;
    let id = ids(1).remove(0);
    world.give(&id, "b", &nodes).await;
    let echo = |bytes: usize| {
        let (asker, id) = (nodes[0].asker(), id.clone());
        async move { asker.ask(&id, move |reply| Ask::Echo("x".repeat(bytes), reply)).await }
    };
    let large = 8_000_000;
    assert_eq!(echo(large).await, Ok(large as u64));
    let refused = echo(9 << 20).await;
    assert!(
        matches!(&refused, Err(Fault::Unreadable(why)) if why.contains("limit")),
        "{refused:?}"
    );

    let peer = nodes[0].node.peers().remove(0);
    let request = Request {
        shard: shard_of(&id),
        kind: "counter".to_owned(),
        id: Bytes::new(),
        verb: "echo".to_owned(),
        body: vec![0; 10 << 20].into(),
        replies: 1,
    };
    let frame = nodes[0].transport.call(&peer, request).recv().await;
    assert!(matches!(frame, Some(Frame::Refused(Fault::Unreadable(_)))), "{frame:?}");
    assert_eq!(echo(1).await, Ok(1), "the link stands");
}
