//! Proving exports offline, from the format alone.
//!
//! Every line is read strictly, hashed once, checked against its stream's chain and, when the secret of
//! its MAC key is given, authenticated; the leaf hashes are folded into the root that the closing
//! checkpoint signs. Memory grows with the number of streams, not of entries.
//!
//! What a proof says: with the log's key from a keys file, that these are the entries the log's owner
//! signed. With the key taken from the export, that nobody without that key changed it. Against the
//! owner itself, only a checkpoint kept elsewhere helps: pin one.

mod cursor;
mod export;
mod grammar;
mod keys;
mod note;
mod report;
mod tree;

use std::io::{BufRead, Seek};

use self::{
    export::{Context, Known, Stop, Verified},
    note::SignedCheckpoint,
};
pub use self::{
    keys::{Keys, KeysError},
    report::{
        CheckpointReport, ExportReport, Failure, Problem, Report, Trust, Unreadable,
        UnreadableReason,
    },
};

/// Where an export is read: files and cursors, not pipes, since the end is looked at
/// first to bring several files into order.
pub trait Source: BufRead + Seek {}

impl<S: BufRead + Seek> Source for S {}

/// One file to prove.
pub struct Export<'a> {
    /// The name that reports call it by.
    pub name: &'a str,
    /// Its content, from the beginning.
    pub reader: &'a mut dyn Source,
}

/// A checkpoint kept from earlier, which the log must still contain.
#[derive(Clone, Copy, Debug)]
pub struct PinnedCheckpoint<'a> {
    /// The name that reports call it by.
    pub name: &'a str,
    /// The signed note.
    pub note: &'a str,
}

/// Proves that each export is whole and unaltered, that those of one workspace continue each other, and
/// that they contain the pinned checkpoint. Stops at the first fault, which the report names. Nothing is
/// intact when nothing is given.
///
/// # Errors
/// A file cannot be read, or is no export or checkpoint at all. A damaged export is no error but a
/// report that is not intact.
pub fn verify(
    exports: &mut [Export<'_>],
    keys: Option<&Keys>,
    pinned: Option<&PinnedCheckpoint<'_>>,
) -> Result<Report, Unreadable> {
    let mut known: Vec<Known> = pinned.map(read_pin).transpose()?.into_iter().collect();
    let mut report = Report {
        intact: !exports.is_empty(),
        exports: Vec::new(),
        warnings: Vec::new(),
        failure: None,
    };
    for index in by_size(exports)? {
        let Export { name, reader } = &mut exports[index];
        let context = Context { name, keys, known: &known };
        match export::verify(&context, &mut **reader, &mut report.warnings) {
            Ok(Verified { report: verified, checkpoint }) => {
                known.push(Known { name: (*name).to_owned(), checkpoint, pinned: false });
                report.exports.push(verified);
            }
            Err(Stop::Failed(failure)) => {
                report.intact = false;
                report.failure = Some(*failure);
                break;
            }
            Err(Stop::Unreadable(problem)) => return Err(unreadable(name, problem)),
        }
    }
    Ok(report)
}

/// The order in which each export finds the checkpoints of smaller ones known: a checkpoint can be
/// compared in a larger log that is read later, not in one already read.
fn by_size(exports: &mut [Export<'_>]) -> Result<Vec<usize>, Unreadable> {
    let mut order: Vec<usize> = (0..exports.len()).collect();
    if exports.len() > 1 {
        let mut sizes = Vec::with_capacity(exports.len());
        for export in exports {
            let size = export::claimed_size(export.reader);
            sizes.push(size.map_err(|error| unreadable(export.name, error.into()))?);
        }
        order.sort_by_key(|&index| sizes[index]);
    }
    Ok(order)
}

fn read_pin(pinned: &PinnedCheckpoint<'_>) -> Result<Known, Unreadable> {
    let checkpoint = SignedCheckpoint::parse(pinned.note)
        .map_err(|part| unreadable(pinned.name, UnreadableReason::NotACheckpoint(part)))?;
    Ok(Known { name: pinned.name.to_owned(), checkpoint, pinned: true })
}

fn unreadable(file: &str, problem: UnreadableReason) -> Unreadable {
    Unreadable { file: file.to_owned(), problem }
}
