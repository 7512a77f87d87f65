//! Content codings are undone as the bytes come, and within bounds.

use std::io::Write;

use aa_scan::decode::{Coding, ContentEncoding, DecodeError, Decoder, Limits};
use bytes::Bytes;
use flate2::{Compression, GzBuilder, write};
use proptest::prelude::*;
use zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer, zstd_sys::ZSTD_EndDirective};

const ALL: [Coding; 4] = [Coding::Gzip, Coding::Deflate, Coding::Brotli, Coding::Zstd];
const LIMITS: Limits = Limits { max_ratio: 50, burst: 1 << 20, max_total: 1 << 30 };

fn encode(coding: Coding, body: &[u8]) -> Vec<u8> {
    flushed(coding, &[body]).concat()
}

/// Encodes pieces, each flushed but the last, which ends the body.
fn flushed(coding: Coding, pieces: &[&[u8]]) -> Vec<Vec<u8>> {
    match coding {
        Coding::Gzip => {
            written(write::GzEncoder::new(Vec::new(), Compression::default()), pieces, |encoder| {
                std::mem::take(encoder.get_mut())
            })
        }
        Coding::Deflate => written(
            write::ZlibEncoder::new(Vec::new(), Compression::default()),
            pieces,
            |encoder| std::mem::take(encoder.get_mut()),
        ),
        Coding::Brotli => {
            let mut encoder = brotli::CompressorWriter::new(Vec::new(), 4_096, 5, 18);
            let mut parts = Vec::new();
            for piece in pieces {
                encoder.write_all(piece).expect("memory can be written");
                encoder.flush().expect("memory can be written");
                parts.push(std::mem::take(encoder.get_mut()));
            }
            parts.push(encoder.into_inner());
            parts
        }
        Coding::Zstd => {
            let mut context = CCtx::create();
            context.set_parameter(CParameter::ChecksumFlag(true)).expect("a parameter");
            let mut parts = Vec::new();
            for (index, piece) in pieces.iter().enumerate() {
                let end = match index + 1 == pieces.len() {
                    true => ZSTD_EndDirective::ZSTD_e_end,
                    false => ZSTD_EndDirective::ZSTD_e_flush,
                };
                let mut out = vec![0; zstd_safe::compress_bound(piece.len()) + 1_024];
                let mut buffer = OutBuffer::around(&mut out[..]);
                let mut input = InBuffer::around(piece);
                while context.compress_stream2(&mut buffer, &mut input, end).expect("it fits") != 0
                {
                }
                parts.push(buffer.as_slice().to_vec());
            }
            parts
        }
    }
}

fn written<W: Finish>(
    mut encoder: W,
    pieces: &[&[u8]],
    mut taken: impl FnMut(&mut W) -> Vec<u8>,
) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    for piece in pieces {
        encoder.write_all(piece).expect("memory can be written");
        encoder.flush().expect("memory can be written");
        parts.push(taken(&mut encoder));
    }
    parts.push(encoder.end());
    parts
}

trait Finish: Write {
    fn end(self) -> Vec<u8>;
}

impl Finish for write::GzEncoder<Vec<u8>> {
    fn end(self) -> Vec<u8> {
        self.finish().expect("memory can be written")
    }
}

impl Finish for write::ZlibEncoder<Vec<u8>> {
    fn end(self) -> Vec<u8> {
        self.finish().expect("memory can be written")
    }
}

fn decode_pieces<'p>(
    encoding: &ContentEncoding,
    limits: Limits,
    pieces: impl IntoIterator<Item = &'p [u8]>,
) -> Result<Vec<u8>, DecodeError> {
    let mut decoder = Decoder::new(encoding, limits);
    let mut out = Vec::new();
    for piece in pieces {
        let made = decoder.push(Bytes::copy_from_slice(piece))?.concat();
        let most = limits.burst + u64::from(limits.max_ratio) * piece.len() as u64;
        assert!(made.len() as u64 <= most, "{} of {}", made.len(), piece.len());
        out.extend(made);
    }
    decoder.finish()?;
    Ok(out)
}

