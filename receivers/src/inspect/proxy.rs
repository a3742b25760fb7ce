//! The header of the PROXY protocol, which a load balancer puts before a client's first bytes.

const TEXT: &[u8] = b"PROXY ";
const BINARY: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Longest header in text, and the binary header before its addresses.
const TEXT_BYTES: usize = 107;
const BINARY_BYTES: usize = 16;

/// The bytes after the header; all of them without one. `None` if the header's end is not there yet.
pub(super) fn after_header(bytes: &[u8]) -> Option<&[u8]> {
    if bytes.starts_with(TEXT) {
        let end = bytes.iter().take(TEXT_BYTES).position(|byte| *byte == b'\n');
        return match end {
            Some(end) => Some(&bytes[end + 1..]),
            None if bytes.len() >= TEXT_BYTES => Some(bytes),
            None => None,
        };
    }
    if bytes.starts_with(BINARY) {
        let addresses = super::matching::big_endian::<2>(bytes, BINARY_BYTES - 2)?;
        return bytes.get(BINARY_BYTES + usize::try_from(addresses).ok()?..);
    }
    Some(bytes)
}
