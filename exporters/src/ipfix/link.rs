//! The way of messages to the collector: datagrams, or a stream over TCP or TLS.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures::FutureExt;
use hyper_rustls::MaybeHttpsStream;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::time::timeout;
use tower::{BoxError, ServiceExt};

use super::acks::Acks;
use super::address::Address;
use super::config::Protocol;
use crate::push::connect::{Dial, Stream};
use crate::push::endpoint::Endpoint;
use crate::push::error::Lost;
use flowtap_net::tls::ClientTls;

/// Time within which a host answers that nothing listens on the port. Waited for once per session, so that flows are kept until
/// the collector listens.
const REFUSAL_WAIT: Duration = Duration::from_millis(300);

/// Datagrams without a pause: about what fits in a socket buffer of Linux's default size, so that a collector loses none of a large
/// batch.
const BURST: u32 = 32;

/// The pause.
const PAUSE: Duration = Duration::from_millis(2);

/// Time that a collector has to read the end of a stream.
pub(super) const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// Settings of links.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) protocol: Protocol,
    pub(super) address: Address,
    pub(super) tls: ClientTls,
    pub(super) timeout: Duration,
    pub(super) connect_timeout: Duration,
}

/// A datagram that the kernel does not send.
#[derive(Debug, thiserror::Error)]
#[error(
    "a message of {bytes} bytes is too long for the path to the collector; hint: lower `max_message_bytes`"
)]
struct TooLong {
    bytes: usize,
}

/// The host answered that nothing listens on the port.
#[derive(Debug, thiserror::Error)]
#[error(
    "nothing listens on this UDP port (ICMP port unreachable); hint: start the collector, or correct `endpoint`"
)]
struct Refused;

#[derive(Debug, thiserror::Error)]
#[error("the collector closed the connection")]
struct Closed;

/// An open link.
pub(super) enum Link {
    Datagrams { socket: UdpSocket, burst: u32 },
    Stream(Box<TokioIo<MaybeHttpsStream<Stream>>>),
}

impl Target {
    /// Opens links, the first of them first: over UDP it is not known which address listens.
    pub(super) async fn open(&self) -> Result<Vec<Link>, BoxError> {
        match self.protocol {
            Protocol::Udp => self.bind().await,
            Protocol::Tcp | Protocol::Tls => Ok(vec![self.connect().await?]),
        }
    }

    async fn bind(&self) -> Result<Vec<Link>, BoxError> {
        let peers = timeout(self.connect_timeout, self.resolve())
            .await
            .map_err(|_| lost(&io::Error::from(io::ErrorKind::TimedOut)))??;
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        let mut links = Vec::new();
        for peer in peers {
            match socket_to(peer).await {
                Ok(socket) => links.push(Link::Datagrams { socket, burst: 0 }),
                Err(error) => last = error,
            }
        }
        if links.is_empty() {
            return Err(lost(&last));
        }
        Ok(links)
    }

    async fn resolve(&self) -> Result<Vec<SocketAddr>, BoxError> {
        let host = (self.address.host.as_str(), self.address.port);
        let peers = tokio::net::lookup_host(host)
            .await
            .map_err(|error| lost(&error))?;
        Ok(peers.collect())
    }

    /// Files of TLS are read for each connection, so those that have changed are used from the next one on.
    async fn connect(&self) -> Result<Link, BoxError> {
        let scheme = match self.protocol {
            Protocol::Tls => "https",
            Protocol::Udp | Protocol::Tcp => "http",
        };
        let endpoint = Endpoint::parse(&format!("{scheme}://{}", self.address))?;
        let uri = endpoint.uri().clone();
        let dial = Dial {
            endpoint,
            tls: self.tls.clone(),
            connect_timeout: self.connect_timeout,
            user_timeout: self.timeout,
            proxy: None,
            http2: false,
        };
        let stream = dial.connector()?.oneshot(uri).await;
        let stream = stream.map_err(|error| Lost::new(&*error))?;
        Ok(Link::Stream(Box::new(TokioIo::new(stream))))
    }

    /// Whether the name of the collector no longer has the address `peer`. While no name server answers it keeps its address.
    pub(super) async fn has_left(&self, peer: SocketAddr) -> bool {
        let peers = timeout(self.connect_timeout, self.resolve()).await;
        matches!(peers, Ok(Ok(peers)) if !peers.contains(&peer))
    }
}

