//! Queries that wait for their answers.
//!
//! In: DNS messages in the order in which they passed. Out: a [`Transaction`] for each query, when it is answered or when nothing came.
//! The rules:
//!
//! 1. A query and its answer have the same network namespace, addresses and ports, the same id, and the same question in any case of
//!    letters. An answer without a question belongs to the query of that id.
//! 2. The same query once more before the answer is a retry: the time counts from the first.
//! 3. A query that has no answer `timeout` after it was last sent has the outcome [`DnsOutcome::TimedOut`]. A later answer belongs to
//!    nothing.
//! 4. A query to a multicast address is answered by many, or by none: it is a transaction at once, without a time.
//! 5. Both sides of an exchange on this machine are transactions: the client's, and the server's, whose time is the server's own.
//! 6. At most `max_pending` queries wait. Messages of no transaction are counted with the reason ([`Rejected`]).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::time::Duration;

use flowtap_pipeline::dns::DnsOutcome;
use flowtap_pipeline::{Endpoint, Role};

use super::message::{Message, Question, Unreadable};
use super::name::DomainName;
use super::packet::{Owner, Packet};
use super::search::{Client, SearchList};

/// Response code of a name that does not exist.
const NXDOMAIN: u16 = 3;

/// A query with its outcome.
#[derive(Clone, Debug, PartialEq)]
pub struct Transaction {
    /// This machine's end.
    pub local: Endpoint,
    /// The peer's end: the server's for a client.
    pub remote: Endpoint,
    /// The socket and its owner.
    pub owner: Owner,
    /// Whether this side asked or answered.
    pub role: Role,
    /// The name asked for.
    pub name: DomainName,
    /// The type asked for, as IANA numbers it.
    pub qtype: u16,
    /// Its end.
    pub outcome: DnsOutcome,
    /// From the first query to the answer, in nanoseconds; 0 without an answer.
    pub latency: u64,
    /// Queries sent after the first one.
    pub retries: u32,
    /// Whether the answer was truncated.
    pub is_truncated: bool,
    /// Length of the query, in bytes.
    pub query_bytes: u32,
    /// Length of the answer, in bytes.
    pub answer_bytes: u32,
    /// Queries for names that do not exist, which a search list made on the way to this one.
    pub search_misses: u32,
    /// Addresses of the answer with their times to live, in seconds.
    pub addresses: Vec<(IpAddr, u32)>,
    /// When it ended, by the clock of the packets.
    pub at: u64,
}

/// Messages that belong to no transaction, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rejected {
    /// Not DNS.
    pub malformed: u64,
    /// Cut off before the end of the question, by the kernel side's limit.
    pub cut: u64,
    /// NOTIFY, UPDATE and the like.
    pub other_opcode: u64,
    /// Queries beyond `max_pending`.
    pub pending_full: u64,
    /// Answers that no query waits for: late, duplicate or unasked.
    pub unmatched: u64,
    /// Queries that were still waiting when the receiver stopped.
    pub unfinished: u64,
    /// Names that do not exist beyond those that can be remembered to recognize search lists. The transaction itself is reported.
    pub search_table_full: u64,
}

impl Rejected {
    /// The counts with the values of the label `reason`.
    pub const fn by_reason(&self) -> [(&'static str, u64); 7] {
        [
            ("malformed", self.malformed),
            ("cut", self.cut),
            ("other_opcode", self.other_opcode),
            ("pending_full", self.pending_full),
            ("unmatched", self.unmatched),
            ("unfinished", self.unfinished),
            ("search_table_full", self.search_table_full),
        ]
    }
}

/// Identity of a transaction but for its question. One is enough for almost every id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Exchange {
    netns: u32,
    local: Endpoint,
    remote: Endpoint,
    id: u16,
    /// Sockets of both sides can have the same addresses where one sends to itself.
    is_client: bool,
}

#[derive(Debug)]
struct Pending {
    question: Question,
    owner: Owner,
    first: u64,
    last: u64,
    retries: u32,
    query_bytes: u32,
    search_misses: u32,
}

/// The queries that wait.
#[derive(Debug)]
pub struct Transactions {
    pending: HashMap<Exchange, Vec<Pending>>,
    /// Queries in `pending`.
    waiting: usize,
    max_pending: usize,
    timeout: u64,
    with_addresses: bool,
    search: SearchList,
    rejected: Rejected,
}

