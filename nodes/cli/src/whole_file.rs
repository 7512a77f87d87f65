//! Files that are there whole, or not at all.

use std::{
    fs::{File, Permissions},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

use crate::outcome::Failure;

/// A file that appears under its name once it is whole, for its owner only unless it is shared.
pub(crate) struct WholeFile {
    path: PathBuf,
    temporary: NamedTempFile,
    bytes: u64,
}

// === impl WholeFile ===

impl WholeFile {
    pub(crate) fn create(path: &Path) -> Result<Self, Failure> {
        // Beside its destination, so that it can be moved there in one step.
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let temporary = NamedTempFile::with_prefix_in(".aasm-", directory).map_err(|error| {
            Failure::refused(format_args!("cannot write to {}: {error}", directory.display()))
        })?;
        Ok(Self { path: path.to_owned(), temporary, bytes: 0 })
    }

    pub(crate) fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.temporary.write_all(piece)?;
        self.bytes += piece.len() as u64;
        Ok(())
    }

    /// Lets everybody read it.
    pub(crate) fn share(&self) -> Result<(), Failure> {
        let shared = self.temporary.as_file().set_permissions(Permissions::from_mode(0o644));
        shared.map_err(|error| {
            Failure::refused(format_args!("cannot share {}: {error}", self.path.display()))
        })
    }

    /// What was written so far, from its beginning.
    pub(crate) fn read_back(&self) -> Result<File, Failure> {
        self.temporary.reopen().map_err(|error| {
            Failure::refused(format_args!("cannot read back what was written: {error}"))
        })
    }

    pub(crate) fn finish(self) -> Result<u64, Failure> {
        let Self { path, temporary, bytes } = self;
        let failed =
            |error| Failure::refused(format_args!("cannot write {}: {error}", path.display()));
        temporary.as_file().sync_all().map_err(failed)?;
        temporary.persist(&path).map_err(|error| failed(error.error))?;
        Ok(bytes)
    }
}
