//! What a file is held against. The files here are made by hand, some by who has a key of their own.

use aa_ledger::{
    ChainHead, Checkpoint, Draft, Hash, Keys, Kind, LogKey, MacKey, Stream, TreeEdge, seal,
};
use aa_protocol::{AgentId, EventId, Timestamp};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::{
    contents::{End, Header, Payload},
    examine::hex,
    frame::{FrameKind, FrameWriter},
    *,
};
use crate::{
    chain::encode_head,
    keys::{self, Space},
};

/// A frame before it is written.
type Planned = (FrameKind, Vec<u8>);

/// The end of a chain: where its last entry stands, and its head.
type Ended = (Stream, u64, ChainHead);

const SEED: [u8; 32] = [9; 32];

fn workspace() -> WorkspaceId {
    "ws-a1b2c3d4-e5f6-7890-abcd-ef1234567890".parse().unwrap()
}

fn other() -> WorkspaceId {
    "ws-11111111-e5f6-7890-abcd-ef1234567890".parse().unwrap()
}

fn time() -> Timestamp {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

fn key(seed: &[u8; 32]) -> LogKey {
    LogKey::new(&Checkpoint::origin(workspace()), seed).unwrap()
}

fn agent() -> Stream {
    Stream::Agent(AgentId::of_name(workspace(), "a"))
}

/// A small workspace, to be changed before it is written.
struct Made {
    key: LogKey,
    of: WorkspaceId,
    /// Stream, sequence and `prev` follow; these say which stream each entry is of.
    leaves: Vec<Stream>,
    tail: Vec<Stream>,
    rows: Vec<(Space, Vec<u8>, Vec<u8>)>,
    /// Heads other than the entries lead to.
    heads: Option<Vec<Ended>>,
    /// Applied to the frames before they are written, and before the seal is made.
    change: fn(&mut Vec<Planned>),
}

impl Made {
    fn new() -> Self {
        let record =
            format!(r#"{{"id":"{}","name":"acme","created_at":"{}"}}"#, workspace(), time());
        Self {
            key: key(&SEED),
            of: workspace(),
            leaves: vec![Stream::Workspace, agent(), agent(), Stream::Policies, agent()],
            tail: vec![agent(), Stream::Workspace],
            rows: vec![
                (Space::Workspace, Vec::new(), record.into_bytes()),
                (Space::Agent, b"x".to_vec(), b"{}".to_vec()),
                (Space::Agent, b"y".to_vec(), b"{}".to_vec()),
            ],
            heads: None,
            change: |_| {},
        }
    }

    fn row(mut self, space: Space, key: &[u8], value: &str) -> Self {
        self.rows.push((space, key.to_vec(), value.as_bytes().to_vec()));
        self
    }

    /// The entries in shard 0 of 1, with the heads they lead to.
    fn entries(&self) -> (Vec<Vec<u8>>, Vec<Ended>) {
        let mac = MacKey::new("k1", &[3; 32]).unwrap();
        let mut heads: Vec<Ended> = Vec::new();
        let mut lines = Vec::new();
        for (at, stream) in self.leaves.iter().chain(&self.tail).enumerate() {
            let known = heads.iter().position(|(known, ..)| known == stream);
            let known = known.unwrap_or_else(|| {
                heads.push((*stream, 0, ChainHead::default()));
                heads.len() - 1
            });
            let event = EventId::from_parts(1_795_435_200_000, at as u128);
            let draft = Draft::new(event, self.of, *stream, time(), Kind::Event);
            let mut line = Vec::new();
            seal(&draft, &mut heads[known].2, &mac, &mut line);
            heads[known].1 = at as u64;
            lines.push(line);
        }
        (lines, heads)
    }

    fn frames(&self) -> (Vec<Planned>, End) {
        let header = Header {
            workspace: workspace(),
            shards: 1,
            log_key: self.key.verifier().to_string(),
            program: "0.0.0".to_owned(),
            begun_at: time(),
        };
        let mut frames = vec![(FrameKind::Header, serde_json::to_vec(&header).unwrap())];
        let (lines, heads) = self.entries();
        let (leaves, tail) = lines.split_at(self.leaves.len());
        let run = |first: usize, lines: &[Vec<u8>]| {
            let mut run = Payload::run(0, first as u64);
            lines.iter().for_each(|line| run.put(line));
            run.bytes().to_vec()
        };
        let (some, rest) = leaves.split_at(2);
        let mut edge = TreeEdge::new();
        edge.append(&leaves.iter().map(|line| Hash::of_leaf(line)).collect::<Vec<_>>());
        let checkpoint = Checkpoint {
            workspace: workspace(),
            size: edge.size(),
            root: edge.root(),
            time: time(),
        };
        frames.push((FrameKind::Leaves, run(0, some)));
        frames.push((FrameKind::Leaves, run(2, rest)));
        frames.push((FrameKind::Checkpoint, checkpoint.sign(&self.key).into_bytes()));
        frames.push((FrameKind::Tail, run(leaves.len(), tail)));
        let mut rows = self.rows.clone();
        for (stream, position, head) in self.heads.as_ref().unwrap_or(&heads) {
            let prefix = Space::Head.prefix(workspace()).len();
            let key = keys::head(workspace(), *stream)[prefix..].to_vec();
            rows.push((Space::Head, key, encode_head(*position, head)));
        }
        rows.sort();
        let mut counts = std::collections::BTreeMap::new();
        for (space, key, value) in rows {
            *counts.entry(space.name().to_owned()).or_default() += 1;
            let mut payload = Payload::rows(space);
            payload.put(&key);
            payload.put(&value);
            frames.push((FrameKind::Rows, payload.bytes().to_vec()));
        }
        let end = End {
            leaves: leaves.len() as u64,
            tail: tail.len() as u64,
            rows: counts,
            taken_at: time(),
            seal: String::new(),
        };
        (frames, end)
    }

    fn bytes(&self) -> Vec<u8> {
        let (mut frames, end) = self.frames();
        (self.change)(&mut frames);
        self.sealed(&frames, end)
    }

    fn sealed(&self, frames: &[Planned], mut end: End) -> Vec<u8> {
        let mut writer = FrameWriter::begin(Vec::new()).unwrap();
        for (kind, payload) in frames {
            writer.frame(*kind, payload).unwrap();
        }
        end.seal = self.key.sign(&end.sealed_text(workspace(), writer.digest()));
        writer.frame(FrameKind::End, &serde_json::to_vec(&end).unwrap()).unwrap();
        std::mem::take(writer.out_mut())
    }
}

fn refused(made: &Made) -> String {
    verify(&made.bytes()[..], None, None).unwrap_err().to_string()
}

#[test]
fn a_file_of_the_format_is_read_by_every_version_from_now_on() {
    let golden = include_bytes!("../../tests/golden/backup-1");
    let contents = verify(&golden[..], None, None).unwrap();
    assert_eq!((contents.name.as_str(), contents.entries, contents.tail), ("acme", 7, 2));
    assert_eq!((contents.streams, contents.checkpoint.size), (3, 5));
    assert_eq!(contents.bytes, golden.len() as u64);
    assert_eq!(contents.sha256, hex(&Sha256::digest(golden)));
    assert_eq!(contents.trust, Trust::OnFirstUse);
    assert!(Made::new().bytes() == golden, "what is written has changed");
}

#[test]
fn a_file_that_ends_early_is_refused_wherever_that_is() {
    let bytes = Made::new().bytes();
    for length in 0..bytes.len() {
        let error = verify(&bytes[..length], None, None).unwrap_err();
        let expected = if length < frame::MAGIC.len() {
            matches!(error, FileError::NotABackup)
        } else {
            matches!(error, FileError::CutOff { at } if at <= length as u64)
                || matches!(error, FileError::Inconsistent { at: 24, .. })
        };
        assert!(expected, "{length}: {error}");
    }
    let longer = [&bytes[..], b"\n"].concat();
    assert!(verify(&longer[..], None, None).is_err());
}

#[test]
fn a_file_with_any_byte_changed_is_refused_at_the_frame_it_is_in() {
    let bytes = Made::new().bytes();
    for index in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[index] ^= 1 << (index % 8);
        match verify(&changed[..], None, None).unwrap_err() {
            FileError::NotABackup | FileError::OtherFormat(_) => assert!(index < 24),
            FileError::Altered { at } | FileError::CutOff { at } => {
                assert!(at <= index as u64, "{index} is in a frame at {at}");
            }
            error => panic!("{index}: {error}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_bytes_come_they_are_refused_and_nothing_else_happens(
        bytes in prop::collection::vec(any::<u8>(), 0..2_000),
        payload in prop::collection::vec(any::<u8>(), 0..200),
        kind in prop::sample::select(b"HLCTREX".to_vec()),
        place in 0..10_usize,
    ) {
        prop_assert!(verify(&bytes[..], None, None).is_err());
        // With digests that fit.
        let made = Made::new();
        let (mut frames, end) = made.frames();
        let kind = FrameKind::from_byte(kind).unwrap();
        frames.insert(place.min(frames.len()), (kind, payload));
        prop_assert!(verify(&made.sealed(&frames, end)[..], None, None).is_err());
    }
}

#[test]
fn frames_left_out_repeated_or_exchanged_are_refused_though_their_digests_fit() {
    let made = Made::new();
    let (frames, end) = made.frames();
    // By somebody without the key, who keeps the seal there was.
    let whole = verify(&made.sealed(&frames, end.clone())[..], None, None).unwrap();
    for index in 0..frames.len() {
        let mut fewer = frames.clone();
        fewer.remove(index);
        assert!(verify(&made.sealed(&fewer, end.clone())[..], None, None).is_err(), "{index}");
        let mut more = frames.clone();
        more.insert(index, frames[index].clone());
        assert!(verify(&made.sealed(&more, end.clone())[..], None, None).is_err(), "{index}");
        for later in index + 1..frames.len() {
            let mut exchanged = frames.clone();
            exchanged.swap(index, later);
            let result = verify(&made.sealed(&exchanged, end.clone())[..], None, None);
            assert!(result.is_err(), "{index} and {later}");
        }
    }
    assert_eq!(whole.entries, 7);
}

#[test]
fn a_seal_by_another_key_is_refused_and_one_of_another_file_too() {
    let made = Made::new();
    let (frames, end) = made.frames();
    let stranger = Made { key: key(&[1; 32]), ..Made::new() };
    let forged = stranger.sealed(&frames, end.clone());
    let error = verify(&forged[..], None, None).unwrap_err();
    assert!(error.to_string().contains("the seal does not hold"), "{error}");
    // All of it by the stranger's key is whole, but not by whom it should be.
    let own = stranger.bytes();
    verify(&own[..], None, None).unwrap();
    let trusted = serde_json::json!({"log_keys": [{"key": made.key.verifier().to_string()}]});
    let trusted = Keys::parse(&trusted.to_string()).unwrap();
    let error = verify(&own[..], Some(&trusted), None).unwrap_err();
    assert!(matches!(error, FileError::Untrusted(_)), "{error}");
    verify(&made.bytes()[..], Some(&trusted), None).unwrap();
    // The seal of a file does not fit one with other rows, nor does a checkpoint stand for a seal.
    let (more, other_end) = Made::new().row(Space::Agent, b"z", "{}").frames();
    let mut writer = FrameWriter::begin(Vec::new()).unwrap();
    for (kind, payload) in &frames {
        writer.frame(*kind, payload).unwrap();
    }
    let seal = made.key.sign(&end.sealed_text(workspace(), writer.digest()));
    let note = String::from_utf8(frames[3].1.clone()).unwrap();
    for wrong in [seal, note] {
        let mut writer = FrameWriter::begin(Vec::new()).unwrap();
        for (kind, payload) in &more {
            writer.frame(*kind, payload).unwrap();
        }
        let end = End { seal: wrong, ..other_end.clone() };
        writer.frame(FrameKind::End, &serde_json::to_vec(&end).unwrap()).unwrap();
        let error = verify(&std::mem::take(writer.out_mut())[..], None, None).unwrap_err();
        assert!(error.to_string().contains("seal is of other contents"), "{error}");
    }
}

#[test]
fn a_chain_that_does_not_lead_from_its_first_entry_to_its_head_is_refused() {
    let truncated =
        Made { tail: vec![agent()], heads: Some(Made::new().entries().1), ..Made::new() };
    assert!(
        refused(&truncated).contains("stream workspace ended with entry 2"),
        "{}",
        refused(&truncated)
    );
    let mut heads = Made::new().entries().1;
    heads[1].1 = 0;
    let misplaced = Made { heads: Some(heads), ..Made::new() };
    assert!(refused(&misplaced).contains("ended with entry"), "{}", refused(&misplaced));
    let mut heads = Made::new().entries().1;
    heads.pop();
    let unknown = Made { heads: Some(heads), ..Made::new() };
    assert!(refused(&unknown).contains("it counts other"), "{}", refused(&unknown));
    let foreign = Made { of: other(), ..Made::new() };
    assert!(refused(&foreign).contains("is of ws-11111111"), "{}", refused(&foreign));
    let reordered = Made {
        change: |frames| {
            // Two whole lines of one stream, exchanged.
            let (shard, first, lines) = contents::read_run(&frames[2].1).unwrap();
            let mut run = Payload::run(shard, first);
            [2, 1, 0].iter().for_each(|&line: &usize| run.put(&lines[line]));
            frames[2].1 = run.bytes().to_vec();
        },
        ..Made::new()
    };
    assert!(refused(&reordered).contains("does not continue number"), "{}", refused(&reordered));
}

#[test]
fn entries_that_do_not_lead_to_the_signed_root_are_refused() {
    // Streams exchange places: each chain is whole in itself.
    let reordered = Made {
        change: |frames| {
            let (_, _, lines) = contents::read_run(&frames[1].1).unwrap();
            let mut run = Payload::run(0, 0);
            lines.iter().rev().for_each(|line| run.put(line));
            frames[1].1 = run.bytes().to_vec();
        },
        ..Made::new()
    };
    assert!(refused(&reordered).contains("lead to the root"), "{}", refused(&reordered));
    let early = Made { change: |frames| frames.swap(2, 3), ..Made::new() };
    assert!(refused(&early).contains("2 precede it"), "{}", refused(&early));
}

/// Even who seals a file with a key that is trusted on first use reaches no other workspace with it.
#[test]
fn no_row_reaches_beyond_its_workspace() {
    let (ours, theirs) = (workspace(), other());
    let api_key = |of: WorkspaceId, id: &str, digest: &str| {
        format!(
            r#"{{"id":"{id}","workspace":"{of}","name":"n","grant":"owner","created_at":"{}","created_by":"setup","digest":"{digest}"}}"#,
            time()
        )
    };
    let at = |id: &str| keys::api_key_id(ours, id)[Space::ApiKeyId.prefix(ours).len()..].to_vec();
    let digest = "ab".repeat(32);
    let good = Made::new().row(Space::ApiKeyId, &at("k"), &api_key(ours, "k", &digest));
    verify(&good.bytes()[..], None, None).unwrap();
    for (id, record) in [
        ("k", api_key(theirs, "k", &digest)),
        ("k", api_key(ours, "other", &digest)),
        ("k", api_key(ours, "k", "ab")),
    ] {
        let made = Made::new().row(Space::ApiKeyId, &at(id), &record);
        assert!(refused(&made).contains("no API key of the workspace"), "{}", refused(&made));
    }
    let record = format!(r#"{{"id":"{theirs}","name":"acme","created_at":"{}"}}"#, time());
    let made = Made::new().row(Space::Workspace, b"\x00", &record);
    assert!(refused(&made).contains("is of ws-11111111"), "{}", refused(&made));
    let made = Made { rows: Made::new().rows.split_off(1), ..Made::new() };
    assert!(refused(&made).contains("own record is missing"), "{}", refused(&made));
    for space in [Space::Tree, Space::Tile, Space::Segment, Space::Checkpoint, Space::Restored] {
        let made = Made::new().row(space, b"", "{}");
        assert!(refused(&made).contains("no rows of a known kind"), "{space:?}");
    }
    let made = Made::new().row(Space::Agent, b"y", "{}");
    assert!(refused(&made).contains("do not ascend"), "{}", refused(&made));
}

#[test]
fn what_is_no_backup_is_told_from_one_of_another_version() {
    let read = |bytes: &[u8]| verify(bytes, None, None).unwrap_err();
    assert!(matches!(read(b""), FileError::NotABackup));
    assert!(matches!(
        read(b"{\"format\":\"agent-assembly/audit-export/1\"}\n"),
        FileError::NotABackup
    ));
    assert!(matches!(read(b"agent-assembly-backup/2\nwhat comes"), FileError::OtherFormat('2')));
    // Who could not finish a backup says so in it.
    let mut writer = FrameWriter::begin(Vec::new()).unwrap();
    let header = Made::new().frames().0.remove(0);
    writer.frame(header.0, &header.1).unwrap();
    writer.frame(FrameKind::Failure, b"the disk is full").unwrap();
    let error = read(&std::mem::take(writer.out_mut()));
    assert!(error.to_string().contains("could not finish it: the disk is full"), "{error}");
}