fn decode(coding: Coding, body: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let whole = decode_pieces(&coding.into(), LIMITS, [body]);
    let bytewise = decode_pieces(&coding.into(), LIMITS, body.chunks(1));
    assert_eq!(whole.is_ok(), bytewise.is_ok(), "{whole:?} {bytewise:?}");
    whole
}

fn story(length: usize) -> Vec<u8> {
    (0_u32..)
        .flat_map(|n| {
            format!("data: {{\"n\": {}}}\n\n", n.wrapping_mul(2_654_435_761)).into_bytes()
        })
        .take(length)
        .collect()
}

#[test]
fn each_coding_is_undone() {
    for coding in ALL {
        for length in [0, 1, 100, 20_000, 300_000] {
            let body = story(length);
            assert!(decode(coding, &encode(coding, &body)) == Ok(body), "{coding} {length}");
        }
        assert_eq!(decode(coding, b""), Ok(Vec::new()), "an answer without a body, {coding}");
    }
    let identity = ContentEncoding::default();
    assert_eq!(decode_pieces(&identity, LIMITS, [&b"ab"[..], b"c"]), Ok(b"abc".to_vec()));
}

#[test]
fn what_other_programs_made_is_undone() {
    let text = "The quick brown fox jumps over the lazy dog.\n".repeat(100).into_bytes();
    for (coding, body) in [
        (Coding::Gzip, &include_bytes!("decoding/fox.gz")[..]),
        (Coding::Zstd, include_bytes!("decoding/fox.zst")),
        (Coding::Zstd, include_bytes!("decoding/fox-ultra.zst")),
        (Coding::Brotli, include_bytes!("decoding/fox.br")),
    ] {
        assert!(decode(coding, body).as_ref() == Ok(&text), "{coding}");
    }
}

#[test]
fn what_a_sender_flushes_is_yielded_at_once() {
    let events: Vec<Vec<u8>> =
        (0..50).map(|n| format!("data: event {n} {}\n\n", n * n).into_bytes()).collect();
    let pieces: Vec<&[u8]> = events.iter().map(Vec::as_slice).collect();
    for coding in ALL {
        let mut decoder = Decoder::new(&coding.into(), LIMITS);
        let mut parts = flushed(coding, &pieces).into_iter();
        for event in &events {
            let made = decoder.push(parts.next().unwrap().into()).unwrap();
            assert_eq!(made.concat(), *event, "{coding}");
        }
        for part in parts {
            assert_eq!(decoder.push(part.into()).unwrap().concat(), b"");
        }
        decoder.finish().unwrap();
    }
}

#[test]
fn codings_upon_codings_are_undone_in_their_order() {
    let body = story(50_000);
    for inner in ALL {
        for outer in ALL {
            let encoded = encode(outer, &encode(inner, &body));
            let header = format!("{inner}, {outer}");
            let encoding = ContentEncoding::parse([&*header]).unwrap();
            let decoded = decode_pieces(&encoding, LIMITS, encoded.chunks(1_000));
            assert!(decoded.as_ref() == Ok(&body), "{header}");
            let cut = decode_pieces(&encoding, LIMITS, encoded[..encoded.len() - 1].chunks(1_000));
            assert!(matches!(cut, Err(DecodeError::Truncated { .. })), "{header}: {cut:?}");
        }
    }
}

#[test]
fn deflate_is_taken_with_and_without_its_header() {
    let body = story(10_000);
    let raw = written_raw(&body);
    assert!(decode(Coding::Deflate, &raw) == Ok(body));
    assert_eq!(decode(Coding::Deflate, &[3, 0]), Ok(Vec::new()), "an empty block");
    // RFC 1950: a preset dictionary, which nobody knows.
    let needs = decode(Coding::Deflate, &[0x78, 0xbb, 0, 0, 0, 1, 3, 0]);
    assert!(matches!(needs, Err(DecodeError::Malformed { .. })), "{needs:?}");
}

fn written_raw(body: &[u8]) -> Vec<u8> {
    let mut encoder = write::DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).expect("memory can be written");
    encoder.finish().expect("memory can be written")
}

