//! What callers of an actor can rely on, shown on a counter that is durable through the journal.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use aa_protocol::Timestamp;
use aa_runtime::{
    Directory, DirectoryOptions, Entity, Fault, Flow, Incoming, LiveShard, LoadError, ManualClock,
    Node, NodeOptions, Outgoing, Record, Remote, Reply, SeededEntropy, WireError,
};
use aa_store::{
    Fault as StoreFault, FaultRates, Faults, MemoryStore, Store, SystemClock as StoreSystemClock,
};
use bytes::Bytes;

struct Counter {
    id: String,
    shard: Arc<LiveShard>,
    count: u64,
}

enum Ask {
    Add(Reply<u64>),
    Get(Reply<u64>),
    Panic(Reply<u64>),
}

#[derive(Clone)]
struct Shared {
    store: Arc<dyn Store>,
    loads: Arc<AtomicU32>,
    /// Whether what is stored of `a` makes whoever reads it panic.
    poisoned: Arc<AtomicBool>,
}

impl Remote for Ask {
    fn pack(self) -> Option<Outgoing> {
        None
    }

    fn unpack(incoming: &mut Incoming) -> Result<Self, WireError> {
        incoming.unknown()
    }

    fn fail(self, fault: Fault) {
        let (Self::Add(reply) | Self::Get(reply) | Self::Panic(reply)) = self;
        reply.send(Err(fault));
    }
}

impl Entity for Counter {
    type Id = String;
    type Message = Ask;
    type Context = Shared;

    const KIND: &'static str = "counter";

    fn shard_key(id: &String) -> Vec<u8> {
        id.clone().into_bytes()
    }

    async fn load(id: String, shard: Arc<LiveShard>, shared: Shared) -> Result<Self, LoadError> {
        shared.loads.fetch_add(1, Ordering::SeqCst);
        assert!(id != "a" || !shared.poisoned.load(Ordering::SeqCst), "a poisoned state");
        let failed = |error| LoadError::new::<Self>(&id, error);
        let mut txn = shared.store.begin().await.map_err(failed)?;
        let stored = txn.get_snapshot(&key(&id)).await.map_err(failed)?;
        let count =
            stored.map_or(0, |bytes| u64::from_be_bytes(bytes.as_ref().try_into().unwrap()));
        Ok(Self { id, shard, count })
    }

    async fn handle(&mut self, ask: Ask) -> Flow {
        match ask {
            Ask::Get(reply) => reply.send(Ok(self.count)),
            Ask::Panic(reply) => {
                let _held = reply;
                panic!("a poisoned message");
            }
            Ask::Add(reply) => {
                self.count += 1;
                let count = self.count;
                let write = (key(&self.id), Bytes::copy_from_slice(&count.to_be_bytes()));
                let done = Reply::new(move |committed: Result<(), Fault>| {
                    reply.send(committed.map(|()| count));
                });
                let _ = self.shard.journal.append(Record::of_state(vec![write], done));
            }
        }
        Flow::Continue
    }
}

fn key(id: &str) -> Bytes {
    Bytes::from(format!("counter/{id}"))
}

struct World {
    node: Node,
    clock: ManualClock,
    faults: Faults,
    directory: Arc<Directory<Counter>>,
    loads: Arc<AtomicU32>,
    poisoned: Arc<AtomicBool>,
}

async fn world() -> World {
    let faults = Faults::none();
    let store = MemoryStore::with(Arc::new(StoreSystemClock::default()), faults.clone());
    let clock = ManualClock::new(Timestamp::from_micros(1_000_000));
    let node = start(Arc::new(store), &clock, "a").await.expect("the node starts");
    let shared = Shared { store: node.store(), loads: Arc::default(), poisoned: Arc::default() };
    let (loads, poisoned) = (Arc::clone(&shared.loads), Arc::clone(&shared.poisoned));
    let options = DirectoryOptions {
        idle_after: Some(Duration::from_secs(40)),
        free_restarts: 2,
        first_backoff: Duration::from_secs(1),
        longest_backoff: Duration::from_secs(60),
        panics_until_held: 10,
        held_for: HELD_FOR,
    };
    let directory = Directory::new(node.clone(), shared, options);
    World { node, clock, faults, directory, loads, poisoned }
}

