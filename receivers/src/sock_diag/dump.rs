//! A dump of every TCP connection by `NETLINK_SOCK_DIAG` (`include/uapi/linux/inet_diag.h`).

use std::io;

use flowtap_pipeline::Endpoint;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket as NetlinkSocket, SocketAddr};

/// The kernel fills at most this much per message of a dump.
const BUFFER_BYTES: usize = 64 * 1024;

/// `TCP_LISTEN` (`include/net/tcp_states.h`).
const LISTEN: u8 = 10;

/// Running totals of one socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// Payload bytes, retransmissions not counted twice.
    pub(super) sent: u64,
    /// Payload bytes in order, without the FIN.
    pub(super) received: u64,
    pub(super) sent_segments: u32,
    pub(super) received_segments: u32,
    pub(super) retransmits: u32,
}

/// What a dump shows.
#[derive(Clone, Debug, Default)]
pub(super) struct Dump {
    pub(super) sockets: Vec<Socket>,
    /// Ports that are listened on.
    pub(super) listening: Vec<u16>,
}

/// One connection, as dumped.
#[derive(Clone, Debug)]
pub(super) struct Socket {
    pub(super) local: Endpoint,
    pub(super) remote: Endpoint,
    pub(super) cookie: u64,
    pub(super) state: u8,
    pub(super) totals: Totals,
    pub(super) rtt_us: u32,
    pub(super) min_rtt_us: u32,
    pub(super) cwnd: u32,
}

/// An open netlink socket.
#[derive(Debug)]
pub(crate) struct Dumper {
    socket: NetlinkSocket,
    buffer: Vec<u8>,
}

impl Dumper {
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = NetlinkSocket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            buffer: vec![0; BUFFER_BYTES],
        })
    }

    /// Every connection of this network namespace that has totals and every listener, IPv4 and IPv6.
    pub(super) fn dump(&mut self) -> io::Result<Dump> {
        let mut found = Dump::default();
        // Time-wait sockets have no totals left, and those in a handshake none yet.
        let connections = StateFlags::all().difference(
            StateFlags::TIME_WAIT
                | StateFlags::CLOSE
                | StateFlags::SYN_SENT
                | StateFlags::SYN_RECV
                | StateFlags::LISTEN,
        );
        // Listeners last: whoever accepted a connection that was found has listened before, and a dump is no snapshot.
        for states in [connections, StateFlags::LISTEN] {
            self.dump_family(AF_INET, SocketId::new_v4(), &states, &mut found)?;
            self.dump_family(AF_INET6, SocketId::new_v6(), &states, &mut found)?;
        }
        Ok(found)
    }

    /// The ports that are listened on. The kernel does not look at connections for it.
    pub(crate) fn listening(&mut self) -> io::Result<Vec<u16>> {
        let mut found = Dump::default();
        self.dump_family(AF_INET, SocketId::new_v4(), &StateFlags::LISTEN, &mut found)?;
        self.dump_family(AF_INET6, SocketId::new_v6(), &StateFlags::LISTEN, &mut found)?;
        Ok(found.listening)
    }

    fn dump_family(
        &mut self,
        family: u8,
        socket_id: SocketId,
        states: &StateFlags,
        found: &mut Dump,
    ) -> io::Result<()> {
        let request = InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::INFO,
            states: states.clone(),
            socket_id,
        };
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        while !self.receive(found)? {}
        Ok(())
    }

    /// One datagram of a dump; true if it was the last.
    fn receive(&mut self, found: &mut Dump) -> io::Result<bool> {
        let size = self.socket.recv(&mut &mut self.buffer[..], 0)?;
        let mut rest = &self.buffer[..size];
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
            // Messages are aligned to four bytes.
            let length = (message.header.length as usize).next_multiple_of(4).max(4);
            rest = rest.get(length..).unwrap_or_default();
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    if response.header.state == LISTEN {
                        found.listening.push(response.header.socket_id.source_port);
                    } else {
                        found.sockets.extend(socket(&response));
                    }
                }
                NetlinkPayload::Done(_) => return Ok(true),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                _ => {}
            }
        }
        Ok(false)
    }
}

