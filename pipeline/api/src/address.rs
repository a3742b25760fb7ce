//! Addresses as configs write them, in the forms that the OpenTelemetry Collector and Prometheus take.
//!
//! To listen on: `127.0.0.1:9464`, `[::1]:9464`, `[fe80::1%eth0]:9464`, `localhost:9464`, and `:9464` for every address. To push to: a URL, or
//! `host:port` or a host alone, which [`with_scheme`] makes one of. Names of hosts are not looked up here: a config can be read where
//! no name server answers.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is not an address to listen on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// There is no port.
    #[error("`{0}` has no port; hint: write `{0}:PORT`, such as `{0}:9464`")]
    NoPort(String),
    /// The port is not a number of 16 bits.
    #[error("`{0}` is not a port: expected a number from 0 to 65535")]
    Port(String),
    /// An IPv6 address without brackets.
    #[error("`{0}` is ambiguous; hint: write an IPv6 address in brackets, such as `[::1]:9464`")]
    Brackets(String),
    /// A URL.
    #[error("`{0}` is a URL; hint: write the address and port alone, such as `127.0.0.1:9464`")]
    Url(String),
    /// A name of a host.
    #[error(
        "`{0}` is not an address; hint: write one of this machine's, `localhost`, or `0.0.0.0` for every one"
    )]
    Name(String),
    /// A link-local address with an interface that is not there.
    #[error("`{0}` is not an interface of this network namespace; hint: `ip link` lists them")]
    Interface(String),
}

/// Reads an address to listen on.
///
/// # Errors
/// [`InvalidAddress`] with the form that was meant.
pub fn parse_listen(text: &str) -> Result<SocketAddr, InvalidAddress> {
    let text = text.trim();
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if text.contains("://") {
        return Err(InvalidAddress::Url(text.to_owned()));
    }
    if text.parse::<Ipv6Addr>().is_ok() || text.matches(':').count() > 1 && !text.starts_with('[') {
        return Err(InvalidAddress::Brackets(text.to_owned()));
    }
    let (host, port) = text
        .rsplit_once(':')
        .filter(|_| !text.ends_with(']'))
        .ok_or_else(|| InvalidAddress::NoPort(text.to_owned()))?;
    let port = port.parse().map_err(|_| InvalidAddress::Port(port.to_owned()))?;
    if let Some((address, interface)) = scoped(host) {
        // The C library finds the interface's index. It asks no name server: the address is a number.
        let found = (format!("{address}%{interface}").as_str(), port).to_socket_addrs();
        let found = found.ok().and_then(|mut found| found.next());
        return found.ok_or_else(|| InvalidAddress::Interface(interface.to_owned()));
    }
    match host {
        "" | "*" => Ok(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))),
        "localhost" => Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        host => Err(InvalidAddress::Name(host.to_owned())),
    }
}

/// The parts of `[address%interface]` (RFC 4007, section 11).
fn scoped(host: &str) -> Option<(Ipv6Addr, &str)> {
    let (address, interface) = host.strip_prefix('[')?.strip_suffix(']')?.split_once('%')?;
    Some((address.parse().ok()?, interface))
}

/// The URL that `text` stands for: a `host:port` or a host gets a scheme and, if it has none, `port`. `https` if `tls`, or if the
/// port is 443. Anything else is returned as it is, right or wrong.
pub fn with_scheme(text: &str, port: u16, tls: bool) -> Cow<'_, str> {
    let text = text.trim();
    let (authority, path) = text.split_at(text.find('/').unwrap_or(text.len()));
    let is_host = |host: &str| {
        !host.is_empty()
            && host
                .chars()
                .all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_'))
    };
    let bracketed = authority.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let (host, rest) = match bracketed {
        Some((host, rest)) if host.parse::<Ipv6Addr>().is_ok() => (&authority[..host.len() + 2], rest),
        Some(_) => return Cow::Borrowed(text),
        None => {
            let host = authority.split(':').next().unwrap_or_default();
            if !is_host(host) {
                return Cow::Borrowed(text);
            }
            (host, &authority[host.len()..])
        }
    };
    let port = match rest.strip_prefix(':') {
        Some(given) => match given.parse() {
            Ok(given) => given,
            // `unix:/run/x`, `host:99999`.
            Err(_) => return Cow::Borrowed(text),
        },
        None if rest.is_empty() => port,
        None => return Cow::Borrowed(text),
    };
    let scheme = if tls || port == 443 { "https" } else { "http" };
    Cow::Owned(format!("{scheme}://{host}:{port}{path}"))
}