#[test]
fn gzip_is_taken_with_all_parts_of_a_header_and_with_several_members() {
    let builder = GzBuilder::new().filename("name").comment("comment").extra(vec![7; 300]);
    let mut encoder = builder.write(Vec::new(), Compression::default());
    encoder.write_all(b"one ").unwrap();
    let mut body = encoder.finish().unwrap();
    // A check of the header, which no encoder here writes.
    let plain = encode(Coding::Gzip, b"two ");
    body.extend([&plain[..3], &[2], &plain[4..10], &[0xaa, 0xbb], &plain[10..]].concat());
    body.extend(encode(Coding::Gzip, b""));
    body.extend(encode(Coding::Gzip, b"three"));
    assert_eq!(decode(Coding::Gzip, &body), Ok(b"one two three".to_vec()));
    body.extend([0; 600]);
    assert_eq!(decode(Coding::Gzip, &body), Ok(b"one two three".to_vec()), "padded");
    body.push(1);
    let trailing = DecodeError::TrailingData { coding: Coding::Gzip };
    assert_eq!(decode(Coding::Gzip, &body), Err(trailing));

    let endless = [&[0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 0][..], &[b'a'; 70_000]].concat();
    let error = decode(Coding::Gzip, &endless).unwrap_err();
    assert!(error.to_string().contains("name or comment"), "{error}");
}

