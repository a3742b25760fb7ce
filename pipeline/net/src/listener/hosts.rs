//! The names under which a listener on the loopback interface answers.
//!
//! A web page can let its own name resolve to 127.0.0.1 and then read, in the browser of somebody on this machine, whatever
//! listens there (DNS rebinding). Such a request still carries the page's name in `Host`, so that is checked. Requests from
//! other machines are not: a scraper may know this one by any name, and network policy or authentication is what guards those.

use std::net::IpAddr;

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
        let host = host(authority);
        let same = |name: &str| name.eq_ignore_ascii_case(host.trim_end_matches('.'));
        host.parse::<IpAddr>().is_ok()
            || same("localhost")
            || self.0.iter().any(|name| name == ANY || same(name))
    }
}

/// The host of `host:port` or `[address]:port`.
fn host(authority: &str) -> &str {
    if let Some((address, _)) = authority.strip_prefix('[').and_then(|text| text.split_once(']')) {
        return address;
    }
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
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
    fn an_absolute_target_overrides_the_header_and_only_http_1_0_may_lack_both() {
        let absolute = "http://evil.example.com/flows";
        assert_eq!(status(&[], Version::HTTP_11, absolute, Some("127.0.0.1")), 421);
        assert_eq!(status(&[], Version::HTTP_11, "/flows", None), 400);
        assert_eq!(status(&[], Version::HTTP_10, "/flows", None), 200);
    }
}
