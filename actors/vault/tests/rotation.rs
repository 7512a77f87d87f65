//! Rotations that are cut off anywhere: every secret opens to its value at every point.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use aa_protocol::{Timestamp, WorkspaceId};
use aa_vault::{
    KeyRing, KeyState, MasterKey, MasterKeys, RingChange, SealedSecret, SecretName, SecretValue,
    Vault, VaultError,
    master_key::env::EnvMasterKey,
    rotation::{RotationProgress, RotationStep, next_step, progress},
};
use futures::executor::block_on;
use proptest::prelude::*;
use uuid::Uuid;

/// What is durable, and how many writes it takes until the process is cut off.
struct Store {
    ring: Vec<u8>,
    secrets: BTreeMap<SecretName, Vec<u8>>,
    writes: usize,
    cut_off_after: usize,
}

/// The process is gone. Whether the last write was durable, it never learnt.
struct CutOff;

enum Write {
    Ring(Vec<u8>),
    Secret(SecretName, Vec<u8>),
}

/// A workspace with a store, its vault and what its secrets should be.
struct World {
    store: Store,
    expected: BTreeMap<SecretName, (u64, String)>,
    masters: Vec<Arc<EnvMasterKey>>,
    now: i64,
}

impl Store {
    fn write(&mut self, write: Write) -> Result<(), CutOff> {
        match write {
            Write::Ring(text) => self.ring = text,
            Write::Secret(name, text) => drop(self.secrets.insert(name, text)),
        }
        self.writes += 1;
        if self.writes == self.cut_off_after { Err(CutOff) } else { Ok(()) }
    }

    fn sealed(&self) -> Vec<SealedSecret> {
        self.secrets.values().map(|text| SealedSecret::from_json(text).unwrap()).collect()
    }
}

impl World {
    fn new(secrets: usize) -> Self {
        let masters = vec![master(0)];
        let workspace = WorkspaceId::from_uuid(Uuid::from_u128(7));
        let first =
            block_on(Vault::create(workspace, Timestamp::from_micros(1), &*masters[0])).unwrap();
        let ring = first.ring().to_json();
        let vault = Vault::found(first);
        let store = Store { ring, secrets: BTreeMap::new(), writes: 0, cut_off_after: usize::MAX };
        let mut world = Self { store, expected: BTreeMap::new(), masters, now: 1 };
        for number in 0..secrets {
            world.set(&vault, &format!("secret-{number}"), number).ok().unwrap();
        }
        world.store.writes = 0;
        world
    }

    fn now(&mut self) -> Timestamp {
        self.now += 1;
        Timestamp::from_micros(self.now)
    }

    fn master(&self) -> MasterKeys {
        let (current, former) = self.masters.split_last().unwrap();
        let former = former.iter().map(|key| Arc::clone(key) as Arc<dyn MasterKey>).collect();
        MasterKeys::new(Arc::clone(current) as Arc<dyn MasterKey>, former)
    }

    fn reopen(&self) -> Vault {
        let ring = KeyRing::from_json(&self.store.ring).unwrap();
        block_on(Vault::open_ring(ring, &self.master())).unwrap()
    }

    fn set(&mut self, vault: &Vault, name: &str, number: usize) -> Result<(), CutOff> {
        let name: SecretName = name.parse().unwrap();
        let version = self.expected.get(&name).map_or(1, |(version, _)| version + 1);
        let value = format!("value {number} of {name}");
        let secret = SecretValue::copy_of(value.as_bytes()).unwrap();
        let sealed = vault.seal(&name, version, &secret).unwrap();
        self.expected.insert(name.clone(), (version, value));
        self.store.write(Write::Secret(name, sealed.to_json()))
    }

    fn adopt(&mut self, vault: &mut Vault, change: RingChange) -> Result<(), CutOff> {
        self.store.write(Write::Ring(change.ring().to_json()))?;
        vault.adopt(change).unwrap();
        Ok(())
    }

    /// One step of what is under way; `false` when nothing is.
    fn step(&mut self, vault: &mut Vault) -> Result<bool, CutOff> {
        let secrets = self.store.sealed();
        match next_step(vault.ring(), &secrets) {
            None => return Ok(false),
            Some(RotationStep::Rewrap(id)) => {
                let change = block_on(vault.rewrap(id, &self.master())).unwrap().unwrap();
                self.adopt(vault, change)?;
            }
            Some(RotationStep::Reseal { name, version }) => {
                let sealed = secrets.iter().find(|secret| *secret.name() == name).unwrap();
                assert_eq!(sealed.version(), version);
                let fresh = vault.reseal(sealed).unwrap().unwrap();
                self.store.write(Write::Secret(name, fresh.to_json()))?;
            }
            Some(RotationStep::Retire(_)) => {
                let now = self.now();
                let change = vault.retire(now, &secrets).unwrap().unwrap();
                self.adopt(vault, change)?;
            }
        }
        Ok(true)
    }

