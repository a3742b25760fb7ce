//! Application protocols, from the first bytes that both ends of a TCP connection sent.
//!
//! In: prefixes of the two streams. Out: a protocol, and of TLS the name and the protocols (ALPN) that the client asks for. Pure: no
//! I/O, no clock, nothing is kept, and no byte of the input leaves but a name. The rules:
//!
//! 1. A pattern counts only if several bytes settle it. Where fewer are there, it wants more; where none fits, the protocol is
//!    `unknown`. A connection is not named by its port.
//! 2. The client's bytes decide before the server's: an answer looks alike in more protocols.
//! 3. A header of the PROXY protocol before the first message is skipped.
//!
//! | module | contents |
//! |---|---|
//! | `http` | HTTP/1, HTTP/2, gRPC |
//! | [`tls`] | ClientHello and ServerHello |
//! | `stores` | databases and caches |
//! | `messaging` | brokers |
//! | `others` | the rest |
//! | `matching` | a pattern at the beginning of a stream, and integers in it |
//! | `proxy` | the header of the PROXY protocol |
//! | `prefix` | a stream's first bytes, from its segments |

mod http;
mod matching;
mod messaging;
mod others;
mod prefix;
mod proxy;
mod stores;
pub mod tls;

use flowtap_pipeline::AppProtocol;

use self::matching::{Match, Matcher};
pub(crate) use self::prefix::Prefix;
use self::tls::ClientHello;

/// The protocol of first bytes, and the name in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recognized {
    /// The protocol.
    pub protocol: AppProtocol,
    /// The first message of a TLS client, as far as it was seen.
    pub hello: Option<ClientHello>,
}

/// Result of [`recognize`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Further bytes change nothing.
    Final(Recognized),
    /// As far as can be said now.
    SoFar(Recognized),
}

impl Verdict {
    /// The result, final or not.
    pub fn into_recognized(self) -> Recognized {
        match self {
            Self::Final(recognized) | Self::SoFar(recognized) => recognized,
        }
    }
}

/// Of what a client says.
const CLIENTS: [Matcher; 16] = [
    http::request,
    stores::redis,
    stores::postgresql_client,
    stores::mysql_client,
    stores::mongodb,
    stores::memcached,
    stores::cassandra,
    stores::mssql,
    messaging::kafka,
    messaging::amqp,
    messaging::mqtt,
    messaging::nats_client,
    others::ssh,
    others::smtp_client,
    others::dns_query,
    others::ldap_smb_bgp,
];

/// Of what a server says, first or as an answer.
const SERVERS: [Matcher; 7] = [
    http::answer,
    stores::mysql_server,
    stores::redis_answer,
    messaging::amqp,
    messaging::nats_server,
    others::ssh,
    others::smtp_server,
];

/// Recognizes the protocol of a connection by the first bytes of its client and of its server, either of which may be empty.
///
/// ```
/// use flowtap_pipeline::AppProtocol;
/// use flowtap_receivers::inspect::recognize;
///
/// let recognized = recognize(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", b"").into_recognized();
/// assert_eq!(recognized.protocol, AppProtocol::Http);
/// ```
pub fn recognize(client: &[u8], server: &[u8]) -> Verdict {
    let Some(client) = proxy::after_header(client) else {
        return Verdict::SoFar(Recognized::default());
    };
    if let Some(hello) = tls::client_hello(client) {
        let is_whole = hello.is_whole;
        let recognized = Recognized {
            protocol: AppProtocol::Tls,
            hello: Some(hello),
        };
        return if is_whole {
            Verdict::Final(recognized)
        } else {
            Verdict::SoFar(recognized)
        };
    }
    let mut found = AppProtocol::Unknown;
    let mut is_open = client.is_empty() || server.is_empty();
    let streams: [(&[u8], &[Matcher]); 2] = [(client, &CLIENTS), (server, &SERVERS)];
    for (bytes, matchers) in streams {
        for matcher in matchers.iter().filter(|_| !bytes.is_empty()) {
            match matcher(bytes) {
                // The two ends' bytes come by way of two processors, so those of the client may still be on theirs.
                Match::Yes(protocol) if client.is_empty() => return so_far(protocol),
                Match::Yes(protocol) => return yes(protocol),
                Match::AtLeast(protocol) => found = protocol,
                Match::Maybe => is_open = true,
                Match::No => {}
            }
        }
    }
    if found == AppProtocol::Http2 && (http::says_grpc(client) || http::says_grpc(server)) {
        return yes(AppProtocol::Grpc);
    }
    // The client's bytes were not seen.
    if client.is_empty() && tls::is_server_hello(server) {
        return so_far(AppProtocol::Tls);
    }
    // An answer ends the first message: further bytes can't make it one of those.
    if found == AppProtocol::Unknown && !is_open {
        return yes(found);
    }
    so_far(found)
}

fn yes(protocol: AppProtocol) -> Verdict {
    Verdict::Final(Recognized {
        protocol,
        hello: None,
    })
}

fn so_far(protocol: AppProtocol) -> Verdict {
    Verdict::SoFar(Recognized {
        protocol,
        hello: None,
    })
}

#[cfg(test)]
pub(crate) mod tests;
