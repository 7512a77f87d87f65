//! What who reads the log out can rely on, however long it is.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use std::{io::Cursor, time::Duration};

use aa_governance::audit::ExportFormat;
use aa_ledger::{Entry, Export};
use aa_protocol::Timestamp;
use aa_runtime::Clock;
use bytes::Bytes;
use world::{BASH, World};

/// A log of several slices, committed in runs of which each is a segment, ten seconds apart.
async fn long_log(world: &World) -> Vec<Timestamp> {
    let agent = world.register("a").await;
    let mut times = Vec::new();
    for run in 0..12 {
        for number in 0..60 {
            world.check(&agent, run * 1_000 + number, BASH).await.unwrap();
        }
        times.push(world.clock.now());
        world.governance.checkpoint(&world.permit()).await.unwrap();
        world.clock.advance(Duration::from_secs(10));
    }
    times
}

async fn export(world: &World, format: ExportFormat, since: Option<Timestamp>) -> Vec<Bytes> {
    let permit = world.permit();
    let mut export = world.governance.export(&permit, format, since, "0").await.unwrap();
    let mut chunks = Vec::new();
    while let Some(chunk) = export.chunks.recv().await {
        chunks.push(chunk.unwrap());
    }
    chunks
}

fn entries(text: &[u8]) -> Vec<Entry> {
    let lines = text.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"{\"v\":"));
    lines.map(|line| Entry::parse(line).unwrap()).collect()
}

fn assert_intact(text: &[u8]) {
    let mut exports = [Export { name: "export", reader: &mut Cursor::new(text) }];
    let report = aa_ledger::verify(&mut exports, None, None).unwrap();
    assert!(report.intact, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_many_slices_and_segments_is_exported_whole() {
    let world = World::new().await;
    long_log(&world).await;
    let chunks = export(&world, ExportFormat::JsonLines, None).await;
    assert!(chunks.iter().all(|chunk| chunk.len() <= 64 << 10), "chunks are bounded");
    let text = chunks.concat();
    assert!(text.len() > 300 << 10, "{} bytes are several slices", text.len());
    assert_intact(&text);
    let all = entries(&text);
    assert!(all.len() >= 720, "{}", all.len());
    let cef = export(&world, ExportFormat::Cef, None).await.concat();
    let lines = cef.split_inclusive(|byte| *byte == b'\n').count();
    assert_eq!(lines, all.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_since_a_time_has_everything_from_then_on_and_little_more() {
    let world = World::new().await;
    let times = long_log(&world).await;
    let all = entries(&export(&world, ExportFormat::JsonLines, None).await.concat());
    let first = all[0].time;
    for since in times.iter().copied().chain([first]) {
        let text = export(&world, ExportFormat::JsonLines, Some(since)).await.concat();
        assert_intact(&text);
        let some = entries(&text);
        let due: Vec<_> =
            all.iter().filter(|entry| entry.time >= since).map(|entry| entry.id).collect();
        let ids: Vec<_> = some.iter().map(|entry| entry.id).collect();
        assert!(due.iter().all(|id| ids.contains(id)), "nothing since {since} is missing");
        let slack = since.saturating_sub(Duration::from_secs(30));
        assert!(some.iter().all(|entry| entry.time >= slack), "nothing is much older than {since}");
    }
    let later = world.clock.now().saturating_add(Duration::from_secs(3_600));
    let none = export(&world, ExportFormat::JsonLines, Some(later)).await.concat();
    assert_intact(&none);
    assert!(entries(&none).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_that_nobody_reads_keeps_no_other_from_its_end() {
    let world = World::new().await;
    long_log(&world).await;
    let permit = world.permit();
    let unread = world.governance.export(&permit, ExportFormat::JsonLines, None, "0").await;
    let unread = unread.unwrap();
    for _ in 0..3 {
        let read = export(&world, ExportFormat::JsonLines, None);
        let text = tokio::time::timeout(world::PATIENCE, read).await.expect("it goes on").concat();
        assert_intact(&text);
    }
    drop(unread);
}
