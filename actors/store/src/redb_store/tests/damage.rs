//! Damage is refused or harmless: what was acknowledged is never missing without a word.

use std::path::{Path, PathBuf};

use redb::Database;

use super::faults::{Model, PATH, Progress, contents, open, options, run};
use crate::{
    DiskFault, KeyRange, Loss, OpenError, RedbOptions, SimDisk, Store,
    redb_store::{RedbStore, blobs, disk::Disk, file, recovery},
};

const LENGTH: usize = 27;

/// A disk as a script left it: after the power failed, or closed.
fn disk(seed: u64, closed: bool) -> (SimDisk, Progress) {
    let disk = SimDisk::new(seed);
    let store = open(&disk).unwrap();
    let progress = run(&store, seed, LENGTH, Model::new());
    assert!(progress.failure.is_none(), "{progress:?}");
    if closed {
        drop(store);
    }
    disk.crash(Loss::Nothing);
    (disk, progress)
}

/// Opens a damaged store: it is refused with its place and an advice, or it lacks nothing. Says whether
/// it was refused.
fn refused_or_whole(disk: &SimDisk, progress: &Progress, what: &str) -> bool {
    let store = match open(disk) {
        Ok(store) => store,
        Err(error) => {
            assert!(matches!(error, OpenError::Corrupt { .. }), "{what}: {error:?}");
            let told = error.to_string();
            assert!(told.contains(PATH) && told.contains("restore a backup"), "{what}: {told}");
            return true;
        }
    };
    // A read that fails says so.
    if let Ok(found) = contents(&store) {
        progress.check_found(&found, what);
    }
    false
}

fn log_files(disk: &SimDisk) -> Vec<PathBuf> {
    let files = disk.files().into_iter().map(|(path, _)| path);
    files.filter(|path| path.starts_with(recovery::directory_of(Path::new(PATH)))).collect()
}

#[test]
fn a_flipped_bit_anywhere_is_refused_or_harmless() {
    const FLIPS: usize = 400;
    let mut random = fastrand::Rng::with_seed(7);
    let mut refused = [0; 2];
    for closed in [false, true] {
        let (disk, progress) = disk(3, closed);
        for flip in 0..FLIPS {
            let damaged = disk.fork();
            let files = damaged.files();
            // Each file is as likely, however long.
            let (path, length) = &files[random.usize(..files.len())];
            let bit = random.usize(..length * 8);
            damaged.damage(path, |contents| contents[bit / 8] ^= 1 << (bit % 8)).unwrap();
            let what = format!("closed: {closed}, flip {flip}: bit {bit} of {}", path.display());
            refused[usize::from(closed)] +=
                usize::from(refused_or_whole(&damaged, &progress, &what));
        }
    }
    assert!(refused[0] > FLIPS / 20, "what was not closed has a log that matters: {refused:?}");
}

#[test]
fn every_flipped_byte_of_the_last_record_is_found() {
    let disk = SimDisk::new(5);
    let store = open(&disk).unwrap();
    let progress = run(&store, 5, 1, Model::new());
    disk.crash(Loss::Nothing);
    drop(store);
    let [path] = &log_files(&disk)[..] else { panic!("one segment suffices") };
    let mut found = 0;
    for place in 0..4 * 512 {
        let damaged = disk.fork();
        damaged.damage(path, |contents| contents[place] ^= 0x10).unwrap();
        found += usize::from(refused_or_whole(&damaged, &progress, &format!("byte {place}")));
    }
    assert!(found >= 2 * 512, "the description and the record: {found}");
}

#[test]
fn a_file_cut_short_or_gone_is_refused_or_harmless() {
    for closed in [false, true] {
        let (disk, progress) = disk(4, closed);
        for (path, length) in disk.files() {
            for eighths in 0..8 {
                let damaged = disk.fork();
                let length = length * eighths / 8;
                damaged.damage(&path, |contents| contents.truncate(length)).unwrap();
                let what = format!("closed: {closed}, {} cut to {length}", path.display());
                refused_or_whole(&damaged, &progress, &what);
            }
            if path != Path::new(PATH) {
                let damaged = disk.fork();
                damaged.lose(&path).unwrap();
                let what = format!("closed: {closed}, {} gone", path.display());
                refused_or_whole(&damaged, &progress, &what);
            }
        }
    }
}

#[test]
fn a_record_that_was_wiped_before_a_later_one_is_missed() {
    let disk = SimDisk::new(2);
    let large = RedbOptions { memtable_bytes: 1 << 20, segment_bytes: 1 << 16, ..options() };
    let store = RedbStore::open_simulated(&disk, PATH, large).unwrap();
    // More than one group of three.
    let progress = run(&store, 2, 7, Model::new());
    assert!(progress.failure.is_none(), "{progress:?}");
    disk.crash(Loss::Nothing);
    let [path] = &log_files(&disk)[..] else { panic!("one segment suffices") };
    disk.damage(path, |contents| contents[512..1024].fill(0)).unwrap();
    let error = open(&disk).expect_err("its first record is gone");
    assert!(error.to_string().contains("a record is gone"), "{error}");
}

#[test]
fn a_log_that_is_needed_and_gone_is_missed() {
    let (disk, _) = disk(4, false);
    for path in log_files(&disk) {
        disk.lose(&path).unwrap();
    }
    let error = open(&disk).expect_err("its log is gone");
    assert!(error.to_string().contains("of the log is missing"), "{error}");
}

