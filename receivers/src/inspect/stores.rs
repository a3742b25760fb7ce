//! Databases and caches.

use flowtap_pipeline::AppProtocol::{Cassandra, Memcached, Mongodb, Mssql, Mysql, Postgresql, Redis};

use super::matching::{Match, big_endian, little_endian, starts_with};

/// A decimal number of at most `most` that ends in CR LF; the bytes after it.
fn number_line(bytes: &[u8], most: usize) -> Option<(usize, &[u8])> {
    let digits = bytes
        .iter()
        .take(8)
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    let (number, rest) = bytes.split_at(digits);
    let number = std::str::from_utf8(number).ok()?.parse::<usize>().ok()?;
    (number <= most).then_some((number, rest.strip_prefix(b"\r\n")?))
}

/// A command as an array of strings, the first of which is a word (RESP): `*1\r\n$4\r\nPING\r\n`. Inline commands are for people.
pub(super) fn redis(bytes: &[u8]) -> Match {
    if starts_with(bytes, b"PING\r\n", Redis) == Match::Yes(Redis) {
        return Match::Yes(Redis);
    }
    let command = bytes
        .strip_prefix(b"*")
        .and_then(|rest| number_line(rest, 1 << 20))
        .and_then(|(_, rest)| rest.strip_prefix(b"$"))
        .and_then(|rest| number_line(rest, 64));
    match command {
        Some((length, rest)) => {
            let word = &rest[..length.min(rest.len())];
            let is_word = word
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte));
            Match::if_so(is_word && word.len() > 1, Redis)
        }
        None if bytes.len() < 16 && (bytes.first() == Some(&b'*') || b"PING\r\n".starts_with(bytes)) => {
            Match::Maybe
        }
        None => Match::No,
    }
}

/// Answers that only Redis gives.
pub(super) fn redis_answer(bytes: &[u8]) -> Match {
    let answers: [&[u8]; 3] = [b"+PONG\r\n", b"-NOAUTH ", b"-WRONGPASS "];
    let mut found = Match::No;
    for answer in answers {
        match starts_with(bytes, answer, Redis) {
            Match::Yes(protocol) => return Match::Yes(protocol),
            Match::Maybe => found = Match::Maybe,
            Match::No | Match::AtLeast(_) => {}
        }
    }
    found
}

/// The start of a session, or a request for TLS, GSSAPI or cancellation: a length, and a version or a code.
pub(super) fn postgresql_client(bytes: &[u8]) -> Match {
    let (Some(length), Some(code)) = (big_endian::<4>(bytes, 0), big_endian::<4>(bytes, 4)) else {
        return if bytes.first() == Some(&0) && bytes.len() < 8 {
            Match::Maybe
        } else {
            Match::No
        };
    };
    let is_start = code >> 16 == 3 && code & 0xffff <= 2 && (9..=10_000).contains(&length);
    let is_request = match code {
        // 1234 and 5678 to 5680 in the two halves.
        80_877_102 => (16..=264).contains(&length),
        80_877_103 | 80_877_104 => length == 8,
        _ => false,
    };
    Match::if_so(is_start || is_request, Postgresql)
}

/// The greeting: a packet with number 0, protocol 10, a version in text.
pub(super) fn mysql_server(bytes: &[u8]) -> Match {
    let (Some(length), Some(&number), Some(&protocol)) =
        (little_endian::<3>(bytes, 0), bytes.get(3), bytes.get(4))
    else {
        return Match::No;
    };
    let text = &bytes[5..bytes.len().min(5 + 64)];
    let is_version = |text: &[u8]| {
        let end = text.iter().position(|byte| *byte == 0);
        end.is_some_and(|end| {
            end > 2 && text[0].is_ascii_digit() && text[..end].iter().all(u8::is_ascii_graphic)
        })
    };
    // A server that has too many connections or knows the client says so first: 0xff, a code, and a sentence.
    let is_error = || {
        let code = little_endian::<2>(bytes, 5);
        code.is_some_and(|code| (1000..5000).contains(&code))
            && bytes.get(7).is_some_and(u8::is_ascii_graphic)
    };
    let is_greeting = protocol == 10 && (30..=512).contains(&length) && is_version(text);
    let is_refusal =
        protocol == 0xff && (8..=600).contains(&length) && length + 4 == bytes.len() as u64 && is_error();
    Match::if_so(number == 0 && (is_greeting || is_refusal), Mysql)
}