    /// Opens all anew from what is durable and checks what must hold at every point.
    fn check(&self) {
        let vault = self.reopen();
        let sealed = self.store.sealed();
        assert_eq!(sealed.len(), self.expected.len(), "one record for each secret");
        for secret in &sealed {
            let (version, value) = &self.expected[secret.name()];
            let opened = vault.open(secret.name(), *version, secret).unwrap();
            assert_eq!(opened.expose_text().unwrap(), value);
        }
        let used: BTreeSet<_> = sealed.iter().map(SealedSecret::key).collect();
        for (id, record) in vault.ring().keys() {
            let retired = matches!(record.state, KeyState::Retired(_));
            assert!(!(retired && used.contains(&id)), "{id} is retired and used");
        }
    }

    /// Rotates the data key, then the master key, and lets both finish.
    fn rotate_both(&mut self) -> Result<(), CutOff> {
        let mut vault = self.reopen();
        if !vault.ring().is_rotating() {
            let now = self.now();
            let change = block_on(vault.rotate(now, &self.master())).unwrap();
            self.adopt(&mut vault, change)?;
            let change = vault.rotate_master(&self.master());
            self.adopt(&mut vault, change)?;
        }
        while self.step(&mut vault)? {}
        Ok(())
    }
}

fn master(number: u8) -> Arc<EnvMasterKey> {
    let letter = char::from(b'a' + number % 26);
    let value: String = std::iter::repeat_n(letter, 42).chain(['A']).collect();
    Arc::new(EnvMasterKey::from_lookup("AA_MASTER_KEY", None, |_| Some(value.clone())).unwrap())
}

#[test]
fn a_rotation_cut_off_after_any_write_goes_on_where_it_was() {
    for cut_off_after in 1..100 {
        let mut world = World::new(5);
        let before = world.reopen().ring().active();
        world.masters.push(master(1));
        world.store.cut_off_after = cut_off_after;
        let finished = world.rotate_both().is_ok();
        world.check();
        if !finished {
            // What was begun goes on by itself; what was not is begun again.
            world.rotate_both().ok().unwrap();
            world.check();
        }
        let ring = world.reopen().ring().clone();
        assert!(!ring.is_rotating());
        assert_ne!(ring.active(), before);
        if finished {
            assert!(cut_off_after > 9, "a rotation of 5 secrets takes 10 writes");
            return;
        }
    }
    panic!("the rotation never ended");
}

#[test]
fn after_both_rotations_neither_old_key_is_needed() {
    let mut world = World::new(3);
    let before = world.reopen().ring().active();
    world.masters.push(master(1));
    world.rotate_both().ok().unwrap();
    let ring = world.reopen().ring().clone();
    assert_eq!(ring.master_keys(), BTreeSet::from([master(1).id()]));
    assert_eq!(ring.live().count(), 1);
    assert!(matches!(ring.key(before).unwrap().state, KeyState::Retired(_)));
    // The old master key may go.
    world.masters.remove(0);
    world.check();
}

#[test]
fn a_rotation_tells_how_far_it_is() {
    let mut world = World::new(2);
    let mut vault = world.reopen();
    let left = |world: &World, vault: &Vault| progress(vault.ring(), &world.store.sealed());
    let now = world.now();
    let change = block_on(vault.rotate(now, &world.master())).unwrap();
    world.adopt(&mut vault, change).ok().unwrap();
    let expected =
        |to_rewrap, to_reseal, to_retire| RotationProgress { to_rewrap, to_reseal, to_retire };
    assert_eq!(left(&world, &vault), expected(0, 2, 1));
    world.step(&mut vault).ok().unwrap();
    assert_eq!(left(&world, &vault), expected(0, 1, 1));
    let change = vault.rotate_master(&world.master());
    world.adopt(&mut vault, change).ok().unwrap();
    assert_eq!(left(&world, &vault), expected(2, 1, 1));
    while world.step(&mut vault).ok().unwrap() {}
    assert_eq!(left(&world, &vault), expected(0, 0, 0));
}

