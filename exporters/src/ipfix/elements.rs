//! Information elements, and the templates of flow records made of them.
//!
//! A row of [`FIELDS`] states an element, its length and its value together, so a template and the records under it can't disagree.
//! Names and numbers are IANA's ("IP Flow Information Export (IPFIX) Entities").

use std::net::{IpAddr, Ipv6Addr};

use super::flow::FlowRecord;

/// Enterprise number of reverse information elements (RFC 5103, section 6.1).
const REVERSE: u32 = 29305;

/// The bit before an element's number that announces an enterprise number (RFC 7011, section 3.2).
const ENTERPRISE: u16 = 0x8000;

/// Length of an element whose values have their own lengths.
const VARIABLE: u16 = 0xffff;

/// First id of a template of flow records: ids below it are those of sets.
const FIRST_TEMPLATE: u16 = 256;

/// Template of the options that describe the observation domain.
pub(super) const DOMAIN_TEMPLATE: u16 = 272;

/// Bytes of a message's header.
pub(super) const HEADER: usize = 16;

/// Set of templates.
const TEMPLATE_SET: u16 = 2;

/// Set of options templates.
const OPTIONS_TEMPLATE_SET: u16 = 3;

/// Longest `observationDomainName`, so that its record fits in the smallest message.
const MAX_NAME: usize = 128;

/// The layout of a flow record.
#[expect(clippy::struct_excessive_bools, reason = "each adds elements by itself")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// The ends are IPv6 addresses.
    pub(super) ipv6: bool,
    /// It has the probability with which it was kept.
    pub(super) sampled: bool,
    /// It has both directions.
    pub(super) biflow: bool,
    /// It is of dropped packets, and of none that arrived.
    pub(super) drop: bool,
}

impl Layout {
    /// The layout of the record of `flow`.
    pub(super) fn of(flow: &FlowRecord, biflow: bool) -> Self {
        let drop = flow.dropped.is_some();
        Self {
            ipv6: flow.is_ipv6(),
            sampled: flow.probability < 1.0 && !drop,
            biflow: biflow && !drop,
            drop,
        }
    }

    /// The layouts of an exporter, which sends flows of one direction or of both.
    fn flows(biflow: bool) -> [Self; 4] {
        [(false, false), (true, false), (false, true), (true, true)].map(|(ipv6, sampled)| Self {
            ipv6,
            sampled,
            biflow,
            drop: false,
        })
    }

    /// The layouts of dropped packets.
    fn drops() -> [Self; 2] {
        [false, true].map(|ipv6| Self {
            ipv6,
            sampled: false,
            biflow: false,
            drop: true,
        })
    }

    /// Its template. A collector keeps templates for a while, so another layout never has the same id.
    pub(super) fn template(self) -> u16 {
        FIRST_TEMPLATE
            + u16::from(self.ipv6)
            + 2 * u16::from(self.sampled)
            + 4 * u16::from(self.biflow)
            + 8 * u16::from(self.drop)
    }

    fn fields(self) -> impl Iterator<Item = &'static Field> {
        FIELDS.iter().filter(move |field| match field.of {
            Of::All => true,
            Of::Ipv4 => !self.ipv6,
            Of::Ipv6 => self.ipv6,
            Of::Flow => !self.drop,
            Of::Sampled => self.sampled,
            Of::Biflow => self.biflow,
            Of::Drop => self.drop,
        })
    }

    /// Bytes of a record.
    pub(super) fn bytes(self) -> usize {
        self.fields().map(|field| field.bytes).sum()
    }

    /// Appends the record of `flow`.
    pub(super) fn push(self, flow: &FlowRecord, to: &mut Vec<u8>) {
        for field in self.fields() {
            (field.push)(flow, to);
        }
    }

    fn push_template(self, to: &mut Vec<u8>) {
        push_u16(to, [self.template(), length(self.fields().count())]);
        for field in self.fields() {
            if field.reverse {
                push_u16(to, [field.element | ENTERPRISE, length(field.bytes)]);
                to.extend(REVERSE.to_be_bytes());
            } else {
                push_u16(to, [field.element, length(field.bytes)]);
            }
        }
    }
}

/// The layouts that have a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    All,
    Ipv4,
    Ipv6,
    /// Those of packets that arrived.
    Flow,
    Sampled,
    Biflow,
    /// Those of dropped packets.
    Drop,
}

/// An information element of flow records.
struct Field {
    element: u16,
    bytes: usize,
    /// Of the direction from destination to source.
    reverse: bool,
    of: Of,
    push: fn(&FlowRecord, &mut Vec<u8>),
}