impl Transactions {
    /// No query waits. Addresses are taken from answers only `with_addresses`.
    pub fn new(max_pending: usize, timeout: Duration, with_addresses: bool) -> Self {
        Self {
            pending: HashMap::new(),
            waiting: 0,
            max_pending,
            timeout: u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX),
            with_addresses,
            search: SearchList::default(),
            rejected: Rejected::default(),
        }
    }

    /// Running totals of what was rejected.
    pub const fn rejected(&self) -> &Rejected {
        &self.rejected
    }

    /// Number of queries that wait.
    pub const fn waiting(&self) -> usize {
        self.waiting
    }

    /// Takes one message; returns the transaction that it ends.
    pub fn take(&mut self, packet: &Packet<'_>) -> Option<Transaction> {
        let message = match Message::read(packet.payload, packet.length as usize) {
            Ok(message) => message,
            Err(unreadable) => {
                *match unreadable {
                    Unreadable::Cut => &mut self.rejected.cut,
                    Unreadable::Malformed => &mut self.rejected.malformed,
                    Unreadable::OtherOpcode => &mut self.rejected.other_opcode,
                } += 1;
                return None;
            }
        };
        let exchange = Exchange {
            netns: packet.owner.netns,
            local: packet.local,
            remote: packet.remote,
            id: message.id,
            is_client: packet.is_sent != message.is_answer,
        };
        if message.is_answer {
            self.answered(exchange, packet, &message)
        } else {
            self.asked(exchange, packet, message)
        }
    }

    fn asked(
        &mut self,
        exchange: Exchange,
        packet: &Packet<'_>,
        message: Message<'_>,
    ) -> Option<Transaction> {
        let question = message.question?;
        let known = self.pending.get_mut(&exchange);
        let known = known.and_then(|all| all.iter_mut().find(|pending| pending.question == question));
        if let Some(pending) = known {
            pending.retries += 1;
            pending.last = packet.at;
            return None;
        }
        let search_misses = if exchange.is_client {
            let client = Client {
                owner: &packet.owner,
                server: packet.remote.addr,
            };
            self.search
                .asked(client, question.qtype, &question.name, packet.at)
        } else {
            0
        };
        let pending = Pending {
            question,
            owner: packet.owner,
            first: packet.at,
            last: packet.at,
            retries: 0,
            query_bytes: packet.length,
            search_misses,
        };
        if packet.remote.addr.is_multicast() || packet.local.addr.is_multicast() {
            return Some(ended(exchange, pending, DnsOutcome::Multicast, packet.at));
        }
        if self.waiting >= self.max_pending {
            self.rejected.pending_full += 1;
            return None;
        }
        self.waiting += 1;
        self.pending.entry(exchange).or_default().push(pending);
        None
    }

    fn answered(
        &mut self,
        exchange: Exchange,
        packet: &Packet<'_>,
        message: &Message<'_>,
    ) -> Option<Transaction> {
        let Some(mut pending) = self.remove(exchange, message.question.as_ref()) else {
            self.rejected.unmatched += 1;
            return None;
        };
        // Some hooks run where a message arrives, outside the process that it is for.
        if pending.owner.pid == 0 {
            pending.owner = packet.owner;
        }
        if exchange.is_client && message.rcode == NXDOMAIN {
            let (qtype, name) = (pending.question.qtype, pending.question.name.clone());
            let client = Client {
                owner: &pending.owner,
                server: exchange.remote.addr,
            };
            if !self.search.missing(client, qtype, name, packet.at) {
                self.rejected.search_table_full += 1;
            }
        }
        let latency = packet.at.saturating_sub(pending.first);
        let outcome = DnsOutcome::Answered(message.rcode);
        let addresses = if self.with_addresses && exchange.is_client {
            message.addresses()
        } else {
            Vec::new()
        };
        Some(Transaction {
            latency,
            is_truncated: message.is_truncated,
            answer_bytes: packet.length,
            addresses,
            ..ended(exchange, pending, outcome, packet.at)
        })
    }

    /// The query that an answer with this question belongs to, which waits no longer.
    fn remove(&mut self, exchange: Exchange, question: Option<&Question>) -> Option<Pending> {
        let Entry::Occupied(mut entry) = self.pending.entry(exchange) else {
            return None;
        };
        let all = entry.get_mut();
        let index = match question {
            Some(question) => all.iter().position(|pending| pending.question == *question)?,
            None if all.len() == 1 => 0,
            None => return None,
        };
        let pending = all.swap_remove(index);
        if all.is_empty() {
            entry.remove();
        }
        self.waiting -= 1;
        Some(pending)
    }

    /// Ends every query that has waited for too long. Every message up to `now`, by the clock of the packets, has to be taken before.
    pub fn expire(&mut self, now: u64, mut each: impl FnMut(Transaction)) {
        let timeout = self.timeout;
        let mut expired = 0;
        self.pending.retain(|exchange, all| {
            let waits_too_long = |pending: &mut Pending| now.saturating_sub(pending.last) >= timeout;
            for pending in all.extract_if(.., waits_too_long) {
                expired += 1;
                each(ended(*exchange, pending, DnsOutcome::TimedOut, now));
            }
            !all.is_empty()
        });
        self.waiting -= expired;
        self.search.expire(now);
    }

    /// Counts the queries that wait as unfinished: no more messages come.
    pub fn abandon(&mut self) {
        self.pending.clear();
        self.rejected.unfinished += self.waiting as u64;
        self.waiting = 0;
    }
}

fn ended(exchange: Exchange, pending: Pending, outcome: DnsOutcome, at: u64) -> Transaction {
    Transaction {
        local: exchange.local,
        remote: exchange.remote,
        owner: pending.owner,
        role: if exchange.is_client {
            Role::Client
        } else {
            Role::Server
        },
        name: pending.question.name,
        qtype: pending.question.qtype,
        outcome,
        latency: 0,
        retries: pending.retries,
        is_truncated: false,
        query_bytes: pending.query_bytes,
        answer_bytes: 0,
        search_misses: pending.search_misses,
        addresses: Vec::new(),
        at,
    }
}