#[test]
fn a_closed_store_needs_no_log() {
    let (disk, progress) = disk(4, true);
    for path in log_files(&disk) {
        disk.lose(&path).unwrap();
    }
    progress.check(&open(&disk).unwrap(), "without a log");
}

#[test]
fn a_blob_file_that_is_gone_or_cut_short_is_missed() {
    let (disk, _) = disk(4, true);
    let files = disk.files().into_iter().map(|(path, _)| path);
    let blobs = blobs::directory_of(Path::new(PATH));
    let files: Vec<_> = files.filter(|path| path.starts_with(&blobs)).collect();
    assert!(files.len() > 1, "{files:?}");
    for path in files {
        let gone = disk.fork();
        gone.lose(&path).unwrap();
        let error = open(&gone).expect_err("its values are gone");
        assert!(error.to_string().contains("is missing"), "{error}");
        let cut = disk.fork();
        cut.damage(&path, |contents| contents.truncate(contents.len() / 2)).unwrap();
        let error = open(&cut).expect_err("its values are gone");
        assert!(error.to_string().contains("cut short"), "{error}");
    }
}

#[test]
fn a_blob_file_without_use_is_removed_and_readers_keep_what_they_saw() {
    let disk = SimDisk::new(1);
    let store = open(&disk).unwrap();
    let run = |future: std::pin::Pin<Box<dyn Future<Output = ()> + '_>>| {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future);
    };
    let blob_files = || {
        let blobs = blobs::directory_of(Path::new(PATH));
        disk.files().into_iter().filter(|(path, _)| path.starts_with(&blobs)).count()
    };
    run(Box::pin(async {
        for round in 0..40_u8 {
            let mut writer = store.begin().await.unwrap();
            for key in 0..4_u8 {
                writer.put(vec![key].into(), vec![round; 1_000].into());
            }
            writer.commit().await.unwrap();
        }
        let mut reader = store.begin().await.unwrap();
        let before = blob_files();
        assert!(before < 6, "what is written over is not kept: {before}");
        let mut writer = store.begin().await.unwrap();
        writer.delete_range(KeyRange::all());
        writer.put(vec![9].into(), vec![9; 4_000].into());
        writer.commit().await.unwrap();
        assert_eq!(reader.get(&[3]).await.unwrap().unwrap(), vec![39; 1_000]);
    }));
    drop(store);
    assert_eq!(blob_files(), 1);
    disk.crash(Loss::Everything);
    assert_eq!(contents(&open(&disk).unwrap()).unwrap().len(), 1);
}

#[test]
fn a_log_of_another_store_is_refused() {
    let (disk, _) = disk(4, false);
    let (other, _) = self::disk(6, false);
    let theirs = other.contents(Path::new(PATH)).unwrap();
    disk.damage(Path::new(PATH), |contents| *contents = theirs).unwrap();
    let error = open(&disk).expect_err("the log is not its own");
    assert!(error.to_string().contains("another store"), "{error}");
}

#[test]
fn a_store_of_an_earlier_backup_is_refused_beside_a_later_log() {
    let disk = SimDisk::new(8);
    let store = open(&disk).unwrap();
    let first = run(&store, 8, LENGTH, Model::new());
    drop(store);
    let backup = disk.contents(Path::new(PATH)).unwrap();
    disk.restart();
    let store = open(&disk).unwrap();
    run(&store, 9, LENGTH, first.check(&store, "reopened"));
    disk.crash(Loss::Nothing);
    drop(store);
    disk.damage(Path::new(PATH), |contents| *contents = backup).unwrap();
    let error = open(&disk).expect_err("commits are in the log that the file does not know");
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error:?}");
}

/// A store as the first format had them, not closed, with one pair.
fn first_format(disk: &SimDisk) {
    let path = Path::new(PATH);
    disk.create(path).unwrap();
    disk.sync_directory(Path::new("/sim")).unwrap();
    let backend = super::super::meters::MeteredDisk::new(
        std::sync::Arc::new(disk.clone()),
        std::sync::Arc::default(),
    );
    let database = Database::builder().create_with_backend(backend.backend(path).unwrap()).unwrap();
    file::write_first_format(&database).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut pairs = transaction.open_table(file::RAW_PAIRS).unwrap();
        pairs.insert(&b"key"[..], &b"value"[..]).unwrap();
        pairs.insert(&b"large"[..], &[7; 1_000][..]).unwrap();
    }
    transaction.commit().unwrap();
    disk.restart();
}

#[test]
fn a_store_of_the_first_format_becomes_one_of_this_wherever_the_machine_stops() {
    let made = SimDisk::new(1);
    first_format(&made);
    let before = made.operations();
    drop(RedbStore::open_simulated(&made.fork(), PATH, options()).unwrap());
    let whole = made.fork();
    drop(open(&whole).unwrap());
    for operation in before..whole.operations() {
        let disk = made.fork();
        disk.fail_at(operation, DiskFault::Crash);
        drop(open(&disk));
        disk.crash(Loss::Some);
        let store = open(&disk).unwrap_or_else(|error| panic!("operation {operation}: {error}"));
        let before = contents(&store).unwrap();
        assert_eq!(before[&b"key"[..]], &b"value"[..]);
        assert_eq!(before[&b"large"[..]], &[7; 1_000][..]);
        let progress = run(&store, 1, 4, before);
        drop(store);
        disk.crash(Loss::Everything);
        progress.check(&open(&disk).unwrap(), "upgraded");
    }
    assert_eq!(recovery::directory_of(Path::new(PATH)), Path::new("/sim/store.redb.wal"));
}
