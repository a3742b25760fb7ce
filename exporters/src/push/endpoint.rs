//! Address that an exporter pushes to.
//!
//! One type for all exporters, so that a name, a password or a token in it is refused or hidden in every message, whichever
//! exporter writes it.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use http::Uri;
use http::uri::{Authority, PathAndQuery, Scheme};

/// Scheme of an endpoint that is a Unix socket: `unix:///run/otel.sock`.
const UNIX: &str = "unix://";

/// The address, without credentials. [`Display`](fmt::Display) shows no value of its query, where tokens are often put.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    uri: Uri,
    socket: Option<PathBuf>,
}

/// Why a text is not an endpoint. The message repeats no part of the text that may be secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EndpointError {
    #[error("must not contain a user name or password, which would appear in logs")]
    UserInfo,
    #[error(
        "invalid endpoint{shown}: expected `host:port`, `http://host:port`, `https://host:port` or `unix:///path/of/socket`"
    )]
    Invalid { shown: String },
}

impl Endpoint {
    /// # Errors
    /// [`EndpointError`] if `text` is not an address that can be pushed to.
    pub(crate) fn parse(text: &str) -> Result<Self, EndpointError> {
        // Anything before an `@` may be a password, also in a text that is otherwise wrong.
        let authority = text.split_once("://").map_or(text, |(_, rest)| rest);
        let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err(EndpointError::UserInfo);
        }
        let invalid = || EndpointError::Invalid {
            shown: format!(" `{}`", text.split(['?', '#']).next().unwrap_or_default()),
        };
        if let Some(path) = text.strip_prefix(UNIX) {
            return if path.starts_with('/') && path.len() > 1 {
                Ok(Self {
                    uri: Uri::from_static("http://localhost/"),
                    socket: Some(PathBuf::from(path)),
                })
            } else {
                Err(invalid())
            };
        }
        let uri: Uri = text.parse().map_err(|_| invalid())?;
        let known = matches!(uri.scheme_str(), Some("http" | "https"));
        if !known || uri.host().is_none_or(str::is_empty) {
            return Err(invalid());
        }
        Ok(Self { uri, socket: None })
    }

    /// The address for requests. For a socket it is `http://localhost`, as there is no host.
    pub(crate) const fn uri(&self) -> &Uri {
        &self.uri
    }

    /// The path of the Unix socket, if it is one.
    pub(crate) fn socket(&self) -> Option<&Path> {
        self.socket.as_deref()
    }

    /// Whether what is sent can be read on the way: without TLS, to another machine.
    pub(crate) fn is_exposed(&self) -> bool {
        let host = self.uri.host().unwrap_or_default();
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
        let local = host == "localhost" || address.is_ok_and(|address| address.to_canonical().is_loopback());
        !self.is_tls() && self.socket.is_none() && !local
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.uri.scheme() == Some(&Scheme::HTTPS)
    }

    /// The same with the path `to` in place of `from` at the end of its path, if it ends so.
    pub(crate) fn beside(&self, from: &str, to: &str) -> Self {
        let path = self.uri.path();
        let Some(base) = path.strip_suffix(from) else {
            return self.clone();
        };
        let query = self.uri.query().map(|query| format!("?{query}"));
        let whole = format!("{base}{to}{}", query.unwrap_or_default());
        let mut parts = self.uri.clone().into_parts();
        // A path with another constant end is a path.
        parts.path_and_query = PathAndQuery::try_from(whole).ok().or(parts.path_and_query);
        Self {
            uri: Uri::from_parts(parts).unwrap_or_default(),
            socket: self.socket.clone(),
        }
    }

    /// The same with `path` after its own path, unless that ends so already.
    pub(crate) fn below(self, path: &str) -> Self {
        if self.uri.path().ends_with(path) {
            return self;
        }
        let mut whole = format!("{}{path}", self.uri.path().trim_end_matches('/'));
        if let Some(query) = self.uri.query() {
            whole = format!("{whole}?{query}");
        }
        let mut parts = self.uri.into_parts();
        // A path followed by a constant one is a path.
        parts.path_and_query = PathAndQuery::try_from(whole).ok().or(parts.path_and_query);
        Self {
            uri: Uri::from_parts(parts).unwrap_or_default(),
            socket: self.socket,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(socket) = &self.socket {
            return write!(f, "{UNIX}{}", socket.display());
        }
        let scheme = self.uri.scheme_str().unwrap_or_default();
        let authority = self.uri.authority().map_or("", Authority::as_str);
        // Unchanged where there is no path.
        let path = match (self.uri.path(), self.uri.query()) {
            ("/", None) => "",
            (path, _) => path,
        };
        write!(f, "{scheme}://{authority}{path}")?;
        let Some(query) = self.uri.query() else {
            return Ok(());
        };
        for (index, pair) in query.split('&').enumerate() {
            let name = pair.split('=').next().unwrap_or_default();
            write!(f, "{}{name}=REDACTED", if index == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_refused_and_shown_by_no_message() {
        for text in [
            "http://user:hunter2@host:4317",
            "https://hunter2@host/path",
            "user:hunter2@host",
            "unix://hunter2@/run/x",
            "http://user:hunter2@[::1",
        ] {
            let error = Endpoint::parse(text).unwrap_err();
            assert_eq!(error, EndpointError::UserInfo, "{text}");
            assert!(!error.to_string().contains("hunter2"));
        }
        for text in [
            "host:4317?token=hunter2",
            "ftp://host/?token=hunter2",
            "/a?hunter2",
        ] {
            let error = Endpoint::parse(text).unwrap_err().to_string();
            assert!(
                error.contains("expected `host:port`, `http://host:port`"),
                "{error}"
            );
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn values_of_a_query_are_hidden_and_sent() {
        let endpoint = Endpoint::parse("https://host/write?token=hunter2&tenant=a").unwrap();
        let expected = "https://host/write?token=REDACTED&tenant=REDACTED";
        assert_eq!(endpoint.to_string(), expected);
        assert!(!format!("{endpoint:?}").contains("hunter2"));
        assert_eq!(endpoint.uri().query(), Some("token=hunter2&tenant=a"));
    }

    #[test]
    fn a_path_is_added_once_behind_the_one_that_is_there() {
        for (base, expected) in [
            ("http://host:4318", "http://host:4318/v1/metrics"),
            ("http://host:4318/", "http://host:4318/v1/metrics"),
            ("http://host/otlp/", "http://host/otlp/v1/metrics"),
            ("http://host/v1/metrics", "http://host/v1/metrics"),
            ("http://host/a?b=c", "http://host/a/v1/metrics?b=c"),
        ] {
            let endpoint = Endpoint::parse(base).unwrap().below("/v1/metrics");
            assert_eq!(endpoint.uri().to_string(), expected, "{base}");
        }
    }

    #[test]
    fn a_socket_has_a_path_and_no_host() {
        let endpoint = Endpoint::parse("unix:///run/otel.sock").unwrap();
        assert_eq!(endpoint.socket(), Some(Path::new("/run/otel.sock")));
        assert_eq!(endpoint.to_string(), "unix:///run/otel.sock");
        assert_eq!(
            endpoint.below("/v1/metrics").uri().to_string(),
            "http://localhost/v1/metrics"
        );
        for text in ["unix://", "unix:///", "unix://relative/path", "unix:/run/x"] {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
    }
}
