//! The last line: the signed checkpoint and what it says of the entries before it.

use std::collections::HashMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{Head, Lines, Proof, Stop, Suspect, Verified};
use crate::{
    format::{MAX_HEADS, ORIGIN_PREFIX},
    verify::{
        Problem,
        cursor::{Cursor, Malformed, unescape},
        grammar::hex,
        keys::Validity,
        note::{LogVerifier, SignatureProblem, SignedCheckpoint},
        report::{CheckpointReport, ExportReport, Trust},
    },
};

pub(super) struct Closing {
    checkpoint: SignedCheckpoint,
    entries: u64,
    heads: Option<HashMap<String, [u8; 32]>>,
}

// === impl Closing ===

impl Closing {
    pub(super) fn read(proof: &Proof<'_>, lines: &Lines<'_>) -> Result<Self, Stop> {
        let line = std::str::from_utf8(&lines.buffer);
        let parsed = line.map_err(|_| Malformed { at: 0, expected: "UTF-8" }).and_then(Self::parse);
        parsed.map_err(|Malformed { at, expected }| {
            let message = format!(
                "the line that closes the export is damaged, {expected} expected at column {}",
                at + 1
            );
            proof.failed(lines.number, None, Problem::Closing, message)
        })
    }

    pub(super) fn parse(line: &str) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(line);
        cursor.literal("{\"checkpoint\":")?;
        let at = cursor.at();
        let note = unescape(cursor.text()?);
        let checkpoint =
            SignedCheckpoint::parse(&note).map_err(|expected| Malformed { at, expected })?;
        cursor.literal(",\"entries\":")?;
        let entries = cursor.number()?;
        let heads = if cursor.skip(",\"heads\":{") { Some(heads(&mut cursor)?) } else { None };
        cursor.literal("}")?;
        cursor.end()?;
        Ok(Self { checkpoint, entries, heads })
    }

    pub(super) const fn size(&self) -> u64 {
        self.checkpoint.size
    }

    /// Holds what was read against the closing line, nearest evidence first: the heads name an entry, the
    /// count and the signed root only the whole.
    pub(super) fn verify(
        self,
        proof: Proof<'_>,
        line: u64,
        warnings: &mut Vec<String>,
    ) -> Result<Verified, Stop> {
        let failed = |problem, message| Err(proof.failed(line, None, problem, message));
        self.check_heads(&proof, line)?;
        let (first, size) = (proof.header.first, self.checkpoint.size);
        let entries = proof.entries;
        if entries != self.entries || first.checked_add(entries) != Some(size) {
            let message = format!(
                "the export has {entries} entries from index {first}; its closing line counts {} \
                 and its checkpoint covers {size}: entries were removed or added",
                self.entries
            );
            return failed(Problem::Count, message);
        }
        let expected = format!("{ORIGIN_PREFIX}{}", proof.header.workspace);
        if self.checkpoint.origin != expected {
            let message = format!(
                "the checkpoint is of the log {}, the entries are of {expected}",
                self.checkpoint.origin
            );
            return failed(Problem::ForeignCheckpoint, message);
        }
        let signer = signer(&proof, &self.checkpoint, "the checkpoint", line)?;
        check_key_time(&proof, signer, line)?;
        check_key_time_at(&proof, signer, &self.checkpoint.time, line)?;
        if *signer != proof.header.verifier {
            let message = "the header names another key than the one that signed".to_owned();
            return Err(proof.failed(1, None, Problem::Header, message));
        }
        let root = proof.tree.root();
        if root != self.checkpoint.root {
            let message = format!(
                "the entries lead to the root {}, not to the signed {}. Each stream's chain is whole \
                 in itself, so entries of several streams were reordered, entries and their \
                 successors were rewritten together, or the header's frontier was altered; no single \
                 entry can be named",
                STANDARD.encode(root),
                STANDARD.encode(self.checkpoint.root)
            );
            return failed(Problem::Root, message);
        }
        if proof.header.time != self.checkpoint.time {
            let message = "the header's time is not the checkpoint's: it was altered".to_owned();
            return Err(proof.failed(1, None, Problem::Header, message));
        }
        self.check_known(&proof, line)?;
        Ok(self.verified(proof, warnings))
    }

    fn check_heads(&self, proof: &Proof<'_>, line: u64) -> Result<(), Stop> {
        let Some(heads) = &self.heads else {
            if let Some(suspect) = &proof.suspect {
                return Err(proof.suspect_failure(suspect, !suspect.is_clash()));
            }
            if proof.streams.len() <= MAX_HEADS {
                let message = "the closing line lacks the streams' heads: it was altered";
                return Err(proof.failed(line, None, Problem::Closing, message.to_owned()));
            }
            return Ok(());
        };
        if let Some(suspect) = &proof.suspect {
            return Err(blame(proof, suspect, heads));
        }
        // The first in the file of what is wrong, since maps have no order.
        let unlisted = |head: &&Head, stream: &String| heads.get(stream) != Some(&head.hash);
        let wrong = proof
            .streams
            .iter()
            .filter(|(stream, head)| unlisted(head, stream))
            .min_by_key(|(_, head)| head.place.line);
        if let Some((stream, head)) = wrong {
            let place = head.place;
            return Err(if proof.entries < self.entries {
                let message = format!(
                    "entries of stream {stream} after this one are missing: the closing line has \
                     another entry as its last"
                );
                proof.failed_at(place, Problem::Gap, message)
            } else {
                let message = format!(
                    "the last entry of stream {stream} is not the one the closing line recorded: it \
                     was altered or inserted"
                );
                proof.failed_at(place, Problem::Altered, message)
            });
        }
        let absent = heads.keys().filter(|stream| !proof.streams.contains_key(*stream)).min();
        absent.map_or(Ok(()), |stream| {
            let message = format!("every entry of stream {stream} is missing");
            Err(proof.failed(line, None, Problem::Gap, message))
        })
    }

    fn check_known(&self, proof: &Proof<'_>, line: u64) -> Result<(), Stop> {
        let failed = |problem, message| Err(proof.failed(line, None, problem, message));
        for (known, root) in proof.context.known.iter().zip(&proof.known_roots) {
            let (name, checkpoint) = (&known.name, &known.checkpoint);
            if checkpoint.origin != self.checkpoint.origin {
                if known.pinned {
                    let message = format!(
                        "the checkpoint in {name} is of the log {}, this export is of {}",
                        checkpoint.origin, self.checkpoint.origin
                    );
                    return failed(Problem::ForeignCheckpoint, message);
                }
                continue;
            }
            let of_known = signer(proof, checkpoint, &format!("the checkpoint in {name}"), line)?;
            check_key_time_at(proof, of_known, &checkpoint.time, line)?;
            let (size, first) = (self.checkpoint.size, proof.header.first);
            match root {
                Some(root) if *root == checkpoint.root => {}
                Some(_) => {
                    let message = format!(
                        "the log's first {} entries are not those of the checkpoint in {name}: the \
                         log was forked or rewritten before that point",
                        checkpoint.size
                    );
                    return failed(Problem::Forked, message);
                }
                None if checkpoint.size < first && bridged(proof, &checkpoint.origin) => {}
                None if checkpoint.size < first => {
                    let message = format!(
                        "the checkpoint in {name} has {} entries but this export begins after {first}, \
                         so they cannot be compared; export from an earlier point, at or before entry \
                         {}",
                        checkpoint.size, checkpoint.size
                    );
                    return failed(Problem::NotComparable, message);
                }
                None if known.pinned => {
                    let message = format!(
                        "the log has {size} entries, fewer than the {} of the checkpoint in {name}: \
                         its tail was cut off",
                        checkpoint.size
                    );
                    return failed(Problem::Shorter, message);
                }
                // Exports are read by size, so none known is larger.
                None => {}
            }
        }
        Ok(())
    }

    fn verified(self, proof: Proof<'_>, warnings: &mut Vec<String>) -> Verified {
        let name = proof.context.name;
        let trust = if proof.context.keys.is_some() { Trust::Pinned } else { Trust::OnFirstUse };
        if trust == Trust::OnFirstUse {
            warnings.push(format!(
                "{name}: the log's key was taken from the export itself. That shows the export is \
                 whole, not who made it; compare the key with one you trust, or give it in a keys \
                 file: {}",
                proof.header.log_key
            ));
        }
        let unchecked = proof.entries - proof.macs_checked;
        if unchecked > 0 {
            warnings.push(format!(
                "{name}: the MACs of {unchecked} entries were not checked, since their keys' secrets \
                 were not given"
            ));
        }
        if let Some((count, place)) = &proof.backwards {
            warnings.push(format!(
                "{name}: {count} entries are more than a second older than the one before them in \
                 their stream, the first at line {} ({})",
                place.line, place.event
            ));
        }
        let checkpoint = self.checkpoint_report(&proof);
        let report = ExportReport {
            file: name.to_owned(),
            workspace: proof.header.workspace,
            first: proof.header.first,
            entries: proof.entries,
            streams: proof.streams.len() as u64,
            first_time: proof.first_time,
            last_time: Some(proof.last_time).filter(|time| !time.is_empty()),
            checkpoint,
            trust,
            macs_checked: proof.macs_checked,
        };
        Verified { report, checkpoint: self.checkpoint }
    }

    fn checkpoint_report(&self, proof: &Proof<'_>) -> CheckpointReport {
        let SignedCheckpoint { size, root, time, .. } = &self.checkpoint;
        CheckpointReport {
            size: *size,
            root: STANDARD.encode(root),
            time: time.clone(),
            key: proof.header.verifier.name.clone(),
        }
    }
}

