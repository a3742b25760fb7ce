//! DNS transactions: a query with its answer, or without one.

use serde::{Deserialize, Serialize};

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

/// How a transaction ended.
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

    /// The outcome by OpenTelemetry's convention for `error.type` of a lookup, the names of `getaddrinfo` errors; `None` for a
    /// lookup that did not fail.
    pub const fn error_type(self) -> Option<&'static str> {
        match self {
            Self::NoError | Self::Multicast => None,
            Self::NxDomain => Some("host_not_found"),
            Self::ServFail | Self::Timeout => Some("try_again"),
            Self::FormErr | Self::NotImp | Self::Refused | Self::NotAuth | Self::BadVers | Self::Other => {
                Some("no_recovery")
            }
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
        assert_eq!(DnsOutcome::TimedOut.rcode().error_type(), Some("try_again"));
    }
}
