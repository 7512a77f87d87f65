//! Master keys in files and in the environment: what is accepted, what refused, and how keys take turns.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use aa_protocol::{Timestamp, WorkspaceId};
use aa_vault::{
    MasterKey, Vault,
    master_key::{
        env::{EnvKeyError, EnvMasterKey},
        file::{FileKeyError, FileMasterKey, MAX_FILE_BYTES, MAX_GENERATIONS},
    },
};
use futures::executor::block_on;
use uuid::Uuid;

const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

struct Home {
    directory: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("master.json")
    }
}

fn workspace() -> WorkspaceId {
    WorkspaceId::from_uuid(Uuid::from_u128(1))
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_master_key_file_is_made_once_private_and_read_back() {
    let home = Home::new();
    let made = FileMasterKey::create(&home.path(), NOW).unwrap();
    assert_eq!(fs::metadata(home.path()).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(FileMasterKey::open(&home.path()).unwrap().id(), made.id());
    let before = fs::read(home.path()).unwrap();
    assert!(matches!(FileMasterKey::create(&home.path(), NOW), Err(FileKeyError::Exists { .. })));
    assert_eq!(fs::read(home.path()).unwrap(), before, "never overwritten");
    assert_eq!(fs::read_dir(home.directory.path()).unwrap().count(), 1, "no draft stays behind");
}

#[test]
fn a_new_generation_wraps_and_the_old_one_opens_until_nothing_uses_it() {
    let home = Home::new();
    let first = FileMasterKey::create(&home.path(), NOW).unwrap();
    let ring = block_on(Vault::create(workspace(), NOW, &first)).unwrap().ring().clone();
    let second = FileMasterKey::add(&home.path(), NOW).unwrap();
    assert_ne!(second.id(), first.id());
    assert_eq!(second.generations().len(), 2);

    let mut vault = block_on(Vault::open_ring(ring, &second)).unwrap();
    let error = FileMasterKey::remove(&home.path(), &first.id(), &vault.ring().master_keys());
    assert!(matches!(error, Err(FileKeyError::InUse { .. })));

    vault.adopt(vault.rotate_master(&second)).unwrap();
    let id = vault.ring().active();
    vault.adopt(block_on(vault.rewrap(id, &second)).unwrap().unwrap()).unwrap();
    let used = vault.ring().master_keys();
    assert!(matches!(
        FileMasterKey::remove(&home.path(), &second.id(), []),
        Err(FileKeyError::InUse { .. })
    ));
    let third = FileMasterKey::remove(&home.path(), &first.id(), &used).unwrap();
    assert_eq!(third.generations().len(), 1);
    assert!(matches!(
        FileMasterKey::remove(&home.path(), &first.id(), &used),
        Err(FileKeyError::NoGeneration { .. })
    ));
    block_on(Vault::open_ring(vault.ring().clone(), &third)).unwrap();
}

#[test]
fn generations_are_bounded() {
    let home = Home::new();
    FileMasterKey::create(&home.path(), NOW).unwrap();
    for _ in 1..MAX_GENERATIONS {
        FileMasterKey::add(&home.path(), NOW).unwrap();
    }
    assert!(matches!(FileMasterKey::add(&home.path(), NOW), Err(FileKeyError::Full { .. })));
    assert_eq!(FileMasterKey::open(&home.path()).unwrap().generations().len(), MAX_GENERATIONS);
}

#[test]
fn writers_take_turns_and_no_generation_is_lost() {
    let home = Home::new();
    FileMasterKey::create(&home.path(), NOW).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..3 {
                    FileMasterKey::add(&home.path(), NOW).unwrap();
                }
            });
        }
    });
    assert_eq!(FileMasterKey::open(&home.path()).unwrap().generations().len(), 13);
}

