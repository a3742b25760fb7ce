//! Databases of places, in the MMDB format of MaxMind, DB-IP and IPinfo.
//!
//! Records of the vendors have the same content under other names: these are tried in turn, and the first database that knows a part
//! gives it.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use flowtap_pipeline::{Place, files};
use maxminddb::{MaxMindDbError, Reader};
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

/// Maximum size of a database, which is in memory as a whole: the largest that vendors sell are about half of it.
const MAX_BYTES: u64 = 4 << 30;

/// Why a database can't be read.
#[derive(Debug, thiserror::Error)]
#[error("databases: {}: {reason}\n  hint: a file in the MMDB format, such as GeoLite2-ASN.mmdb", .file.display())]
pub struct DatabaseError {
    /// Which file.
    file: PathBuf,
    /// The reason that it can't be used.
    reason: String,
}

/// A record, as far as it is used.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Record {
    /// GeoLite2-ASN, DB-IP.
    #[serde(deserialize_with = "number")]
    autonomous_system_number: u32,
    autonomous_system_organization: String,
    /// GeoLite2-Country and -City, DB-IP: a map; IPinfo: text.
    country: Country,
    /// GeoLite2 where an address is used in no country.
    registered_country: Country,
    /// `IPinfo`: `AS64496`.
    asn: String,
    as_name: String,
    country_code: String,
}

/// A number of any width: MaxMind writes 32 bits, other writers as few as hold it.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    struct AnyWidth;

    impl Visitor<'_> for AnyWidth {
        type Value = u32;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number of at most 32 bits")
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<u32, E> {
            u32::try_from(number).map_err(E::custom)
        }

        fn visit_i64<E: Error>(self, number: i64) -> Result<u32, E> {
            u32::try_from(number).map_err(E::custom)
        }
    }

    deserializer.deserialize_any(AnyWidth)
}

/// A country.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Country {
    /// With its code in a map.
    Map {
        #[serde(default)]
        iso_code: String,
    },
    /// The code, or with `IPinfo` the name.
    Text(String),
}

impl Default for Country {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

impl Country {
    /// Its code; empty if there is none.
    fn code(self) -> String {
        let code = match self {
            Self::Map { iso_code } => iso_code,
            Self::Text(text) => text,
        };
        let is_code = code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_uppercase());
        if is_code { code } else { String::new() }
    }
}

impl Record {
    fn place(self) -> Place {
        let number = self.asn.strip_prefix("AS").and_then(|number| number.parse().ok());
        let first = |texts: [String; 3]| {
            texts
                .into_iter()
                .find(|text| !text.is_empty())
                .unwrap_or_default()
        };
        Place {
            asn: if self.autonomous_system_number == 0 {
                number.unwrap_or_default()
            } else {
                self.autonomous_system_number
            },
            as_org: first([self.autonomous_system_organization, self.as_name, String::new()]),
            country: first([
                self.country.code(),
                Country::Text(self.country_code).code(),
                self.registered_country.code(),
            ]),
        }
    }
}

/// The databases, whole in memory.
#[derive(Debug)]
pub(super) struct Databases(Vec<Reader<Vec<u8>>>);

impl Databases {
    /// One that is in memory already.
    ///
    /// # Errors
    /// The reason why it is not in the format.
    pub(super) fn of(bytes: Vec<u8>) -> Result<Self, MaxMindDbError> {
        Reader::from_source(bytes).map(|reader| Self(vec![reader]))
    }

    /// Reads them.
    pub(super) fn read(paths: &[PathBuf]) -> Result<Self, DatabaseError> {
        let read = |path: &PathBuf| {
            let error = |reason: String| DatabaseError {
                file: path.clone(),
                reason,
            };
            let bytes = files::read(path, MAX_BYTES).map_err(|source| error(source.to_string()))?;
            Reader::from_source(bytes).map_err(|source| error(source.to_string()))
        };
        paths.iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// The place of an address; `None` if no database has it. A part that one does not know comes from the next.
    ///
    /// # Errors
    /// A record that can't be read.
    pub(super) fn place(&self, addr: IpAddr) -> Result<Option<Place>, MaxMindDbError> {
        let mut place = Place::default();
        for database in &self.0 {
            // A database for IPv4 alone has no record of an IPv6 address, which is expected.
            if addr.is_ipv6() && database.metadata().ip_version == 4 {
                continue;
            }
            let Some(record) = database.lookup(addr)?.decode::<Record>()? else {
                continue;
            };
            let other = record.place();
            if place.asn == 0 {
                (place.asn, place.as_org) = (other.asn, other.as_org);
            }
            if place.country.is_empty() {
                place.country = other.country;
            }
        }
        Ok((place != Place::default()).then_some(place))
    }
}
