//! Dumps of the kernel's RDMA subsystem over `NETLINK_RDMA`, which takes no capability.

use std::io;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NlasIterator};
use netlink_sys::protocols::NETLINK_RDMA;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;

/// Client `RDMA_NL_NLDEV` of the protocol; a message's type is the client and the command (`RDMA_NL_GET_TYPE`).
const NLDEV: u16 = 5;

/// The kernel fills at most this much per message of a dump.
const BUFFER_BYTES: usize = 64 * 1024;

/// Header of a message: length, type, flags, sequence number, port (RFC 3549, 2.3.2).
const HEADER_BYTES: usize = 16;

/// Types of control messages (`include/uapi/linux/netlink.h`).
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// Attributes of a message, or of an attribute.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Values of the attributes of this kind. After a malformed one there are no more.
    fn values(self, kind: u16) -> impl Iterator<Item = &'a [u8]> {
        NlasIterator::new(self.0)
            .map_while(Result::ok)
            .filter(move |attribute| attribute.kind() == kind)
            .filter_map(|attribute| {
                let bytes = attribute.into_inner();
                // Length and type come first; the length includes them.
                let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
                bytes.get(4..length)
            })
    }

    pub(super) fn nested(self, kind: u16) -> impl Iterator<Item = Self> {
        self.values(kind).map(Self)
    }

    pub(super) fn u8(self, kind: u16) -> Option<u8> {
        self.values(kind).next()?.first().copied()
    }

    pub(super) fn u32(self, kind: u16) -> Option<u32> {
        let bytes = self.values(kind).next()?;
        Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
    }

    /// Text up to its NUL.
    pub(super) fn text(self, kind: u16) -> Option<String> {
        let bytes = self.values(kind).next()?;
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }
}

/// An open netlink socket.
#[derive(Debug)]
pub(super) struct Rdma {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Rdma {
    /// Opens a socket; `None` if the kernel has no RDMA, or has not loaded it.
    pub(super) fn open() -> io::Result<Option<Self>> {
        let mut socket = match Socket::new(NETLINK_RDMA) {
            Ok(socket) => socket,
            Err(error) if error.raw_os_error() == Some(Errno::EPROTONOSUPPORT as i32) => return Ok(None),
            Err(error) => return Err(error),
        };
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Some(Self {
            socket,
            buffer: vec![0; BUFFER_BYTES],
        }))
    }

    /// Requests a dump and passes the attributes of each message to `take`.
    pub(super) fn dump(
        &mut self,
        command: u16,
        attributes: &[(u16, u32)],
        mut take: impl FnMut(Attributes<'_>),
    ) -> io::Result<()> {
        self.socket.send(&request(command, attributes), 0)?;
        loop {
            let size = self.socket.recv(&mut &mut self.buffer[..], 0)?;
            if read_datagram(&self.buffer[..size], &mut take)? {
                return Ok(());
            }
        }
    }
}

fn request(command: u16, attributes: &[(u16, u32)]) -> Vec<u8> {
    let length = HEADER_BYTES + 8 * attributes.len();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(u32::try_from(length).unwrap_or(0).to_ne_bytes());
    bytes.extend((NLDEV << 10 | command).to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    // Sequence number and port: the socket has one request at a time, and the kernel knows the port.
    bytes.extend([0; 8]);
    for (kind, value) in attributes {
        bytes.extend(8_u16.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value.to_ne_bytes());
    }
    bytes
}

/// Reads a datagram of a dump; returns true if it was the last.
fn read_datagram(mut rest: &[u8], take: &mut impl FnMut(Attributes<'_>)) -> io::Result<bool> {
    while !rest.is_empty() {
        let message = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
        let payload = message.payload();
        match message.message_type() {
            NLMSG_DONE => return failed(payload).map(|()| true),
            // A code of 0 acknowledges.
            NLMSG_ERROR => failed(payload)?,
            _ => take(Attributes::new(payload)),
        }
        // Messages are aligned to four bytes.
        let length = (message.length() as usize).next_multiple_of(4).max(HEADER_BYTES);
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(false)
}

/// The error whose code a message begins with, negated; a dump may end with one.
fn failed(payload: &[u8]) -> io::Result<()> {
    let code = payload.get(..4).and_then(|code| code.try_into().ok());
    match code.map_or(0, i32::from_ne_bytes) {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(HEADER_BYTES + payload.len())
            .unwrap()
            .to_ne_bytes()
            .to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn a_dump_ends_with_its_last_message_or_with_the_error_in_it() {
        let of_nldev = NLDEV << 10 | 0xa;
        let attribute = [8_u16.to_ne_bytes(), 1_u16.to_ne_bytes(), [5, 0], [0, 0]].concat();
        let mut seen = Vec::new();
        let mut take = |attributes: Attributes<'_>| seen.push(attributes.u32(1));
        let two = [message(of_nldev, &attribute), message(of_nldev, &[])].concat();
        assert!(!read_datagram(&two, &mut take).unwrap());
        assert!(read_datagram(&message(NLMSG_DONE, &0_i32.to_ne_bytes()), &mut take).unwrap());
        for kind in [NLMSG_DONE, NLMSG_ERROR] {
            let failed = message(kind, &(-(Errno::EPERM as i32)).to_ne_bytes());
            let error = read_datagram(&failed, &mut take).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(Errno::EPERM as i32));
        }
        assert_eq!(seen, [Some(5), None]);
    }

    #[test]
    fn a_datagram_that_is_cut_off_is_an_error_and_no_endless_loop() {
        let whole = message(NLDEV << 10, &[0; 8]);
        for end in 1..whole.len() {
            assert!(read_datagram(&whole[..end], &mut |_| {}).is_err(), "{end}");
        }
    }
}