macro_rules! fields {
    ($($(#[doc = $doc:literal])* $of:ident $element:literal [$type:ty] $(of $reverse:ident)?, |$flow:ident| $value:expr;)*) => {
        const FIELDS: &[Field] = &[$(Field {
            element: $element,
            bytes: size_of::<$type>(),
            reverse: [$(stringify!($reverse),)? ""].len() > 1,
            of: Of::$of,
            push: |$flow, to| {
                let value: $type = $value;
                to.extend(<[u8; size_of::<$type>()]>::from(Wire(value)));
            },
        }),*];
    };
}

fields! {
    /// flowStartMilliseconds
    All 152 [u64], |flow| flow.start;
    /// flowEndMilliseconds
    All 153 [u64], |flow| flow.end;
    /// sourceIPv4Address
    Ipv4 8 [u32], |flow| ipv4(flow.source.addr);
    /// destinationIPv4Address
    Ipv4 12 [u32], |flow| ipv4(flow.destination.addr);
    /// sourceIPv6Address
    Ipv6 27 [u128], |flow| ipv6(flow.source.addr);
    /// destinationIPv6Address
    Ipv6 28 [u128], |flow| ipv6(flow.destination.addr);
    /// sourceTransportPort
    All 7 [u16], |flow| flow.source.port;
    /// destinationTransportPort
    All 11 [u16], |flow| flow.destination.port;
    /// protocolIdentifier
    All 4 [u8], |flow| flow.protocol;
    /// ipVersion
    All 60 [u8], |flow| if flow.is_ipv6() { 6 } else { 4 };
    /// flowDirection: 0 ingress, 1 egress
    Flow 61 [u8], |flow| u8::from(flow.egress);
    /// flowEndReason
    Flow 136 [u8], |flow| flow.end_reason;
    /// octetDeltaCount
    Flow 1 [u64], |flow| flow.octets;
    /// packetDeltaCount
    Flow 2 [u64], |flow| flow.packets;
    /// transportOctetDeltaCount
    Flow 401 [u64], |flow| flow.octets;
    /// flowId
    Flow 148 [u64], |flow| flow.id;
    /// observationPointId
    All 138 [u64], |flow| flow.observation_point;
    /// biflowDirection: 0 arbitrary, 1 the source is the initiator
    Biflow 239 [u8], |flow| u8::from(flow.initiated);
    /// octetDeltaCount
    Biflow 1 [u64] of reverse, |flow| flow.reverse_octets;
    /// packetDeltaCount
    Biflow 2 [u64] of reverse, |flow| flow.reverse_packets;
    /// transportOctetDeltaCount
    Biflow 401 [u64] of reverse, |flow| flow.reverse_octets;
    /// samplingProbability
    Sampled 311 [f64], |flow| flow.probability;
    /// droppedOctetDeltaCount
    Drop 132 [u64], |flow| flow.dropped.map_or(0, |dropped| dropped.octets);
    /// droppedPacketDeltaCount
    Drop 133 [u64], |flow| flow.dropped.map_or(0, |dropped| dropped.packets);
    /// forwardingStatus (RFC 7270, section 4.12), which one octet holds
    Drop 89 [u8], |flow| flow.dropped.map_or(0, |dropped| dropped.status);
}

/// A value in network byte order.
struct Wire<T>(T);

macro_rules! wire {
    ($($type:ty)*) => {$(
        impl From<Wire<$type>> for [u8; size_of::<$type>()] {
            fn from(Wire(value): Wire<$type>) -> Self {
                value.to_be_bytes()
            }
        }
    )*};
}

wire!(u8 u16 u32 u64 u128 f64);

fn ipv4(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(address) => address.to_bits(),
        // No record with such an end has this layout.
        IpAddr::V6(_) => 0,
    }
}

fn ipv6(address: IpAddr) -> u128 {
    let address: Ipv6Addr = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    address.to_bits()
}

/// State of the observation domain, as its options record reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// Messages sent.
    pub(super) messages: u64,
    /// Flow records sent.
    pub(super) flows: u64,
    /// Bytes of the messages.
    pub(super) octets: u64,
    /// Log records that were given up.
    pub(super) not_sent: u64,
}

/// Elements of the domain's options, and their lengths: the scope `observationDomainId`; then `observationDomainName`,
/// `exportedMessageTotalCount`, `exportedFlowRecordTotalCount`, `exportedOctetTotalCount`, `notSentFlowTotalCount`.
const DOMAIN_FIELDS: [[u16; 2]; 6] = [[149, 4], [300, VARIABLE], [41, 8], [42, 8], [40, 8], [166, 8]];

