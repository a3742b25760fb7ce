//! First messages of each protocol, as their specifications or a program has them.

use flowtap_pipeline::AppProtocol::{self, *};
use proptest::prelude::*;

use super::tls::client_hello;
use super::{Verdict, recognize};

fn protocol(client: &[u8], server: &[u8]) -> AppProtocol {
    recognize(client, server).into_recognized().protocol
}

fn is_final(client: &[u8], server: &[u8]) -> bool {
    matches!(recognize(client, server), Verdict::Final(_))
}

/// The first message of a TLS client: extensions as pairs of a type and its data, in records of so many bytes.
pub(crate) fn hello(extensions: &[(u16, Vec<u8>)], record_bytes: usize) -> Vec<u8> {
    let short = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
    let list: Vec<u8> = extensions
        .iter()
        .flat_map(|(kind, data)| [&kind.to_be_bytes()[..], &short(data)].concat())
        .collect();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(32);
    body.extend([9; 32]);
    body.extend(short(&[0x13, 0x01, 0x13, 0x02]));
    body.extend([1, 0]);
    body.extend(short(&list));
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let message = [&[1][..], &length[1..], &body].concat();
    message
        .chunks(record_bytes)
        .flat_map(|part| [&[22, 3, 1][..], &short(part)].concat())
        .collect()
}

pub(crate) fn server_name(name: &[u8]) -> (u16, Vec<u8>) {
    let length = u16::try_from(name.len()).unwrap();
    let list = [&[0][..], &length.to_be_bytes(), name].concat();
    (0, [&(length + 3).to_be_bytes()[..], &list].concat())
}

fn alpn(protocols: &[&[u8]]) -> (u16, Vec<u8>) {
    let list: Vec<u8> = protocols
        .iter()
        .flat_map(|name| [&[u8::try_from(name.len()).unwrap()][..], name].concat())
        .collect();
    let length = u16::try_from(list.len()).unwrap();
    (16, [&length.to_be_bytes()[..], &list].concat())
}

/// A post-quantum key share, as X25519MLKEM768 has it.
fn large_key_share() -> (u16, Vec<u8>) {
    (51, vec![5; 1220])
}

fn sized(length: u32, rest: &[u8]) -> Vec<u8> {
    [&length.to_be_bytes()[..], rest].concat()
}

