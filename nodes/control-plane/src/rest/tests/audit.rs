use std::{io::Cursor, pin::pin, time::Duration};

use aa_ledger::{Export, Keys, PinnedCheckpoint, verify};
use tokio::time::timeout;

use super::*;

async fn with_entries() -> Fixture {
    let fixture = Fixture::new().await;
    for number in 1..=5 {
        let document = format!("version: \"{number}\"\n");
        fixture.apply("?name=p", &document).await.ok(201);
    }
    fixture
}

fn ids(page: &Value) -> Vec<String> {
    let entries = page["entries"].as_array().unwrap().iter();
    entries.map(|entry| entry["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn entries_are_paged_newest_first_exactly_as_sealed() {
    let fixture = with_entries().await;
    let all = fixture.get("/audit/entries?limit=1000").await.ok(200);
    for entry in serde_json::from_slice::<audit_page::Page>(&all.body).unwrap().entries {
        aa_ledger::Entry::parse(entry.get().as_bytes()).unwrap();
    }
    let all = all.json();
    assert_eq!(all["next"], Value::Null);
    let all = ids(&all);
    assert!(all.len() >= 7, "{all:?}");
    let mut paged = Vec::new();
    let mut path = "/audit/entries?limit=2".to_owned();
    loop {
        let page = fixture.get(&path).await.ok(200).json();
        paged.extend(ids(&page));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/audit/entries?limit=2&cursor={next}");
    }
    assert_eq!(paged, all);
    let policies = fixture.get("/audit/entries?kind=policy").await.ok(200).json();
    assert_eq!(ids(&policies).len(), 6);
    let one = fixture.get(&format!("/audit/entries?event={}", all[0])).await.ok(200).json();
    assert_eq!(ids(&one), all[..1]);
}

mod audit_page {
    #[derive(serde::Deserialize)]
    pub(super) struct Page {
        pub(super) entries: Vec<Box<serde_json::value::RawValue>>,
    }
}

#[tokio::test]
async fn the_tail_begins_at_the_end_and_brings_what_comes() {
    let fixture = with_entries().await;
    let start = fixture.get("/audit/tail").await.ok(200).json();
    assert!(ids(&start).is_empty());
    let cursor = start["cursor"].as_str().unwrap();
    fixture.apply("?name=p", "version: \"6\"\n").await.ok(201);
    let page = fixture.get(&format!("/audit/tail?cursor={cursor}")).await.ok(200).json();
    assert_eq!(ids(&page).len(), 1);
    let cursor = page["cursor"].as_str().unwrap();
    let page = fixture.get(&format!("/audit/tail?cursor={cursor}")).await.ok(200).json();
    assert!(ids(&page).is_empty());
}

#[tokio::test]
async fn an_export_verifies_with_the_keys_and_an_earlier_checkpoint() {
    let fixture = with_entries().await;
    let earlier = fixture.get("/audit/checkpoint").await.ok(200);
    fixture.apply("?name=p", "version: \"6\"\n").await.ok(201);
    let keys = fixture.get("/audit/keys").await.ok(200);
    let keys = Keys::parse(keys.text()).unwrap();
    let export = fixture.get("/audit/export").await.ok(200);
    assert_eq!(export.headers[header::CONTENT_TYPE], "application/jsonl");
    let disposition = export.headers[header::CONTENT_DISPOSITION].to_str().unwrap();
    assert_eq!(disposition, format!("attachment; filename=\"{WORKSPACE}-audit.jsonl\""));
    let pinned = PinnedCheckpoint { name: "earlier", note: earlier.text() };
    let mut whole = Cursor::new(export.body.clone());
    let mut exports = [Export { name: "export", reader: &mut whole }];
    let report = verify(&mut exports, Some(&keys), Some(&pinned)).unwrap();
    assert!(report.intact, "{report}");

    let mut altered = export.body;
    let place = altered.windows(6).position(|text| text == b"policy").unwrap();
    altered[place] = b'P';
    let mut altered = Cursor::new(altered);
    let mut exports = [Export { name: "export", reader: &mut altered }];
    assert!(!verify(&mut exports, Some(&keys), None).unwrap().intact);
}

#[tokio::test]
async fn a_cef_export_has_a_line_for_each_entry() {
    let fixture = with_entries().await;
    let entries = ids(&fixture.get("/audit/entries?limit=1000").await.ok(200).json()).len();
    let export = fixture.get("/audit/export?format=cef").await.ok(200);
    assert_eq!(export.text().lines().count(), entries);
    assert!(export.text().lines().all(|line| line.starts_with("CEF:0|")));
}

#[tokio::test]
async fn a_checkpoint_is_handed_out_only_once_it_is_committed() {
    let store = aa_store::MemoryStore::new();
    let faults = store.faults().clone();
    let hour = Duration::from_secs(3_600);
    let options = GovernanceOptions { checkpoint_every: hour, ..GovernanceOptions::default() };
    let fixture = Fixture::over(store, options).await;
    fixture.apply("?name=p", "version: \"1\"\n").await.ok(201);
    // Several, since a lease may be renewed in between.
    faults.script([Some(aa_store::Fault::Stall); 4]);
    let mut first = pin!(fixture.get("/audit/checkpoint"));
    assert!(timeout(Duration::from_millis(100), &mut first).await.is_err());
    // Nothing is new since the first, whose commit still hangs.
    let mut second = pin!(fixture.get("/audit/checkpoint"));
    assert!(timeout(Duration::from_millis(100), &mut second).await.is_err());
    let mut both = pin!(async { tokio::join!(first, second) });
    let (first, second) = loop {
        match timeout(Duration::from_millis(10), &mut both).await {
            Ok(both) => break both,
            Err(_elapsed) => faults.release(),
        }
    };
    assert_eq!(first.ok(200).text(), second.ok(200).text());
}

#[tokio::test]
async fn a_backup_is_an_owners_and_proves_itself() {
    let fixture = with_entries().await;
    let admin = fixture.key(Grant::Admin).await;
    let refused = fixture.call(&admin, Method::POST, "/workspace/backup", None).await;
    refused.problem(403, "forbidden");
    let keys = fixture.get("/audit/keys").await.ok(200);
    let keys = Keys::parse(keys.text()).unwrap();
    let owner = fixture.key(Grant::Owner).await;
    let backup = fixture.call(&owner, Method::POST, "/workspace/backup", None).await.ok(200);
    let disposition = backup.headers[header::CONTENT_DISPOSITION].to_str().unwrap();
    assert_eq!(disposition, format!("attachment; filename=\"{WORKSPACE}.backup\""));
    let contents = aa_governance::backup::verify(&backup.body[..], Some(&keys), None).unwrap();
    assert_eq!(contents.workspace.to_string(), WORKSPACE);
}
