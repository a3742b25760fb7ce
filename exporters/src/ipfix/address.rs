//! Address of a collector: `host:port`, or a host.

use std::fmt;
use std::net::Ipv6Addr;

/// Why a text is not an address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidAddress {
    #[error("must be set: the address of the collector, such as `collector:4739`")]
    Empty,
    #[error("`{0}` is a URL; hint: write `host:port`, and set `protocol` to `udp`, `tcp` or `tls`")]
    Url(String),
    #[error("`{0}` is ambiguous; hint: write an IPv6 address in brackets, such as `[2001:db8::1]:4739`")]
    Brackets(String),
    #[error("`{0}` is not a port: expected a number from 1 to 65535")]
    Port(String),
    #[error("`{0}` is not a host: expected a name, or an IPv4 or IPv6 address")]
    Host(String),
}

/// The address. It is shown with brackets around an IPv6 address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// A name or an address, without brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

impl Address {
    /// Reads an address, with `port` where it has none.
    ///
    /// # Errors
    /// [`InvalidAddress`] with the form that is expected.
    pub(super) fn parse(text: &str, port: u16) -> Result<Self, InvalidAddress> {
        let text = text.trim();
        if text.is_empty() {
            return Err(InvalidAddress::Empty);
        }
        // The rest may hold a password.
        if let Some((scheme, _)) = text.split_once("://") {
            return Err(InvalidAddress::Url(format!("{scheme}://…")));
        }
        let (host, rest) = match text.strip_prefix('[').and_then(|text| text.split_once(']')) {
            Some((host, rest)) if host.parse::<Ipv6Addr>().is_ok() => (host, rest),
            Some((host, _)) => return Err(InvalidAddress::Host(host.to_owned())),
            None if text.matches(':').count() > 1 => return Err(InvalidAddress::Brackets(text.to_owned())),
            None => text.split_at(text.find(':').unwrap_or(text.len())),
        };
        let is_name = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
        if !text.starts_with('[') && (host.is_empty() || !host.chars().all(is_name)) {
            return Err(InvalidAddress::Host(host.to_owned()));
        }
        let port = match rest.strip_prefix(':') {
            None if rest.is_empty() => port,
            None => return Err(InvalidAddress::Host(text.to_owned())),
            Some(given) => match given.parse() {
                Ok(0) | Err(_) => return Err(InvalidAddress::Port(given.to_owned())),
                Ok(given) => given,
            },
        };
        let host = host.to_owned();
        Ok(Self { host, port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_the_default_port_unless_it_has_its_own() {
        for (text, expected) in [
            ("collector", "collector:4739"),
            ("collector:9995", "collector:9995"),
            (" 192.0.2.7:1 ", "192.0.2.7:1"),
            ("[2001:db8::1]", "[2001:db8::1]:4739"),
            ("[2001:db8::1]:2055", "[2001:db8::1]:2055"),
        ] {
            let address = Address::parse(text, 4739).unwrap();
            assert_eq!(address.to_string(), expected);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_form_that_is_meant() {
        for (text, part) in [
            ("", "such as `collector:4739`"),
            ("udp://collector:4739", "set `protocol`"),
            ("2001:db8::1", "in brackets"),
            ("2001:db8::1:4739", "in brackets"),
            ("collector:", "`` is not a port"),
            ("collector:0", "`0` is not a port"),
            ("collector:65536", "`65536` is not a port"),
            ("collector/x", "`collector/x` is not a host"),
            ("user@host:4739", "`user@host` is not a host"),
            ("[nonsense]:4739", "`nonsense` is not a host"),
            ("[::1]4739", "is not a host"),
        ] {
            let error = Address::parse(text, 4739).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        let error = Address::parse("tcp://user:hunter2@host", 4739).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
