//! Measures how long a store takes to open after a crash. First `reopen <file> fill <MiB>` writes that
//! much and aborts without closing; then `reopen <file>` opens it and reads one key.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // A measurement for a terminal.

use std::{env, fs, time::Instant};

use aa_store::{RedbOptions, RedbStore, Store, Subspace};
use bytes::Bytes;

const VALUE_BYTES: usize = 700;
const PUTS: u64 = 1_000;

fn main() {
    let mut arguments = env::args().skip(1);
    let path = arguments.next().unwrap();
    let fill = arguments.next().is_some();
    let mebibytes: u64 = arguments.next().map_or(0, |text| text.parse().unwrap());
    let log = Subspace::root().with("log");
    let begun = Instant::now();
    let store = RedbStore::open(&path, RedbOptions::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let mut reader = store.begin().await.unwrap();
        reader.get_snapshot(&log.key(0u64)).await.unwrap();
        let bytes = fs::metadata(&path).unwrap().len();
        println!("{} MiB opened and read in {:?}", bytes >> 20, begun.elapsed());
        if !fill {
            return;
        }
        for batch in 0..(mebibytes << 20) / (VALUE_BYTES as u64 * PUTS) {
            let mut transaction = store.begin().await.unwrap();
            for put in 0..PUTS {
                transaction.put(log.key(batch * PUTS + put), Bytes::from(vec![7; VALUE_BYTES]));
            }
            transaction.commit().await.unwrap();
        }
        println!("filled in {:?}: {:?}", begun.elapsed(), store.stats());
        std::process::abort();
    });
}