#[test]
fn a_client_is_recognized_by_its_first_message() {
    let query =
        b"\x00\x1d\x12\x34\x01\x20\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x04test\x00\x00\x01\x00\x01";
    let mut dns = query.to_vec();
    let length = u16::try_from(dns.len() - 2).unwrap();
    dns[..2].copy_from_slice(&length.to_be_bytes());
    let startup = sized(41, b"\x00\x03\x00\x00user\0postgres\0database\0postgres\0\0");
    let mysql = [
        &[0x54, 0, 0, 1, 0x85, 0xa6, 0xff, 1, 0, 0, 0, 1, 33][..],
        &[0; 23],
        b"root\0",
    ]
    .concat();
    let mongodb = [
        &[0x3b, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xd4, 7, 0, 0][..],
        &[0; 43],
    ]
    .concat();
    let kafka = b"\x00\x00\x00\x18\x00\x12\x00\x03\x00\x00\x00\x01\x00\x0econsole-consum";
    let cassandra = b"\x04\x00\x00\x00\x01\x00\x00\x00\x16\x00\x01\x00\x0bCQL_VERSION\x00\x053.0.0";
    let mssql = [&[0x12, 1, 0, 0x2f, 0, 0, 1, 0, 0, 0, 0x1a, 0, 6][..], &[0; 34]].concat();
    let bgp = [
        &[0xff; 16][..],
        &[0, 29, 1, 4, 0xfd, 0xe8, 0, 180, 10, 0, 0, 1, 0],
    ]
    .concat();
    let cases: &[(AppProtocol, &[u8])] = &[
        (Http, b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"),
        (Http, b"POST /api?q=1 HTTP/1.0\r\n\r\n"),
        (Http, b"OPTIONS * HTTP/1.1\r\n\r\n"),
        (Http, b"CONNECT a.test:443 HTTP/1.1\r\n\r\n"),
        (Redis, b"*1\r\n$4\r\nPING\r\n"),
        (Redis, b"*2\r\n$7\r\nCOMMAND\r\n$4\r\nDOCS\r\n"),
        (Redis, b"PING\r\n"),
        (Memcached, b"get user:1 user:2\r\n"),
        (Memcached, b"set user:1 0 3600 5\r\nhello\r\n"),
        (Postgresql, &startup),
        (Postgresql, b"\x00\x00\x00\x08\x04\xd2\x16\x2f"),
        (Postgresql, b"\x00\x00\x00\x08\x04\xd2\x16\x30"),
        (Mysql, &mysql),
        (Mongodb, &mongodb),
        (Kafka, kafka),
        (Amqp, b"AMQP\x00\x00\x09\x01"),
        (Amqp, b"AMQP\x03\x01\x00\x00"),
        (Mqtt, b"\x10\x12\x00\x04MQTT\x04\x02\x00\x3c\x00\x06client"),
        (Nats, b"CONNECT {\"verbose\":false}\r\nPING\r\n"),
        (Cassandra, cassandra),
        (Cassandra, b"\x04\x00\x00\x00\x05\x00\x00\x00\x00"),
        (Mssql, &mssql),
        (Dns, &dns),
        (Ldap, b"\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\x00\x80\x00"),
        (Ssh, b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"),
        (Smtp, b"EHLO client.test\r\n"),
        (Smb, b"\x00\x00\x00\x66\xfeSMB\x40\x00"),
        (Bgp, &bgp),
    ];
    for (expected, bytes) in cases {
        assert_eq!(protocol(bytes, b""), *expected, "{bytes:?}");
        assert!(is_final(bytes, b""), "{expected:?} of {bytes:?}");
    }
}

#[test]
fn a_server_that_speaks_first_and_one_whose_client_was_not_seen_are_recognized() {
    let greeting = [
        &[0x4a, 0, 0, 0, 10][..],
        b"8.0.36\0",
        &[9, 0, 0, 0],
        b"saltsalt\0",
        &[0xff; 50],
    ]
    .concat();
    let refusal = b"\x17\x00\x00\x00\xff\x10\x04Too many connections";
    let settings = b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64";
    let server_hello = [&[22, 3, 3, 0, 122, 2, 0, 0, 118, 3, 3][..], &[7; 32]].concat();
    let cases: &[(AppProtocol, &[u8])] = &[
        (Http, b"HTTP/1.1 200 OK\r\n\r\n"),
        (Http2, settings),
        (Tls, &server_hello),
        (Mysql, &greeting),
        (Mysql, refusal),
        (Redis, b"-NOAUTH Authentication required.\r\n"),
        (Ssh, b"SSH-2.0-OpenSSH_9.2p1\r\n"),
        (Smtp, b"220 mx.test ESMTP Postfix\r\n"),
        (Nats, b"INFO {\"server_id\":\"x\"}\r\n"),
        (Amqp, b"\x01\x00\x00\x00\x00\x01\xf0\x00\x0a\x00\x0a\x00\x09"),
    ];
    for (expected, bytes) in cases {
        assert_eq!(protocol(b"", bytes), *expected, "{bytes:?}");
    }
}

#[test]
fn bytes_that_look_like_a_protocol_and_are_not_stay_unknown() {
    for bytes in [
        &b"GET the milk\r\n"[..],
        b"GET / SPDY/3\r\n",
        b"*hello*\r\n",
        b"*1\r\n:5\r\n",
        b"get\r\n",
        b"220 files.test FTP ready\r\n",
        b"\x00\x00\x00\x09\x00\x03\x00\x05x",
        b"\x16\x03\x01\x00\x05hello world",
        b"\x10\x04abcdefgh",
        b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x13\x04",
    ] {
        assert_eq!(protocol(bytes, b""), Unknown, "{bytes:?}");
        assert_eq!(protocol(b"", bytes), Unknown, "{bytes:?}");
    }
}

#[test]
fn a_message_that_is_cut_off_is_settled_by_what_follows() {
    let whole = b"GET /index.html HTTP/1.1\r\n\r\n";
    for cut in 1..whole.len() {
        let found = protocol(&whole[..cut], b"");
        assert!(
            found == Http || found == Unknown && !is_final(&whole[..cut], b""),
            "{cut}"
        );
    }
    assert_eq!(protocol(b"GET /index.html HTTP/1.", b""), Http);
}

#[test]
fn an_answer_ends_a_message_that_is_unknown() {
    let client = b"nothing that anybody speaks";
    assert!(!is_final(client, b""));
    assert!(is_final(client, b"."));
    assert_eq!(protocol(client, b"."), Unknown);
    assert!(
        !is_final(b"GET /index.ht", b"."),
        "it may be a request that is cut off"
    );
}

#[test]
fn the_header_of_a_proxy_is_skipped() {
    let text = b"PROXY TCP4 192.0.2.1 192.0.2.2 50000 80\r\nGET / HTTP/1.1\r\n\r\n";
    assert_eq!(protocol(text, b""), Http);
    assert!(!is_final(&text[..20], b""));
    let mut binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
    binary.extend([0; 12]);
    binary.extend(b"*1\r\n$4\r\nPING\r\n");
    assert_eq!(protocol(&binary, b""), Redis);
    assert!(!is_final(&binary[..24], b""));
}

#[test]
fn grpc_is_http2_whose_headers_say_so() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    let headers = |block: &[u8]| {
        let length = u32::try_from(block.len()).unwrap().to_be_bytes();
        [&length[1..], &[1, 4, 0, 0, 0, 1], block].concat()
    };
    let text = headers(b"\x83\x86\x40\x0ccontent-type\x10application/grpc");
    let coded = headers(b"\x83\x86\x5f\x8b\x1d\x75\xd0\x62\x0d\x26\x3d\x4c\x4d\x65\x64");
    for block in [&text, &coded] {
        let client = [&preface[..], settings, block].concat();
        assert_eq!(protocol(&client, b""), Grpc);
        let begun = [&preface[..], settings].concat();
        assert_eq!(protocol(&begun, b""), Http2);
        assert!(!is_final(&begun, b""), "the headers are to come");
        let server = [&settings[..], block].concat();
        assert_eq!(protocol(&begun, &server), Grpc, "the server's headers say so");
    }
    let plain = [&preface[..], settings, &headers(b"\x82\x86\x84\x41\x8c")].concat();
    assert_eq!(protocol(&plain, b""), Http2);
    assert!(is_final(&plain, b""));
}

#[test]
fn names_and_protocols_are_read_wherever_they_stand_and_however_the_message_is_cut() {
    let extensions = [
        (0x0a0a, vec![0]),
        large_key_share(),
        alpn(&[b"h2", b"http/1.1", b"\x0a\x0a", b"evil\n"]),
        server_name(b"api.example.test"),
    ];
    for record_bytes in [1 << 14, 700, 64] {
        let bytes = hello(&extensions, record_bytes);
        assert!(bytes.len() > 1_350, "{}", bytes.len());
        let found = client_hello(&bytes).unwrap();
        assert_eq!(found.server_name.as_deref(), Some(&b"api.example.test"[..]));
        assert_eq!(found.alpn, ["h2", "http/1.1", "other"]);
        assert!(found.is_whole);
        assert!(is_final(&bytes, b""));
        for cut in 11..bytes.len() {
            let part = client_hello(&bytes[..cut]).unwrap();
            assert!(!part.is_whole, "{cut}");
        }
    }
    let first = [server_name(b"a.test"), large_key_share()];
    let bytes = hello(&first, 1 << 14);
    let part = client_hello(&bytes[..300]).unwrap();
    assert_eq!(
        part.server_name.as_deref(),
        Some(&b"a.test"[..]),
        "its end is not needed"
    );
    let nameless = hello(&[large_key_share()], 1 << 14);
    assert_eq!(client_hello(&nameless).unwrap().server_name, None);
}

proptest! {
    #[test]
    fn nothing_panics(client in prop::collection::vec(any::<u8>(), 0..200), server in prop::collection::vec(any::<u8>(), 0..60)) {
        recognize(&client, &server);
    }

    #[test]
    fn a_hello_that_is_damaged_does_not_panic(at in 0_usize..1500, byte in any::<u8>(), cut in 0_usize..1600) {
        let mut bytes = hello(&[server_name(b"api.example.test"), large_key_share(), alpn(&[b"h2"])], 600);
        let place = at % bytes.len();
        bytes[place] = byte;
        recognize(&bytes[..cut.min(bytes.len())], b"");
    }
}
