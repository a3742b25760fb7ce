//! Texts of configs that have a form, as JSON Schema: for `#[schemars(with = "...")]` on the fields that hold them.
//!
//! Patterns say no more than what is surely wrong: what a text means is checked when it is read.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

/// The form of a duration.
pub const DURATION: &str = r"^\s*(0|([0-9]+\s*[a-zA-Zµ]+\s*)+)$";

/// The form of an address with its port.
pub const ADDRESS: &str =
    r"^([0-9]{1,3}(\.[0-9]{1,3}){3}|\[[0-9a-fA-F:.]+(%[^\]\s]+)?\]|localhost|\*)?:[0-9]{1,5}$";

/// The form of a size in bytes.
pub const SIZE: &str = r"^\s*[0-9]+(\.[0-9]+)?\s*([kKmMgGtT][iI]?)?[bB]?\s*$";

/// A duration: `500ms`, `5s`, `1m 30s`.
#[derive(Clone, Copy, Debug)]
pub struct DurationText;

impl JsonSchema for DurationText {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": DURATION,
            "examples": ["500ms", "5s", "10m"],
        })
    }
}

/// A size: bytes, or a number with a unit, `16MiB`.
#[derive(Clone, Copy, Debug)]
pub struct SizeText;

impl JsonSchema for SizeText {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["integer", "string"],
            "minimum": 0,
            "pattern": SIZE,
            "examples": [4_194_304, "4MiB", "16Mi"],
        })
    }
}

/// An address with its port: `127.0.0.1:9464`, `[::1]:9464`, `:9464`.
#[derive(Clone, Copy, Debug)]
pub struct AddressText;

impl JsonSchema for AddressText {
    fn schema_name() -> Cow<'static, str> {
        "Address".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": ADDRESS,
            "examples": ["127.0.0.1:9464", "[::]:9464", ":9464", "localhost:9464"],
        })
    }
}
