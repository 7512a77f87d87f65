//! Measures durable commits of the embedded store as a journal makes them: each reads one fencing key
//! and appends values of 500 bytes. Arguments: directory, clients, seconds, values per transaction.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // A measurement for a terminal.

use std::{
    env,
    time::{Duration, Instant},
};

use aa_store::{RedbOptions, RedbStore, Store, Subspace};
use bytes::Bytes;

const VALUE_BYTES: usize = 500;

fn main() {
    let mut arguments = env::args().skip(1);
    let directory = arguments.next().unwrap_or_else(|| ".".to_owned());
    let mut number = |default| arguments.next().map_or(default, |text| text.parse().unwrap());
    let (clients, seconds, values) = (number(64), number(3), number(1));
    let directory = tempfile::TempDir::new_in(directory).unwrap();
    let path = directory.path().join("store.redb");
    let store = RedbStore::open(&path, RedbOptions::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut latencies = runtime.block_on(async {
        let clients =
            (0..clients).map(|client| tokio::spawn(run(store.clone(), client, values, until)));
        let latencies = futures::future::join_all(clients).await;
        latencies.into_iter().flat_map(Result::unwrap).collect::<Vec<_>>()
    });
    latencies.sort_unstable();
    let at = |permille: usize| latencies[(latencies.len() - 1) * permille / 1000];
    println!(
        "{} transactions/s, p50 {:?}, p99 {:?}, {:?}",
        latencies.len() as u64 / seconds,
        at(500),
        at(990),
        store.stats()
    );
}

async fn run(store: RedbStore, client: u64, values: u64, until: Instant) -> Vec<Duration> {
    let fence = Subspace::root().with("fence").key(client);
    let log = Subspace::root().with("log").with(client);
    let value = Bytes::from(vec![7; VALUE_BYTES]);
    let mut latencies = Vec::new();
    let mut next = 0u64;
    while Instant::now() < until {
        let begun = Instant::now();
        let mut transaction = store.begin().await.unwrap();
        transaction.get(&fence).await.unwrap();
        for _ in 0..values {
            transaction.put(log.key(next), value.clone());
            next += 1;
        }
        transaction.commit().await.unwrap();
        latencies.push(begun.elapsed());
    }
    latencies
}
