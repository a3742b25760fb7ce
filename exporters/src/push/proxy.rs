//! A proxy on the way to a peer, of the config or of the environment.

use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};

use super::endpoint::Endpoint;

/// A proxy on the way to the peer.
#[derive(Clone)]
pub(crate) struct Proxy {
    pub(super) uri: Uri,
    pub(super) authorization: Option<HeaderValue>,
    pub(super) socks: Option<Socks>,
    /// The key or the variables that name it, for a hint.
    pub(super) named_by: &'static str,
}

/// Settings of a SOCKS proxy.
#[derive(Clone)]
pub(super) struct Socks {
    /// Whether the proxy resolves names (`socks5h`).
    pub(super) remote_names: bool,
    pub(super) credentials: Option<(String, String)>,
}

impl Proxy {
    /// The proxy that `url` names, which may hold its credentials.
    pub(crate) fn parse(url: &str) -> Option<Self> {
        Matcher::builder()
            .all(url)
            .build()
            .intercept(&Uri::from_static("http://peer"))
            .and_then(|proxy| Self::new(&proxy, "`proxy_url`"))
    }

    /// The proxy that `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` (or in lower case) name for `endpoint`. There is none for
    /// this machine itself, as programs in Go have it: a proxy elsewhere could not reach it.
    pub(crate) fn from_environment(endpoint: &Endpoint) -> Option<Self> {
        let host = endpoint.uri().host()?.trim_matches(['[', ']']);
        let loopback = host.parse::<std::net::IpAddr>().map(|ip| ip.is_loopback());
        if endpoint.socket().is_some() || loopback.unwrap_or(host == "localhost") {
            return None;
        }
        let found = Matcher::from_env().intercept(endpoint.uri())?;
        let proxy = Self::new(&found, "the proxy variables of the environment");
        if proxy.is_none() {
            tracing::warn!(
                proxy = %found.uri(),
                "ignoring the proxy of the environment: expected http, https, socks5 or socks5h; \
                hint: correct the variable, or name the host in no_proxy"
            );
        }
        proxy
    }

    fn new(proxy: &Intercept, named_by: &'static str) -> Option<Self> {
        let socks = match proxy.uri().scheme_str() {
            Some("http" | "https") => None,
            Some(scheme @ ("socks5" | "socks5h")) => Some(Socks {
                remote_names: scheme == "socks5h",
                credentials: proxy
                    .raw_auth()
                    .map(|(name, password)| (name.to_owned(), password.to_owned())),
            }),
            _ => return None,
        };
        Some(Self {
            uri: proxy.uri().clone(),
            authorization: proxy.basic_auth().cloned(),
            socks,
            named_by,
        })
    }
}

impl std::fmt::Display for Proxy {
    /// Without credentials, which are not in the URI.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = self.uri.scheme_str().unwrap_or_default();
        let authority = self.uri.authority().map_or("", |authority| authority.as_str());
        write!(f, "{scheme}://{authority}")
    }
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Proxy({self})")
    }
}