/// Which entry a suspect leads to, as the heads tell.
fn blame(proof: &Proof<'_>, suspect: &Suspect, heads: &HashMap<String, [u8; 32]>) -> Stop {
    match suspect {
        Suspect::Pair { stream, later_hash, .. } => {
            proof.suspect_failure(suspect, heads.get(stream) == Some(later_hash))
        }
        Suspect::Start { .. } => {
            let unknown = proof.streams.iter().filter(|(stream, _)| !heads.contains_key(*stream));
            match unknown.min_by_key(|(_, head)| head.place.line) {
                None => proof.suspect_failure(suspect, !suspect.is_clash()),
                Some((stream, head)) => {
                    let message = format!(
                        "the entry is of stream {stream}, which the closing line does not have: it \
                         was altered or inserted"
                    );
                    proof.failed_at(head.place, Problem::Altered, message)
                }
            }
        }
    }
}

fn heads(cursor: &mut Cursor<'_>) -> Result<HashMap<String, [u8; 32]>, Malformed> {
    let mut heads = HashMap::new();
    let mut last = "";
    while !cursor.skip("}") {
        if !heads.is_empty() {
            cursor.literal(",")?;
        }
        let at = cursor.at();
        let stream = cursor.text()?;
        if stream <= last {
            return Err(Malformed { at, expected: "the next ascending stream" });
        }
        cursor.literal(":")?;
        let at = cursor.at();
        let hash = hex(cursor.text()?).ok_or(Malformed { at, expected: "64 hex digits" })?;
        heads.insert(stream.to_owned(), hash);
        last = stream;
    }
    Ok(heads)
}

