//! The self-test of a step: a datagram that this process sends to itself must be counted, over IPv4 and over IPv6.
//!
//! A program may be attached to a function that the compiler has inlined in some of its callers, or that another kernel calls at
//! another place. No list of kernels would show that.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use super::abi::{UdpFlow, UdpTotals};
use super::map::Map;

/// The payload.
const PAYLOAD: &[u8; 7] = b"flowtap";

/// Loopback delivers at once; the time is for a machine that is busy.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Sends the datagrams. Returns what they add to the totals; `own` gets each that was sent or received, also if they were not counted.
///
/// # Errors
/// The difference.
pub(super) fn run(sockets: &mut Map<u64>, own: &mut UdpTotals) -> io::Result<UdpTotals> {
    let mut sum = UdpTotals::default();
    for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let socket = match UdpSocket::bind((address, 0)) {
            Ok(socket) => socket,
            // A machine without this family has nothing to count of it.
            Err(error) if cannot_bind(&error) => continue,
            Err(error) => return Err(error),
        };
        sum = sum.plus(&exchange(&socket, sockets, own)?);
    }
    Ok(sum)
}

fn cannot_bind(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT)
    )
}

fn exchange(socket: &UdpSocket, sockets: &mut Map<u64>, own: &mut UdpTotals) -> io::Result<UdpTotals> {
    let at = socket.local_addr()?;
    socket.connect(at)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.send(PAYLOAD)?;
    own.sent_datagrams += 1;
    socket.recv(&mut [0; PAYLOAD.len()])?;
    own.received_datagrams += 1;
    let is_ours = |flow: &UdpFlow| flow.key.local_port == at.port() && flow.key.remote_port == at.port();
    let mut found = None;
    sockets.each(|&id, flow| {
        if is_ours(flow) {
            found = Some((id, flow.totals));
        }
    })?;
    let bytes = u64::try_from(PAYLOAD.len()).unwrap_or(0);
    let expected = UdpTotals {
        sent: bytes,
        received: bytes,
        sent_datagrams: 1,
        received_datagrams: 1,
        ..UdpTotals::default()
    };
    let Some((id, totals)) = found else {
        return Err(io::Error::other(format!(
            "a datagram from {at} to itself was not seen"
        )));
    };
    // Before the socket closes: it is not to be reported.
    sockets.take(&id)?;
    if totals != expected {
        return Err(io::Error::other(format!(
            "of a datagram from {at} to itself {} bytes were seen sent and {} received, not {bytes} each",
            totals.sent, totals.received
        )));
    }
    Ok(expected)
}
