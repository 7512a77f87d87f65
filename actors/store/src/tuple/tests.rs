use proptest::prelude::*;

use super::*;

/// Any value, ordered as the format orders values: by type, then by value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Any {
    Bytes(Vec<u8>),
    Str(String),
    Int(i128),
    Uuid(Uuid),
}

impl Element for Any {
    fn encode(&self, key: &mut BytesMut) {
        match self {
            Self::Bytes(bytes) => bytes.as_slice().encode(key),
            Self::Str(text) => text.encode(key),
            Self::Int(int) => match u64::try_from(*int) {
                Ok(int) => int.encode(key),
                Err(_) => i64::try_from(*int).unwrap().encode(key),
            },
            Self::Uuid(uuid) => uuid.encode(key),
        }
    }
}

fn any_element() -> impl Strategy<Value = Any> {
    let int = prop_oneof![
        any::<i64>().prop_map(i128::from),
        any::<u64>().prop_map(i128::from),
        (-70_000..70_000i128),
    ];
    prop_oneof![
        prop::collection::vec(prop_oneof![Just(0u8), Just(0xff), any::<u8>()], 0..6)
            .prop_map(Any::Bytes),
        prop::collection::vec(prop_oneof![Just('\0'), Just('\u{1}'), any::<char>()], 0..5)
            .prop_map(|chars| Any::Str(chars.into_iter().collect())),
        int.prop_map(Any::Int),
        any::<[u8; 16]>().prop_map(|bytes| Any::Uuid(Uuid::from_bytes(bytes))),
    ]
}

fn pack<T: Element>(elements: &[T]) -> Vec<u8> {
    let mut key = BytesMut::new();
    for element in elements {
        element.encode(&mut key);
    }
    key.to_vec()
}

proptest! {
    #[test]
    fn the_order_of_keys_is_the_order_of_tuples(
        left in prop::collection::vec(any_element(), 0..4),
        right in prop::collection::vec(any_element(), 0..4),
    ) {
        prop_assert_eq!(pack(&left).cmp(&pack(&right)), left.cmp(&right));
    }

    #[test]
    fn every_value_reads_back(elements in prop::collection::vec(any_element(), 0..5)) {
        let key = pack(&elements);
        let mut reader = Reader::new(&key);
        for element in elements {
            match element {
                Any::Bytes(bytes) => prop_assert_eq!(reader.bytes().unwrap(), bytes),
                Any::Str(text) => prop_assert_eq!(reader.str().unwrap(), text),
                Any::Int(int) => prop_assert_eq!(reader.integer().unwrap(), int),
                Any::Uuid(uuid) => prop_assert_eq!(reader.uuid().unwrap(), uuid),
            }
        }
        prop_assert_eq!(reader.end(), Ok(()));
    }

    #[test]
    fn no_input_makes_the_reader_panic(key in prop::collection::vec(any::<u8>(), 0..24)) {
        let reader = Reader::new(&key);
        let _ = (reader.clone().bytes(), reader.clone().str(), reader.clone().uuid());
        let _ = (reader.clone().u64(), reader.clone().i64());
    }
}

#[test]
fn encodings_are_those_of_foundationdb() {
    // From FoundationDB's design/tuple.md.
    assert_eq!(pack(&[b"foo\x00bar"]), b"\x01foo\x00\xffbar\x00");
    assert_eq!(pack(&["F\u{d4}O\u{0}bar"]), b"\x02F\xc3\x94O\x00\xffbar\x00");
    assert_eq!(pack(&[-5_551_212i64]), b"\x11\xabK\x93");
    // From the bindings' tests of integers at the edge of each length.
    let ints: [(i64, &[u8]); 10] = [
        (0, b"\x14"),
        (1, b"\x15\x01"),
        (255, b"\x15\xff"),
        (256, b"\x16\x01\x00"),
        (65_535, b"\x16\xff\xff"),
        (-1, b"\x13\xfe"),
        (-255, b"\x13\x00"),
        (-256, b"\x12\xfe\xff"),
        (i64::MAX, b"\x1c\x7f\xff\xff\xff\xff\xff\xff\xff"),
        (i64::MIN, b"\x0c\x7f\xff\xff\xff\xff\xff\xff\xff"),
    ];
    for (int, key) in ints {
        assert_eq!(pack(&[int]), key, "{int}");
        assert_eq!(Reader::new(key).i64(), Ok(int));
    }
    assert_eq!(pack(&[u64::MAX]), b"\x1c\xff\xff\xff\xff\xff\xff\xff\xff");
    let uuid = Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
    let expected = b"\x30\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff";
    assert_eq!(pack(&[uuid]), expected);
}

#[test]
fn what_is_no_canonical_value_is_refused() {
    assert_eq!(Reader::new(b"\x01foo").bytes(), Err(malformed("a byte string")));
    assert_eq!(Reader::new(b"\x02\xff\xfe\x00").str(), Err(malformed("a string")));
    assert_eq!(
        Reader::new(b"\x16\x00\x01").u64(),
        Err(malformed("an integer")),
        "not the shortest"
    );
    assert_eq!(Reader::new(b"\x15").u64(), Err(malformed("an integer")));
    assert_eq!(Reader::new(b"\x30\x00").uuid(), Err(malformed("a UUID")));
    assert_eq!(Reader::new(b"\x13\xfe").u64(), Err(TupleError::OutOfRange { asked: "u64" }));
    let too_large = b"\x1c\xff\xff\xff\xff\xff\xff\xff\xff";
    assert_eq!(Reader::new(too_large).i64(), Err(TupleError::OutOfRange { asked: "i64" }));
    assert_eq!(Reader::new(b"").u64(), Err(TupleError::Expected { expected: "an integer" }));
    assert_eq!(Reader::new(b"\x14").end(), Err(TupleError::Trailing { bytes: 1 }));
}

fn malformed(kind: &'static str) -> TupleError {
    TupleError::Malformed { kind }
}
