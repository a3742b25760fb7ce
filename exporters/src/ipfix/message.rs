//! Messages of IPFIX (RFC 7011, section 3): log records packed into them, and their headers.

use bytes::Bytes;
use flowtap_pipeline::{LogBatch, PipelineKind};

use super::elements::{HEADER, Layout, begin_set, end_set, length};
use super::flow::FlowRecord;
use crate::push::Request;

/// Version of IPFIX.
const VERSION: u16 = 10;

/// Where the header has the sequence number.
const SEQUENCE: std::ops::Range<usize> = 8..12;

/// Bytes of a set's header.
const SET_HEADER: usize = 4;

/// Packs log records into messages.
#[derive(Debug)]
pub(super) struct Encoder {
    pub(super) max_bytes: usize,
    pub(super) biflow: bool,
}

/// A message that is not sent yet, and what was left out up to it.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// The message, if there is one: see [`Encoder::next_part`].
    pub(super) request: Option<Request>,
    /// Log records that there are no elements for.
    pub(super) unsupported: u64,
    /// Payload bytes by which the flow records exceed what was measured.
    pub(super) excess_bytes: u64,
}

impl Encoder {
    /// The next message of `batch`, from the record at `next` on, which moves past its last; `None` after the last.
    ///
    /// A message gets its header when it is sent. Until then its sequence number is the number of its records, see [`finish`].
    pub(super) fn next_part(&self, batch: &LogBatch, next: &mut usize) -> Option<Part> {
        if *next >= batch.records.len() {
            return None;
        }
        let mut part = Part::default();
        let mut message = Message::new(self.max_bytes);
        let mut items = 0;
        while let Some(record) = batch.records.get(*next) {
            let Some((flow, excess)) = FlowRecord::of(record) else {
                part.unsupported += 1;
                *next += 1;
                continue;
            };
            // Both directions of a connection are in one message: it is delivered, or it is not.
            let reverse = (!self.biflow)
                .then(|| flow.reversed())
                .filter(FlowRecord::has_moved);
            let layout = Layout::of(&flow, self.biflow);
            if !message.has_room(layout, 1 + usize::from(reverse.is_some())) {
                break;
            }
            for flow in std::iter::once(&flow).chain(&reverse) {
                message.push(layout, flow);
            }
            items += 1;
            part.excess_bytes += excess;
            *next += 1;
        }
        part.request = (items > 0).then(|| Request {
            body: message.finish(),
            kind: PipelineKind::Logs,
            items,
            last: batch.last,
        });
        Some(part)
    }
}

/// A message that is being filled.
struct Message {
    bytes: Vec<u8>,
    max_bytes: usize,
    /// The layout of the set at its end, and where that begins.
    set: Option<(Layout, usize)>,
    records: u32,
}

impl Message {
    fn new(max_bytes: usize) -> Self {
        Self {
            bytes: vec![0; HEADER],
            max_bytes,
            set: None,
            records: 0,
        }
    }

    fn has_room(&self, layout: Layout, records: usize) -> bool {
        let header = if self.continues(layout) { 0 } else { SET_HEADER };
        self.bytes.len() + header + records * layout.bytes() <= self.max_bytes
    }

    fn continues(&self, layout: Layout) -> bool {
        self.set.is_some_and(|(open, _)| open == layout)
    }

    fn push(&mut self, layout: Layout, flow: &FlowRecord) {
        if !self.continues(layout) {
            self.end_set();
            let start = begin_set(layout.template(), &mut self.bytes);
            self.set = Some((layout, start));
        }
        layout.push(flow, &mut self.bytes);
        self.records += 1;
    }

    fn end_set(&mut self) {
        if let Some((_, start)) = self.set.take() {
            end_set(start, &mut self.bytes);
        }
    }

    fn finish(mut self) -> Bytes {
        self.end_set();
        self.bytes[SEQUENCE].copy_from_slice(&self.records.to_be_bytes());
        self.bytes.into()
    }
}

/// Number of records in a message of [`Encoder::next_part`].
pub(super) fn records(message: &[u8]) -> u32 {
    message
        .get(SEQUENCE)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u32::from_be_bytes)
}

