//! A view of all pairs at one commit: the newest layer that knows a key decides, the database file is
//! the oldest.

use std::{cmp::Ordering, iter::Peekable, path::Path, sync::Arc};

use bytes::Bytes;
use redb::{ReadOnlyTable, ReadableDatabase};

use super::{
    PAIRS,
    blobs::{BlobFiles, BlobReader, Stored},
    file::storage_error,
    memtable::{Known, Layer, LayerScan},
};
use crate::{
    KeyRange, OpenError, Order, StoreError, Version,
    optimistic::{Pairs, Snapshot},
};

/// The pairs in the database file as of one flush.
pub(super) struct Base {
    pairs: ReadOnlyTable<&'static [u8], &'static [u8]>,
    blobs: BlobFiles,
    path: Arc<Path>,
}

/// What one transaction reads.
#[derive(Clone)]
pub(super) struct RedbSnapshot {
    pub(super) version: Version,
    /// Takes the commits.
    pub(super) active: Layer,
    /// On its way into the database file.
    pub(super) frozen: Option<Layer>,
    pub(super) base: Arc<Base>,
}

/// A merge of the layers' pairs over the base's.
struct Merge<'a> {
    /// The newest first.
    layers: Vec<(Peekable<LayerScan<'a>>, &'a Layer)>,
    base: Peekable<Pairs<'a>>,
    order: Order,
}

type Guard<'a> = redb::AccessGuard<'a, &'static [u8]>;

// === impl Base ===

impl Base {
    pub(super) fn of(
        database: &redb::Database,
        path: &Arc<Path>,
        blobs: BlobFiles,
    ) -> Result<Self, redb::Error> {
        let pairs = database.begin_read()?.open_table(PAIRS)?;
        Ok(Self { pairs, blobs, path: Arc::clone(path) })
    }

    /// Reads every pair.
    ///
    /// # Errors
    /// [`OpenError::Corrupt`] at the first that is damaged.
    pub(super) fn verify(&self) -> Result<(), OpenError> {
        let read = self.scan(&KeyRange::all(), Order::Forward);
        let read = read.and_then(|mut pairs| pairs.try_for_each(|pair| pair.map(drop)));
        read.map_err(|error| match error {
            StoreError::Corrupt { path, what } => {
                OpenError::Corrupt { path, what: what.to_string() }
            }
            other => OpenError::Corrupt { path: self.path.to_path_buf(), what: other.to_string() },
        })
    }

    fn failed(&self, error: redb::StorageError) -> StoreError {
        storage_error(&self.path, error.into())
    }

    /// The value of `key`, for which `stored` stands in the table.
    fn value(
        &self,
        key: &[u8],
        stored: &[u8],
        blobs: &mut BlobReader<'_>,
    ) -> Result<Bytes, StoreError> {
        match Stored::parse(stored) {
            Some(Stored::Inline(value)) => Ok(Bytes::copy_from_slice(value)),
            Some(Stored::Blob(blob)) => blobs.read(key, blob),
            None => {
                let what = "a value is of an unknown form".into();
                Err(StoreError::Corrupt { path: self.path.to_path_buf(), what })
            }
        }
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let found = self.pairs.get(key).map_err(|error| self.failed(error))?;
        found.map(|stored| self.value(key, stored.value(), &mut self.blobs.reader())).transpose()
    }

    fn scan<'a>(&'a self, range: &KeyRange, order: Order) -> Result<Pairs<'a>, StoreError> {
        let pairs =
            self.pairs.range::<&[u8]>(range.bounds()).map_err(|error| self.failed(error))?;
        let mut blobs = self.blobs.reader();
        let owned = move |pair: Result<(Guard<'_>, Guard<'_>), _>| {
            let (key, stored) = pair.map_err(|error| self.failed(error))?;
            let value = self.value(key.value(), stored.value(), &mut blobs)?;
            Ok((Bytes::copy_from_slice(key.value()), value))
        };
        Ok(match order {
            Order::Forward => Box::new(pairs.map(owned)),
            Order::Reverse => Box::new(pairs.rev().map(owned)),
        })
    }
}

// === impl RedbSnapshot ===

impl RedbSnapshot {
    /// The newest first.
    fn layers(&self) -> impl Iterator<Item = &Layer> {
        std::iter::once(&self.active).chain(&self.frozen)
    }
}

impl Snapshot for RedbSnapshot {
    fn version(&self) -> Version {
        self.version
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        for layer in self.layers() {
            match layer.get(key, self.version) {
                Known::Set(value) => return Ok(Some(value)),
                Known::Removed => return Ok(None),
                Known::Nothing => {}
            }
        }
        self.base.get(key)
    }

    fn scan<'a>(&'a self, range: &KeyRange, order: Order) -> Result<Pairs<'a>, StoreError> {
        let base = self.base.scan(range, order)?;
        let layers: Vec<_> = self
            .layers()
            .filter(|layer| !layer.is_empty())
            .map(|layer| (layer.scan(range, self.version, order).peekable(), layer))
            .collect();
        if layers.is_empty() {
            return Ok(base);
        }
        Ok(Box::new(Merge { layers, base: base.peekable(), order }))
    }
}

// === impl Merge ===

impl Merge<'_> {
    /// Takes the next key of all, from the newest layer that has it; older entries of it are passed
    /// over. The number is of its layer, the base's comes last.
    fn next_entry(&mut self) -> Result<Option<(Bytes, Option<Bytes>, usize)>, StoreError> {
        let order = self.order;
        let earlier = |key: &Bytes, than: &Option<Bytes>| match than {
            None => true,
            Some(than) => match order {
                Order::Forward => key.cmp(than) == Ordering::Less,
                Order::Reverse => key.cmp(than) == Ordering::Greater,
            },
        };
        let mut first: Option<Bytes> = None;
        for (scan, _) in &mut self.layers {
            if let Some((key, _)) = scan.peek()
                && earlier(key, &first)
            {
                first = Some(key.clone());
            }
        }
        if let Some(Ok((key, _))) = self.base.peek()
            && earlier(key, &first)
        {
            first = Some(key.clone());
        }
        // An error of the base ends the scan where it stands.
        if let Some(failed) = self.base.next_if(Result::is_err) {
            failed?;
        }
        let Some(first) = first else { return Ok(None) };
        let mut taken = None;
        for (number, (scan, _)) in self.layers.iter_mut().enumerate() {
            if let Some((_, value)) = scan.next_if(|(key, _)| *key == first) {
                taken.get_or_insert((value, number));
            }
        }
        let of_base = self.base.next_if(|pair| pair.as_ref().is_ok_and(|(key, _)| *key == first));
        if let Some(Ok((_, value))) = of_base {
            taken.get_or_insert((Some(value), self.layers.len()));
        }
        Ok(taken.map(|(value, number)| (first, value, number)))
    }
}

impl Iterator for Merge<'_> {
    type Item = Result<(Bytes, Bytes), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (key, value, number) = match self.next_entry() {
                Ok(entry) => entry?,
                Err(error) => return Some(Err(error)),
            };
            let Some(value) = value else { continue };
            let newer = &self.layers[..number];
            if newer.iter().all(|(_, layer)| layer.cleared.version_of(&key).is_none()) {
                return Some(Ok((key, value)));
            }
        }
    }
}