/// Writes an address. For `#[serde(with = "...")]`.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(address: &SocketAddr, serializer: S) -> Result<S::Ok, S::Error> {
    address.serialize(serializer)
}

/// Reads an address to listen on. For `#[serde(with = "...")]`.
///
/// # Errors
/// [`InvalidAddress`].
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    parse_listen(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

/// The same for an address that may be null.
pub mod option {
    use super::{Deserialize, Deserializer, Serialize, Serializer, SocketAddr, parse_listen};

    /// Writes it.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(address: &Option<SocketAddr>, serializer: S) -> Result<S::Ok, S::Error> {
        address.serialize(serializer)
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`InvalidAddress`](super::InvalidAddress).
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        let address = text.map(|text| parse_listen(&text)).transpose();
        address.map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_an_address_to_listen_on_is_read() {
        for (text, expected) in [
            ("127.0.0.1:9464", "127.0.0.1:9464"),
            (":9464", "[::]:9464"),
            ("*:9464", "[::]:9464"),
            ("localhost:9464", "127.0.0.1:9464"),
            ("[::]:9464", "[::]:9464"),
            ("0.0.0.0:9464", "0.0.0.0:9464"),
            (" [::1]:0 ", "[::1]:0"),
            // The loopback interface is the first of each network namespace.
            ("[fe80::1%lo]:9464", "[fe80::1%1]:9464"),
            ("[fe80::1%7]:9464", "[fe80::1%7]:9464"),
        ] {
            assert_eq!(
                parse_listen(text).map(|a| a.to_string()),
                Ok(expected.to_owned()),
                "{text}"
            );
        }
        for (text, part) in [
            ("localhost", "write `localhost:PORT`"),
            ("[::1]", "has no port"),
            ("127.0.0.1:99999", "`99999` is not a port"),
            ("::1:9464", "in brackets"),
            ("::1", "in brackets"),
            ("http://127.0.0.1:9464", "is a URL"),
            ("node-1:9464", "`0.0.0.0` for every one"),
            ("", "has no port"),
            ("[fe80::1%no-such]:9464", "`no-such` is not an interface"),
            ("[fe80::1%]:9464", "`` is not an interface"),
            ("[lo%fe80::1]:9464", "`0.0.0.0` for every one"),
        ] {
            let error = parse_listen(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_host_gets_a_scheme_and_a_port() {
        for (text, expected) in [
            ("collector:4317", "http://collector:4317"),
            ("collector", "http://collector:4317"),
            ("10.0.0.1", "http://10.0.0.1:4317"),
            ("[::1]", "http://[::1]:4317"),
            ("[::1]:5", "http://[::1]:5"),
            ("collector:443", "https://collector:443"),
            ("collector/otlp", "http://collector:4317/otlp"),
            // Not a host: as it is.
            ("http://collector", "http://collector"),
            ("unix:///run/x", "unix:///run/x"),
            ("/run/x", "/run/x"),
            ("user:pass@host", "user:pass@host"),
            ("host:4317?token=x", "host:4317?token=x"),
            ("host:99999", "host:99999"),
            ("::1", "::1"),
            ("", ""),
        ] {
            assert_eq!(with_scheme(text, 4317, false), expected, "{text}");
        }
        assert_eq!(with_scheme("collector", 4317, true), "https://collector:4317");
    }
}