/// Fills in the header of `message`, which begins with room for it. `seconds` since the epoch is when it is sent, and `sequence` the
/// number of records in the messages of its session before it.
pub(super) fn finish(message: &mut [u8], seconds: u32, sequence: u32, domain: u32) {
    let bytes = length(message.len());
    message[0..2].copy_from_slice(&VERSION.to_be_bytes());
    message[2..4].copy_from_slice(&bytes.to_be_bytes());
    message[4..8].copy_from_slice(&seconds.to_be_bytes());
    message[SEQUENCE].copy_from_slice(&sequence.to_be_bytes());
    message[12..16].copy_from_slice(&domain.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::logs;
    use flowtap_pipeline::log::FindingLog;
    use flowtap_pipeline::{FindingKind, LogBody};

    fn batch(records: usize) -> LogBatch {
        let logs = logs();
        let cycle = logs.records.iter().cycle();
        LogBatch {
            records: cycle.take(records).cloned().collect(),
            ..logs
        }
    }

    fn parts(encoder: &Encoder, batch: &LogBatch) -> Vec<Request> {
        let mut next = 0;
        let parts = std::iter::from_fn(|| encoder.next_part(batch, &mut next));
        parts.filter_map(|part| part.request).collect()
    }

    #[test]
    fn no_message_is_longer_than_the_limit_and_none_could_hold_the_next_record() {
        for (max_bytes, biflow) in [(512, true), (512, false), (1232, true), (65_535, true)] {
            let encoder = Encoder { max_bytes, biflow };
            let parts = parts(&encoder, &batch(1_001));
            assert_eq!(parts.iter().map(|part| part.items).sum::<u64>(), 1_001);
            for (index, part) in parts.iter().enumerate() {
                assert!(part.body.len() <= max_bytes, "{} > {max_bytes}", part.body.len());
                // The longest record pair is below 200 bytes.
                let is_last = index + 1 == parts.len();
                assert!(
                    is_last || part.body.len() + 200 > max_bytes,
                    "{}",
                    part.body.len()
                );
            }
        }
    }

    #[test]
    fn without_biflows_each_direction_that_moved_is_a_record() {
        let encoder = |biflow| Encoder {
            max_bytes: 1232,
            biflow,
        };
        // The second connect failed, and nothing came back.
        let [both] = &parts(&encoder(true), &batch(2))[..] else {
            panic!("one message");
        };
        assert_eq!((both.items, records(&both.body)), (2, 2));
        let [each] = &parts(&encoder(false), &batch(2))[..] else {
            panic!("one message");
        };
        assert_eq!((each.items, records(&each.body)), (2, 3));
    }

    #[test]
    fn a_header_is_that_of_rfc_7011() {
        let mut message = vec![0; HEADER + 4];
        finish(&mut message, 0x6789_abcd, 7, 42);
        assert_eq!(
            message[..HEADER],
            [0, 10, 0, 20, 0x67, 0x89, 0xab, 0xcd, 0, 0, 0, 7, 0, 0, 0, 42]
        );
    }

    #[test]
    fn a_finding_is_of_no_flow_and_is_counted_as_left_out() {
        let mut batch = batch(3);
        batch.records[1].body = LogBody::Finding(Box::new(FindingLog {
            kind: FindingKind::FirstContact,
            subject: "web".into(),
            object: "192.0.2.7".into(),
            text: "web talks to 192.0.2.7".into(),
            numbers: String::new(),
        }));
        let encoder = Encoder {
            max_bytes: 1232,
            biflow: true,
        };
        let part = encoder.next_part(&batch, &mut 0).unwrap();
        assert_eq!(
            (part.request.map(|request| request.items), part.unsupported),
            (Some(2), 1)
        );
        batch.records = vec![batch.records[1].clone()];
        let mut next = 0;
        let part = encoder.next_part(&batch, &mut next).unwrap();
        assert!(part.request.is_none() && part.unsupported == 1);
        assert!(encoder.next_part(&batch, &mut next).is_none());
    }

    #[test]
    fn an_empty_batch_makes_no_message() {
        let encoder = Encoder {
            max_bytes: 1232,
            biflow: true,
        };
        assert!(encoder.next_part(&batch(0), &mut 0).is_none());
    }
}
