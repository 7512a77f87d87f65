//! A disk in memory that behaves as badly as disks may.
//!
//! It models a page cache over a medium: reads show what was written last, but only a sync makes it
//! durable. At a crash each sector that was not synced is there or not, each on its own, and of the
//! names that were not synced only the first few. A sync that fails drops what it could not write, as
//! Linux does: reads go on showing it, no later sync writes it, and a crash takes it away.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use fastrand::Rng;
use parking_lot::Mutex;
use redb::{DatabaseError, StorageBackend};

use crate::redb_store::disk::{Disk, DiskFile};

const SECTOR: usize = 512;

/// A simulated disk, for [`RedbStore::open_simulated`](crate::RedbStore::open_simulated). Clones are
/// the same disk. A store on it does its work in the background in step with its commits, so that runs
/// repeat.
#[derive(Clone, Debug)]
pub struct SimDisk(Arc<Mutex<State>>);

/// What goes wrong at an operation: a write, a change of length, a sync, or a change of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DiskFault {
    /// No space is left. A write may have been done in part.
    Full,
    /// The file system is mounted read-only.
    ReadOnly,
    /// The disk fails. A write may have been done in part; a sync drops what it did not write.
    Io,
    /// The machine stops: neither this operation nor any later one is done, until [`SimDisk::crash`].
    Crash,
}

/// What a crash takes of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Loss {
    /// Nothing.
    Nothing,
    /// Everything.
    Everything,
    /// Each sector or not, and the names from some change on.
    Some,
}

#[derive(Clone)]
struct State {
    random: Rng,
    /// Handles of earlier runs are dead.
    run: u64,
    operations: u64,
    faults: BTreeMap<u64, DiskFault>,
    crashed: bool,
    directories: BTreeSet<PathBuf>,
    names: Names,
    durable_names: Names,
    /// What leads from the durable names to the present ones.
    changes: Vec<NameChange>,
    files: Vec<FileState>,
}

/// Files by name: places in [`State::files`].
type Names = BTreeMap<PathBuf, usize>;

#[derive(Clone)]
enum NameChange {
    Add(PathBuf, usize),
    Remove(PathBuf),
}

#[derive(Clone, Default)]
struct FileState {
    cached: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors that the next sync writes.
    dirty: BTreeSet<usize>,
}

struct SimFile {
    disk: SimDisk,
    file: usize,
    run: u64,
}

// === impl SimDisk ===

