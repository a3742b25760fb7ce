//! DNS transactions: a query with its answer, or without one.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::flow::Flow;
use crate::time::Timestamp;

/// One transaction of DNS over UDP, when it has ended.
///
/// ```
/// use std::net::Ipv4Addr;
/// use flowtap_model::dns::{DnsOutcome, DnsRecord, DnsType};
/// use flowtap_model::{Endpoint, Flow};
///
/// let resolver = Endpoint::new(Ipv4Addr::new(192, 0, 2, 53).into(), 53);
/// let client = Endpoint::new(Ipv4Addr::new(192, 0, 2, 1).into(), 40_000);
/// let record = DnsRecord {
///     latency_us: 345,
///     ..DnsRecord::new(Flow::new(client, resolver), 28, DnsOutcome::Answered(0))
/// };
/// assert_eq!(DnsType::of(record.qtype).as_str(), "AAAA");
/// assert_eq!(record.outcome.rcode().as_str(), "NOERROR");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DnsRecord {
    /// The socket that asked, or that answered: its role says which.
    pub flow: Flow,
    /// Type of the question, as IANA numbers it.
    pub qtype: u16,
    /// Its end.
    pub outcome: DnsOutcome,
    /// From the first query to the answer, in µs; 0 without an answer.
    pub latency_us: u32,
    /// Retries of the query.
    pub retries: u32,
    /// Whether the answer had the TC bit.
    pub truncated: bool,
    /// Length of the query, in bytes.
    pub query_bytes: u32,
    /// Length of the answer, in bytes.
    pub answer_bytes: u32,
    /// Queries before this one that a search list made, and that were answered with NXDOMAIN.
    pub search_misses: u32,
    /// When it ended.
    pub at: Timestamp,
    /// The name as a label: one of a bounded number, as the receiver's config wants it. `None` if it wants none.
    pub qname: Option<Arc<str>>,
    /// The name with the addresses of the answer, for a client's transaction. `None` if no name is wanted.
    pub answer: Option<DnsAnswer>,
}

/// A name with its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsAnswer {
    /// The name that was asked for, whatever aliases it has.
    pub name: Arc<str>,
    /// Addresses with their times to live, in seconds.
    pub addresses: Vec<(IpAddr, u32)>,
}

impl DnsRecord {
    /// A transaction of which nothing else is known.
    pub const fn new(flow: Flow, qtype: u16, outcome: DnsOutcome) -> Self {
        Self {
            flow,
            qtype,
            outcome,
            latency_us: 0,
            retries: 0,
            truncated: false,
            query_bytes: 0,
            answer_bytes: 0,
            search_misses: 0,
            at: Timestamp::from_nanos(0),
            qname: None,
            answer: None,
        }
    }
}

/// Type of a question, as a label: the types that resolvers ask for, and one value for all others, so that a client that asks for
/// every number makes no series for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each variant is its label value")]
#[repr(u8)]
pub enum DnsType {
    A,
    Ns,
    Cname,
    Soa,
    Ptr,
    Mx,
    Txt,
    Aaaa,
    Srv,
    Naptr,
    Svcb,
    Https,
    Any,
    Caa,
    Other,
}

impl DnsType {
    /// Every value, in the order of their indexes.
    pub const ALL: [Self; 15] = [
        Self::A,
        Self::Ns,
        Self::Cname,
        Self::Soa,
        Self::Ptr,
        Self::Mx,
        Self::Txt,
        Self::Aaaa,
        Self::Srv,
        Self::Naptr,
        Self::Svcb,
        Self::Https,
        Self::Any,
        Self::Caa,
        Self::Other,
    ];