fn socket(response: &InetResponse) -> Option<Socket> {
    let id = &response.header.socket_id;
    let info = response.nlas.iter().find_map(|nla| match nla {
        Nla::TcpInfo(bytes) => TcpInfo::new(bytes),
        _ => None,
    })?;
    Some(Socket {
        local: Endpoint::new(id.source_address, id.source_port),
        remote: Endpoint::new(id.destination_address, id.destination_port),
        cookie: u64::from_ne_bytes(id.cookie),
        state: response.header.state,
        totals: info.totals(response.header.state),
        rtt_us: info.u32_at(68),
        // The kernel's minimum filter begins at its greatest value.
        min_rtt_us: Some(info.u32_at(148)).filter(|&rtt| rtt != u32::MAX).unwrap_or(0),
        cwnd: info.u32_at(80),
    })
}

/// `struct tcp_info` (`include/uapi/linux/tcp.h`), which only ever grows at its end: fields by their offsets.
struct TcpInfo<'a>(&'a [u8]);

impl<'a> TcpInfo<'a> {
    /// Up to and with `tcpi_bytes_retrans`, which came with Linux 4.19.
    const LEAST_BYTES: usize = 216;

    fn new(bytes: &'a [u8]) -> Option<Self> {
        (bytes.len() >= Self::LEAST_BYTES).then_some(Self(bytes))
    }

    fn u32_at(&self, offset: usize) -> u32 {
        self.0
            .get(offset..)
            .and_then(<[u8]>::first_chunk)
            .copied()
            .map_or(0, u32::from_ne_bytes)
    }

    fn u64_at(&self, offset: usize) -> u64 {
        self.0
            .get(offset..)
            .and_then(<[u8]>::first_chunk)
            .copied()
            .map_or(0, u64::from_ne_bytes)
    }

    fn totals(&self, state: u8) -> Totals {
        // CLOSE_WAIT, LAST_ACK, CLOSING: the peer's FIN has come in, and counts as a byte received.
        let fin = u64::from(matches!(state, 8 | 9 | 11));
        Totals {
            sent: self.u64_at(200).wrapping_sub(self.u64_at(208)),
            received: self.u64_at(128).saturating_sub(fin),
            sent_segments: self.u32_at(136),
            received_segments: self.u32_at(140),
            retransmits: self.u32_at(100),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    fn find(sockets: &[Socket], local: std::net::SocketAddr, remote: std::net::SocketAddr) -> Socket {
        let (local, remote) = (
            Endpoint::new(local.ip(), local.port()),
            Endpoint::new(remote.ip(), remote.port()),
        );
        let mut found = sockets
            .iter()
            .filter(|socket| socket.local == local && socket.remote == remote);
        let socket = found
            .next()
            .unwrap_or_else(|| panic!("{local} -> {remote} is not in the dump"));
        assert!(found.next().is_none(), "{local} -> {remote} is there twice");
        socket.clone()
    }

    fn totals_are_exact_on(address: &str) {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(&[1; 12_345]).unwrap();
        server.read_exact(&mut [0; 12_345]).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(server.read(&mut [0]).unwrap(), 0, "the FIN has come in");

        let sockets = Dumper::open().unwrap().dump().unwrap().sockets;
        let (here, there) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        let (sent, received) = (
            find(&sockets, here, there).totals,
            find(&sockets, there, here).totals,
        );
        assert_eq!((sent.sent, sent.received), (12_345, 0));
        assert_eq!((received.sent, received.received), (0, 12_345));
    }

    #[test]
    fn a_dump_holds_both_ends_of_an_ipv4_connection_with_exact_totals_without_the_fin() {
        totals_are_exact_on("127.0.0.1");
    }

    #[test]
    fn a_dump_holds_both_ends_of_an_ipv6_connection_with_exact_totals_without_the_fin() {
        totals_are_exact_on("::1");
    }

    #[test]
    fn a_tcp_info_of_an_older_kernel_is_left_out_rather_than_misread() {
        assert!(TcpInfo::new(&[0; 192]).is_none());
    }
}