/// Whether another export, itself held against every smaller checkpoint, reaches into this one.
fn bridged(proof: &Proof<'_>, origin: &str) -> bool {
    let roots = proof.context.known.iter().zip(&proof.known_roots);
    let mut reaching = roots.filter(|(known, root)| !known.pinned && root.is_some());
    reaching.any(|(known, root)| {
        known.checkpoint.origin == origin && *root == Some(known.checkpoint.root)
    })
}

/// The trusted key that signed a checkpoint.
fn signer<'p>(
    proof: &'p Proof<'_>,
    checkpoint: &SignedCheckpoint,
    what: &str,
    line: u64,
) -> Result<&'p LogVerifier, Stop> {
    let signer = match proof.context.keys {
        Some(keys) => checkpoint.signer(keys.log.iter().map(|key| &key.verifier)),
        None => checkpoint.signer([&proof.header.verifier].into_iter()),
    };
    signer.map_err(|problem| match problem {
        SignatureProblem::Forged(name) => {
            let message = format!("the signature of {what} by {name} is wrong: it was altered");
            proof.failed(line, None, Problem::ForgedSignature, message)
        }
        SignatureProblem::Unknown(names) => {
            let trusted = match proof.context.keys {
                Some(_) => "the keys file has no such key",
                None => "the export's header names another key",
            };
            let message = format!("{what} is signed by {}, but {trusted}", names.join(", "));
            proof.failed(line, None, Problem::UnknownKey, message)
        }
    })
}

fn validity<'p>(proof: &'p Proof<'_>, signer: &LogVerifier) -> Option<&'p Validity> {
    let keys = &proof.context.keys?.log;
    keys.iter().find(|key| key.verifier == *signer).map(|key| &key.validity)
}

/// A key that signed entries newer than its end was used after it, whatever time the checkpoint claims.
fn check_key_time(proof: &Proof<'_>, signer: &LogVerifier, line: u64) -> Result<(), Stop> {
    let newest = proof.last_time.as_str();
    let validity = validity(proof, signer).filter(|_| !newest.is_empty());
    let problem = validity.and_then(|validity| validity.retired_before(newest));
    problem.map_or(Ok(()), |problem| {
        let message = format!(
            "the checkpoint is signed by {}, which {problem}, the time of the newest entry",
            signer.name
        );
        Err(proof.failed(line, None, Problem::KeyOutOfTime, message))
    })
}

fn check_key_time_at(
    proof: &Proof<'_>,
    signer: &LogVerifier,
    time: &str,
    line: u64,
) -> Result<(), Stop> {
    let problem = validity(proof, signer).and_then(|validity| validity.problem(time));
    problem.map_or(Ok(()), |problem| {
        let message = format!("the checkpoint is signed by {}, which {problem}", signer.name);
        Err(proof.failed(line, None, Problem::KeyOutOfTime, message))
    })
}
