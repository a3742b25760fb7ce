//! Address ranges as configs write them: `10.0.0.0/8`, or a single address.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use cidr_utils::cidr::{IpCidr, errors::NetworkParseError};
use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// An address range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr(pub IpNet);

impl JsonSchema for Cidr {
    fn schema_name() -> Cow<'static, str> {
        "Cidr".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": r"^\s*[0-9a-fA-F:.]+(/[0-9]{1,3})?\s*$",
            "examples": ["10.0.0.0/8", "192.0.2.1", "2001:db8::/32"],
        })
    }
}

/// A text that is not an address range.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCidr {
    /// Bits are set that the prefix leaves out.
    #[error("`{text}` names a host, not a range: did you mean `{network}`, or `{host}`?")]
    HostBits {
        /// The text.
        text: String,
        /// The range that it is in.
        network: IpNet,
        /// The address alone.
        host: IpAddr,
    },
    /// Anything else.
    #[error("`{text}` is not an address or range such as `10.0.0.0/8`: {reason}")]
    Malformed {
        /// The text.
        text: String,
        /// Message of the parser.
        reason: String,
    },
}

impl FromStr for Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim().parse::<IpCidr>() {
            Ok(cidr) => Ok(Self(to_net(&cidr))),
            Err(NetworkParseError::InvalidHostPart) => match text.trim().parse::<IpNet>() {
                Ok(net) => Err(InvalidCidr::HostBits {
                    text: text.to_owned(),
                    network: net.trunc(),
                    host: net.addr(),
                }),
                Err(error) => Err(InvalidCidr::Malformed {
                    text: text.to_owned(),
                    reason: error.to_string(),
                }),
            },
            Err(error) => Err(InvalidCidr::Malformed {
                text: text.to_owned(),
                reason: too_long(text).unwrap_or_else(|| error.to_string()),
            }),
        }
    }
}

/// The message about a prefix with more bits than its address has, if that is the fault.
fn too_long(text: &str) -> Option<String> {
    let (address, length) = text.trim().split_once('/')?;
    let most = match address.parse().ok()? {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    };
    let length: u32 = length.parse().ok()?;
    (length > most).then(|| format!("prefix length {length} exceeds {most}"))
}

/// Bits before the IPv4 address in one that is mapped to IPv6, `::ffff:192.0.2.1`.
const MAPPED_BITS: u8 = 96;

/// A parsed range has a prefix that fits its family, so nothing can fail; if it did, the widest range of one address. A range of mapped
/// addresses is one of IPv4: records have the IPv4 address of a connection over an IPv6 socket.
fn to_net(cidr: &IpCidr) -> IpNet {
    let (first, bits) = (cidr.first_address(), cidr.network_length());
    let (first, bits) = match first.to_canonical() {
        mapped @ IpAddr::V4(_) if first.is_ipv6() && bits >= MAPPED_BITS => (mapped, bits - MAPPED_BITS),
        _ => (first, bits),
    };
    IpNet::new(first, bits).unwrap_or_else(|_| IpNet::from(first))
}

impl TryFrom<String> for Cidr {
    type Error = InvalidCidr;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_single_addresses_are_read() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("::1", "::1/128"),
            (" fc00::/7 ", "fc00::/7"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::ffff:127.0.0.0/104", "127.0.0.0/8"),
            ("::ffff:192.0.2.7", "192.0.2.7/32"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::/80", "::/80"),
        ] {
            assert_eq!(
                text.parse::<Cidr>().map(|cidr| cidr.to_string()),
                Ok(shown.to_owned())
            );
        }
    }

    #[test]
    fn an_address_with_host_bits_is_refused_with_the_range_that_was_meant() {
        let error = "10.1.2.3/8".parse::<Cidr>().unwrap_err().to_string();
        assert!(
            error.contains("`10.0.0.0/8`") && error.contains("`10.1.2.3`"),
            "{error}"
        );
    }

    #[test]
    fn what_is_no_range_is_refused_by_name() {
        for text in ["300.1.2.3/8", "10.0.0.0/33", "example.org", "10.0.0.0/", "::/129"] {
            let error = text.parse::<Cidr>().unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }
}
