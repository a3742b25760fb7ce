//! Texts of configs that have a form, as JSON Schema: for `#[schemars(with = "...")]` on the fields that hold them.
//!
//! Patterns say no more than what is surely wrong: what a text means is checked when it is read.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

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
            "pattern": r"^\s*(0|([0-9]+\s*[a-zA-Zµ]+\s*)+)$",
            "examples": ["500ms", "5s", "10m"],
        })
    }
}

/// An address with its port: `127.0.0.1:9464`, `[::1]:9464`.
#[derive(Clone, Copy, Debug)]
pub struct AddressText;

impl JsonSchema for AddressText {
    fn schema_name() -> Cow<'static, str> {
        "Address".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": r"^([0-9]{1,3}(\.[0-9]{1,3}){3}|\[[0-9a-fA-F:.%]+\]):[0-9]{1,5}$",
            "examples": ["127.0.0.1:9464", "[::]:9464"],
        })
    }
}
