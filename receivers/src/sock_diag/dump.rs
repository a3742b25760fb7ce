//! A dump of every TCP connection by `NETLINK_SOCK_DIAG` (`include/uapi/linux/inet_diag.h`).

use std::io;

use flowtap_pipeline::{Endpoint, ListeningRecord, Role};
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{
    AF_INET, AF_INET6, IPPROTO_TCP, TCP_LISTEN, TCP_SYN_RECV, TCP_SYN_SENT,
};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{
    ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, Timer,
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket as NetlinkSocket, SocketAddr};

use super::counters::Counters;

/// The kernel fills at most this much per message of a dump.
const BUFFER_BYTES: usize = 64 * 1024;

/// The connections and listeners of a network namespace.
#[derive(Clone, Debug, Default)]
pub(super) struct Dump {
    pub(super) sockets: Vec<Socket>,
    /// Those that wait for the answer to their SYN.
    pub(super) connecting: Vec<Socket>,
    /// Ports that are listened on.
    pub(super) listening: Vec<u16>,
    /// Their sockets, with running totals of drops.
    pub(super) listeners: Vec<ListeningRecord>,
}

/// One connection, as the kernel describes it.
#[derive(Clone, Debug)]
pub(super) struct Socket {
    pub(super) local: Endpoint,
    pub(super) remote: Endpoint,
    pub(super) cookie: u64,
    pub(super) counters: Counters,
}

impl Socket {
    /// Whether it has no peer (any more). The kernel clears the counters of a socket when it takes away its peer.
    pub(super) const fn is_cleared(&self) -> bool {
        self.remote.port == 0
    }
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

    /// Every connection of this network namespace that has totals, every connect that waits and every listener, IPv4 and IPv6.
    pub(super) fn dump(&mut self) -> io::Result<Dump> {
        let mut found = Dump::default();
        // Time-wait sockets have no totals left. Those in a server's handshake have none yet, but for TCP Fast Open.
        let connections = StateFlags::all().difference(
            StateFlags::TIME_WAIT | StateFlags::CLOSE | StateFlags::SYN_SENT | StateFlags::LISTEN,
        );
        // Connects first, as they become connections. Listeners last: the listener of an accepted connection that was found
        // existed before, and a dump is not atomic.
        for states in [StateFlags::SYN_SENT, connections, StateFlags::LISTEN] {
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

    /// Whether the kernel keeps the connection of a closed socket in `TIME_WAIT`, which also stands
    /// for `FIN_WAIT_2`.
    pub(super) fn in_time_wait(&mut self, response: &InetResponse) -> io::Result<bool> {
        let socket_id = SocketId {
            // Any: sockets in TIME_WAIT have a different cookie.
            cookie: [0xff; 8],
            ..response.header.socket_id.clone()
        };
        self.request(
            response.header.family,
            socket_id,
            &StateFlags::all(),
            NLM_F_REQUEST,
        )?;
        let size = self.socket.recv(&mut &mut self.buffer[..], 0)?;
        let message =
            NetlinkMessage::<SockDiagMessage>::deserialize(&self.buffer[..size]).map_err(io::Error::other)?;
        Ok(match message.payload {
            // Else a listener, or a later connection between the same ends.
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(found)) => {
                found.header.timer == Some(Timer::TimeWait)
            }
            _ => false,
        })
    }

    fn dump_family(
        &mut self,
        family: u8,
        socket_id: SocketId,
        states: &StateFlags,
        found: &mut Dump,
    ) -> io::Result<()> {
        self.request(family, socket_id, states, NLM_F_REQUEST | NLM_F_DUMP)?;
        while !self.receive(found)? {}
        Ok(())
    }

    fn request(&self, family: u8, socket_id: SocketId, states: &StateFlags, flags: u16) -> io::Result<()> {
        // The memory information of a socket has its drops; of connections it is of no use.
        let extensions = if *states == StateFlags::LISTEN {
            ExtensionFlags::SKMEMINFO
        } else {
            ExtensionFlags::INFO
        };
        let request = InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions,
            states: states.clone(),
            socket_id,
        };
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        Ok(())
    }

    /// One datagram of a dump; true if it was the last.
    fn receive(&mut self, found: &mut Dump) -> io::Result<bool> {
        let size = self.socket.recv(&mut &mut self.buffer[..], 0)?;
        found.read(&self.buffer[..size])
    }
}

impl Dump {
    /// Adds what is in one datagram of a dump; true if it was the last.
    pub(super) fn read(&mut self, datagram: &[u8]) -> io::Result<bool> {
        let mut rest = datagram;
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
            // Messages are aligned to four bytes.
            let length = (message.header.length as usize).next_multiple_of(4).max(4);
            rest = rest.get(length..).unwrap_or_default();
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    if response.header.state == TCP_LISTEN {
                        self.listening.push(response.header.socket_id.source_port);
                        self.listeners.push(listener(&response));
                    } else if response.header.state == TCP_SYN_SENT {
                        self.connecting.extend(socket(&response));
                    } else if response.header.state == TCP_SYN_RECV {
                        // It becomes a connection when the handshake ends, unless it has received data before.
                        let early = socket(&response).filter(|socket| socket.counters.received > 0);
                        self.sockets.extend(early);
                    } else {
                        self.sockets.extend(socket(&response));
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

/// The listening socket that a message describes. Of its queues one is the backlog, the other its limit (`tcp_diag_get_info()`);
/// for how long a connection has waited is not among them.
fn listener(response: &InetResponse) -> ListeningRecord {
    let header = &response.header;
    let id = &header.socket_id;
    let mut record = ListeningRecord::new(Endpoint::new(id.source_address, id.source_port));
    record.flow.cookie = u64::from_ne_bytes(id.cookie);
    record.flow.role = Role::Server;
    record.backlog = header.recv_queue;
    record.limit = header.send_queue;
    record.drops = response
        .nlas
        .iter()
        .find_map(|nla| match nla {
            Nla::MemInfo(memory) => Some(u64::from(memory.drops)),
            _ => None,
        })
        .unwrap_or(0);
    record
}

/// The connection that a message describes; `None` without the counters of Linux 4.19.
pub(super) fn socket(response: &InetResponse) -> Option<Socket> {
    let header = &response.header;
    let id = &header.socket_id;
    let counters = response.nlas.iter().find_map(|nla| match nla {
        Nla::TcpInfo(info) => Counters::read(info, header.recv_queue, header.send_queue),
        _ => None,
    })?;
    Some(Socket {
        local: Endpoint::new(id.source_address, id.source_port),
        remote: Endpoint::new(id.destination_address, id.destination_port),
        cookie: u64::from_ne_bytes(id.cookie),
        counters,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use flowtap_pipeline::Role;
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
            find(&sockets, here, there).counters,
            find(&sockets, there, here).counters,
        );
        assert_eq!(
            (sent.role(), received.role()),
            (Some(Role::Client), Some(Role::Server))
        );
        let (sent, received) = (sent.payload(Role::Client), received.payload(Role::Server));
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
}
