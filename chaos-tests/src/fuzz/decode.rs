//! Content codings: no body makes more than its limits allow, and pieces decode as the whole.

use aa_scan::decode::{ContentEncoding, DecodeError, Decoder, Limits};
use bytes::Bytes;

const NAMES: [&str; 5] = ["identity", "gzip", "deflate", "br", "zstd"];
const LIMITS: Limits = Limits { max_ratio: 20, burst: 64 << 10, max_total: 200_000 };

/// Reads the codings from the first byte, the length of the pieces from the second, and the body from the rest.
///
/// # Panics
/// When a push or all of them make more than they may, a failure does not stay, or pieces decode otherwise
/// than the whole.
pub fn target(data: &[u8]) {
    let [codings, length, body @ ..] = data else { return };
    let inner = NAMES[usize::from(*codings) % NAMES.len()];
    let outer = NAMES[usize::from(*codings) / NAMES.len() % NAMES.len()];
    let encoding = ContentEncoding::parse([inner, outer]).expect("codings that are known");
    let whole = decode(&encoding, body, body.len().max(1));
    let pieces = decode(&encoding, body, usize::from(*length).max(1));
    let is_dense = |result: &Result<_, _>| matches!(result, Err(DecodeError::TooDense { .. }));
    match (&whole, &pieces) {
        (Ok(whole), Ok(pieces)) => assert!(whole == pieces, "pieces decode to something else"),
        // What a long piece pays for at once may be too dense in short ones.
        (Ok(_), Err(_)) => assert!(is_dense(&pieces), "only pieces fail: {pieces:?}"),
        (Err(_), Ok(_)) => assert!(is_dense(&whole), "only the whole fails: {whole:?}"),
        (Err(_), Err(_)) => {}
    }
}

fn decode(encoding: &ContentEncoding, body: &[u8], length: usize) -> Result<Vec<u8>, DecodeError> {
    let mut decoder = Decoder::new(encoding, LIMITS);
    let mut all = Vec::new();
    for piece in body.chunks(length) {
        let made = match decoder.push(Bytes::copy_from_slice(piece)) {
            Ok(made) => made.concat(),
            Err(failure) => {
                let again = decoder.push(Bytes::from_static(b"more"));
                assert_eq!(again, Err(failure.clone()), "a failure stays");
                assert_eq!(decoder.finish(), Err(failure.clone()), "a failure stays");
                return Err(failure);
            }
        };
        let most = LIMITS.burst + u64::from(LIMITS.max_ratio) * piece.len() as u64;
        assert!(encoding.is_identity() || made.len() as u64 <= most, "{} bytes", made.len());
        all.extend(made);
        assert!(all.len() as u64 <= LIMITS.max_total, "{} bytes", all.len());
    }
    decoder.finish().map(|()| all)
}
