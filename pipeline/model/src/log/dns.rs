//! DNS transactions.

use std::sync::Arc;
use std::time::Duration;

use crate::dns::{DnsRcode, DnsType};

/// A DNS transaction over UDP. Its record's flow is of the socket that asked, or that answered.
#[derive(Clone, Debug, PartialEq)]
pub struct DnsLog {
    /// The name that was asked for, as the receiver's config wants names; `None` if it wants none.
    pub name: Option<Arc<str>>,
    /// Type of the question.
    pub question: DnsType,
    /// Response code, or the reason why there is none.
    pub rcode: DnsRcode,
    /// From the first query to the answer; `None` without an answer.
    pub duration: Option<Duration>,
    /// Retries of the query.
    pub retries: u32,
}

impl DnsLog {
    /// Whether the client got no answer that it can use. A name that does not exist is an answer.
    pub const fn is_failure(&self) -> bool {
        !matches!(
            self.rcode,
            DnsRcode::NoError | DnsRcode::NxDomain | DnsRcode::Multicast
        )
    }
}
