//! Reads what a node of a later version wrote: fields that this one does not know are passed over.
//!
//! It holds for every struct in a message, also for one that is strict with what people write
//! (`deny_unknown_fields`): a misspelt field of a document has to be told to whoever wrote it, a field of the next
//! version is no mistake. The data of internally tagged enums are out of its reach, because serde keeps them aside
//! until it knows the tag; a type that is strict and travels is tagged externally on its way.

use std::{borrow::Cow, fmt};

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, IgnoredAny, IntoDeserializer, MapAccess,
    SeqAccess, VariantAccess, Visitor,
};

/// Reads from the deserializer in it.
pub(super) struct Tolerant<D>(pub(super) D);

/// Names of fields.
type Fields = &'static [&'static str];

/// Wraps whatever the value consists of.
struct Passing<V> {
    visitor: V,
    /// The fields of the struct that is read; `None` for anything else.
    known: Option<Fields>,
}

struct PassingMap<A> {
    access: A,
    known: Option<Fields>,
}

/// The name of a field.
struct Name<'de>(Cow<'de, str>);

struct NameVisitor;

// === impl Tolerant ===

macro_rules! forward {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method(Passing { visitor, known: None })
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Tolerant<D> {
    type Error = D::Error;

    forward! {
        deserialize_any deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_i128 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        deserialize_f32 deserialize_f64 deserialize_char deserialize_str deserialize_string
        deserialize_bytes deserialize_byte_buf deserialize_option deserialize_unit deserialize_seq
        deserialize_map deserialize_identifier deserialize_ignored_any
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_unit_struct(name, Passing { visitor, known: None })
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_newtype_struct(name, Passing { visitor, known: None })
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_tuple(length, Passing { visitor, known: None })
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_tuple_struct(name, length, Passing { visitor, known: None })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: Fields,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_struct(name, fields, Passing { visitor, known: Some(fields) })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: Fields,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_enum(name, variants, Passing { visitor, known: None })
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Tolerant<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Tolerant(deserializer))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Tolerant<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.0.next_element_seed(Tolerant(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for Tolerant<A> {
    type Error = A::Error;
    type Variant = Tolerant<A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self::Variant), A::Error> {
        self.0.variant_seed(Tolerant(seed)).map(|(value, variant)| (value, Tolerant(variant)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Tolerant<A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.0.unit_variant()
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.0.newtype_variant_seed(Tolerant(seed))
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.0.tuple_variant(length, Passing { visitor, known: None })
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: Fields,
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.0.struct_variant(fields, Passing { visitor, known: Some(fields) })
    }
}

// === impl Passing ===

macro_rules! visit {
    ($($method:ident: $value:ty,)*) => {$(
        fn $method<E: Error>(self, value: $value) -> Result<V::Value, E> {
            self.visitor.$method(value)
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Passing<V> {
    type Value = V::Value;

    visit! {
        visit_bool: bool, visit_i8: i8, visit_i16: i16, visit_i32: i32, visit_i64: i64, visit_i128: i128,
        visit_u8: u8, visit_u16: u16, visit_u32: u32, visit_u64: u64, visit_u128: u128,
        visit_f32: f32, visit_f64: f64, visit_char: char, visit_str: &str, visit_borrowed_str: &'de str,
        visit_string: String, visit_bytes: &[u8], visit_borrowed_bytes: &'de [u8],
        visit_byte_buf: Vec<u8>,
    }

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_some(Tolerant(deserializer))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<V::Value, D::Error> {
        self.visitor.visit_newtype_struct(Tolerant(deserializer))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_seq(Tolerant(access))
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(PassingMap { access, known: self.known })
    }

    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_enum(Tolerant(access))
    }
}

// === impl PassingMap ===

impl<'de, A: MapAccess<'de>> MapAccess<'de> for PassingMap<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        let Some(known) = self.known else {
            return self.access.next_key_seed(Tolerant(seed));
        };
        while let Some(Name(name)) = self.access.next_key()? {
            if known.contains(&&*name) {
                return seed.deserialize(name.into_deserializer()).map(Some);
            }
            self.access.next_value::<IgnoredAny>()?;
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.access.next_value_seed(Tolerant(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.access.size_hint()
    }
}

// === impl Name ===

impl<'de> serde::Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_identifier(NameVisitor)
    }
}

impl<'de> Visitor<'de> for NameVisitor {
    type Value = Name<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Name<'de>, E> {
        Ok(Name(Cow::Owned(name.to_owned())))
    }

    fn visit_borrowed_str<E: Error>(self, name: &'de str) -> Result<Name<'de>, E> {
        Ok(Name(Cow::Borrowed(name)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Serialize, de::DeserializeOwned};
    use serde_json::{Value, json};

    use super::super::decode;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Order {
        id: u64,
        lines: Vec<Line>,
        by: Option<Line>,
        /// Here every key counts.
        labels: BTreeMap<String, Value>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    enum Line {
        Goods { name: String, grams: Option<u32> },
        Gift(Box<Order>),
        Pair(String, u8),
        Nothing,
    }

    fn read<T: DeserializeOwned>(value: &Value) -> Result<T, String> {
        decode(&rmp_serde::to_vec_named(value).unwrap())
    }

    #[test]
    fn fields_of_a_later_version_are_passed_over_wherever_they_are() {
        let goods =
            |more: &str| json!({"Goods": {more: [1, {"a": 2}], "name": "tea", "grams": 100}});
        let inner = json!({"id": 2, "lines": ["Nothing"], "by": null, "labels": {}, "more": {}});
        let later = json!({
            "more": {"id": 9}, "id": 1, "also": null, "labels": {"more": [{"deep": 1}]}, "by": goods("x"),
            "lines": [goods("y"), {"Gift": inner}, {"Pair": ["a", 3]}],
        });
        let tea = || Line::Goods { name: "tea".to_owned(), grams: Some(100) };
        let gift = Order { id: 2, lines: vec![Line::Nothing], by: None, labels: BTreeMap::new() };
        let expected = Order {
            id: 1,
            lines: vec![tea(), Line::Gift(Box::new(gift)), Line::Pair("a".to_owned(), 3)],
            by: Some(tea()),
            labels: BTreeMap::from([("more".to_owned(), json!([{"deep": 1}]))]),
        };
        assert_eq!(read::<Order>(&later).unwrap(), expected);
        // What is not of a node stays strict.
        assert!(serde_json::from_value::<Order>(later).is_err());
    }

    #[test]
    fn what_is_missing_or_of_an_unknown_variant_is_still_refused() {
        let problem = read::<Line>(&json!({"Goods": {"grams": 1, "more": 1}})).unwrap_err();
        assert_eq!(problem, "missing field `name`");
        assert!(read::<Line>(&json!({"Service": {"name": "hunter2"}})).is_err());
        let twice = [0x82, 0xa2, b'i', b'd', 1, 0xa2, b'i', b'd', 2];
        assert_eq!(decode::<Order>(&twice).unwrap_err(), "duplicate field `id`");
    }
}
