//! What the nodes of a cluster share and keep secret: the certificate authority, the keys of the audit log and of
//! agents' tokens. They are in the store, sealed under the master key, so that a node needs two things only: where the
//! store is, and the master key.
//!
//! The first node makes them, out of what its data directory has of a control plane that ran by itself. When several
//! are first, one of them writes and the others read what it wrote.

use std::{path::Path, str::FromStr, sync::Arc};

use aa_governance::AuditKeys;
use aa_ledger::MacKey;
use aa_protocol::WorkspaceId;
use aa_runtime::{Clock, Entropy};
use aa_store::{CommitError, Store, StoreError, Transaction};
use aa_vault::{
    KeyRing, KeyRingError, MasterKey, SealedSecret, SealedSecretError, SecretLengthError,
    SecretName, SecretNameError, SecretValue, Vault, VaultError,
};
use bytes::Bytes;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    pki::{AuthorityPem, CA_KEY, CERTIFICATE},
    secrets::{
        LOG_SEED, MAC_KEYS, MacKeys, MacKeysError, SECRETS, SecretError, Secrets, TOKEN_SEED,
        read_secret,
    },
    token::TokenKey,
};

/// The secrets of a cluster, in its store.
pub struct ClusterSecrets {
    store: Arc<dyn Store>,
    master: Arc<dyn MasterKey>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

/// What a node takes from them when it starts.
pub struct SharedSecrets {
    /// The cluster's certificate authority.
    pub authority: AuthorityPem,
    /// What a control plane by itself has in files.
    pub secrets: Secrets,
}

/// Why a node does not have them.
#[derive(Debug, thiserror::Error)]
pub enum ClusterSecretError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The commit did not succeed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The master key does not open them, or nothing could be sealed.
    #[error(
        "the cluster's secrets do not open: {0}; give every node the master key that the first one had"
    )]
    Vault(#[from] VaultError),
    /// The key ring does not read.
    #[error("the cluster's key ring in the store is damaged: {0}; restore the store from a backup")]
    Ring(#[from] KeyRingError),
    /// A sealed secret does not read.
    #[error(
        "a secret of the cluster in the store is damaged: {0}; restore the store from a backup"
    )]
    Sealed(#[from] SealedSecretError),
    /// A secret is missing, or is not what it should be.
    #[error("the cluster's secret `{name}` is damaged: {problem}; restore the store from a backup")]
    Damaged {
        /// Which.
        name: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A file of the data directory cannot be taken over.
    #[error(transparent)]
    File(#[from] SecretError),
    /// No authority can be made.
    #[error("no certificate authority could be made: {0}")]
    Authority(#[from] rcgen::Error),
    /// Others keep writing at the same time.
    #[error("the cluster's secrets were changed by others again and again; try again")]
    Contended,
}

/// Their names. What is sealed is bound to its name.
const AUTHORITY_KEY: &str = "ca.key";
const AUTHORITY_CERTIFICATE: &str = "ca.pem";
const AUDIT_LOG_SEED: &str = "audit-log.seed";
const AUDIT_MAC_KEYS: &str = "audit-mac";
const TOKENS_SEED: &str = "token.seed";

/// Where the key ring is; the secrets are beside it.
const RING: &[u8] = b"cluster_secret/ring";
const VALUES: &[u8] = b"cluster_secret/value/";

/// The owner of the key ring: no workspace has this id.
const OWNER: WorkspaceId = WorkspaceId::from_uuid(Uuid::nil());

/// How often a write that meets another's is begun again.
const ATTEMPTS: usize = 16;

/// The secrets of a cluster that has none yet, open.
struct Fresh {
    authority: AuthorityPem,
    log_seed: SecretValue,
    token_seed: SecretValue,
    mac: MacKeys,
}

// === impl ClusterSecrets ===

impl ClusterSecrets {
    /// The secrets of the cluster whose store and master key these are.
    pub fn new(
        store: Arc<dyn Store>,
        master: Arc<dyn MasterKey>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        Self { store, master, clock, entropy }
    }

    /// Whether the store has them.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn exist(store: &dyn Store) -> Result<bool, StoreError> {
        Ok(store.begin().await?.get_snapshot(RING).await?.is_some())
    }

    /// Reads the secrets. Where there are none they are made, from what `directory` has.
    ///
    /// # Errors
    /// See [`ClusterSecretError`].
    pub async fn open(&self, directory: &Path) -> Result<SharedSecrets, ClusterSecretError> {
        for _ in 0..ATTEMPTS {
            let Some(vault) = self.vault().await? else {
                self.make(directory).await?;
                continue;
            };
            let mut txn = self.store.begin().await?;
            let text = |name: &'static str, value: SecretValue| {
                value.expose_text().map(str::to_owned).ok_or_else(|| ClusterSecretError::Damaged {
                    name,
                    problem: "it is no text".to_owned(),
                })
            };
            let key = read(&mut *txn, &vault, AUTHORITY_KEY).await?.1;
            let certificate = read(&mut *txn, &vault, AUTHORITY_CERTIFICATE).await?.1;
            let log_seed = seed(&mut *txn, &vault, AUDIT_LOG_SEED).await?;
            let token_seed = seed(&mut *txn, &vault, TOKENS_SEED).await?;
            let authority = AuthorityPem {
                key: Zeroizing::new(text(AUTHORITY_KEY, key)?),
                certificate: text(AUTHORITY_CERTIFICATE, certificate)?,
            };
            drop(txn);
            let mac = self.mac_key_of(&vault).await?;
            let audit = AuditKeys { log_seed, mac };
            let secrets = Secrets { audit, token: TokenKey::new(&token_seed) };
            return Ok(SharedSecrets { authority, secrets });
        }
        Err(ClusterSecretError::Contended)
    }

    /// The key that authenticates audit entries from now on. When the newest has served its time, the next is made:
    /// by one node, whose key the others take.
    ///
    /// # Errors
    /// See [`ClusterSecretError`].
    pub async fn current_mac_key(&self) -> Result<MacKey, ClusterSecretError> {
        match self.vault().await? {
            Some(vault) => self.mac_key_of(&vault).await,
            None => Err(ClusterSecretError::Damaged {
                name: AUDIT_MAC_KEYS,
                problem: "the key ring is missing".to_owned(),
            }),
        }
    }

    /// The vault with the keys that the secrets are sealed under; `None` before the first node has made them. A ring
    /// that is not under the master key that wraps now is put there.
    async fn vault(&self) -> Result<Option<Vault>, ClusterSecretError> {
        let mut txn = self.store.begin().await?;
        let Some(stored) = txn.get(RING).await? else { return Ok(None) };
        let mut vault = Vault::open_ring(KeyRing::from_json(&stored)?, &*self.master).await?;
        let newest = self.master.id();
        if vault.ring().live().all(|(_, wrapped)| wrapped.master == newest) {
            return Ok(Some(vault));
        }
        let begun = vault.rotate_master(&*self.master);
        vault.adopt(begun)?;
        let keys: Vec<_> = vault.ring().live().map(|(id, _)| id).collect();
        for id in keys {
            if let Some(change) = vault.rewrap(id, &*self.master).await? {
                vault.adopt(change)?;
            }
        }
        txn.put(Bytes::from_static(RING), vault.ring().to_json().into());
        match txn.commit().await {
            Ok(_) => {
                tracing::info!(master = %newest, "the cluster's keys are under the next master key");
            }
            // Another node did the same, or will: what is open here is right in either case.
            Err(error) => {
                tracing::info!(%error, "the cluster's keys were not put under the next master key");
            }
        }
        Ok(Some(vault))
    }

    /// Makes the secrets, unless somebody else is faster.
    async fn make(&self, directory: &Path) -> Result<(), ClusterSecretError> {
        let now = self.clock.now();
        let fresh = Fresh::of(directory, &*self.entropy)?;
        let mut mac = fresh.mac;
        mac.add_when_due(now, &*self.entropy);
        let mac = mac.to_json().map_err(damaged_keys)?;
        let values = [
            (AUTHORITY_KEY, SecretValue::copy_of(fresh.authority.key.as_bytes())),
            (AUTHORITY_CERTIFICATE, SecretValue::copy_of(fresh.authority.certificate.as_bytes())),
            (AUDIT_LOG_SEED, Ok(fresh.log_seed)),
            (TOKENS_SEED, Ok(fresh.token_seed)),
            (AUDIT_MAC_KEYS, SecretValue::copy_of(&mac)),
        ];
        // A key service may take longer than a transaction may.
        let vault = Vault::found(Vault::create(OWNER, now, &*self.master).await?);
        let mut txn = self.store.begin().await?;
        if txn.get(RING).await?.is_some() {
            return Ok(());
        }
        for (name, value) in values {
            let value = value.map_err(|error| no_secret(name, &error))?;
            put(&mut *txn, &vault, name, 1, &value)?;
        }
        txn.put(Bytes::from_static(RING), vault.ring().to_json().into());
        match txn.commit().await {
            Ok(_) => tracing::info!("made the cluster's certificate authority and keys"),
            // What is there now is read next.
            Err(CommitError::Conflict | CommitError::UnknownResult(_)) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    async fn mac_key_of(&self, vault: &Vault) -> Result<MacKey, ClusterSecretError> {
        for _ in 0..ATTEMPTS {
            let mut txn = self.store.begin().await?;
            let (version, stored) = read(&mut *txn, vault, AUDIT_MAC_KEYS).await?;
            let mut keys = MacKeys::from_json(stored.expose()).map_err(damaged_keys)?;
            if !keys.add_when_due(self.clock.now(), &*self.entropy) {
                return keys.newest().map_err(damaged_keys);
            }
            let next = keys.to_json().map_err(damaged_keys)?;
            let next = SecretValue::copy_of(&next);
            let next = next.map_err(|error| no_secret(AUDIT_MAC_KEYS, &error))?;
            put(&mut *txn, vault, AUDIT_MAC_KEYS, version + 1, &next)?;
            match txn.commit().await {
                Ok(_) => return keys.newest().map_err(damaged_keys),
                Err(CommitError::Conflict | CommitError::UnknownResult(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(ClusterSecretError::Contended)
    }
}

/// A secret and its version. The read conflicts with whoever changes it.
async fn read(
    txn: &mut dyn Transaction,
    vault: &Vault,
    name: &'static str,
) -> Result<(u64, SecretValue), ClusterSecretError> {
    let Some(stored) = txn.get(&key(name)).await? else {
        return Err(ClusterSecretError::Damaged { name, problem: "it is missing".to_owned() });
    };
    let sealed = SealedSecret::from_json(&stored)?;
    let version = sealed.version();
    Ok((version, vault.open(&secret_name(name)?, version, &sealed)?))
}

async fn seed(
    txn: &mut dyn Transaction,
    vault: &Vault,
    name: &'static str,
) -> Result<Zeroizing<[u8; 32]>, ClusterSecretError> {
    let (_, value) = read(txn, vault, name).await?;
    let bytes = value.expose();
    let mut seed = Zeroizing::new([0; 32]);
    if bytes.len() != seed.len() {
        let problem = format!("it has {} bytes, not {}", bytes.len(), seed.len());
        return Err(ClusterSecretError::Damaged { name, problem });
    }
    seed.copy_from_slice(bytes);
    Ok(seed)
}

fn put(
    txn: &mut dyn Transaction,
    vault: &Vault,
    name: &'static str,
    version: u64,
    value: &SecretValue,
) -> Result<(), ClusterSecretError> {
    let sealed = vault.seal(&secret_name(name)?, version, value)?;
    txn.put(key(name), sealed.to_json().into());
    Ok(())
}

fn key(name: &str) -> Bytes {
    [VALUES, name.as_bytes()].concat().into()
}

fn secret_name(name: &'static str) -> Result<SecretName, ClusterSecretError> {
    SecretName::from_str(name).map_err(|error: SecretNameError| ClusterSecretError::Damaged {
        name,
        problem: error.to_string(),
    })
}

fn no_secret(name: &'static str, error: &SecretLengthError) -> ClusterSecretError {
    ClusterSecretError::Damaged { name, problem: error.to_string() }
}

fn damaged_keys(problem: MacKeysError) -> ClusterSecretError {
    ClusterSecretError::Damaged { name: AUDIT_MAC_KEYS, problem: problem.to_string() }
}

// === impl Fresh ===

impl Fresh {
    /// What the data directory has, so that what its control plane signed stays verifiable, and new where it has
    /// nothing.
    fn of(directory: &Path, entropy: &dyn Entropy) -> Result<Self, ClusterSecretError> {
        let secrets = directory.join(SECRETS);
        let seed = |file: &'static str| -> Result<SecretValue, ClusterSecretError> {
            let bytes = match read_secret(&secrets.join(file))? {
                Some(stored) => stored,
                None => {
                    let mut fresh = Zeroizing::new(vec![0; 32]);
                    entropy.fill(&mut fresh);
                    fresh
                }
            };
            SecretValue::copy_of(&bytes).map_err(|error| no_secret(file, &error))
        };
        let mac = match read_secret(&secrets.join(MAC_KEYS))? {
            Some(stored) => MacKeys::from_json(&stored).map_err(damaged_keys)?,
            None => MacKeys::none(),
        };
        let authority = match read_secret(&secrets.join(CA_KEY))? {
            Some(key) => {
                let path = directory.join(CERTIFICATE);
                let certificate = std::fs::read_to_string(&path)
                    .map_err(|error| SecretError::Io { path, what: "read", error })?;
                let key = Zeroizing::new(String::from_utf8_lossy(&key).into_owned());
                AuthorityPem { key, certificate }
            }
            None => AuthorityPem::generate()?,
        };
        Ok(Self { authority, log_seed: seed(LOG_SEED)?, token_seed: seed(TOKEN_SEED)?, mac })
    }
}

#[cfg(test)]
mod tests {
    use aa_protocol::Timestamp;
    use aa_runtime::{ManualClock, SystemEntropy};
    use aa_store::MemoryStore;
    use aa_vault::FileKeeper;

    use super::*;
    use crate::{pki::Authority, secrets::MAC_KEY_LIFETIME};

    struct World {
        directory: tempfile::TempDir,
        store: MemoryStore,
        clock: ManualClock,
        master: Arc<FileKeeper>,
    }

    impl World {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            crate::secrets::make_private_directory(directory.path()).unwrap();
            let clock = ManualClock::new(Timestamp::from_micros(1_000_000));
            let path = directory.path().join("master.json");
            let master = Arc::new(FileKeeper::create(path, clock.now()).unwrap());
            Self { directory, store: MemoryStore::new(), clock, master }
        }

        fn node(&self) -> ClusterSecrets {
            let (master, store) = (Arc::clone(&self.master), Arc::new(self.store.clone()));
            ClusterSecrets::new(
                store,
                master,
                Arc::new(self.clock.clone()),
                Arc::new(SystemEntropy),
            )
        }

        async fn open(&self) -> SharedSecrets {
            let empty = tempfile::tempdir().unwrap();
            self.node().open(empty.path()).await.unwrap()
        }
    }

    fn same(one: &SharedSecrets, other: &SharedSecrets) -> bool {
        one.authority.certificate == other.authority.certificate
            && *one.authority.key == *other.authority.key
            && *one.secrets.audit.log_seed == *other.secrets.audit.log_seed
            && one.secrets.audit.mac.id() == other.secrets.audit.mac.id()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn of_several_first_nodes_one_makes_the_secrets_and_all_have_the_same() {
        let world = Arc::new(World::new());
        let nodes = (0..4).map(|_| {
            let world = Arc::clone(&world);
            tokio::spawn(async move { world.open().await })
        });
        let opened = futures::future::join_all(nodes.collect::<Vec<_>>()).await;
        let opened: Vec<_> = opened.into_iter().map(Result::unwrap).collect();
        assert!(opened.iter().all(|one| same(one, &opened[0])));

        let here = tempfile::tempdir().unwrap();
        let authority = Authority::of_cluster(here.path(), &opened[0].authority).unwrap();
        let there = tempfile::tempdir().unwrap();
        let same = Authority::of_cluster(there.path(), &opened[3].authority).unwrap();
        assert_eq!(authority.fingerprint(), same.fingerprint());
    }

    #[tokio::test]
    async fn a_control_plane_that_ran_by_itself_brings_its_secrets_along() {
        let world = World::new();
        let data = world.directory.path();
        let alone = Secrets::open(data, &world.clock, &SystemEntropy).unwrap();
        let authority = Authority::open(data).unwrap();
        let shared = world.node().open(data).await.unwrap();
        assert_eq!(*shared.secrets.audit.log_seed, *alone.audit.log_seed);
        let again = world.open().await;
        assert!(same(&shared, &again), "for every other node too");
        let elsewhere = tempfile::tempdir().unwrap();
        let of_cluster = Authority::of_cluster(elsewhere.path(), &again.authority).unwrap();
        assert_eq!(of_cluster.fingerprint(), authority.fingerprint());
    }

    #[tokio::test]
    async fn the_key_of_entries_is_made_by_one_node_and_taken_by_the_others() {
        let world = World::new();
        assert_eq!(world.open().await.secrets.audit.mac.id(), "k1");
        world.clock.advance(MAC_KEY_LIFETIME);
        let (one, other) = (world.node(), world.node());
        let (one, other) = futures::join!(one.current_mac_key(), other.current_mac_key());
        assert_eq!((one.unwrap().id(), other.unwrap().id()), ("k2", "k2"));
        assert_eq!(world.open().await.secrets.audit.mac.id(), "k2");
    }

    #[tokio::test]
    async fn the_secrets_follow_the_master_key_when_it_is_renewed() {
        let world = World::new();
        let before = world.open().await;
        world.master.renew(world.clock.now()).unwrap();
        assert!(same(&before, &world.open().await));
        let stored = world.store.begin().await.unwrap().get(RING).await.unwrap().unwrap();
        let ring = KeyRing::from_json(&stored).unwrap();
        assert_eq!(ring.master_keys().into_iter().collect::<Vec<_>>(), [world.master.id()]);
    }

    #[tokio::test]
    async fn a_node_with_another_master_key_is_told_so_and_nothing_is_made_anew() {
        let world = World::new();
        world.open().await;
        let path = world.directory.path().join("other.json");
        let other = Arc::new(FileKeeper::create(path, world.clock.now()).unwrap());
        let stranger = ClusterSecrets { master: other, ..world.node() };
        let error = stranger.open(world.directory.path()).await.err().unwrap().to_string();
        assert!(error.contains("the master key that the first one had"), "{error}");
    }

    #[tokio::test]
    async fn nothing_of_the_secrets_can_be_read_in_the_store() {
        let world = World::new();
        let shared = world.open().await;
        let mut txn = world.store.begin().await.unwrap();
        let all = aa_store::KeyRange::prefix(b"cluster_secret/");
        let stored = txn.range_snapshot(&all, 100, aa_store::Order::Forward).await.unwrap();
        assert_eq!(stored.len(), 6);
        for (_, value) in &stored {
            let text = String::from_utf8_lossy(value);
            assert!(!text.contains("PRIVATE KEY") && !text.contains("CERTIFICATE"), "{text}");
        }
        assert!(shared.authority.key.contains("PRIVATE KEY"));
    }
}