impl SimDisk {
    /// An empty disk; the seed decides what faults and crashes leave.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            random: Rng::with_seed(seed),
            run: 0,
            operations: 0,
            faults: BTreeMap::new(),
            crashed: false,
            directories: BTreeSet::new(),
            names: Names::new(),
            durable_names: Names::new(),
            changes: Vec::new(),
            files: Vec::new(),
        })))
    }

    /// Operations so far: writes, changes of length, syncs and changes of names.
    pub fn operations(&self) -> u64 {
        self.0.lock().operations
    }

    /// Lets a fault strike at an operation, counted as [`SimDisk::operations`] does: at the next one, if
    /// it is that number.
    pub fn fail_at(&self, operation: u64, fault: DiskFault) {
        self.0.lock().faults.insert(operation, fault);
    }

    /// The power fails and comes back: what was not synced is lost as told, stores that had files open
    /// are gone, and the disk is well.
    pub fn crash(&self, loss: Loss) {
        let mut state = self.0.lock();
        state.lose(loss);
        state.begin_run();
    }

    /// The process ends and another begins: the page cache stays, and the disk is well.
    pub fn restart(&self) {
        self.0.lock().begin_run();
    }

    /// The files and their lengths in bytes.
    pub fn files(&self) -> Vec<(PathBuf, usize)> {
        let state = self.0.lock();
        let length = |file: &usize| state.files[*file].cached.len();
        state.names.iter().map(|(path, file)| (path.clone(), length(file))).collect()
    }

    /// The contents of a file.
    ///
    /// # Errors
    /// There is no such file.
    pub fn contents(&self, path: &Path) -> io::Result<Vec<u8>> {
        let state = self.0.lock();
        Ok(state.files[state.named(path)?].cached.clone())
    }

    /// Another disk that holds the same; stores on this one do not reach it.
    pub fn fork(&self) -> Self {
        let mut state = self.0.lock().clone();
        state.begin_run();
        Self(Arc::new(Mutex::new(state)))
    }

    /// Changes the contents of a file behind everybody's back, durably.
    ///
    /// # Errors
    /// There is no such file.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut state = self.0.lock();
        let file = state.named(path)?;
        let file = &mut state.files[file];
        change(&mut file.cached);
        file.durable.clone_from(&file.cached);
        file.dirty.clear();
        Ok(())
    }

    /// Removes a file behind everybody's back, durably.
    ///
    /// # Errors
    /// There is no such file.
    pub fn lose(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.named(path)?;
        state.names.remove(path);
        state.settle_names();
        Ok(())
    }

    fn file(&self, state: &State, file: usize) -> SimFile {
        SimFile { disk: self.clone(), file, run: state.run }
    }

    fn opened(&self, path: &Path) -> io::Result<SimFile> {
        let state = self.0.lock();
        state.alive(state.run)?;
        let file = state.named(path)?;
        Ok(self.file(&state, file))
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(self.opened(path)?))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.0.lock();
        state.operation()?;
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = state.files.len();
        state.files.push(FileState::default());
        state.change(NameChange::Add(path.to_owned(), file));
        Ok(Arc::new(self.file(&state, file)))
    }

    fn open_database(&self, path: &Path) -> Result<Box<dyn StorageBackend>, DatabaseError> {
        let file = self.opened(path).map_err(|error| DatabaseError::Storage(error.into()))?;
        Ok(Box::new(file))
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.operation()?;
        let file = state.named(from)?;
        if state.names.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.change(NameChange::Add(to.to_owned(), file));
        state.change(NameChange::Remove(from.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.operation()?;
        state.named(path)?;
        state.change(NameChange::Remove(path.to_owned()));
        Ok(())
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.operation()?;
        // Of directories only files are told apart at a crash; one that is lost is empty.
        if state.directories.insert(path.to_owned()) {
            Ok(())
        } else {
            Err(io::ErrorKind::AlreadyExists.into())
        }
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        let state = self.0.lock();
        state.alive(state.run)?;
        if !state.directories.contains(directory) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = |path: &&PathBuf| path.parent() == Some(directory);
        Ok(state.names.keys().filter(inside).cloned().collect())
    }

    fn sync_directory(&self, _directory: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.operation()?;
        state.settle_names();
        Ok(())
    }

    fn in_step(&self) -> bool {
        true
    }
}

// === impl State ===

impl State {
    fn named(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn alive(&self, run: u64) -> io::Result<()> {
        if self.crashed || run != self.run {
            return Err(io::Error::other("the machine stopped"));
        }
        Ok(())
    }

    /// Counts an operation that does not fail in part.
    fn operation(&mut self) -> io::Result<()> {
        self.strike().map_or(Ok(()), |fault| Err(fault.error()))
    }

    /// Counts an operation and says what goes wrong with it.
    fn strike(&mut self) -> Option<DiskFault> {
        if self.crashed {
            return Some(DiskFault::Crash);
        }
        let fault = self.faults.get(&self.operations).copied();
        self.operations += 1;
        self.crashed = fault == Some(DiskFault::Crash);
        fault
    }

    fn change(&mut self, change: NameChange) {
        change.clone().apply(&mut self.names);
        self.changes.push(change);
    }

    fn settle_names(&mut self) {
        self.durable_names.clone_from(&self.names);
        self.changes.clear();
    }

    fn lose(&mut self, loss: Loss) {
        let random = &mut self.random;
        let kept = match loss {
            Loss::Nothing => self.changes.len(),
            Loss::Everything => 0,
            Loss::Some => random.usize(..=self.changes.len()),
        };
        for change in self.changes.drain(..).take(kept) {
            change.apply(&mut self.durable_names);
        }
        self.names.clone_from(&self.durable_names);
        for file in &mut self.files {
            file.write_back(|| match loss {
                Loss::Nothing => true,
                Loss::Everything => false,
                Loss::Some => random.bool(),
            });
            file.cached.clone_from(&file.durable);
        }
    }

    fn begin_run(&mut self) {
        self.run += 1;
        self.crashed = false;
        self.faults.clear();
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("operations", &self.operations)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

// === impl NameChange ===

impl NameChange {
    fn apply(self, names: &mut Names) {
        match self {
            Self::Add(path, file) => names.insert(path, file),
            Self::Remove(path) => names.remove(&path),
        };
    }
}

// === impl DiskFault ===

impl DiskFault {
    fn error(self) -> io::Error {
        match self {
            Self::Full => io::ErrorKind::StorageFull.into(),
            Self::ReadOnly => io::ErrorKind::ReadOnlyFilesystem.into(),
            Self::Io => io::Error::other("an input/output error was injected"),
            Self::Crash => io::Error::other("the machine stopped"),
        }
    }
}

// === impl FileState ===

impl FileState {
    fn write(&mut self, offset: usize, data: &[u8]) {
        let end = offset + data.len();
        if self.cached.len() < end {
            self.cached.resize(end, 0);
        }
        self.cached[offset..end].copy_from_slice(data);
        self.dirty.extend(offset / SECTOR..end.div_ceil(SECTOR));
    }

    /// Makes durable what `reaches` lets through; forgets the rest.
    fn write_back(&mut self, mut reaches: impl FnMut() -> bool) {
        if self.durable.len() != self.cached.len() && reaches() {
            self.durable.resize(self.cached.len(), 0);
        }
        for sector in std::mem::take(&mut self.dirty) {
            let start = sector * SECTOR;
            let end = (start + SECTOR).min(self.cached.len());
            if start >= end || !reaches() {
                continue;
            }
            if self.durable.len() < end {
                self.durable.resize(end, 0);
            }
            self.durable[start..end].copy_from_slice(&self.cached[start..end]);
        }
    }
}

// === impl SimFile ===

impl SimFile {
    fn change(
        &self,
        offset: usize,
        data: &[u8],
        apply: impl FnOnce(&mut FileState, &[u8]),
    ) -> io::Result<()> {
        let state = &mut *self.disk.0.lock();
        state.alive(self.run)?;
        let fault = state.strike();
        let file = &mut state.files[self.file];
        match fault {
            None => {
                apply(file, data);
                Ok(())
            }
            Some(fault) => {
                if matches!(fault, DiskFault::Full | DiskFault::Io) && !data.is_empty() {
                    // File systems cut a write between blocks.
                    let end = offset + state.random.usize(..data.len());
                    apply(file, &data[..(end - end % SECTOR).saturating_sub(offset)]);
                }
                Err(fault.error())
            }
        }
    }

    fn synchronise(&self) -> io::Result<()> {
        let state = &mut *self.disk.0.lock();
        state.alive(self.run)?;
        let fault = state.strike();
        let file = &mut state.files[self.file];
        match fault {
            None => {
                file.write_back(|| true);
                Ok(())
            }
            Some(DiskFault::Crash) => Err(DiskFault::Crash.error()),
            Some(fault) => {
                let random = &mut state.random;
                file.write_back(|| random.bool());
                Err(fault.error())
            }
        }
    }

    fn fill(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.disk.0.lock();
        state.alive(self.run)?;
        let contents = usize::try_from(offset).ok().and_then(|offset| {
            state.files[self.file].cached.get(offset..offset.checked_add(out.len())?)
        });
        out.copy_from_slice(contents.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        let state = self.disk.0.lock();
        state.alive(self.run)?;
        Ok(state.files[self.file].cached.len() as u64)
    }

    fn put(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        self.change(offset, data, |file, data| file.write(offset, data))
    }
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SimFile").field(&self.file).finish()
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        self.length()
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.fill(offset, out)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.put(offset, data)
    }

    fn sync(&self) -> io::Result<()> {
        self.synchronise()
    }
}

impl StorageBackend for SimFile {
    fn len(&self) -> io::Result<u64> {
        self.length()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.fill(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let length = usize::try_from(len).map_err(io::Error::other)?;
        self.change(0, &[], |file, _| file.cached.resize(length, 0))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.synchronise()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.put(offset, data)
    }
}
