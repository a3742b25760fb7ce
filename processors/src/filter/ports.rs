//! Ports as configs write them: `443`, or a range, `8000-8100`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A port or a range of them, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last; not below `first`.
    pub last: u16,
}

/// A value that is neither a port nor a range of ports.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPorts {
    /// The last is below the first.
    #[error("`{0}` ends below its start; hint: write the smaller port first, such as `8000-8100`")]
    Reversed(String),
    /// Anything else.
    #[error("`{0}` is not a port from 1 to 65535, nor a range of them such as `8000-8100`")]
    Malformed(String),
}

impl FromStr for PortRange {
    type Err = InvalidPorts;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || InvalidPorts::Malformed(text.to_owned());
        let port = |part: &str| {
            let port = part.trim().parse().ok().filter(|port| *port != 0);
            port.ok_or_else(malformed)
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (port(first)?, port(last)?);
        if last < first {
            return Err(InvalidPorts::Reversed(text.to_owned()));
        }
        Ok(Self { first, last })
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            self.first.fmt(f)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl Serialize for PortRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.first == self.last {
            serializer.serialize_u16(self.first)
        } else {
            serializer.collect_str(self)
        }
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PortVisitor;

        impl Visitor<'_> for PortVisitor {
            type Value = PortRange;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port such as `443`, or a range such as `8000-8100`")
            }

            fn visit_u64<E: Error>(self, port: u64) -> Result<PortRange, E> {
                self.visit_str(&port.to_string())
            }

            fn visit_i64<E: Error>(self, port: i64) -> Result<PortRange, E> {
                self.visit_str(&port.to_string())
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<PortRange, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(PortVisitor)
    }
}

impl JsonSchema for PortRange {
    fn schema_name() -> Cow<'static, str> {
        "PortRange".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["integer", "string"],
            "minimum": 1,
            "maximum": 65_535,
            "pattern": r"^\s*[0-9]{1,5}\s*(-\s*[0-9]{1,5}\s*)?$",
            "examples": [443, "8000-8100"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_ranges_are_read_and_written_back() {
        for (text, first, last) in [
            ("443", 443, 443),
            ("8000-8100", 8000, 8100),
            (" 1 - 65535 ", 1, 65_535),
        ] {
            assert_eq!(text.parse(), Ok(PortRange { first, last }), "{text}");
        }
        assert_eq!("80".parse::<PortRange>().unwrap().to_string(), "80");
        assert_eq!("80-90".parse::<PortRange>().unwrap().to_string(), "80-90");
    }

    #[test]
    fn a_value_that_is_not_a_port_is_an_error_with_what_is_allowed() {
        for text in ["0", "65536", "http", "", "-1", "80-", "-", "1-0x10"] {
            let error = text.parse::<PortRange>().unwrap_err().to_string();
            assert!(
                error.contains("1 to 65535") && error.contains(&format!("`{text}`")),
                "{error}"
            );
        }
        let error = "90-80".parse::<PortRange>().unwrap_err();
        assert_eq!(error, InvalidPorts::Reversed("90-80".to_owned()));
    }
}