    /// The label for a type as IANA numbers it.
    pub const fn of(qtype: u16) -> Self {
        match qtype {
            1 => Self::A,
            2 => Self::Ns,
            5 => Self::Cname,
            6 => Self::Soa,
            12 => Self::Ptr,
            15 => Self::Mx,
            16 => Self::Txt,
            28 => Self::Aaaa,
            33 => Self::Srv,
            35 => Self::Naptr,
            64 => Self::Svcb,
            65 => Self::Https,
            255 => Self::Any,
            257 => Self::Caa,
            _ => Self::Other,
        }
    }

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::Ns => "NS",
            Self::Cname => "CNAME",
            Self::Soa => "SOA",
            Self::Ptr => "PTR",
            Self::Mx => "MX",
            Self::Txt => "TXT",
            Self::Aaaa => "AAAA",
            Self::Srv => "SRV",
            Self::Naptr => "NAPTR",
            Self::Svcb => "SVCB",
            Self::Https => "HTTPS",
            Self::Any => "ANY",
            Self::Caa => "CAA",
            Self::Other => "other",
        }
    }
}

/// End of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DnsOutcome {
    /// With an answer of this response code.
    Answered(u16),
    /// Without an answer within the time that the receiver waits.
    TimedOut,
    /// The query went to a multicast address, where answers are not counted one by one.
    Multicast,
}

impl DnsOutcome {
    /// The response code as a label.
    pub const fn rcode(self) -> DnsRcode {
        match self {
            Self::Answered(rcode) => DnsRcode::of(rcode),
            Self::TimedOut => DnsRcode::Timeout,
            Self::Multicast => DnsRcode::Multicast,
        }
    }
}

/// Outcome of a transaction, as a label: a response code, or the reason why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each variant is its label value")]
#[repr(u8)]
pub enum DnsRcode {
    NoError,
    FormErr,
    ServFail,
    NxDomain,
    NotImp,
    Refused,
    NotAuth,
    BadVers,
    /// Another response code.
    Other,
    /// No answer.
    Timeout,
    /// Answers are not counted one by one.
    Multicast,
}

impl DnsRcode {
    /// Every value, in the order of their indexes.
    pub const ALL: [Self; 11] = [
        Self::NoError,
        Self::FormErr,
        Self::ServFail,
        Self::NxDomain,
        Self::NotImp,
        Self::Refused,
        Self::NotAuth,
        Self::BadVers,
        Self::Other,
        Self::Timeout,
        Self::Multicast,
    ];

    /// The label for a response code as IANA numbers it.
    pub const fn of(rcode: u16) -> Self {
        match rcode {
            0 => Self::NoError,
            1 => Self::FormErr,
            2 => Self::ServFail,
            3 => Self::NxDomain,
            4 => Self::NotImp,
            5 => Self::Refused,
            9 => Self::NotAuth,
            16 => Self::BadVers,
            _ => Self::Other,
        }
    }

    /// The label value: IANA's mnemonic in capitals, and in small letters what is not a response code.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoError => "NOERROR",
            Self::FormErr => "FORMERR",
            Self::ServFail => "SERVFAIL",
            Self::NxDomain => "NXDOMAIN",
            Self::NotImp => "NOTIMP",
            Self::Refused => "REFUSED",
            Self::NotAuth => "NOTAUTH",
            Self::BadVers => "BADVERS",
            Self::Other => "other",
            Self::Timeout => "timeout",
            Self::Multicast => "multicast",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_in_the_order_of_their_indexes() {
        for (index, value) in DnsType::ALL.into_iter().enumerate() {
            assert_eq!(value as usize, index);
        }
        for (index, value) in DnsRcode::ALL.into_iter().enumerate() {
            assert_eq!(value as usize, index);
        }
    }

    #[test]
    fn numbers_that_nobody_asks_for_have_one_label_in_common() {
        assert_eq!(DnsType::of(28).as_str(), "AAAA");
        assert_eq!(DnsType::of(65_280).as_str(), "other");
        assert_eq!(DnsOutcome::Answered(2).rcode().as_str(), "SERVFAIL");
        assert_eq!(DnsOutcome::Answered(4095).rcode().as_str(), "other");
        assert_eq!(DnsOutcome::TimedOut.rcode().as_str(), "timeout");
    }
}
