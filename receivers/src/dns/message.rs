//! The parts of a DNS message (RFC 1035) that a transaction needs.
//!
//! In: the first bytes of a UDP payload, as many as the kernel side copies. Out: header, question, and the addresses of an answer as
//! far as they are there. Everything but the header and the question can be cut off.

use std::net::IpAddr;

use domain::base::iana::{OptRcode, Rtype};
use domain::base::{Message as Wire, ParsedName, Question as WireQuestion};
use domain::rdata::{A, Aaaa};

use super::name::DomainName;

/// Opcode of a standard query.
const QUERY: u8 = 0;

/// Addresses taken from one answer at most.
pub const MAX_ADDRESSES: usize = 16;

/// Why a payload is not part of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Shorter than a header, or cut off before the end of the question.
    Cut,
    /// Not a DNS message, or one whose question can't be read.
    Malformed,
    /// A message that is not a query or its answer: NOTIFY, UPDATE, a stateful operation.
    OtherOpcode,
}

/// The question of a query, which its answer repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The name.
    pub name: DomainName,
    /// The type, as IANA numbers it.
    pub qtype: u16,
    /// The class, 1 for the Internet. mDNS uses its top bit.
    pub qclass: u16,
}

/// A message.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    wire: Wire<&'a [u8]>,
    /// The transaction's id.
    pub id: u16,
    /// Whether it is an answer.
    pub is_answer: bool,
    /// The TC bit: the answer did not fit, and the client should ask over TCP.
    pub is_truncated: bool,
    /// The response code, with the bits of EDNS if that part was not cut off.
    pub rcode: u16,
    /// The question. Some servers leave it out of an answer that reports an error.
    pub question: Option<Question>,
}

impl<'a> Message<'a> {
    /// Reads the first bytes of a message whose length was `full`.
    ///
    /// # Errors
    /// [`Unreadable`], if it is not a query or an answer, or too little of it was copied.
    pub fn read(payload: &'a [u8], full: usize) -> Result<Self, Unreadable> {
        let cut = |lost: bool| {
            if lost {
                Unreadable::Cut
            } else {
                Unreadable::Malformed
            }
        };
        let is_cut = payload.len() < full;
        let wire = Wire::from_octets(payload).map_err(|_| cut(is_cut))?;
        let header = wire.header();
        if header.opcode().to_int() != QUERY {
            return Err(Unreadable::OtherOpcode);
        }
        let is_answer = header.qr();
        let question = match wire.header_counts().qdcount() {
            0 if is_answer => None,
            // More than one question has never been in use (RFC 9619 forbids it).
            1 => {
                let parsed = wire.question().next();
                let parsed = parsed.and_then(Result::ok).ok_or_else(|| cut(is_cut))?;
                Some(Question::parsed(&parsed))
            }
            _ => return Err(Unreadable::Malformed),
        };
        let rcode = if is_answer {
            wire.opt_rcode()
        } else {
            OptRcode::NOERROR
        };
        Ok(Self {
            id: header.id(),
            is_answer,
            is_truncated: header.tc(),
            rcode: rcode.to_int(),
            question,
            wire,
        })
    }

    /// The addresses of an answer with their times to live in seconds, whatever the chain of aliases to them; up to where the
    /// message is cut off, and at most [`MAX_ADDRESSES`].
    pub fn addresses(&self) -> Vec<(IpAddr, u32)> {
        let Ok(records) = self.wire.answer() else {
            return Vec::new();
        };
        let mut addresses = Vec::new();
        for record in records.map_while(Result::ok) {
            let address = match record.rtype() {
                Rtype::A => record.to_record::<A>().ok().flatten().map(|record| {
                    let address = record.data().addr();
                    IpAddr::V4(address)
                }),
                Rtype::AAAA => record.to_record::<Aaaa>().ok().flatten().map(|record| {
                    let address = record.data().addr();
                    IpAddr::V6(address).to_canonical()
                }),
                _ => None,
            };
            if let Some(address) = address {
                addresses.push((address, record.ttl().as_secs()));
            }
            if addresses.len() == MAX_ADDRESSES {
                break;
            }
        }
        addresses
    }
}

