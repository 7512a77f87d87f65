//! The store on a real FoundationDB: the laws of all stores, and what is its own.
//!
//! Runs where an `fdbserver` is found, and says so loudly where none is.

#![allow(clippy::unwrap_used)] // A failed unwrap is a failed test.
#![allow(clippy::print_stderr)] // Who runs the tests must see what was not tested.

use std::process::ExitCode;

fn main() -> ExitCode {
    run()
}

fn skipped(why: &str) -> ExitCode {
    eprintln!("\n########################################################################");
    eprintln!("##  NOT RUN: the tests of the store on a real FoundationDB");
    eprintln!("##  {why}");
    eprintln!("########################################################################\n");
    ExitCode::SUCCESS
}

#[cfg(not(all(feature = "foundationdb", feature = "conformance")))]
fn run() -> ExitCode {
    skipped("for they need --features foundationdb,conformance")
}

#[cfg(all(feature = "foundationdb", feature = "conformance"))]
fn run() -> ExitCode {
    on_a_server::run()
}

#[cfg(all(feature = "foundationdb", feature = "conformance"))]
mod on_a_server {
    use std::{
        future::Future,
        path::PathBuf,
        process::ExitCode,
        sync::Arc,
        time::{Duration, Instant},
    };

    use aa_store::{
        CommitError, FdbNetwork, FdbOptions, FdbStore, FdbTls, KeyRange, MAX_TRANSACTION_BYTES,
        OpenError, Order, RedbOptions, RedbStore, Store, StoreError, Version,
        conformance::{FdbServer, laws},
        copy::{copy, version},
    };
    use bytes::Bytes;
    use futures::FutureExt;
    use libtest_mimic::{Arguments, Trial};
    use tokio::runtime::{Builder, Handle};

    type Servers = Arc<FdbServer>;

    const PATIENCE: Duration = Duration::from_secs(10);

    pub(super) fn run() -> ExitCode {
        let arguments = Arguments::from_args();
        let server = match FdbServer::start().unwrap() {
            Ok(server) => Arc::new(server),
            Err(why) => return super::skipped(&why),
        };
        // Dropped last of all that uses the client.
        let _network = FdbNetwork::new();
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut trials = Vec::new();
        for law in laws() {
            trials.push(trial(&runtime, &server, law.name, move |server| async move {
                (law.check)(Arc::new(open(&server, law.name).await)).await;
            }));
        }
        macro_rules! tests {
            ($($test:ident),+ $(,)?) => {
                $(trials.push(trial(&runtime, &server, stringify!($test), $test));)+
            };
        }
        tests![
            two_prefixes_do_not_see_each_other,
            a_store_moves_to_the_cluster_and_back,
            stamps_of_several_clients_are_in_the_order_of_commits,
            many_small_writes_past_foundationdbs_own_limit_are_refused_as_too_large,
            long_ranges_are_read_whole_in_both_orders,
            a_version_that_is_too_old_conflicts,
            a_watch_set_on_an_idle_store_misses_nothing,
            watches_fail_when_the_store_closes,
            a_missing_cluster_file_is_named,
            other_tls_files_are_refused,
            a_cluster_that_does_not_answer_is_unavailable_until_it_does,
        ];
        let rate = trial(&runtime, &server, "how_fast_bare_commits_are", how_fast_bare_commits_are);
        trials.push(rate.with_ignored_flag(true));
        let conclusion = libtest_mimic::run(&arguments, trials);
        drop(runtime);
        conclusion.exit_code()
    }

