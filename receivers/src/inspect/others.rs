//! Protocols of administration, mail, directories, files and routing.

use flowtap_pipeline::AppProtocol::{self, Bgp, Dns, Ldap, Smb, Smtp, Ssh};

use super::matching::{Match, big_endian, starts_with};

fn any(bytes: &[u8], patterns: &[&[u8]], protocol: AppProtocol) -> Match {
    let mut found = Match::No;
    for pattern in patterns {
        match starts_with(bytes, pattern, protocol) {
            Match::Yes(protocol) => return Match::Yes(protocol),
            Match::Maybe => found = Match::Maybe,
            Match::No | Match::AtLeast(_) => {}
        }
    }
    found
}

/// The version line of either end.
pub(super) fn ssh(bytes: &[u8]) -> Match {
    any(bytes, &[b"SSH-2.0-", b"SSH-1.99-"], Ssh)
}

/// The greeting of a client.
pub(super) fn smtp_client(bytes: &[u8]) -> Match {
    any(bytes, &[b"EHLO ", b"HELO ", b"LHLO "], Smtp)
}

/// The greeting of a server, which FTP has as well but for the word.
pub(super) fn smtp_server(bytes: &[u8]) -> Match {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let is_greeting = line.starts_with(b"220 ") || line.starts_with(b"220-");
    Match::if_so(
        is_greeting && line.windows(4).any(|window| window == b"SMTP"),
        Smtp,
    )
}

/// A query over TCP: its length, one question, no answers.
pub(super) fn dns_query(bytes: &[u8]) -> Match {
    let (Some(length), Some(flags), Some(counts)) = (
        big_endian::<2>(bytes, 0),
        big_endian::<2>(bytes, 4),
        big_endian::<6>(bytes, 6),
    ) else {
        return Match::No;
    };
    // Not a response, opcode QUERY, nothing reserved; one question, no answer, no authority.
    let is_query = flags & 0xf8c0 == 0 && counts == 1 << 32;
    Match::if_so(is_query && length >= 17 && length + 2 == bytes.len() as u64, Dns)
}

/// A bind or a search of LDAP; a negotiation of SMB; an OPEN of BGP.
pub(super) fn ldap_smb_bgp(bytes: &[u8]) -> Match {
    let is_smb = matches!(bytes.get(4..8), Some(b"\xfeSMB" | b"\xffSMB")) && bytes[0] == 0;
    let is_bgp = bytes.len() >= 19 && bytes[..16] == [0xff; 16] && bytes[18] == 1;
    if is_smb {
        return Match::Yes(Smb);
    }
    if is_bgp {
        return Match::Yes(Bgp);
    }
    // SEQUENCE, a length, INTEGER 1, then bindRequest with version 3, or an extended request (StartTLS).
    let body = match bytes {
        [0x30, length, rest @ ..] if *length < 0x80 => rest,
        [0x30, 0x84, _, _, _, _, rest @ ..] | [0x30, 0x82, _, _, rest @ ..] | [0x30, 0x81, _, rest @ ..] => {
            rest
        }
        _ => return Match::No,
    };
    let is_ldap = matches!(
        body,
        [2, 1, _, 0x60, _, 2, 1, 3, ..]
            | [2, 1, _, 0x60, 0x84, _, _, _, _, 2, 1, 3, ..]
            | [2, 1, _, 0x77, _, 0x80, ..]
    );
    Match::if_so(is_ldap, Ldap)
}
