//! Connections to peers: TCP, directly or through a proxy, or a Unix socket; then TLS.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Uri};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::proxy::SocksV5;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tower::{BoxError, Service, ServiceExt};

use super::endpoint::Endpoint;
use super::proxy::Proxy;
use super::tunnel::{self, ProxyError};
use flowtap_net::tls::ClientTls;

/// Idle time after which the kernel probes a connection, so that middleboxes do not forget it and a
/// dead peer is noticed.
const TCP_KEEPALIVE: Duration = Duration::from_secs(15);

/// The longest `TCP_USER_TIMEOUT` that the kernel takes: an `int` of milliseconds, 24.8 days.
const MAX_USER_TIMEOUT: Duration = Duration::from_millis(i32::MAX as u64);

/// Connection settings of an exporter.
#[derive(Clone, Debug)]
pub(crate) struct Dial {
    pub(crate) endpoint: Endpoint,
    pub(crate) tls: ClientTls,
    /// For all addresses of a name together.
    pub(crate) connect_timeout: Duration,
    /// Time for which sent data may remain unacknowledged before the kernel ends the connection.
    pub(crate) user_timeout: Duration,
    pub(crate) proxy: Option<Proxy>,
    /// HTTP/2 rather than HTTP/1.1.
    pub(crate) http2: bool,
}

impl Dial {
    /// # Errors
    /// A TLS file that can't be used.
    pub(crate) fn connector(&self) -> Result<HttpsConnector<Route>, BoxError> {
        let over_tls = self.endpoint.is_tls();
        let mut builder = HttpsConnectorBuilder::new()
            .with_tls_config(self.tls.config_for(over_tls)?)
            .https_or_http();
        if let Some(name) = &self.tls.server_name {
            let name = rustls::pki_types::ServerName::try_from(name.clone())?;
            builder = builder.with_server_name_resolver(FixedServerNameResolver::new(name));
        }
        let route = self.route()?;
        Ok(if self.http2 {
            builder.enable_http2().wrap_connector(route)
        } else {
            builder.enable_http1().wrap_connector(route)
        })
    }

    fn route(&self) -> Result<Route, BoxError> {
        if let Some(path) = self.endpoint.socket() {
            return Ok(Route::Socket(path.to_owned()));
        }
        let tcp = self.tcp();
        let Some(proxy) = &self.proxy else {
            return Ok(Route::Direct(tcp));
        };
        let uri = proxy.uri.clone();
        if let Some(socks) = &proxy.socks {
            let mut connector = SocksV5::new(uri, tcp).local_dns(!socks.remote_names);
            if let Some((name, password)) = socks.credentials.clone() {
                connector = connector.with_auth(name, password);
            }
            return Ok(Route::Socks(connector, proxy.clone()));
        }
        let over_tls = uri.scheme_str() == Some("https");
        // Its certificate is the system's business: `tls` is about the peer.
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(ClientTls::default().config_for(over_tls)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        if !self.tunnels() {
            return Ok(Route::Forward(connector, proxy.clone()));
        }
        Ok(Route::Tunnel(connector, proxy.clone()))
    }

    /// Whether a proxy passes bytes on (CONNECT), or requests: plain HTTP/1.1 is the only thing that it can read.
    fn tunnels(&self) -> bool {
        self.http2 || self.endpoint.is_tls()
    }

    /// The proxy that passes requests on, and so may answer them itself.
    pub(crate) fn forwarding_proxy(&self) -> Option<&Proxy> {
        self.proxy
            .as_ref()
            .filter(|proxy| proxy.socks.is_none() && !self.tunnels())
    }

    /// Credentials that each request shows to a proxy that passes requests on.
    pub(crate) fn proxy_authorization(&self) -> Option<HeaderValue> {
        self.forwarding_proxy()?.authorization.clone()
    }

    /// Values of the address's query and credentials of the proxy, which either may repeat in an answer.
    pub(crate) fn secrets(&self) -> Vec<String> {
        let query = self.endpoint.uri().query().unwrap_or_default();
        let values = query.split('&').filter_map(|pair| pair.split_once('='));
        let mut secrets: Vec<_> = values.map(|(_, value)| value.to_owned()).collect();
        if let Some(proxy) = &self.proxy {
            let header = proxy.authorization.as_ref();
            secrets.extend(header.and_then(|header| header.to_str().ok()).map(str::to_owned));
            let socks = proxy.socks.as_ref().and_then(|socks| socks.credentials.as_ref());
            secrets.extend(socks.map(|(_, password)| password.clone()));
        }
        secrets
    }

    fn tcp(&self) -> HttpConnector {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(self.connect_timeout));
        tcp.set_tcp_user_timeout(Some(self.user_timeout.min(MAX_USER_TIMEOUT)));
        tcp.set_keepalive(Some(TCP_KEEPALIVE));
        tcp.set_keepalive_interval(Some(TCP_KEEPALIVE));
        tcp
    }
}