impl Question {
    fn parsed(question: &WireQuestion<ParsedName<&[u8]>>) -> Self {
        Self {
            name: DomainName::parsed(question.qname()),
            qtype: question.qtype().to_int(),
            qclass: question.qclass().to_int(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::name::name;
    use super::*;

    /// A message in wire format, written by hand: the parser under test must not make its own input.
    #[derive(Debug)]
    pub(crate) struct Made {
        bytes: Vec<u8>,
    }

    impl Made {
        pub(crate) fn query(id: u16, text: &str, qtype: u16) -> Self {
            let mut bytes = id.to_be_bytes().to_vec();
            // RD; one question.
            bytes.extend([0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0]);
            for label in text.split('.').filter(|label| !label.is_empty()) {
                bytes.push(u8::try_from(label.len()).unwrap());
                bytes.extend(label.bytes());
            }
            bytes.push(0);
            bytes.extend(qtype.to_be_bytes());
            bytes.extend(1_u16.to_be_bytes());
            Self { bytes }
        }

        pub(crate) fn answer(id: u16, text: &str, qtype: u16, rcode: u8) -> Self {
            let mut made = Self::query(id, text, qtype);
            made.bytes[2] |= 0x80;
            made.bytes[3] = 0x80 | rcode;
            made
        }

        pub(crate) fn truncated(mut self) -> Self {
            self.bytes[2] |= 0x02;
            self
        }

        /// With one more record of the question's name.
        pub(crate) fn with(mut self, rtype: u16, ttl: u32, data: &[u8]) -> Self {
            self.bytes[7] += 1;
            self.bytes.extend([0xc0, 12]);
            self.bytes.extend(rtype.to_be_bytes());
            self.bytes.extend(1_u16.to_be_bytes());
            self.bytes.extend(ttl.to_be_bytes());
            self.bytes
                .extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            self.bytes.extend(data);
            self
        }

        /// With an OPT record whose upper bits of the response code are `high`.
        fn with_edns(mut self, high: u8) -> Self {
            self.bytes[11] += 1;
            self.bytes.extend([0, 0, 41, 0x04, 0xd0, high, 0, 0, 0, 0, 0]);
            self
        }

        pub(crate) fn bytes(self) -> Vec<u8> {
            self.bytes
        }
    }

    fn read(bytes: &[u8]) -> Result<Message<'_>, Unreadable> {
        Message::read(bytes, bytes.len())
    }

    #[test]
    fn header_and_question_are_read_in_any_case() {
        let bytes = Made::query(0x1234, "WWW.eXample.COM", 28).bytes();
        let message = read(&bytes).unwrap();
        assert!(!message.is_answer && !message.is_truncated);
        assert_eq!(message.id, 0x1234);
        let question = message.question.unwrap();
        assert_eq!(question.name, name("www.example.com"));
        assert_eq!((question.qtype, question.qclass), (28, 1));
    }

    #[test]
    fn addresses_of_an_answer_are_read_up_to_where_it_is_cut() {
        let bytes = Made::answer(7, "www.example.com", 1, 0)
            .with(5, 300, b"\x03web\xc0\x10")
            .with(1, 60, &[192, 0, 2, 7])
            .with(1, 60, &[192, 0, 2, 8])
            .bytes();
        let all = read(&bytes).unwrap().addresses();
        assert_eq!(
            all,
            [
                ("192.0.2.7".parse().unwrap(), 60),
                ("192.0.2.8".parse().unwrap(), 60)
            ]
        );
        let cut = &bytes[..bytes.len() - 5];
        let message = Message::read(cut, bytes.len()).unwrap();
        assert_eq!(message.addresses(), all[..1]);
        assert_eq!(message.rcode, 0);
        // To the end of the question, and no further.
        let message = Message::read(&bytes[..33], bytes.len()).unwrap();
        assert_eq!(message.addresses(), []);
        assert_eq!(
            Message::read(&bytes[..32], bytes.len()).unwrap_err(),
            Unreadable::Cut
        );
    }

    #[test]
    fn an_answer_has_at_most_so_many_addresses() {
        let answer = (0..40).fold(Made::answer(7, "a.example", 1, 0), |made, host| {
            made.with(1, 1, &[192, 0, 2, host])
        });
        assert_eq!(read(&answer.bytes()).unwrap().addresses().len(), MAX_ADDRESSES);
    }

    #[test]
    fn ipv6_addresses_are_canonical() {
        let mapped = "::ffff:192.0.2.7".parse::<std::net::Ipv6Addr>().unwrap();
        let bytes = Made::answer(7, "a.example", 28, 0)
            .with(28, 1, &mapped.octets())
            .bytes();
        assert_eq!(
            read(&bytes).unwrap().addresses(),
            [("192.0.2.7".parse().unwrap(), 1)]
        );
    }

    #[test]
    fn the_response_code_has_the_bits_of_edns() {
        let bytes = Made::answer(7, "a.example", 1, 0).with_edns(1).bytes();
        assert_eq!(read(&bytes).unwrap().rcode, 16, "BADVERS");
        let cut = Message::read(&bytes[..bytes.len() - 4], bytes.len()).unwrap();
        assert_eq!(cut.rcode, 0);
        let bytes = Made::answer(7, "a.example", 1, 3).bytes();
        assert_eq!(read(&bytes).unwrap().rcode, 3);
    }

    #[test]
    fn the_tc_bit_is_read() {
        let bytes = Made::answer(7, "a.example", 1, 0).truncated().bytes();
        assert!(read(&bytes).unwrap().is_truncated);
    }

    #[test]
    fn messages_that_are_not_a_query_or_an_answer_are_rejected_with_the_reason() {
        let query = Made::query(1, "a.example", 1).bytes();
        let error = |bytes: &[u8], full| Message::read(bytes, full).unwrap_err();
        assert_eq!(error(&query[..11], 11), Unreadable::Malformed);
        assert_eq!(error(&query[..11], query.len()), Unreadable::Cut);
        let mut notify = query.clone();
        notify[2] |= 4 << 3;
        assert_eq!(error(&notify, query.len()), Unreadable::OtherOpcode);
        let mut two = query.clone();
        two[5] = 2;
        assert_eq!(error(&two, query.len()), Unreadable::Malformed);
        let mut none = query.clone();
        none[5] = 0;
        assert_eq!(error(&none, query.len()), Unreadable::Malformed);
        // A pointer to itself, where the name begins.
        let mut loops = query[..12].to_vec();
        loops.extend([0xc0, 12, 0, 1, 0, 1]);
        assert_eq!(error(&loops, loops.len()), Unreadable::Malformed);
        // A reserved type of label.
        let mut reserved = query;
        reserved[12] = 0x80;
        assert_eq!(error(&reserved, reserved.len()), Unreadable::Malformed);
    }

    #[test]
    fn an_answer_without_its_question_is_read() {
        let mut bytes = Made::answer(7, "a.example", 1, 2).bytes();
        bytes[5] = 0;
        let message = read(&bytes[..12]).unwrap();
        assert_eq!((message.rcode, message.question), (2, None));
    }
}
