//! The setting `buckets` of a family.

use std::borrow::Cow;
use std::fmt;

use flowtap_pipeline::FamilyKind;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The word for exponential buckets.
const EXPONENTIAL: &str = "exponential";

/// Buckets of a histogram.
#[derive(Clone, Debug, PartialEq)]
pub enum FamilyBuckets {
    /// With these upper bounds.
    Bounds(Vec<f64>),
    /// With bounds that follow from the values.
    Exponential,
}

impl FamilyBuckets {
    /// The type of a family with such buckets.
    pub(super) fn kind(&self) -> FamilyKind {
        match self {
            Self::Bounds(bounds) => FamilyKind::histogram(bounds),
            Self::Exponential => FamilyKind::ExponentialHistogram,
        }
    }
}

impl Serialize for FamilyBuckets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bounds(bounds) => bounds.serialize(serializer),
            Self::Exponential => serializer.serialize_str(EXPONENTIAL),
        }
    }
}

impl<'de> Deserialize<'de> for FamilyBuckets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListOrWord;

        impl<'de> Visitor<'de> for ListOrWord {
            type Value = FamilyBuckets;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "a list of upper bounds, or `{EXPONENTIAL}`")
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<FamilyBuckets, E> {
                if word == EXPONENTIAL {
                    Ok(FamilyBuckets::Exponential)
                } else {
                    Err(E::unknown_variant(word, &[EXPONENTIAL]))
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<FamilyBuckets, A::Error> {
                let mut bounds = Vec::new();
                while let Some(bound) = list.next_element()? {
                    bounds.push(bound);
                }
                Ok(FamilyBuckets::Bounds(bounds))
            }
        }

        deserializer.deserialize_any(ListOrWord)
    }
}

impl JsonSchema for FamilyBuckets {
    fn schema_name() -> Cow<'static, str> {
        "Buckets".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                {"type": "array", "items": {"type": "number"}},
                {"type": "string", "enum": [EXPONENTIAL]},
            ]
        })
    }
}
