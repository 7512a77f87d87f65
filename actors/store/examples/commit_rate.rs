//! Measures durable commits of the embedded store, beside bare writes and fsyncs of as many bytes on
//! the same disk: latency with one client, rate and processor time with 64 and 1,024 in flight.
//! Arguments: directory, seconds for each measurement.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // A measurement for a terminal.

use std::{
    env, fs,
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

use aa_store::{RedbOptions, RedbStore, Store, Subspace};
use bytes::Bytes;

const VALUE_BYTES: usize = 700;

fn main() {
    let mut arguments = env::args().skip(1);
    let directory = arguments.next().unwrap_or_else(|| ".".to_owned());
    let seconds = arguments.next().map_or(3, |text| text.parse().unwrap());
    let directory = tempfile::TempDir::new_in(directory).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    let limit = Duration::from_secs(seconds);
    for clients in [1, 64, 1024] {
        bare(directory.path(), limit / 3);
        let path = directory.path().join(format!("{clients}.redb"));
        let store = RedbStore::open(&path, RedbOptions::default()).unwrap();
        let busy = processor_time();
        let begun = Instant::now();
        let mut latencies = runtime.block_on(async {
            let until = begun + limit;
            let clients =
                (0..clients).map(|client| tokio::spawn(run(store.clone(), client, until)));
            let latencies = futures::future::join_all(clients).await;
            latencies.into_iter().flat_map(Result::unwrap).collect::<Vec<_>>()
        });
        let (taken, busy) = (begun.elapsed(), processor_time() - busy);
        let stats = store.stats();
        print!("{clients:4} in flight: ");
        report(&mut latencies, taken);
        println!(
            ", {:.1} µs processor each, {} a group, {stats:?}",
            busy.as_secs_f64() * 1e6 / latencies.len() as f64,
            stats.transactions / stats.commits.max(1),
        );
    }
}

async fn run(store: RedbStore, client: u64, until: Instant) -> Vec<Duration> {
    let log = Subspace::root().with("log").with(client);
    let value = Bytes::from(vec![7; VALUE_BYTES]);
    let mut latencies = Vec::new();
    for next in 0u64.. {
        let begun = Instant::now();
        if begun > until {
            break;
        }
        let mut transaction = store.begin().await.unwrap();
        transaction.put(log.key(next), value.clone());
        transaction.commit().await.unwrap();
        latencies.push(begun.elapsed());
    }
    latencies
}

/// What the disk does without a store: each write overwrites allocated blocks and is synced.
fn bare(directory: &Path, limit: Duration) {
    let file = fs::File::create(directory.join("bare")).unwrap();
    file.write_all_at(&vec![0; 16 << 20], 0).unwrap();
    file.sync_all().unwrap();
    let begun = Instant::now();
    let mut latencies = Vec::new();
    let data = [7; 1024];
    while begun.elapsed() < limit {
        let one = Instant::now();
        file.write_all_at(&data, latencies.len() as u64 * 1024 % (16 << 20)).unwrap();
        file.sync_data().unwrap();
        latencies.push(one.elapsed());
    }
    print!("bare fdatasync: ");
    report(&mut latencies, begun.elapsed());
    println!();
}

fn report(latencies: &mut [Duration], taken: Duration) {
    latencies.sort_unstable();
    let at = |permille: usize| latencies[(latencies.len() - 1) * permille / 1000];
    let rate = latencies.len() as f64 / taken.as_secs_f64();
    print!("{rate:.0}/s, p50 {:?}, p99 {:?}", at(500), at(990));
}

/// Time that this process has spent on processors, to a hundredth of a second.
fn processor_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    // The name, in parentheses, may hold blanks; user and system time are fields 14 and 15.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = |field: usize| fields[field - 3].parse::<u64>().unwrap();
    Duration::from_millis((ticks(14) + ticks(15)) * 10)
}