/// The messages with every template, each with room for its header: the smallest message does not hold them all.
pub(super) fn template_messages(biflow: bool) -> [Vec<u8>; 2] {
    let (mut flows, mut drops) = (vec![0; HEADER], vec![0; HEADER]);
    push_flow_templates(biflow, &mut flows);
    push_templates(&Layout::drops(), &mut drops);
    [flows, drops]
}

fn push_templates(layouts: &[Layout], to: &mut Vec<u8>) {
    push_set(TEMPLATE_SET, to, |to| {
        for layout in layouts {
            layout.push_template(to);
        }
    });
}

fn push_flow_templates(biflow: bool, to: &mut Vec<u8>) {
    push_templates(&Layout::flows(biflow), to);
    push_set(OPTIONS_TEMPLATE_SET, to, |to| {
        push_u16(to, [DOMAIN_TEMPLATE, length(DOMAIN_FIELDS.len()), 1]);
        push_u16(to, DOMAIN_FIELDS.into_iter().flatten());
    });
}

/// Appends the set with the record of the domain.
pub(super) fn push_domain(domain: u32, name: &str, totals: Totals, to: &mut Vec<u8>) {
    let end = (0..=MAX_NAME.min(name.len()))
        .rev()
        .find(|&end| name.is_char_boundary(end));
    let name = &name[..end.unwrap_or(0)];
    push_set(DOMAIN_TEMPLATE, to, |to| {
        to.extend(domain.to_be_bytes());
        // Its length is below 255, so it is one byte (RFC 7011, section 7).
        to.push(u8::try_from(name.len()).unwrap_or(0));
        to.extend(name.as_bytes());
        for total in [totals.messages, totals.flows, totals.octets, totals.not_sent] {
            to.extend(total.to_be_bytes());
        }
    });
}

/// Appends a set: its id and length, and what `content` appends.
fn push_set(id: u16, to: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>)) {
    let start = begin_set(id, to);
    content(to);
    end_set(start, to);
}

/// Appends the header of a set, and returns where it is.
pub(super) fn begin_set(id: u16, to: &mut Vec<u8>) -> usize {
    let start = to.len();
    push_u16(to, [id, 0]);
    start
}

/// Fills in the length of the set that begins at `start` and ends here.
pub(super) fn end_set(start: usize, to: &mut [u8]) {
    let bytes = length(to.len() - start);
    to[start + 2..start + 4].copy_from_slice(&bytes.to_be_bytes());
}

/// A length or count as messages have it. None is longer than a message.
pub(super) fn length(of: usize) -> u16 {
    u16::try_from(of).unwrap_or(u16::MAX)
}

fn push_u16(to: &mut Vec<u8>, values: impl IntoIterator<Item = u16>) {
    for value in values {
        to.extend(value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipfix::flow::tests::flow;

    fn layouts() -> impl Iterator<Item = Layout> {
        let flows = [true, false].into_iter().flat_map(Layout::flows);
        flows.chain(Layout::drops())
    }

    #[test]
    fn every_field_is_as_long_as_its_template_says() {
        for layout in layouts() {
            for field in layout.fields() {
                let mut bytes = Vec::new();
                (field.push)(&flow(), &mut bytes);
                assert_eq!(bytes.len(), field.bytes, "element {}", field.element);
            }
            let mut record = Vec::new();
            layout.push(&flow(), &mut record);
            assert_eq!(record.len(), layout.bytes());
        }
    }

    #[test]
    fn no_two_layouts_have_the_same_template() {
        let ids: std::collections::BTreeSet<_> = layouts().map(Layout::template).collect();
        assert_eq!(ids.len(), 10);
        assert!(!ids.contains(&DOMAIN_TEMPLATE));
    }

    #[test]
    fn only_reverse_elements_have_an_enterprise_number() {
        let reverse = FIELDS.iter().filter(|field| field.reverse);
        assert_eq!(reverse.clone().count(), 3);
        for field in reverse {
            let forward = FIELDS
                .iter()
                .find(|other| other.element == field.element && !other.reverse);
            assert_eq!(forward.map(|forward| forward.bytes), Some(field.bytes));
        }
    }

    #[test]
    fn templates_and_a_long_name_fit_in_the_smallest_message() {
        for biflow in [true, false] {
            for message in template_messages(biflow) {
                assert!(message.len() <= 512, "{}", message.len());
            }
        }
        let mut message = Vec::new();
        push_domain(1, &"é".repeat(200), Totals::default(), &mut message);
        assert_eq!(message.len(), 4 + 4 + 1 + MAX_NAME + 32);
    }
}
