//! HTTP/1 (RFC 9112), HTTP/2 (RFC 9113), and gRPC on it.

use flowtap_pipeline::AppProtocol::{Http, Http2};

use super::matching::{Match, big_endian, starts_with};

/// Methods of HTTP and of `WebDAV`, the registry's most common ones.
const METHODS: [&[u8]; 16] = [
    b"GET ",
    b"POST ",
    b"PUT ",
    b"HEAD ",
    b"DELETE ",
    b"OPTIONS ",
    b"PATCH ",
    b"CONNECT ",
    b"TRACE ",
    b"PROPFIND ",
    b"PROPPATCH ",
    b"MKCOL ",
    b"COPY ",
    b"MOVE ",
    b"LOCK ",
    b"REPORT ",
];

/// The first bytes of a client of HTTP/2.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Header and types of a frame.
const FRAME_HEADER: usize = 9;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;

/// `application/grpc` as HPACK has it: as text, and by its Huffman code (RFC 7541, appendix B).
const GRPC_TEXT: &[u8] = b"application/grpc";
const GRPC_HUFFMAN: &[u8] = b"\x1d\x75\xd0\x62\x0d\x26\x3d\x4c\x4d\x65\x64";

/// A request, or the preface of HTTP/2.
pub(super) fn request(bytes: &[u8]) -> Match {
    match starts_with(bytes, PREFACE, Http2) {
        Match::Yes(_) => return http2(&bytes[PREFACE.len()..]),
        Match::Maybe => return Match::Maybe,
        Match::No | Match::AtLeast(_) => {}
    }
    for method in METHODS {
        if let Some(target) = bytes.strip_prefix(method) {
            return request_line(target);
        }
        if method.starts_with(bytes) {
            return Match::Maybe;
        }
    }
    Match::No
}

/// After the method: a target, and the version, which may be further away than what was seen.
fn request_line(bytes: &[u8]) -> Match {
    let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let is_target = |byte: &u8| byte.is_ascii_graphic() || *byte >= 0x80;
    let target = line.iter().take_while(|byte| is_target(byte)).count();
    let rest = &line[target..];
    match starts_with(rest, b" HTTP/1.", Http) {
        Match::Maybe if target == 0 || line.len() < bytes.len() => Match::No,
        found => found,
    }
}

/// The frames after a preface: HTTP/2, and gRPC if the first headers say so.
fn http2(mut frames: &[u8]) -> Match {
    loop {
        let (Some(length), Some(kind)) = (big_endian::<3>(frames, 0), frames.get(3)) else {
            return Match::AtLeast(Http2);
        };
        let end = FRAME_HEADER + usize::try_from(length).unwrap_or(usize::MAX - FRAME_HEADER);
        match frames.get(..end) {
            Some(frame) if *kind == HEADERS && !contains_grpc(frame) => return Match::Yes(Http2),
            // The content type may be in what is cut off, or it is there.
            Some(_) if *kind == HEADERS => return Match::AtLeast(Http2),
            None => return Match::AtLeast(Http2),
            Some(_) => frames = &frames[end..],
        }
    }
}

/// Whether there are headers with gRPC's content type.
pub(super) fn says_grpc(bytes: &[u8]) -> bool {
    let frames = bytes.strip_prefix(PREFACE).unwrap_or(bytes);
    is_settings(frames) && contains_grpc(frames)
}

fn contains_grpc(bytes: &[u8]) -> bool {
    [GRPC_TEXT, GRPC_HUFFMAN]
        .iter()
        .any(|name| bytes.windows(name.len()).any(|window| window == *name))
}

/// A status line, or the first frame of a server of HTTP/2.
pub(super) fn answer(bytes: &[u8]) -> Match {
    if is_settings(bytes) {
        return Match::AtLeast(Http2);
    }
    match starts_with(bytes, b"HTTP/1.", Http) {
        // A minor version, a space and three digits.
        Match::Yes(_) => match bytes.get(7..12) {
            Some([minor, b' ', status @ ..]) => Match::if_so(
                minor.is_ascii_digit() && status.iter().all(u8::is_ascii_digit),
                Http,
            ),
            Some(_) => Match::No,
            None => Match::Maybe,
        },
        found => found,
    }
}

/// A SETTINGS frame of the connection: six bytes each, no flag, stream 0.
fn is_settings(bytes: &[u8]) -> bool {
    bytes.len() >= FRAME_HEADER
        && bytes[3..FRAME_HEADER] == [SETTINGS, 0, 0, 0, 0, 0]
        && big_endian::<3>(bytes, 0).is_some_and(|length| length % 6 == 0 && length <= 6 * 64)
}
