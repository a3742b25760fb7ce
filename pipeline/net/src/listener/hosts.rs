//! The names under which a listener on the loopback interface answers.
//!
//! A web page can let its own name resolve to 127.0.0.1 and then read, in the browser of somebody on this machine, whatever
//! listens there (DNS rebinding). Such a request still carries the page's name in `Host`, so that is checked. Requests from
//! other machines are not: a scraper may know this one by any name, and network policy or authentication is what guards those.

use std::net::{IpAddr, Ipv6Addr};

use axum::http::{StatusCode, Version, header, request};

/// An entry that allows every name.
const ANY: &str = "*";

/// Names that `Host` may have beside IP addresses and `localhost`.
#[derive(Clone, Debug, Default)]
pub struct AllowedHosts(Vec<String>);

impl AllowedHosts {
    /// Allows `names`, `*` for all.
    pub fn new(names: &[String]) -> Self {
        Self(names.to_vec())
    }

    /// Checks the host that a request names.
    ///
    /// # Errors
    /// The status and text of the response.
    pub(super) fn check(&self, request: &request::Parts) -> Result<(), (StatusCode, &'static str)> {
        const MISDIRECTED: &str = "421 Misdirected Request: the name in Host is not one of this listener; \
                                   hint: use 127.0.0.1 or localhost, or add the name to allowed_hosts\n";
        const MISSING: &str = "400 Bad Request: HTTP/1.1 requires the header Host\n";
        const REPEATED: &str = "400 Bad Request: more than one header Host\n";
        // RFC 9112, section 3.2: what is in front of this listener may have read another one.
        if request.headers.get_all(header::HOST).iter().nth(1).is_some() {
            return Err((StatusCode::BAD_REQUEST, REPEATED));
        }
        // RFC 9112, section 3.2.2: the authority of an absolute target overrides the header.
        let authority = match request.uri.authority() {
            Some(authority) => Some(authority.as_str()),
            None => match request.headers.get(header::HOST) {
                Some(host) => Some(
                    host.to_str()
                        .map_err(|_| (StatusCode::MISDIRECTED_REQUEST, MISDIRECTED))?,
                ),
                None => None,
            },
        };
        match authority {
            // A browser always sends one.
            None if request.version < Version::HTTP_11 => Ok(()),
            None => Err((StatusCode::BAD_REQUEST, MISSING)),
            Some(authority) if self.allows(authority) => Ok(()),
            Some(_) => Err((StatusCode::MISDIRECTED_REQUEST, MISDIRECTED)),
        }
    }

    fn allows(&self, authority: &str) -> bool {
        if self.0.iter().any(|name| name == ANY) {
            return true;
        }
        let Some(host) = host(authority) else {
            return false;
        };
        let same = |name: &str| name.eq_ignore_ascii_case(host.trim_end_matches('.'));
        host.parse::<IpAddr>().is_ok() || same("localhost") || self.0.iter().any(|name| same(name))
    }
}

/// The host of `host:port` or `[address]:port`; `None` if it is neither (RFC 3986, section 3.2.2).
fn host(authority: &str) -> Option<&str> {
    let (host, rest) = match authority.strip_prefix('[') {
        Some(text) => text.split_once(']')?,
        // An IPv6 address without brackets has several colons.
        None if authority.parse::<IpAddr>().is_ok() => (authority, ""),
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let is_whole = rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port);
    // Brackets are for IPv6 only.
    let is_address = !authority.starts_with('[') || host.parse::<Ipv6Addr>().is_ok();
    (is_whole && is_address).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;

    fn status(allowed: &[&str], version: Version, target: &str, host: Option<&str>) -> u16 {
        let names: Vec<_> = allowed.iter().map(|&name| name.to_owned()).collect();
        let mut request = Request::builder().uri(target).version(version);
        if let Some(host) = host {
            request = request.header(header::HOST, host);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let checked = AllowedHosts::new(&names).check(&parts);
        checked.map_or_else(|(status, _)| status.as_u16(), |()| 200)
    }

    #[test]
    fn addresses_and_localhost_are_served_and_the_names_of_others_are_not() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:9464",
            "[::1]:9464",
            "[::1]",
            "localhost:9464",
            "LOCALHOST",
            "localhost.",
        ] {
            assert_eq!(status(&[], Version::HTTP_11, "/flows", Some(host)), 200, "{host}");
        }
        for host in [
            "evil.example.com",
            "evil.example.com:9464",
            "127.0.0.1.evil.example.com",
            "localhost.evil.example.com",
            "",
            "node1",
            "[::1]evil.example.com",
            "[::1]:evil.example.com",
            "[::1]:80:90",
            "[localhost]",
            "[127.0.0.1]",
            "[::1",
            "localhost:evil.example.com",
            "localhost:80:90",
        ] {
            assert_eq!(status(&[], Version::HTTP_11, "/flows", Some(host)), 421, "{host}");
        }
        assert_eq!(
            status(&["node1"], Version::HTTP_11, "/flows", Some("Node1:80")),
            200
        );
        assert_eq!(status(&["*"], Version::HTTP_11, "/flows", Some("x.example")), 200);
    }

    #[test]
    fn more_than_one_host_is_refused_whichever_comes_first_and_whatever_is_allowed() {
        for hosts in [
            ["localhost", "evil.example.com"],
            ["evil.example.com", "localhost"],
            ["localhost"; 2],
        ] {
            let mut request = Request::builder().uri("/flows");
            for host in hosts {
                request = request.header(header::HOST, host);
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            for allowed in [&[][..], &["*".to_owned()]] {
                let checked = AllowedHosts::new(allowed).check(&parts);
                assert_eq!(checked.unwrap_err().0, StatusCode::BAD_REQUEST, "{hosts:?}");
            }
        }
    }

    #[test]
    fn an_absolute_target_overrides_the_header_and_only_http_1_0_may_lack_both() {
        let absolute = "http://evil.example.com/flows";
        assert_eq!(status(&[], Version::HTTP_11, absolute, Some("127.0.0.1")), 421);
        assert_eq!(status(&[], Version::HTTP_11, "/flows", None), 400);
        assert_eq!(status(&[], Version::HTTP_10, "/flows", None), 200);
    }
}
