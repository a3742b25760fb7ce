//! Proxies on the way to a peer: a tunnel through one that speaks HTTP (CONNECT, RFC 9110, section 9.3.6), and their failures in words.

use std::io;

use http::{HeaderValue, StatusCode, Uri};
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::BoxError;

use super::error::chain;
use super::proxy::Proxy;

/// Longest head of an answer to CONNECT.
const MAX_HEAD_BYTES: usize = 8192;

/// A proxy that can't be reached, or does not connect to the peer.
#[derive(Debug, thiserror::Error)]
#[error("proxy {proxy}: {cause}; hint: {hint}")]
pub(crate) struct ProxyError {
    proxy: String,
    cause: String,
    hint: String,
}

impl ProxyError {
    /// `proxy` could not be reached, or what it said is not of its protocol.
    pub(crate) fn unreachable(proxy: &Proxy, error: &BoxError) -> Self {
        Self {
            proxy: proxy.to_string(),
            cause: chain(&**error),
            hint: format!("check {}, and that the proxy runs", proxy.named_by),
        }
    }

    fn refused(proxy: &Proxy, peer: &str, status: StatusCode) -> Self {
        Self {
            proxy: proxy.to_string(),
            cause: format!("HTTP status {status} to CONNECT {peer}"),
            hint: hint_of(proxy, status),
        }
    }
}

/// The remedy for an answer of `proxy` itself.
pub(crate) fn hint_of(proxy: &Proxy, status: StatusCode) -> String {
    if status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
        return format!(
            "give {} the user name and password that the proxy accepts",
            proxy.named_by
        );
    }
    "the proxy can't reach the peer, or does not allow it: check `endpoint` and the proxy's rules".to_owned()
}

/// Why an answer is not one to CONNECT.
#[derive(Debug, thiserror::Error)]
#[error("the answer to CONNECT is not one of HTTP")]
struct NotHttp;

/// Asks `proxy`, at the other end of `connection`, for a tunnel to `peer`. Nothing that the peer sends is read.
///
/// # Errors
/// A status other than a success, an answer that is not one of HTTP, or the connection's error.
pub(crate) async fn connect<T: Read + Write + Unpin>(
    connection: T,
    proxy: &Proxy,
    peer: &Uri,
    authorization: Option<&HeaderValue>,
) -> Result<T, ProxyError> {
    let host = peer.host().unwrap_or_default();
    let peer = format!("{host}:{}", peer.port_u16().unwrap_or(443));
    let mut connection = TokioIo::new(connection);
    match status_of(&mut connection, &peer, authorization).await {
        Ok(status) if status.is_success() => Ok(connection.into_inner()),
        Ok(status) => Err(ProxyError::refused(proxy, &peer, status)),
        Err(error) => Err(ProxyError::unreachable(proxy, &error.into())),
    }
}

async fn status_of<T: Read + Write + Unpin>(
    connection: &mut TokioIo<T>,
    peer: &str,
    authorization: Option<&HeaderValue>,
) -> io::Result<StatusCode> {
    let mut request = format!("CONNECT {peer} HTTP/1.1\r\nHost: {peer}\r\n").into_bytes();
    if let Some(credentials) = authorization {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(credentials.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    connection.write_all(&request).await?;
    connection.flush().await?;
    let mut head = Vec::new();
    // Byte by byte: whatever follows the head is the peer's, which may speak first, as a server of HTTP/2 does.
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await?);
        if head.len() > MAX_HEAD_BYTES || !b"HTTP/1.".starts_with(&head[..head.len().min(7)]) {
            return Err(io::Error::other(NotHttp));
        }
    }
    let status = head.get(9..12).and_then(|code| StatusCode::from_bytes(code).ok());
    status.ok_or_else(|| io::Error::other(NotHttp))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;

    /// The outcome of a CONNECT that is answered with `answer`, and what the peer's end has sent by then.
    async fn asked(answer: &[u8]) -> Result<Vec<u8>, String> {
        let (near, mut far) = duplex(1024);
        far.write_all(answer).await.unwrap();
        let proxy = Proxy::parse("http://me:hunter2@proxy.test:3128").unwrap();
        let peer = Uri::from_static("https://collector.test");
        let outcome = connect(TokioIo::new(near), &proxy, &peer, None).await;
        let near = outcome.map_err(|error| error.to_string())?;
        far.shutdown().await.unwrap();
        let mut rest = Vec::new();
        TokioIo::new(near).read_to_end(&mut rest).await.unwrap();
        Ok(rest)
    }

    #[tokio::test]
    async fn a_tunnel_begins_with_the_first_byte_after_the_head_also_if_the_peer_speaks_first() {
        for answer in [
            &b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nSETTINGS"[..],
            b"HTTP/1.0 200 OK\r\n\r\nSETTINGS",
        ] {
            assert_eq!(asked(answer).await.unwrap(), b"SETTINGS");
        }
    }

    #[tokio::test]
    async fn a_refusal_names_proxy_status_peer_and_remedy_and_no_credentials() {
        for (answer, expected) in [
            (
                "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
                "proxy http://proxy.test:3128: HTTP status 407 Proxy Authentication Required to CONNECT collector.test:443; \
                 hint: give `proxy_url` the user name and password that the proxy accepts",
            ),
            (
                "HTTP/1.1 502 No\r\n\r\n",
                "proxy http://proxy.test:3128: HTTP status 502 Bad Gateway to CONNECT collector.test:443; hint: the proxy can't reach the peer, \
                 or does not allow it: check `endpoint` and the proxy's rules",
            ),
            (
                "SSH-2.0-OpenSSH_9.2\r\n",
                "proxy http://proxy.test:3128: the answer to CONNECT is not one of HTTP; hint: check `proxy_url`, and that the proxy runs",
            ),
        ] {
            assert_eq!(asked(answer.as_bytes()).await.unwrap_err(), expected);
        }
    }
}