    fn trial<F: Future<Output = ()> + Send + 'static>(
        runtime: &tokio::runtime::Runtime,
        server: &Servers,
        name: &str,
        test: impl FnOnce(Servers) -> F + Send + 'static,
    ) -> Trial {
        let (handle, server): (Handle, Servers) = (runtime.handle().clone(), Arc::clone(server));
        Trial::test(name, move || {
            handle.block_on(test(server));
            Ok(())
        })
    }

    async fn open(server: &FdbServer, prefix: &str) -> FdbStore {
        FdbStore::open(server.url(&format!("{prefix}/")), FdbOptions::default()).await.unwrap()
    }

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    async fn set(store: &FdbStore, key: &'static str, value: &'static str) -> Version {
        let mut transaction = store.begin().await.unwrap();
        transaction.put(bytes(key), bytes(value));
        transaction.commit().await.unwrap()
    }

    async fn all(store: &FdbStore) -> Vec<(Bytes, Bytes)> {
        let mut transaction = store.begin().await.unwrap();
        transaction.range(&KeyRange::all(), usize::MAX, Order::Forward).await.unwrap()
    }

    async fn two_prefixes_do_not_see_each_other(server: Servers) {
        let (left, right) = (open(&server, "prefix-a").await, open(&server, "prefix-b").await);
        set(&left, "key", "left").await;
        set(&right, "key", "right").await;
        assert_eq!(all(&left).await, [(bytes("key"), bytes("left"))]);
        let mut transaction = left.begin().await.unwrap();
        transaction.get(b"key").await.unwrap();
        transaction.delete_range(KeyRange::all());
        set(&right, "key", "changed").await;
        transaction.commit().await.unwrap();
        assert_eq!(all(&left).await, []);
        assert_eq!(all(&right).await, [(bytes("key"), bytes("changed"))]);
        let whole = FdbStore::open(server.url(""), FdbOptions::default()).await.unwrap();
        let found = whole.begin().await.unwrap().get(b"prefix-b/key").await.unwrap();
        assert_eq!(found, Some(bytes("changed")), "the prefix stands before the keys");
    }

    async fn a_store_moves_to_the_cluster_and_back(server: Servers) {
        let directory = tempfile::tempdir().unwrap();
        let open_redb = |name, first_version| {
            let options = RedbOptions { first_version, ..RedbOptions::default() };
            RedbStore::open(directory.path().join(name), options).unwrap()
        };
        let source = open_redb("source", Version::default());
        for first in (0..1_000u16).step_by(100) {
            let mut transaction = source.begin().await.unwrap();
            for number in first..first + 100 {
                let value = vec![b'v'; usize::from(number) * 7];
                transaction.put(Bytes::from(format!("key-{number}")), Bytes::from(value));
            }
            transaction.put_stamped(bytes("log/"), Bytes::from(first.to_string()));
            transaction.commit().await.unwrap();
        }
        let cluster = open(&server, "moving").await;
        let as_of = version(&source).await.unwrap();
        let there = copy(&source, as_of, &cluster, |_| {}).await.unwrap();
        assert_eq!(there.volume.pairs, 1_010);
        stamp_last(&cluster).await;
        let as_of = version(&cluster).await.unwrap();
        let target = open_redb("target", as_of);
        copy(&cluster, as_of, &target, |_| {}).await.unwrap();
        stamp_last(&target).await;
    }

    /// A measurement: what the cluster itself takes for what is about a decision's bytes, to hold decisions against.
    async fn how_fast_bare_commits_are(server: Servers) {
        for writers in [1, 16, 64, 256] {
            let store = open(&server, "rate").await;
            let began = Instant::now();
            let tasks = (0..writers).map(|writer: u32| {
                let store = store.clone();
                tokio::spawn(async move {
                    let mut took = Vec::new();
                    // As a journal does it: each begins after the one before, without asking for a version.
                    let mut after = stamped(&store, writer).await;
                    while began.elapsed() < Duration::from_secs(3) {
                        let at = Instant::now();
                        let number = took.len() as u64;
                        let key = [writer.to_be_bytes().as_slice(), &number.to_be_bytes()].concat();
                        let mut transaction = store.begin_after(after).await.unwrap();
                        // Nothing is read, so nothing can conflict: one round trip.
                        transaction.put_without_conflict(key.into(), vec![b'v'; 770].into());
                        after = transaction.commit().await.unwrap();
                        took.push(at.elapsed().as_micros());
                    }
                    took
                })
            });
            let mut took: Vec<u128> = Vec::new();
            for task in tasks.collect::<Vec<_>>() {
                took.extend(task.await.unwrap());
            }
            let rate = took.len() as f64 / began.elapsed().as_secs_f64();
            took.sort_unstable();
            let at = |part: usize| took[took.len() * part / 100];
            eprintln!(
                "{writers} writers: {rate:.0} commits/s, p50 {} µs, p99 {} µs",
                at(50),
                at(99)
            );
        }
    }

    /// The version of a first commit.
    async fn stamped(store: &dyn Store, writer: u32) -> Version {
        let mut transaction = store.begin().await.unwrap();
        transaction.put(writer.to_be_bytes().to_vec().into(), bytes("first"));
        transaction.commit().await.unwrap()
    }

    /// Stamps a key, which comes after all that were copied.
    async fn stamp_last(store: &dyn Store) {
        let mut transaction = store.begin().await.unwrap();
        transaction.put_stamped(bytes("log/"), bytes("last"));
        transaction.commit().await.unwrap();
        let mut transaction = store.begin().await.unwrap();
        let log = KeyRange::prefix(b"log/");
        let last = transaction.range(&log, 1, Order::Reverse).await.unwrap();
        assert_eq!(last[0].1, bytes("last"));
        transaction.delete(last[0].0.clone());
        transaction.commit().await.unwrap();
    }

    async fn stamps_of_several_clients_are_in_the_order_of_commits(server: Servers) {
        let clients = [open(&server, "stamps").await, open(&server, "stamps").await];
        for number in 0..20u8 {
            let store = &clients[usize::from(number % 2)];
            let mut transaction = store.begin().await.unwrap();
            transaction.put_stamped(bytes("log/"), Bytes::from(vec![number]));
            transaction.commit().await.unwrap();
        }
        let values: Vec<u8> = all(&clients[0]).await.iter().map(|(_, value)| value[0]).collect();
        assert_eq!(values, (0..20).collect::<Vec<_>>());
    }

    async fn many_small_writes_past_foundationdbs_own_limit_are_refused_as_too_large(
        server: Servers,
    ) {
        let store = open(&server, "small").await;
        let mut transaction = store.begin().await.unwrap();
        for number in 0..150_000u32 {
            transaction.put(Bytes::copy_from_slice(&number.to_be_bytes()), Bytes::new());
        }
        let error = transaction.commit().await.unwrap_err();
        assert!(matches!(error, CommitError::TooLarge(_)), "{error}");
        const { assert!(150_000 * 4 < MAX_TRANSACTION_BYTES) };
    }

    async fn long_ranges_are_read_whole_in_both_orders(server: Servers) {
        let store = open(&server, "long").await;
        let value = Bytes::from(vec![b'v'; 1_000]);
        let mut transaction = store.begin().await.unwrap();
        for number in 0..1_000u16 {
            transaction.put(Bytes::copy_from_slice(&number.to_be_bytes()), value.clone());
        }
        transaction.commit().await.unwrap();
        for order in [Order::Forward, Order::Reverse] {
            for (limit, expected) in [(usize::MAX, 1_000), (777, 777)] {
                let mut transaction = store.begin().await.unwrap();
                let pairs = transaction.range(&KeyRange::all(), limit, order).await.unwrap();
                let mut numbers: Vec<u16> = pairs
                    .iter()
                    .map(|(key, _)| u16::from_be_bytes(key[..].try_into().unwrap()))
                    .collect();
                if order == Order::Reverse {
                    assert_eq!(numbers[0], 999);
                    numbers.reverse();
                }
                assert_eq!(numbers.len(), expected);
                assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]));
            }
        }
        assert!(store.stats().read_pages > 4, "a page is bounded: {:?}", store.stats());
    }

    async fn a_version_that_is_too_old_conflicts(server: Servers) {
        let store = open(&server, "old").await;
        // A new cluster counts from zero, a million in a second, and keeps five.
        let aged = async {
            while version(&store).await.unwrap() < Version::from_u64(8_000_000) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(2 * PATIENCE, aged).await.expect("the cluster's versions go on");
        set(&store, "other", "0").await;
        let mut transaction = store.begin_after(Version::from_u64(1)).await.unwrap();
        transaction.add_read_conflict(KeyRange::single(b"key"));
        transaction.put(bytes("result"), bytes("1"));
        let error = transaction.commit().await.unwrap_err();
        assert!(matches!(error, CommitError::Conflict), "{error}");
        let mut transaction = store.begin_after(Version::from_u64(1)).await.unwrap();
        let error = transaction.get(b"key").await.unwrap_err();
        assert!(matches!(error, StoreError::TooOld { .. }), "{error}");
        assert_eq!((store.stats().conflicts, store.stats().too_old), (1, 1));
    }

    /// The store has seen no version lately, so the watch has to fetch one.
    async fn a_watch_set_on_an_idle_store_misses_nothing(server: Servers) {
        let (store, other) = (open(&server, "idle").await, open(&server, "idle").await);
        set(&other, "key", "0").await;
        for value in ["1", "2", "3"] {
            tokio::time::sleep(Duration::from_millis(2_100)).await;
            let fetched = store.stats().read_versions;
            let watch = store.watch(b"key");
            let mut reader = store.begin().await.unwrap();
            assert_eq!(store.stats().read_versions, fetched + 2, "one for the watch");
            let seen = reader.get(b"key").await.unwrap().unwrap();
            assert_ne!(seen, bytes(value));
            set(&other, "key", value).await;
            tokio::time::timeout(PATIENCE, watch).await.expect("it fires").unwrap();
        }
    }

    async fn watches_fail_when_the_store_closes(server: Servers) {
        let store = open(&server, "closing").await;
        let watch = store.watch(b"key");
        drop(store);
        let failed = tokio::time::timeout(PATIENCE, watch).await.expect("it fails");
        assert!(matches!(failed, Err(StoreError::Unavailable { .. })), "{failed:?}");
    }

    async fn a_missing_cluster_file_is_named(_server: Servers) {
        let url = "fdb:///nonexistent/fdb.cluster".parse().unwrap();
        let error = FdbStore::open(url, FdbOptions::default()).await.unwrap_err();
        assert!(matches!(error, OpenError::Cluster { .. }));
        assert!(error.to_string().contains("/nonexistent/fdb.cluster"), "{error}");
    }

    async fn other_tls_files_are_refused(server: Servers) {
        drop(open(&server, "tls").await);
        let mut url = server.url("tls/");
        url.tls = Some(FdbTls {
            certificate: PathBuf::from("/c.pem"),
            key: PathBuf::from("/k.pem"),
            ca: None,
            verify_peers: None,
        });
        let error = FdbStore::open(url, FdbOptions::default()).await.unwrap_err();
        assert!(error.to_string().contains("other TLS files"), "{error}");
    }

    /// Also: two clusters in one process.
    async fn a_cluster_that_does_not_answer_is_unavailable_until_it_does(server: Servers) {
        let healthy = open(&server, "healthy").await;
        let server = FdbServer::start().unwrap().unwrap();
        let timeout = Duration::from_millis(1_500);
        let store = FdbStore::open(server.url(""), FdbOptions { timeout }).await.unwrap();
        let mut reader = store.begin().await.unwrap();
        let mut writer = store.begin().await.unwrap();
        server.pause().unwrap();
        let begun = Instant::now();
        let error = store.begin().await.err().unwrap();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        let error = reader.get(b"key").await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        writer.put(bytes("key"), bytes("value"));
        let error = writer.commit().await.unwrap_err();
        assert!(matches!(error, CommitError::UnknownResult(_)), "{error}");
        assert!(begun.elapsed() < timeout * 3 + PATIENCE / 2, "{:?}", begun.elapsed());
        set(&healthy, "key", "value").await;
        server.resume().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = store.begin().await {
            assert!(Instant::now() < deadline, "{error}");
        }
        set(&store, "key", "again").await;
        assert_eq!(store.stats().unknown, 1);
        assert!(store.watch(b"key").now_or_never().is_none());
    }
}