/// The client's first packet has number 1: capabilities with protocol 4.1, a size, a character set and 23 zeros.
pub(super) fn mysql_client(bytes: &[u8]) -> Match {
    let (Some(length), Some(&1), Some(capabilities)) = (
        little_endian::<3>(bytes, 0),
        bytes.get(3),
        little_endian::<4>(bytes, 4),
    ) else {
        return Match::No;
    };
    let filler = bytes.get(13..32);
    let is_filler = |filler: &[u8]| filler.iter().all(|byte| *byte == 0);
    Match::if_so(
        (32..=4096).contains(&length) && capabilities & 0x200 != 0 && filler.is_some_and(is_filler),
        Mysql,
    )
}

/// The prelogin of a client, which TDS begins with: status 1, packet 1 or 0, a length.
pub(super) fn mssql(bytes: &[u8]) -> Match {
    match bytes.get(..9) {
        // The first option is the version: type 0, and an offset after the list of options.
        Some([0x12, 1, high, low, 0, 0, 0 | 1, 0, 0]) => {
            let length = u16::from_be_bytes([*high, *low]);
            Match::if_so((14..=4096).contains(&length), Mssql)
        }
        None if bytes.first() == Some(&0x12) => Match::Maybe,
        _ => Match::No,
    }
}

/// A message of a client: length, number, no answer to anything, and an opcode.
pub(super) fn mongodb(bytes: &[u8]) -> Match {
    let (Some(length), Some(answer_to), Some(opcode)) = (
        little_endian::<4>(bytes, 0),
        little_endian::<4>(bytes, 8),
        little_endian::<4>(bytes, 12),
    ) else {
        return Match::No;
    };
    let is_opcode = matches!(opcode, 2004 | 2012 | 2013);
    Match::if_so(
        is_opcode && answer_to == 0 && (26..=48_000_000).contains(&length),
        Mongodb,
    )
}

/// A command of the text protocol, to the end of its line.
pub(super) fn memcached(bytes: &[u8]) -> Match {
    let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
    if !bytes[line.len()..].starts_with(b"\r\n") || line.len() > 300 {
        return Match::No;
    }
    let words: Vec<_> = line.split(|byte| *byte == b' ').collect();
    let is_number = |word: &&[u8]| !word.is_empty() && word.iter().all(u8::is_ascii_digit);
    let is_key =
        |word: &&[u8]| !word.is_empty() && word.len() <= 250 && word.iter().all(u8::is_ascii_graphic);
    let holds = match &*words {
        [b"get" | b"gets", keys @ ..] => !keys.is_empty() && keys.iter().all(is_key),
        [
            b"set" | b"add" | b"replace" | b"append" | b"prepend",
            key,
            numbers @ ..,
        ] => is_key(key) && (3..=4).contains(&numbers.len()) && numbers[..3].iter().all(is_number),
        [b"incr" | b"decr" | b"touch", key, number, ..] => is_key(key) && is_number(number),
        [b"version" | b"stats"] => true,
        _ => false,
    };
    Match::if_so(holds, Memcached)
}

/// The first frame of a client asks for options or starts: version 3 to 5, stream 0 or so, opcode, and a short body.
pub(super) fn cassandra(bytes: &[u8]) -> Match {
    match bytes.get(..9) {
        Some([3..=5, 0..=16, _, _, opcode @ (1 | 5), length @ ..]) => {
            let length = big_endian::<4>(length, 0).unwrap_or(u64::MAX);
            // A string map of STARTUP names the version first; OPTIONS has no body.
            let is_startup = *opcode == 1
                && length <= 512
                && bytes[9..].windows(11).any(|window| window == b"CQL_VERSION");
            Match::if_so(
                is_startup || *opcode == 5 && length == 0 && bytes.len() == 9,
                Cassandra,
            )
        }
        _ => Match::No,
    }
}
