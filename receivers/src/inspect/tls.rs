//! The first message of a TLS client (RFC 8446, section 4.1.2; RFC 6066; RFC 7301), also one that is cut off.
//!
//! A separate parser: those of TLS libraries want the whole message, and what was seen of one may end anywhere. It reads lengths
//! and two extensions, and allocates no more than it was given.

use zeroize::Zeroizing;

use super::matching::big_endian;

/// A record of the handshake.
const HANDSHAKE: u8 = 22;
const RECORD_HEADER: usize = 5;
const LONGEST_RECORD: u64 = (1 << 14) + 256;

const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
const MESSAGE_HEADER: usize = 4;

/// Version and random number.
const FIXED_BYTES: usize = 2 + 32;

/// The random number of a `HelloRetryRequest`: the SHA-256 of its name.
pub(crate) const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2,
    0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

const SERVER_NAME: u64 = 0;
const HOST_NAME: u8 = 0;
const ALPN: u64 = 16;

/// Protocols of ALPN that have a name here (IANA's registry, and Istio's own).
const PROTOCOLS: [&str; 23] = [
    "h2",
    "http/1.1",
    "http/1.0",
    "h2c",
    "h3",
    "grpc-exp",
    "acme-tls/1",
    "dot",
    "mqtt",
    "postgresql",
    "tds/8.0",
    "smb",
    "imap",
    "pop3",
    "ftp",
    "irc",
    "xmpp-client",
    "xmpp-server",
    "stun.turn",
    "ntske/1",
    "istio",
    "istio-peer-exchange",
    "istio-http/1.1",
];

/// For every other protocol.
const OTHER: &str = "other";

/// Most protocols that are kept.
const MOST_PROTOCOLS: usize = 8;

/// The parts of a `ClientHello` that are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The bytes of the name that the client asks for: not validated.
    pub server_name: Option<Vec<u8>>,
    /// The protocols that it offers, in its order; `other` stands for those that are not known.
    pub alpn: Vec<&'static str>,
    /// Whether the end of the message was there.
    pub is_whole: bool,
}

/// Reads the first message; `None` if the bytes are not one.
pub fn client_hello(bytes: &[u8]) -> Option<ClientHello> {
    if !is_handshake(bytes, CLIENT_HELLO) {
        return None;
    }
    let message = handshake(bytes);
    let length = usize::try_from(big_endian::<3>(&message, 1)?).ok()?;
    let mut hello = ClientHello::default();
    let body = message.get(MESSAGE_HEADER..).unwrap_or_default();
    let is_there = body.len() >= length;
    let body = &body[..length.min(body.len())];
    // A message that is not what it seems to be at its beginning has no more to say.
    hello.is_whole = extensions(body).is_none_or(|extensions| hello.read(extensions)) && is_there;
    Some(hello)
}

/// Whether the bytes begin with the first message of a server.
pub(crate) fn is_server_hello(bytes: &[u8]) -> bool {
    is_handshake(bytes, SERVER_HELLO)
}

/// Whether the bytes begin with the first message of a client, of which eleven bytes are enough.
pub(crate) fn is_client_hello(bytes: &[u8]) -> bool {
    is_handshake(bytes, CLIENT_HELLO)
}

/// Whether a server's first message asks for another one of the client's (`HelloRetryRequest`, RFC 8446, section 4.1.3).
pub(crate) fn is_hello_retry(bytes: &[u8]) -> bool {
    const AT: usize = RECORD_HEADER + MESSAGE_HEADER + 2;
    is_server_hello(bytes) && bytes.get(AT..AT + RETRY.len()) == Some(&RETRY[..])
}

/// Whether the bytes begin with a record of TLS that has such a message. Eleven of them settle it.
fn is_handshake(bytes: &[u8], kind: u8) -> bool {
    let record = big_endian::<2>(bytes, 3).unwrap_or(0);
    let message = big_endian::<3>(bytes, RECORD_HEADER + 1).unwrap_or(0);
    let at = RECORD_HEADER + MESSAGE_HEADER;
    bytes.first() == Some(&HANDSHAKE)
        && matches!(bytes.get(1..3), Some([3, 0..=4]))
        && (MESSAGE_HEADER as u64..=LONGEST_RECORD).contains(&record)
        && bytes.get(RECORD_HEADER) == Some(&kind)
        && (FIXED_BYTES as u64..1 << 17).contains(&message)
        && matches!(bytes.get(at..at + 2), Some([3, 0..=4]))
}

/// The messages in the records, without the headers of these.
fn handshake(mut bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut messages = Zeroizing::new(Vec::with_capacity(bytes.len()));
    while let (Some(&HANDSHAKE), Some(length)) = (bytes.first(), big_endian::<2>(bytes, 3)) {
        let rest = &bytes[RECORD_HEADER..];
        let length = usize::try_from(length).map_or(rest.len(), |length| length.min(rest.len()));
        messages.extend_from_slice(&rest[..length]);
        bytes = &rest[length..];
        if length == 0 {
            break;
        }
    }
    messages
}

/// The bytes after a length of `N` bytes: as many as it says, or as there are; and those after them.
fn vector<const N: usize>(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = usize::try_from(big_endian::<N>(bytes, 0)?).ok()?;
    let rest = &bytes[N..];
    Some(rest.split_at(length.min(rest.len())))
}

/// The extensions of a message.
fn extensions(body: &[u8]) -> Option<&[u8]> {
    let (_session_id, rest) = vector::<1>(body.get(FIXED_BYTES..)?)?;
    let (_cipher_suites, rest) = vector::<2>(rest)?;
    let (_compression_methods, rest) = vector::<1>(rest)?;
    Some(vector::<2>(rest)?.0)
}

impl ClientHello {
    /// Reads extensions; returns whether the last one was whole.
    fn read(&mut self, mut extensions: &[u8]) -> bool {
        while let (Some(kind), Some(length)) =
            (big_endian::<2>(extensions, 0), big_endian::<2>(extensions, 2))
        {
            let Some((data, rest)) = vector::<2>(&extensions[2..]) else {
                return false;
            };
            if data.len() as u64 != length {
                return false;
            }
            match kind {
                SERVER_NAME => self.server_name = host_name(data),
                ALPN => self.alpn = protocols(data),
                _ => {}
            }
            extensions = rest;
        }
        extensions.is_empty()
    }
}

/// The first name of a host in a list.
fn host_name(data: &[u8]) -> Option<Vec<u8>> {
    let (list, _) = vector::<2>(data)?;
    let (&HOST_NAME, entry) = list.split_first()? else {
        return None;
    };
    Some(vector::<2>(entry)?.0.to_vec())
}

fn protocols(data: &[u8]) -> Vec<&'static str> {
    let mut found = Vec::new();
    let mut list = vector::<2>(data).unwrap_or_default().0;
    while let Some((name, rest)) = vector::<1>(list)
        && found.len() < MOST_PROTOCOLS
    {
        let known = PROTOCOLS.into_iter().find(|known| known.as_bytes() == name);
        let name = known.unwrap_or(OTHER);
        if !found.contains(&name) {
            found.push(name);
        }
        list = rest;
    }
    found
}
