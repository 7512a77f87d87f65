//! Store keys: what can be read from a key is what was written, in its one form.

use aa_store::{
    Subspace,
    tuple::{Element, Reader, TupleError},
};

/// The tags of the types, as `design/tuple.md` of FoundationDB has them.
const BYTES: u8 = 0x01;
const STRING: u8 = 0x02;
const NEGATIVE: std::ops::RangeInclusive<u8> = 0x0c..=0x13;
const POSITIVE: std::ops::RangeInclusive<u8> = 0x14..=0x1c;
const UUID: u8 = 0x30;

/// Reads the bytes as a key, by the tags in it, and writes again what was read.
///
/// # Panics
/// When two keys hold the same values.
pub fn target(key: &[u8]) {
    let mut reader = Reader::new(key);
    let mut written = Subspace::root();
    while let Some(&tag) = reader.rest().first() {
        match element(tag, &mut reader, &written) {
            Ok(longer) => written = longer,
            Err(_) => break,
        }
        let read = key.len() - reader.rest().len();
        assert_eq!(written.to_key(), key[..read], "what was read is written as it stood");
    }
    let whole = reader.rest().is_empty();
    assert_eq!(reader.end().is_ok(), whole);
}

fn element(tag: u8, reader: &mut Reader<'_>, written: &Subspace) -> Result<Subspace, TupleError> {
    fn with<E: Element>(written: &Subspace, element: E) -> Subspace {
        assert!(written.range().contains(&written.key(&element)), "a subspace holds its keys");
        written.with(element)
    }
    Ok(match tag {
        BYTES => with(written, &*reader.bytes()?),
        STRING => with(written, &*reader.str()?),
        UUID => with(written, reader.uuid()?),
        tag if POSITIVE.contains(&tag) => with(written, reader.u64()?),
        tag if NEGATIVE.contains(&tag) => with(written, reader.i64()?),
        _ => {
            let refusals = [
                reader.bytes().is_err(),
                reader.str().is_err(),
                reader.u64().is_err(),
                reader.i64().is_err(),
                reader.uuid().is_err(),
            ];
            assert_eq!(refusals, [true; 5], "there is no type {tag:#04x}");
            return Err(TupleError::Expected { expected: "a known type" });
        }
    })
}
