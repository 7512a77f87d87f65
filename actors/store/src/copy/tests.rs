use std::collections::BTreeMap;

use futures::FutureExt;
use tempfile::TempDir;

use super::*;
use crate::{Fault, MemoryStore, RedbOptions, RedbStore};

async fn fill(store: &dyn Store, pairs: usize) {
    for first in (0..pairs).step_by(50) {
        let mut transaction = store.begin().await.unwrap();
        for number in first..pairs.min(first + 50) {
            let value = vec![b'v'; (number * 7_919) % 3_000];
            transaction.put(Bytes::from(format!("key-{number}")), Bytes::from(value));
        }
        transaction.put_stamped(Bytes::from_static(b"log/"), Bytes::from(first.to_string()));
        transaction.commit().await.unwrap();
    }
}

async fn contents(store: &dyn Store) -> BTreeMap<Bytes, Bytes> {
    let mut transaction = store.begin().await.unwrap();
    let all = transaction.range(&KeyRange::all(), usize::MAX, Order::Forward).await;
    all.unwrap().into_iter().collect()
}

/// A target whose versions are not behind those of the sources here.
async fn ahead() -> MemoryStore {
    let store = MemoryStore::new();
    for _ in 0..200 {
        let mut transaction = store.begin().await.unwrap();
        transaction.delete(Bytes::from_static(b"nothing"));
        transaction.commit().await.unwrap();
    }
    store
}

/// A copy as of now: nobody writes to the sources here.
async fn copy_now(
    source: &dyn Store,
    target: &dyn Store,
    progress: impl FnMut(Progress),
) -> Result<Report, CopyError> {
    copy(source, version(source).await.unwrap(), target, progress).await
}

fn redb(directory: &TempDir, name: &str, first_version: Version) -> RedbStore {
    let options = RedbOptions { first_version, ..RedbOptions::default() };
    RedbStore::open(directory.path().join(name), options).unwrap()
}

#[tokio::test]
async fn a_copy_has_everything_and_goes_on_stamping_above_it() {
    let directory = TempDir::new().unwrap();
    let source = redb(&directory, "source", Version::default());
    fill(&source, 1_000).await;
    let target = redb(&directory, "target", version(&source).await.unwrap());
    let mut told = Vec::new();
    let report = copy_now(&source, &target, |progress| told.push(progress)).await.unwrap();
    let expected = contents(&source).await;
    assert_eq!(contents(&target).await, expected);
    assert_eq!(report.volume.pairs, expected.len() as u64);
    assert_eq!(told.last(), Some(&Progress::VerifiedTarget(report.volume)));
    assert!(told.contains(&Progress::Copied(report.volume)));
    assert_eq!(check_complete(&target).await.unwrap(), Ok(()));

    let last = expected.range(Bytes::from_static(b"log/")..).next_back().unwrap().0.clone();
    fill(&target, 1).await;
    let stamped = contents(&target).await;
    let later = stamped.range(Bytes::from_static(b"log/")..).next_back().unwrap();
    assert!(*later.0 > last && later.1 == "0");
}

#[tokio::test]
async fn an_empty_store_is_copied_too() {
    let report = copy_now(&MemoryStore::new(), &MemoryStore::new(), |_| {}).await.unwrap();
    assert_eq!(report.volume, Volume::default());
}

#[tokio::test]
async fn a_target_that_is_not_empty_is_refused_and_left_alone() {
    let (source, target) = (MemoryStore::new(), ahead().await);
    fill(&source, 10).await;
    fill(&target, 1).await;
    let before = contents(&target).await;
    let error = copy_now(&source, &target, |_| {}).await.unwrap_err();
    assert!(matches!(error, CopyError::NotEmpty), "{error}");
    assert_eq!(contents(&target).await, before);
}

#[tokio::test]
async fn a_target_whose_versions_are_behind_is_refused_with_what_to_do() {
    let source = ahead().await;
    let error = copy_now(&source, &MemoryStore::new(), |_| {}).await.unwrap_err();
    assert!(error.to_string().contains("advanceversion 200"), "{error}");
}

#[tokio::test]
async fn an_interrupted_copy_is_recognised_whichever_way_it_is_used() {
    let (source, target) = (MemoryStore::new(), ahead().await);
    fill(&source, 300).await;
    target.faults().script([None, None, Some(Fault::Full)]);
    let error = copy_now(&source, &target, |_| {}).await.unwrap_err();
    assert!(matches!(error, CopyError::Write(_)), "{error}");
    assert_eq!(check_complete(&target).await.unwrap(), Err(IncompleteCopy));
    let error = copy_now(&source, &target, |_| {}).await.unwrap_err();
    assert!(matches!(error, CopyError::Interrupted), "{error}");
    let error = copy_now(&target, &MemoryStore::new(), |_| {}).await.unwrap_err();
    assert!(matches!(error, CopyError::IncompleteSource), "{error}");
}

#[tokio::test]
async fn what_fails_for_a_while_is_tried_again_to_the_same_result() {
    let (source, target) = (MemoryStore::new(), ahead().await);
    fill(&source, 100).await;
    target.faults().script([
        Some(Fault::UnknownApplied),
        None,
        Some(Fault::UnknownLost),
        Some(Fault::Unavailable),
    ]);
    copy_now(&source, &target, |_| {}).await.unwrap();
    assert_eq!(contents(&target).await, contents(&source).await);
}

#[tokio::test]
async fn a_source_that_changes_meanwhile_is_found() {
    let (source, target) = (MemoryStore::new(), ahead().await);
    fill(&source, 200).await;
    let mut writer = Some(source.clone());
    let error = copy_now(&source, &target, |_| {
        if let Some(writer) = writer.take() {
            let mut transaction = writer.begin().now_or_never().unwrap().unwrap();
            transaction.put(Bytes::from_static(b"key-0"), Bytes::from_static(b"changed"));
            transaction.commit().now_or_never().unwrap().unwrap();
        }
    })
    .await
    .unwrap_err();
    assert!(matches!(error, CopyError::Differs { .. }), "{error}");
    assert_eq!(check_complete(&target).await.unwrap(), Err(IncompleteCopy));
}

#[tokio::test]
async fn batches_are_bounded_and_whole() {
    let page: Vec<_> =
        (0..100).map(|number| (Bytes::from(vec![number]), Bytes::from(vec![0; 99_000]))).collect();
    let parts: Vec<_> = batches(&page).collect();
    assert_eq!(parts.concat(), page);
    assert!(parts.iter().all(|part| part.len() <= 7), "{}", parts.len());
}