#[test]
fn several_frames_of_zstd_and_those_to_skip_are_taken() {
    let skipped = [&[0x51, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
    let frame = |text| encode(Coding::Zstd, text);
    let body = [frame(b"one "), skipped, frame(b""), frame(b"two")].concat();
    assert_eq!(decode(Coding::Zstd, &body), Ok(b"one two".to_vec()));
    let garbage = [frame(b"one"), b"garbage".to_vec()].concat();
    assert!(decode(Coding::Zstd, &garbage).is_err());
}

#[test]
fn bytes_behind_the_end_and_missing_ones_are_errors() {
    for coding in ALL {
        let body = encode(coding, &story(3_000));
        for length in (1..body.len()).step_by(7) {
            let cut = decode(coding, &body[..length]);
            assert_eq!(cut, Err(DecodeError::Truncated { coding }), "{length}");
        }
        if coding != Coding::Zstd {
            let more = decode(coding, &[&body[..], b"more"].concat());
            assert_eq!(more, Err(DecodeError::TrailingData { coding }));
        }
    }
}

#[test]
fn damage_is_an_error_that_stays() {
    for coding in ALL {
        let mut body = encode(coding, &story(3_000));
        body.truncate(body.len() - 1);
        let last = body.len() - 1;
        body[last] ^= 0x55;
        body.push(0xff);
        if coding != Coding::Brotli {
            assert!(
                matches!(decode(coding, &body), Err(DecodeError::Malformed { .. })),
                "{coding}"
            );
        }
        let mut decoder = Decoder::new(&coding.into(), LIMITS);
        let failure = decoder.push(Bytes::from_static(&[0xff; 64])).unwrap_err();
        assert!(matches!(failure, DecodeError::Malformed { .. }), "{failure:?}");
        assert!(failure.to_string().contains(coding.name()), "{failure}");
        assert_eq!(decoder.push(Bytes::from_static(b"more")).unwrap_err(), failure);
        assert_eq!(decoder.finish().unwrap_err(), failure);
    }
}

#[test]
fn bombs_are_refused_before_they_take_memory() {
    let zeros = vec![0; 24 << 20];
    let body = Limits { burst: 1 << 20, ..LIMITS };
    for coding in ALL {
        let bomb = encode(coding, &zeros);
        for length in [1, 1_000, bomb.len()] {
            let mut decoder = Decoder::new(&coding.into(), body);
            let mut made = 0;
            let failure = bomb.chunks(length).find_map(|piece| {
                match decoder.push(Bytes::copy_from_slice(piece)) {
                    Ok(pieces) => {
                        made += pieces.iter().map(Bytes::len).sum::<usize>();
                        None
                    }
                    Err(failure) => Some(failure),
                }
            });
            let expected = DecodeError::TooDense { max_ratio: 50, burst: 1 << 20 };
            assert_eq!(failure, Some(expected), "{coding} in pieces of {length}");
            assert!(made <= (1 << 20) + 50 * bomb.len(), "{coding}: {made}");
        }
        // A bomb in a bomb: the outer one is as bounded.
        let twice = encode(Coding::Gzip, &bomb);
        let encoding = ContentEncoding::parse([&*format!("{coding}, gzip")]).unwrap();
        let refused = decode_pieces(&encoding, body, [&twice[..]]);
        assert!(matches!(refused, Err(DecodeError::TooDense { .. })), "{coding}: {refused:?}");
    }
}

#[test]
fn a_long_body_is_refused_past_its_total() {
    let limits = Limits { max_total: 10_000, ..LIMITS };
    let too_large = Err(DecodeError::TooLarge { max_total: 10_000 });
    for coding in ALL {
        let [fits, passes] = [10_000, 10_001].map(|length| encode(coding, &story(length)));
        assert!(decode_pieces(&coding.into(), limits, fits.chunks(99)).is_ok());
        assert_eq!(decode_pieces(&coding.into(), limits, passes.chunks(99)), too_large);
    }
    let identity = ContentEncoding::default();
    assert_eq!(decode_pieces(&identity, limits, story(10_001).chunks(99)), too_large);
}

#[test]
fn windows_larger_than_is_common_are_refused() {
    let mut context = CCtx::create();
    context.set_parameter(CParameter::WindowLog(24)).unwrap();
    let mut out = vec![0; 1_000];
    let mut buffer = OutBuffer::around(&mut out[..]);
    let mut input = InBuffer::around(b"text");
    let flush = ZSTD_EndDirective::ZSTD_e_flush;
    while context.compress_stream2(&mut buffer, &mut input, flush).unwrap() != 0 {}
    let error = decode(Coding::Zstd, buffer.as_slice()).unwrap_err();
    assert!(matches!(error, DecodeError::Malformed { .. }), "{error:?}");
    // RFC 7932, §9.1: the bits that a large window begins with are reserved.
    let error = decode(Coding::Brotli, &[0x11, 0x1e, 0, 0, 0, 0]).unwrap_err();
    assert!(matches!(error, DecodeError::Malformed { .. }), "{error:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pieces_decode_as_the_whole(
        codings in prop::collection::vec(prop::sample::select(ALL.to_vec()), 0..3),
        body in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..2_000),
            (0..100_000_usize).prop_map(story),
        ],
        damage in prop::option::of((any::<prop::sample::Index>(), 1_u8..)),
        lengths in prop::collection::vec(1..3_000_usize, 1..8),
    ) {
        let names: Vec<&str> = codings.iter().map(|coding| coding.name()).collect();
        let encoding = ContentEncoding::parse(names).unwrap();
        let mut encoded = codings.iter().fold(body.clone(), |body, coding| encode(*coding, &body));
        if let Some((place, change)) = &damage && !encoded.is_empty() {
            *place.get_mut(&mut encoded) ^= change;
        }
        let whole = decode_pieces(&encoding, LIMITS, [&encoded[..]]);
        let mut rest = &encoded[..];
        let pieces = lengths.iter().cycle().map_while(|length| {
            let (piece, behind) = rest.split_at((*length).min(rest.len()));
            rest = behind;
            (!piece.is_empty()).then_some(piece)
        });
        let pieces: Vec<&[u8]> = pieces.collect();
        let piecewise = decode_pieces(&encoding, LIMITS, pieces);
        prop_assert_eq!(whole.is_ok(), piecewise.is_ok(), "{:?} {:?}", whole, piecewise);
        if let (Ok(whole), Ok(piecewise)) = (&whole, piecewise) {
            prop_assert!(*whole == piecewise);
        }
        if damage.is_none() {
            prop_assert!(whole == Ok(body));
        }
    }
}