async fn start(
    store: Arc<dyn Store>,
    clock: &ManualClock,
    name: &str,
) -> Result<Node, aa_runtime::NodeError> {
    let options = NodeOptions { name: name.to_owned(), shards: 2, cluster: None };
    let entropy = Arc::new(SeededEntropy::new(7));
    Node::start(store, Arc::new(clock.clone()), entropy, options).await
}

async fn ask(
    world: &World,
    id: &str,
    message: impl FnOnce(Reply<u64>) -> Ask,
) -> Result<u64, Fault> {
    let (reply, answer) = Reply::channel();
    world.directory.send(&id.to_owned(), message(reply));
    tokio::time::timeout(PATIENCE, answer)
        .await
        .expect("every message is answered")
        .unwrap_or(Err(Fault::Gone))
}

/// Asks until the shard is back: bounded, and only for faults that say so.
async fn ask_again(world: &World, id: &str, message: impl Fn(Reply<u64>) -> Ask) -> u64 {
    let asking = async {
        loop {
            match ask(world, id, &message).await {
                Ok(count) => return count,
                Err(fault) => assert!(fault.is_retryable(), "{fault}"),
            }
            // The pauses between attempts to take a shard again are the manual clock's.
            world.clock.advance(Duration::from_millis(10));
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("the shard comes back")
}

/// Hurries the clock until `reached`: bounded.
async fn hurry_until(world: &World, reached: impl Fn(&World) -> bool) {
    let hurrying = async {
        while !reached(world) {
            world.clock.advance(Duration::from_secs(1));
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, hurrying).await.expect("it is reached");
}

/// Waits until `reached` while the clock stands: bounded.
async fn until(world: &World, reached: impl Fn(&World) -> bool) {
    let waiting = async {
        while !reached(world) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it is reached");
}

/// For how long an actor is held back now; whatever it is in, it is asked nothing that makes it fail.
async fn hold(world: &World, id: &str) -> Duration {
    let asking = async {
        loop {
            match ask(world, id, Ask::Get).await {
                Ok(_) => return Duration::ZERO,
                Err(Fault::BackingOff { retry_after, .. }) => return retry_after,
                // Its last life is not over yet.
                Err(fault) => assert_eq!(fault, Fault::Gone),
            }
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("it is up or held back")
}

/// How long an actor that panics without end is held down.
const HELD_FOR: Duration = Duration::from_secs(600);

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panicking_actor_is_loaded_again_and_its_callers_are_answered() {
    let world = world().await;
    assert_eq!(ask(&world, "a", Ask::Add).await, Ok(1));
    let (poison, poisoned) = Reply::channel();
    let (behind, answer) = Reply::channel();
    let id = "a".to_owned();
    world.directory.send(&id, Ask::Panic(poison));
    world.directory.send(&id, Ask::Get(behind));
    assert_eq!(poisoned.await.unwrap(), Err(Fault::Crashed), "it is not tried again");
    // The one behind was either dropped with the actor, to be sent again, or met the next life.
    assert!(matches!(answer.await.unwrap(), Err(Fault::Gone) | Ok(1)));
    assert_eq!(ask_again(&world, "a", Ask::Get).await, 1, "what was acknowledged is there");
    // The supervisor hears of the end beside what the next life does.
    hurry_until(&world, |world| world.directory.stats().failed == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_actor_that_keeps_failing_is_held_back_and_comes_back() {
    let world = world().await;
    let asking = async {
        loop {
            match ask(&world, "a", Ask::Panic).await {
                Err(Fault::Crashed | Fault::Gone) => tokio::task::yield_now().await,
                Err(Fault::BackingOff { retry_after, .. }) => return retry_after,
                other => panic!("{other:?}"),
            }
        }
    };
    let held = tokio::time::timeout(PATIENCE, asking).await;
    let retry_after = held.expect("the restarts are held back");
    assert_eq!(ask(&world, "b", Ask::Add).await, Ok(1), "others are not");
    world.clock.advance(retry_after);
    assert_eq!(ask_again(&world, "a", Ask::Add).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_are_held_back_ever_longer_and_past_a_limit_the_actor_is_held_down() {
    let world = world().await;
    let mut holds = Vec::new();
    for failure in 1..=11 {
        assert_eq!(ask(&world, "a", Ask::Panic).await, Err(Fault::Crashed));
        until(&world, |world| world.directory.stats().failed == failure).await;
        assert_eq!(ask(&world, "b", Ask::Add).await, Ok(failure), "others work");
        let hold = hold(&world, "a").await;
        assert_eq!(world.directory.stats().held, u64::from(hold == HELD_FOR));
        holds.push(hold.as_secs());
        // Not one moment earlier.
        world.clock.advance(hold.saturating_sub(Duration::from_micros(1)));
        if !hold.is_zero() {
            let Err(Fault::BackingOff { failures, .. }) = ask(&world, "a", Ask::Get).await else {
                panic!("it is back too early");
            };
            assert_eq!(u64::from(failures), failure);
            world.clock.advance(Duration::from_micros(1));
        }
    }
    assert_eq!(holds, [0, 0, 1, 2, 4, 8, 16, 32, 60, 600, 600], "one try, then down again");
    // Well for a while, it is as free as any other.
    assert_eq!(ask_again(&world, "a", Ask::Add).await, 1);
    world.clock.advance(Duration::from_secs(60));
    assert_eq!(ask(&world, "a", Ask::Panic).await, Err(Fault::Crashed));
    until(&world, |world| world.directory.stats().failed == 12).await;
    assert_eq!(hold(&world, "a").await, Duration::ZERO);
    assert_eq!(world.directory.stats().held, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_makes_every_load_panic_is_held_back_and_its_callers_may_come_back() {
    let world = world().await;
    assert_eq!(ask(&world, "a", Ask::Add).await, Ok(1));
    assert_eq!(ask(&world, "a", Ask::Panic).await, Err(Fault::Crashed));
    until(&world, |world| world.directory.stats().failed == 1).await;
    world.poisoned.store(true, Ordering::SeqCst);
    let asking = async {
        loop {
            // No caller is told that its own message is at fault.
            match ask(&world, "a", Ask::Add).await.unwrap_err() {
                Fault::Gone => tokio::task::yield_now().await,
                Fault::BackingOff { retry_after, .. } => return retry_after,
                other => panic!("{other}"),
            }
        }
    };
    let held = tokio::time::timeout(PATIENCE, asking).await;
    let retry_after = held.expect("the restarts are held back");
    assert_eq!(ask(&world, "b", Ask::Add).await, Ok(1), "others are not");
    world.poisoned.store(false, Ordering::SeqCst);
    world.clock.advance(retry_after);
    assert_eq!(ask_again(&world, "a", Ask::Add).await, 2, "nothing was lost meanwhile");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_long_away_holds_no_actor_down() {
    let world = world().await;
    world.faults.set_unavailable(true);
    let mut longest = Duration::ZERO;
    while world.directory.stats().failed < 15 {
        match ask(&world, "a", Ask::Get).await.unwrap_err() {
            Fault::BackingOff { retry_after, .. } => {
                longest = longest.max(retry_after);
                world.clock.advance(retry_after);
            }
            failed => assert!(failed.is_retryable(), "{failed}"),
        }
    }
    assert_eq!(longest, Duration::from_secs(60), "it was held back like any other");
    world.faults.set_unavailable(false);
    assert_eq!(world.directory.stats().held, 0);
    assert_eq!(ask_again(&world, "a", Ask::Add).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_actor_leaves_memory_and_comes_back_with_its_state() {
    let world = world().await;
    assert_eq!(ask(&world, "a", Ask::Add).await, Ok(1));
    hurry_until(&world, |world| world.directory.stats().passivated == 1).await;
    assert_eq!(ask_again(&world, "a", Ask::Get).await, 1);
    assert_eq!(world.loads.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_is_lost_to_passivation() {
    let world = Arc::new(world().await);
    let hurry = {
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            for _ in 0..3_000 {
                world.clock.advance(Duration::from_secs(10));
                tokio::task::yield_now().await;
            }
        })
    };
    let mut expected = 0;
    while !hurry.is_finished() {
        expected += 1;
        assert_eq!(ask(&world, "a", Ask::Add).await, Ok(expected));
    }
    hurry.await.unwrap();
    assert!(world.directory.stats().passivated > 0, "the test exercised what it is about");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_result_is_unknown_happens_once() {
    for fault in [StoreFault::UnknownApplied, StoreFault::UnknownLost, StoreFault::Conflict] {
        let world = world().await;
        assert_eq!(ask(&world, "a", Ask::Add).await, Ok(1));
        // The second time while it finds out.
        world.faults.script([Some(fault), Some(fault)]);
        assert_eq!(ask(&world, "a", Ask::Add).await, Ok(2), "{fault:?}");
        assert_eq!(ask(&world, "a", Ask::Get).await, Ok(2), "{fault:?}");
        assert_eq!(world.loads.load(Ordering::SeqCst), 1, "the shard went on: {fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_commit_that_cannot_be_found_out_about_the_actor_believes_the_store() {
    for (fault, expected) in [
        (StoreFault::UnknownApplied, 1),
        (StoreFault::UnknownLost, 0),
        (StoreFault::Conflict, 0),
        (StoreFault::Unavailable, 0),
    ] {
        let world = world().await;
        let later =
            if fault == StoreFault::UnknownApplied { StoreFault::Unavailable } else { fault };
        let scripted = std::iter::once(fault).chain(std::iter::repeat_n(later, 5));
        world.faults.script(scripted.map(Some));
        let asked = ask(&world, "a", Ask::Add).await;
        world.faults.set_rates(FaultRates::default());
        if fault == StoreFault::UnknownApplied {
            // It looked, and found it, before the store was away.
            assert_eq!(asked, Ok(1));
        } else {
            let failed = asked.unwrap_err();
            assert!(matches!(failed, Fault::NotDurable(_)), "{failed}");
        }
        assert_eq!(ask_again(&world, "a", Ask::Get).await, expected, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_bad_day_whatever_is_acknowledged_happened_once() {
    let world = world().await;
    world.faults.set_rates(FaultRates {
        conflict: 0.1,
        unknown_applied: 0.15,
        unknown_lost: 0.15,
        unavailable: 0.02,
        ..FaultRates::default()
    });
    let (mut least, mut most) = (0, 0);
    for _ in 0..500 {
        most += 1;
        match ask(&world, "a", Ask::Add).await {
            Ok(count) => {
                least += 1;
                assert!((least..=most).contains(&count), "{least} ≤ {count} ≤ {most}");
                // What was in doubt before is settled now.
                (least, most) = (count, count);
            }
            Err(fault) => {
                assert!(fault.is_retryable(), "{fault}");
                world.clock.advance(Duration::from_secs(30));
            }
        }
    }
    world.faults.set_rates(FaultRates::default());
    let count = ask_again(&world, "a", Ask::Get).await;
    assert!((least..=most).contains(&count), "{least} ≤ {count} ≤ {most}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deposed_owner_cannot_write() {
    let world = world().await;
    assert_eq!(ask(&world, "a", Ask::Add).await, Ok(1));
    let store = world.node.store();
    let successor = start(Arc::clone(&store), &world.clock, "b").await.expect("it takes over");
    let failed = ask(&world, "a", Ask::Add).await.unwrap_err();
    assert!(failed.is_retryable(), "{failed}");
    let shared = Shared { store, loads: Arc::default(), poisoned: Arc::default() };
    let directory: Arc<Directory<Counter>> =
        Directory::new(successor, shared, DirectoryOptions::default());
    let (reply, answer) = Reply::channel();
    directory.send(&"a".to_owned(), Ask::Get(reply));
    assert_eq!(answer.await.unwrap(), Ok(1), "nothing of the deposed owner was written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_commits_what_was_taken() {
    let world = world().await;
    let mut answers = Vec::new();
    for _ in 0..500 {
        let (reply, answer) = Reply::channel();
        world.directory.send(&"a".to_owned(), Ask::Add(reply));
        answers.push(answer);
    }
    assert_eq!(ask(&world, "a", Ask::Get).await, Ok(500));
    world.node.stop().await;
    for (index, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.await.unwrap(), Ok(index as u64 + 1));
    }
    let gone = ask(&world, "a", Ask::Get).await.unwrap_err();
    assert!(matches!(gone, Fault::ShardAway { .. } | Fault::Gone), "{gone}");
}
