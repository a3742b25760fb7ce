//! Message brokers.

use flowtap_pipeline::AppProtocol::{Amqp, Kafka, Mqtt, Nats};

use super::matching::{Match, big_endian, starts_with};

/// A request: length, API and version of it, a number, and the client's id in text.
pub(super) fn kafka(bytes: &[u8]) -> Match {
    let fields = (
        big_endian::<4>(bytes, 0),
        big_endian::<2>(bytes, 4),
        big_endian::<2>(bytes, 6),
        big_endian::<4>(bytes, 8),
        big_endian::<2>(bytes, 12),
    );
    let (Some(length), Some(api), Some(version), Some(number), Some(id_bytes)) = fields else {
        return Match::No;
    };
    // Clients begin with Metadata, SaslHandshake, ApiVersions, and Produce or Fetch of old ones.
    let is_api = matches!(
        (api, version),
        (0 | 1, 0..=20) | (3, 0..=13) | (17, 0..=1) | (18, 0..=5)
    );
    let has_length = length + 4 == bytes.len() as u64 || bytes.len() >= super::prefix::CAPACITY;
    let is_id = match usize::try_from(id_bytes) {
        // Null.
        Ok(0xffff) => length >= 10,
        Ok(count) => {
            let id = bytes.get(14..14 + count);
            count > 0 && count <= 255 && id.is_some_and(|id| id.iter().all(u8::is_ascii_graphic))
        }
        Err(_) => false,
    };
    Match::if_so(is_api && has_length && number < 1 << 20 && is_id, Kafka)
}

/// The header that both ends begin with.
pub(super) fn amqp(bytes: &[u8]) -> Match {
    let headers: [&[u8]; 5] = [
        b"AMQP\x00\x00\x09\x01",
        b"AMQP\x00\x01\x00\x00",
        b"AMQP\x02\x01\x00\x00",
        b"AMQP\x03\x01\x00\x00",
        b"AMQP\x01\x01\x00\x0a",
    ];
    let mut found = Match::No;
    for header in headers {
        match starts_with(bytes, header, Amqp) {
            Match::Yes(protocol) => return Match::Yes(protocol),
            Match::Maybe => found = Match::Maybe,
            Match::No | Match::AtLeast(_) => {}
        }
    }
    // A server's first frame comes after the header: a method on channel 0, Connection.Start.
    if bytes.starts_with(&[1, 0, 0]) && bytes.get(7..11) == Some(&[0, 10, 0, 10]) {
        return Match::Yes(Amqp);
    }
    found
}

/// CONNECT, with the protocol's name.
pub(super) fn mqtt(bytes: &[u8]) -> Match {
    let Some((&0x10, rest)) = bytes.split_first() else {
        return Match::No;
    };
    // The remaining length has one to four bytes, of which all but the last have the highest bit set.
    let length_bytes = 1 + rest.iter().take(3).take_while(|byte| **byte >= 0x80).count();
    let name = rest.get(length_bytes..).unwrap_or_default();
    if name.starts_with(b"\x00\x04MQTT") || name.starts_with(b"\x00\x06MQIsdp") {
        Match::Yes(Mqtt)
    } else if name.len() < 6 {
        Match::Maybe
    } else {
        Match::No
    }
}

/// CONNECT with its options, as JSON.
pub(super) fn nats_client(bytes: &[u8]) -> Match {
    starts_with(bytes, b"CONNECT {", Nats)
}

/// INFO, which the server begins with.
pub(super) fn nats_server(bytes: &[u8]) -> Match {
    starts_with(bytes, b"INFO {", Nats)
}
