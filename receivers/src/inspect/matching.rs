//! Patterns at the beginning of a stream.

use flowtap_pipeline::AppProtocol;

/// Whether bytes are the beginning of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Match {
    No,
    /// They may be, and further ones settle it.
    Maybe,
    /// They are; further ones may show that it is a protocol on top of this one.
    AtLeast(AppProtocol),
    Yes(AppProtocol),
}

impl Match {
    /// `Yes` if `holds`.
    pub(super) const fn if_so(holds: bool, protocol: AppProtocol) -> Self {
        if holds { Self::Yes(protocol) } else { Self::No }
    }
}

/// Compares the beginning of `bytes` with `pattern`.
pub(super) fn starts_with(bytes: &[u8], pattern: &[u8], protocol: AppProtocol) -> Match {
    if bytes.starts_with(pattern) {
        Match::Yes(protocol)
    } else if pattern.starts_with(bytes) {
        Match::Maybe
    } else {
        Match::No
    }
}

pub(super) type Matcher = fn(&[u8]) -> Match;

/// The integer of `N` bytes at `at`, most significant first.
pub(super) fn big_endian<const N: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(N)?)?;
    Some(field.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

/// The integer of `N` bytes at `at`, least significant first.
pub(super) fn little_endian<const N: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(N)?)?;
    Some(
        field
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | u64::from(*byte)),
    )
}