async fn socket_to(peer: SocketAddr) -> io::Result<UdpSocket> {
    let any = match peer {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).await?;
    // Connected, so that refusals reach it.
    socket.connect(peer).await?;
    Ok(socket)
}

impl Link {
    /// The acknowledgements of a stream that no message was written to.
    pub(super) async fn acks(&mut self) -> Option<Acks> {
        let Self::Stream(stream) = self else {
            return None;
        };
        let (stream, is_tls) = match stream.inner_mut() {
            MaybeHttpsStream::Http(stream) => (stream, false),
            MaybeHttpsStream::Https(tls) => (tls.inner_mut().get_mut().0.inner_mut(), true),
        };
        Some(Acks::new(stream.take_socket()?, is_tls).await)
    }

    /// The address that datagrams are sent to; `None` for a stream.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        match self {
            Self::Datagrams { socket, .. } => socket.peer_addr().ok(),
            Self::Stream(_) => None,
        }
    }

    /// Sends one message.
    pub(super) async fn send(&mut self, message: &[u8]) -> Result<(), BoxError> {
        match self {
            Self::Datagrams { socket, burst } => {
                *burst += 1;
                if *burst > BURST {
                    tokio::time::sleep(PAUSE).await;
                    *burst = 0;
                }
                match socket.send(message).await {
                    Ok(_) => Ok(()),
                    // Of an earlier datagram: this one has not been sent.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Err(refused()),
                    Err(error) if error.raw_os_error() == Some(nix::libc::EMSGSIZE) => {
                        Err(Box::new(TooLong { bytes: message.len() }))
                    }
                    Err(error) => Err(lost(&error)),
                }
            }
            Self::Stream(stream) => {
                stream.write_all(message).await.map_err(|error| lost(&error))?;
                stream.flush().await.map_err(|error| lost(&error))
            }
        }
    }

    /// Waits for a refusal of what has been sent; only hosts without a listener on the port answer.
    pub(super) async fn accepts(&mut self) -> Result<(), BoxError> {
        let Self::Datagrams { socket, .. } = self else {
            return Ok(());
        };
        match timeout(REFUSAL_WAIT, socket.recv(&mut [0])).await {
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Err(refused()),
            Ok(Err(error)) => Err(lost(&error)),
            // Silence, or a datagram that is none of IPFIX.
            Ok(Ok(_)) | Err(_) => Ok(()),
        }
    }

    /// Whether the collector still reads, as far as is known here.
    ///
    /// A stream is read to find its end: what is written after a collector has closed it would be lost without an error.
    pub(super) async fn check(&mut self) -> Result<(), BoxError> {
        match self {
            Self::Datagrams { socket, .. } => match socket.take_error() {
                Ok(Some(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Err(refused()),
                Ok(Some(error)) | Err(error) => Err(lost(&error)),
                Ok(None) => Ok(()),
            },
            Self::Stream(stream) => {
                // The runtime may not have looked at the socket since the end arrived.
                tokio::task::yield_now().await;
                let mut bytes = [0; 256];
                // A collector has nothing to say in IPFIX; a bound for one that talks.
                for _ in 0..16 {
                    match stream.read(&mut bytes).now_or_never() {
                        None => return Ok(()),
                        Some(Ok(0)) => return Err(lost(&Closed)),
                        Some(Ok(_)) => {}
                        Some(Err(error)) => return Err(lost(&error)),
                    }
                }
                Ok(())
            }
        }
    }

    /// Ends a stream, and waits until the collector has read it. Closing it with unread input would reset it instead.
    pub(super) async fn close(self) {
        let Self::Stream(mut stream) = self else {
            return;
        };
        let drained = async {
            stream.shutdown().await?;
            let mut bytes = [0; 256];
            while stream.read(&mut bytes).await? > 0 {}
            io::Result::Ok(())
        };
        // A collector that does not close its end has had its time.
        let _ = timeout(CLOSE_WAIT, drained).await;
    }
}

fn refused() -> BoxError {
    lost(&Refused)
}

fn lost(error: &(dyn std::error::Error + 'static)) -> BoxError {
    Box::new(Lost::new(error))
}

/// Whether `error` is that nothing listens on the UDP port.
pub(super) fn is_refusal(error: &BoxError) -> bool {
    error.to_string() == Refused.to_string()
}
