//! A fixed number of single-put commits for counting what one costs, for example:
//! `valgrind --tool=callgrind target/release/examples/commit_count /dev/shm 40000 256`. Arguments:
//! directory, transactions, how many are in flight at once. The difference between two runs of
//! different length is free of what opening and closing cost.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // A measurement for a terminal.

use std::env;

use aa_store::{RedbOptions, RedbStore, Store, Subspace};
use bytes::Bytes;

const VALUE_BYTES: usize = 700;

fn main() {
    let mut arguments = env::args().skip(1);
    let directory = arguments.next().unwrap_or_else(|| ".".to_owned());
    let mut number = |default| arguments.next().map_or(default, |text| text.parse().unwrap());
    let (transactions, in_flight) = (number(40_000), number(256));
    let directory = tempfile::TempDir::new_in(directory).unwrap();
    let store =
        RedbStore::open(directory.path().join("store.redb"), RedbOptions::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let clients = (0..in_flight).map(|client| run(&store, client, transactions / in_flight));
        futures::future::join_all(clients).await;
    });
    println!("{:?}", store.stats());
}

async fn run(store: &RedbStore, client: u64, count: u64) {
    let log = Subspace::root().with("log").with(client);
    for next in 0..count {
        let mut transaction = store.begin().await.unwrap();
        transaction.put(log.key(next), Bytes::from(vec![7; VALUE_BYTES]));
        transaction.commit().await.unwrap();
    }
}