#[test]
fn an_exposed_file_is_refused_with_the_remedy() {
    let home = Home::new();
    FileMasterKey::create(&home.path(), NOW).unwrap();
    for exposed in [0o640, 0o604, 0o620, 0o601] {
        mode(&home.path(), exposed);
        let error = FileMasterKey::open(&home.path()).unwrap_err();
        assert!(matches!(error, FileKeyError::Exposed { mode, .. } if mode == exposed));
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
    mode(&home.path(), 0o400);
    FileMasterKey::open(&home.path()).unwrap();
}

#[test]
fn a_directory_that_others_can_write_is_refused() {
    let home = Home::new();
    FileMasterKey::create(&home.path(), NOW).unwrap();
    mode(home.directory.path(), 0o770);
    for result in [FileMasterKey::open(&home.path()), FileMasterKey::add(&home.path(), NOW)] {
        assert!(matches!(result, Err(FileKeyError::ExposedDirectory { .. })));
    }
    mode(home.directory.path(), 0o700);
}

#[test]
fn only_a_plain_file_with_one_name_is_read() {
    let home = Home::new();
    let path = home.path();
    assert!(matches!(FileMasterKey::open(&path), Err(FileKeyError::Missing { .. })));

    let elsewhere = home.directory.path().join("elsewhere.json");
    FileMasterKey::create(&elsewhere, NOW).unwrap();
    symlink(&elsewhere, &path).unwrap();
    assert!(matches!(FileMasterKey::open(&path), Err(FileKeyError::NotPlain { .. })));
    assert!(matches!(FileMasterKey::create(&path, NOW), Err(FileKeyError::Exists { .. })));
    fs::remove_file(&path).unwrap();

    fs::hard_link(&elsewhere, &path).unwrap();
    assert!(matches!(FileMasterKey::open(&path), Err(FileKeyError::Linked { links: 2, .. })));
    fs::remove_file(&path).unwrap();

    fs::create_dir(&path).unwrap();
    mode(&path, 0o700);
    assert!(matches!(FileMasterKey::open(&path), Err(FileKeyError::NotPlain { .. })));
    fs::remove_dir(&path).unwrap();

    let made =
        std::process::Command::new("mkfifo").args(["-m", "600"]).arg(&path).status().unwrap();
    assert!(made.success());
    assert!(
        matches!(FileMasterKey::open(&path), Err(FileKeyError::NotPlain { .. })),
        "without waiting"
    );
}

#[test]
fn a_damaged_file_is_refused_without_being_quoted() {
    let home = Home::new();
    let path = home.path();
    FileMasterKey::create(&path, NOW).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let key = text.split("\"key\": \"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let mut other = key.clone();
    other.replace_range(0..1, if key.starts_with('A') { "B" } else { "A" });
    let cases: BTreeMap<&str, String> = BTreeMap::from([
        ("another key", text.replace(&key, &other)),
        ("a short key", text.replace(&key, &key[1..])),
        ("a key as a number", text.replace("\"key\": \"", "\"key\": 5, \"x\": \"")),
        ("a key as a field", text.replace("\"key\"", &format!("\"{key}\": 1, \"key\""))),
        ("another format", text.replace("\"format\": 1", "\"format\": 2")),
        ("no generation", "{\"format\": 1, \"generations\": []}".to_owned()),
        ("half of it", text[..text.len() / 2].to_owned()),
        ("no JSON", key.clone()),
    ]);
    for (case, damaged) in cases {
        fs::write(&path, &damaged).unwrap();
        let error = FileMasterKey::open(&path).unwrap_err();
        assert!(matches!(error, FileKeyError::Damaged { .. }), "{case}: {error}");
        for shown in [error.to_string(), format!("{error:?}")] {
            assert!(
                !shown.contains(&key[..20]) && !shown.contains(&other[..20]),
                "{case}: {shown}"
            );
        }
    }
    for size in [0, usize::try_from(MAX_FILE_BYTES).unwrap() + 1] {
        fs::write(&path, vec![b' '; size]).unwrap();
        assert!(matches!(FileMasterKey::open(&path), Err(FileKeyError::Size { .. })), "{size}");
    }
}

#[test]
fn a_key_of_the_environment_wraps_and_the_previous_one_opens() {
    let new = "b".repeat(42) + "A";
    let old = "a".repeat(42) + "A";
    let variables = BTreeMap::from([("NEW", new), ("OLD", old.clone())]);
    let read = |current: &str, previous: Option<&str>| {
        EnvMasterKey::from_lookup(current, previous, |name| variables.get(name).cloned())
    };
    let before = read("OLD", None).unwrap();
    let ring = block_on(Vault::create(workspace(), NOW, &before)).unwrap().ring().clone();
    let after = read("NEW", Some("OLD")).unwrap();
    assert!(after.opens(&before.id()) && after.id() != before.id());
    block_on(Vault::open_ring(ring.clone(), &after)).unwrap();
    assert!(block_on(Vault::open_ring(ring, &read("NEW", Some("UNSET")).unwrap())).is_err());

    assert!(matches!(read("UNSET", None), Err(EnvKeyError::Missing { .. })));
    assert!(matches!(read("OLD", Some("OLD")), Err(EnvKeyError::Same { .. })));
    // A last character that carries bits past the 256 would be a second spelling of a key.
    for value in [
        "",
        "short",
        &old[1..],
        &(old.clone() + "="),
        &("a".repeat(42) + "B"),
        &old.replace('a', "+"),
    ] {
        let error = EnvMasterKey::from_lookup("X", None, |_| Some(value.to_owned())).unwrap_err();
        let characters = value.len();
        assert_eq!(error, EnvKeyError::Malformed { variable: "X".to_owned(), characters });
    }
    assert!(matches!(
        EnvMasterKey::from_env("AA_VAULT_TEST_UNSET", None),
        Err(EnvKeyError::Missing { .. })
    ));
}