#[test]
fn a_rotation_to_a_master_key_that_is_gone_says_which_is_configured() {
    let mut world = World::new(1);
    let mut vault = world.reopen();
    world.masters.push(master(1));
    let change = vault.rotate_master(&world.master());
    world.adopt(&mut vault, change).ok().unwrap();
    world.masters.push(master(2));
    let id = vault.ring().active();
    let error = block_on(vault.rewrap(id, &world.master())).unwrap_err();
    assert!(matches!(error, VaultError::OtherTarget(_)), "{error}");
    assert!(error.to_string().contains(master(2).id().as_str()), "{error}");
    // Begun again, it goes to the new one.
    let change = vault.rotate_master(&world.master());
    world.adopt(&mut vault, change).ok().unwrap();
    while world.step(&mut vault).ok().unwrap() {}
    assert_eq!(vault.ring().master_keys(), BTreeSet::from([master(2).id()]));
}

#[test]
fn a_key_under_which_a_secret_is_sealed_is_not_retired() {
    let mut world = World::new(2);
    let mut vault = world.reopen();
    let now = world.now();
    let change = block_on(vault.rotate(now, &world.master())).unwrap();
    world.adopt(&mut vault, change).ok().unwrap();
    assert!(vault.retire(now, &world.store.sealed()).unwrap().is_none());
    // A secret of the retired key that comes back, as from a backup, is told from a damaged one.
    let old = world.store.sealed().remove(0);
    while world.step(&mut vault).ok().unwrap() {}
    let error = vault.open(old.name(), old.version(), &old).unwrap_err();
    assert!(error.to_string().contains("is retired"), "{error}");
}

#[test]
fn many_rotations_leave_a_ring_of_bounded_size() {
    let mut world = World::new(1);
    for number in 0..60 {
        world.masters.push(master(number % 2 + 1));
        world.rotate_both().ok().unwrap();
        world.masters.remove(0);
    }
    world.check();
    let ring = world.reopen().ring().clone();
    assert_eq!(ring.keys().count(), aa_vault::MAX_RETIRED_KEYS + 1);
    assert!(world.store.ring.len() < 8 * 1024, "{} bytes", world.store.ring.len());
}

#[derive(Clone, Debug)]
enum Event {
    Set(usize),
    Delete(usize),
    Rotate,
    RotateMaster,
    Step,
    Restart,
    /// The next write is durable, and nobody learns of it.
    CutOff,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0usize..4).prop_map(Event::Set),
        1 => (0usize..4).prop_map(Event::Delete),
        2 => Just(Event::Rotate),
        1 => Just(Event::RotateMaster),
        8 => Just(Event::Step),
        1 => Just(Event::Restart),
        3 => Just(Event::CutOff),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_secret_opens_at_every_point_of_any_history(
        events in prop::collection::vec(event(), 1..60),
    ) {
        let mut world = World::new(2);
        let mut vault = world.reopen();
        for (number, event) in events.into_iter().enumerate() {
            let done = match event {
                Event::Set(which) => world.set(&vault, &format!("secret-{which}"), number),
                Event::Delete(which) => {
                    let name = format!("secret-{which}").parse().unwrap();
                    world.store.secrets.remove(&name);
                    world.expected.remove(&name);
                    Ok(())
                }
                Event::Rotate => {
                    let now = world.now();
                    match block_on(vault.rotate(now, &world.master())) {
                        Ok(change) => world.adopt(&mut vault, change),
                        Err(VaultError::TooManyKeys(_)) => Ok(()),
                        Err(error) => panic!("{error}"),
                    }
                }
                Event::RotateMaster => {
                    if vault.ring().rewrap().is_none() {
                        let next = world.masters.len() as u8;
                        world.masters.push(master(next));
                    }
                    let change = vault.rotate_master(&world.master());
                    world.adopt(&mut vault, change)
                }
                Event::Step => world.step(&mut vault).map(drop),
                Event::Restart => Err(CutOff),
                Event::CutOff => {
                    world.store.cut_off_after = world.store.writes + 1;
                    Ok(())
                }
            };
            if done.is_err() {
                vault = world.reopen();
            }
            world.check();
        }
        // Whatever was under way ends.
        let mut writes = 0;
        loop {
            match world.step(&mut vault) {
                Ok(true) => writes += 1,
                Ok(false) => break,
                Err(CutOff) => vault = world.reopen(),
            }
            prop_assert!(writes < 100, "it never ends");
        }
        world.check();
        prop_assert!(!world.reopen().ring().is_rotating());
    }
}
