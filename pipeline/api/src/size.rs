//! Sizes as configs write them: bytes as a number, or with a unit, `16MiB`.
//!
//! Units are those of Kubernetes: `K`, `M`, `G` and `T` are powers of 1000, `Ki`, `Mi`, `Gi` and `Ti` of 1024; a `B` may follow, case does
//! not count. For `#[serde(with = "...")]` on any unsigned integer.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Expectation in serde's messages.
const EXPECTED: &str = "a size in bytes such as `4194304` or `4MiB`";

/// Reads a size; `None` if it is none, or too large for 64 bits.
pub fn parse(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let unit = unit.trim();
    let unit: u64 = match unit.strip_suffix('b').unwrap_or(unit) {
        "" => 1,
        "k" => 1000,
        "m" => 1000_u64.pow(2),
        "g" => 1000_u64.pow(3),
        "t" => 1000_u64.pow(4),
        "ki" => 1 << 10,
        "mi" => 1 << 20,
        "gi" => 1 << 30,
        "ti" => 1 << 40,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if unit == 1 && number.contains('.') {
        return None;
    }
    let scale = 10_u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let fraction: u64 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().ok()?
    };
    let part = u128::from(fraction) * u128::from(unit) / u128::from(scale);
    whole
        .parse::<u64>()
        .ok()?
        .checked_mul(unit)?
        .checked_add(u64::try_from(part).ok()?)
}

/// Writes a size in bytes.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<T: Serialize, S: Serializer>(size: &T, serializer: S) -> Result<S::Ok, S::Error> {
    size.serialize(serializer)
}

/// Reads a size.
///
/// # Errors
/// A value that is not a size, or does not fit into a `T`.
pub fn deserialize<'de, T: TryFrom<u64>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_any(SizeVisitor(PhantomData))
}

struct SizeVisitor<T>(PhantomData<T>);

impl<T: TryFrom<u64>> Visitor<'_> for SizeVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_u64<E: Error>(self, bytes: u64) -> Result<T, E> {
        T::try_from(bytes).map_err(|_| E::custom(format!("{bytes} bytes are more than are possible here")))
    }

    fn visit_i64<E: Error>(self, bytes: i64) -> Result<T, E> {
        match u64::try_from(bytes) {
            Ok(bytes) => self.visit_u64(bytes),
            Err(_) => Err(E::invalid_value(Unexpected::Signed(bytes), &self)),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        match parse(text) {
            Some(bytes) => self.visit_u64(bytes),
            None => Err(E::invalid_value(Unexpected::Str(text), &self)),
        }
    }
}

/// The same for a size that may be null.
pub mod option {
    use super::{Deserialize, Deserializer, Serialize, Serializer};

    /// Writes it.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<T: Serialize, S: Serializer>(
        size: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        size.serialize(serializer)
    }

    /// Reads it.
    ///
    /// # Errors
    /// A value that is not a size, or does not fit into a `T`.
    pub fn deserialize<'de, T: TryFrom<u64>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<T>, D::Error> {
        struct Size<T>(T);

        impl<'de, T: TryFrom<u64>> Deserialize<'de> for Size<T> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                super::deserialize(deserializer).map(Self)
            }
        }

        let size = Option::<Size<T>>::deserialize(deserializer)?;
        Ok(size.map(|Size(size)| size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        for (text, bytes) in [
            ("4194304", 4_194_304),
            ("16MiB", 16 << 20),
            ("16Mi", 16 << 20),
            ("16 mib", 16 << 20),
            ("4M", 4_000_000),
            ("4MB", 4_000_000),
            ("1.5GiB", 3 << 29),
            ("2k", 2000),
            ("10B", 10),
            ("0", 0),
        ] {
            assert_eq!(parse(text), Some(bytes), "{text}");
        }
        for text in [
            "",
            "MiB",
            "16MiBs",
            "-1",
            "1e6",
            "99999999999TiB",
            "1.2.3M",
            ".",
            "16.5",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