/// The way of bytes to the peer.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    Direct(HttpConnector),
    Socket(PathBuf),
    /// Through a proxy that passes bytes on.
    Tunnel(HttpsConnector<HttpConnector>, Proxy),
    Socks(SocksV5<HttpConnector>, Proxy),
    /// To a proxy that passes requests on.
    Forward(HttpsConnector<HttpConnector>, Proxy),
}

impl Service<Uri> for Route {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // Readiness is awaited in `call`; none of these ever has to wait.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, peer: Uri) -> Self::Future {
        match self.clone() {
            Self::Direct(tcp) => Box::pin(async move {
                let tcp = tcp.oneshot(peer).await?;
                // Without it, nothing is known of acknowledgements, as over a proxy.
                let socket = tcp.inner().as_fd().try_clone_to_owned().ok();
                Ok(Stream {
                    socket,
                    ..Stream::new(tcp)
                })
            }),
            Self::Socket(path) => Box::pin(async move {
                let stream = UnixStream::connect(path).await?;
                Ok(Stream::new(TokioIo::new(stream)))
            }),
            Self::Tunnel(connector, proxy) => Box::pin(async move {
                let stream = to_proxy(connector, &proxy).await?;
                let credentials = proxy.authorization.as_ref();
                let stream = tunnel::connect(stream, &proxy, &with_port(peer), credentials).await?;
                Ok(Stream::new(stream))
            }),
            Self::Socks(socks, proxy) => Box::pin(async move {
                let stream = socks.oneshot(with_port(peer)).await;
                let stream = stream.map_err(|error| ProxyError::unreachable(&proxy, &error.into()))?;
                Ok(Stream::new(stream))
            }),
            Self::Forward(connector, proxy) => Box::pin(async move {
                let mut stream = Stream::new(to_proxy(connector, &proxy).await?);
                stream.forwarded = true;
                Ok(stream)
            }),
        }
    }
}

async fn to_proxy(
    connector: HttpsConnector<HttpConnector>,
    proxy: &Proxy,
) -> Result<MaybeHttpsStream<TokioIo<TcpStream>>, ProxyError> {
    let connected = connector.oneshot(proxy.uri.clone()).await;
    connected.map_err(|error| ProxyError::unreachable(proxy, &error))
}

/// A proxy has to be given the port, which is 443 for a tunnel unless it is named.
fn with_port(peer: Uri) -> Uri {
    if peer.port().is_some() || peer.scheme_str() != Some("http") {
        return peer;
    }
    let host = peer.host().unwrap_or_default();
    let authority = format!("{host}:80");
    let mut parts = peer.clone().into_parts();
    parts.authority = authority.parse().ok();
    Uri::from_parts(parts).unwrap_or(peer)
}

trait Io: Read + Write + Connection + Send + Unpin {}

impl<T: Read + Write + Connection + Send + Unpin> Io for T {}

/// A connection, whichever way it was made.
pub(crate) struct Stream {
    io: Box<dyn Io>,
    /// The other end is a proxy that passes requests on.
    forwarded: bool,
    /// A duplicate of the TCP socket to the peer itself.
    #[cfg_attr(
        not(feature = "ipfix"),
        expect(dead_code, reason = "`ipfix` alone asks the socket")
    )]
    socket: Option<OwnedFd>,
}

impl Stream {
    fn new(io: impl Io + 'static) -> Self {
        Self {
            io: Box::new(io),
            forwarded: false,
            socket: None,
        }
    }

    /// Takes a duplicate of the TCP socket, if the connection is one to the peer itself.
    #[cfg(feature = "ipfix")]
    pub(crate) const fn take_socket(&mut self) -> Option<OwnedFd> {
        self.socket.take()
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        self.io.connected().proxy(self.forwarded)
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_read(context, buffer)
    }
}

impl Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.io).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.io).poll_write_vectored(context, buffers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::SockRef;

    #[tokio::test]
    async fn the_kernel_ends_a_connection_whose_data_is_not_acknowledged_and_probes_an_idle_one() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = format!("http://{}", listener.local_addr().unwrap());
        for (user_timeout, expected) in [
            (Duration::from_secs(7), Duration::from_secs(7)),
            (Duration::MAX, MAX_USER_TIMEOUT),
        ] {
            let dial = Dial {
                endpoint: Endpoint::parse(&peer).unwrap(),
                tls: ClientTls::default(),
                connect_timeout: Duration::from_secs(5),
                user_timeout,
                proxy: None,
                http2: true,
            };
            let stream = dial.tcp().oneshot(peer.parse::<Uri>().unwrap()).await.unwrap();
            let socket = SockRef::from(stream.inner());
            assert_eq!(socket.tcp_user_timeout().unwrap(), Some(expected));
            assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap(), TCP_KEEPALIVE);
            assert_eq!(socket.tcp_keepalive_interval().unwrap(), TCP_KEEPALIVE);
        }
    }
}
