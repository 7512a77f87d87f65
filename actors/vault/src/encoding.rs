//! How bytes are written: base64url without padding in stored text, and length-prefixed where several
//! fields become one associated data.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use zeroize::Zeroizing;

/// The format of everything this crate stores.
pub const FORMAT: u32 = 1;

/// The number [`FORMAT`] in stored text; any other is refused when read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format;

/// Joins `purpose`, [`FORMAT`] and `fields` into associated data. Each part is preceded by its length (32
/// bits, big-endian), so two different lists never give the same bytes.
pub(crate) fn associated_data(purpose: &str, fields: &[&[u8]]) -> Vec<u8> {
    let format = FORMAT.to_be_bytes();
    let parts = [purpose.as_bytes(), &format].into_iter().chain(fields.iter().copied());
    let mut joined = Vec::with_capacity(256);
    for part in parts {
        let length = u32::try_from(part.len()).expect("each field is bounded far below 4 GiB");
        joined.extend_from_slice(&length.to_be_bytes());
        joined.extend_from_slice(part);
    }
    joined
}

/// Reads 32 bytes of base64url; `None` when `text` is anything else.
pub(crate) fn read_key(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    // The decoder checks for room by an estimate that is rounded up.
    let mut room = Zeroizing::new([0; 36]);
    let length = URL_SAFE_NO_PAD.decode_slice(text, &mut *room).ok()?;
    (length == 32).then(|| {
        let mut key = Zeroizing::new([0; 32]);
        key.copy_from_slice(&room[..32]);
        key
    })
}

/// Writes a key in base64url.
pub(crate) fn write_key(key: &[u8; 32]) -> Zeroizing<String> {
    // Room for all of it, so that growing leaves no copy behind.
    let mut text = Zeroizing::new(String::with_capacity(64));
    URL_SAFE_NO_PAD.encode_string(key, &mut text);
    text
}

/// Serde form of bytes that may be shown: base64url without padding.
pub(crate) mod base64url {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        URL_SAFE_NO_PAD.decode(&text).map_err(|_| {
            D::Error::custom(format_args!("{} characters that are not base64url", text.len()))
        })
    }
}

// === impl Format ===

impl Serialize for Format {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(FORMAT)
    }
}

impl<'de> Deserialize<'de> for Format {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u32::deserialize(deserializer)? {
            FORMAT => Ok(Self),
            other => Err(D::Error::custom(format_args!(
                "format {other}, but this program reads format {FORMAT}; use the version that wrote it"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn different_fields_never_give_the_same_associated_data(
            left in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6), 0..5),
            right in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6), 0..5),
        ) {
            let of = |fields: &[Vec<u8>]| {
                let fields: Vec<&[u8]> = fields.iter().map(Vec::as_slice).collect();
                associated_data("test", &fields)
            };
            prop_assert_eq!(of(&left) == of(&right), left == right);
        }

        #[test]
        fn a_key_is_read_back_as_written(key: [u8; 32]) {
            prop_assert_eq!(*read_key(&write_key(&key)).unwrap(), key);
        }

        #[test]
        fn text_that_is_not_a_key_is_refused(text in ".{0,60}") {
            if let Some(key) = read_key(&text) {
                let written = write_key(&key);
                prop_assert_eq!(written.as_str(), text);
            }
        }
    }
}
