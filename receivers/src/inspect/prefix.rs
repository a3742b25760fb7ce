//! The first bytes of one direction, put together from segments, which may come out of order or not at all.

use zeroize::Zeroize;

/// Most bytes that are kept.
pub(crate) const CAPACITY: usize = flowtap_ebpf::abi::FIRST_BYTES;

/// Most segments that wait for an earlier one.
const WAITING: usize = 2;

/// A stream's first bytes. They are wiped when it is dropped.
#[derive(Default)]
pub(crate) struct Prefix {
    bytes: Vec<u8>,
    /// Segments beyond a gap, with their offsets.
    waiting: Vec<(usize, Vec<u8>)>,
}

impl Prefix {
    /// Adds a segment. Bytes that are there stay; those beyond [`CAPACITY`] are not kept.
    pub(crate) fn add(&mut self, offset: u32, payload: &[u8]) {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        if offset > self.bytes.len() {
            if offset < CAPACITY && self.waiting.len() < WAITING {
                self.waiting.push((offset, payload.to_vec()));
            }
            return;
        }
        self.append(offset, payload);
        while let Some(next) = self.waiting.iter().position(|(at, _)| *at <= self.bytes.len()) {
            let (at, mut payload) = self.waiting.swap_remove(next);
            self.append(at, &payload);
            payload.zeroize();
        }
    }

    /// Adds bytes at `offset`, which is not beyond the end.
    fn append(&mut self, offset: usize, payload: &[u8]) {
        let new = payload.get(self.bytes.len() - offset..).unwrap_or_default();
        let new = &new[..new.len().min(CAPACITY - self.bytes.len())];
        if self.bytes.capacity() - self.bytes.len() < new.len() {
            // To grow a vector leaves a copy of it behind.
            let mut larger = Vec::with_capacity(if self.bytes.is_empty() {
                new.len()
            } else {
                CAPACITY
            });
            larger.extend_from_slice(&self.bytes);
            std::mem::replace(&mut self.bytes, larger).zeroize();
        }
        self.bytes.extend_from_slice(new);
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether it takes no more.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() >= CAPACITY
    }

    /// Memory that it has.
    #[cfg(test)]
    fn memory(&self) -> usize {
        let waiting: usize = self.waiting.iter().map(|(_, payload)| payload.capacity()).sum();
        self.bytes.capacity() + waiting
    }
}

impl Drop for Prefix {
    fn drop(&mut self) {
        self.bytes.zeroize();
        for (_, payload) in &mut self.waiting {
            payload.zeroize();
        }
    }
}

impl std::fmt::Debug for Prefix {
    // Payload must not come into a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prefix")
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_put_in_order_and_what_is_there_stays() {
        let mut prefix = Prefix::default();
        prefix.add(3, b"def");
        assert_eq!(prefix.bytes(), b"");
        prefix.add(6, b"ghi");
        prefix.add(0, b"abcX");
        assert_eq!(prefix.bytes(), b"abcXefghi");
        prefix.add(2, b"zz");
        prefix.add(9, b"j");
        assert_eq!(prefix.bytes(), b"abcXefghij");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut prefix = Prefix::default();
        for segment in 0..10_u32 {
            prefix.add(segment * 1000, &[7; 1000]);
        }
        assert!(prefix.is_full());
        assert_eq!(prefix.bytes(), [7; CAPACITY]);
        let mut gaps = Prefix::default();
        for segment in 0..100_u32 {
            gaps.add(segment * 10 + 1, &[7; 9]);
        }
        assert_eq!(gaps.waiting.len(), WAITING);
        gaps.add(u32::MAX, &[7; 9]);
        assert!(gaps.memory() <= WAITING * 9);
        assert!(!format!("{prefix:?}").contains('7'), "payload in a log");
    }
}
