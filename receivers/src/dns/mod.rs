//! DNS transactions: messages of the kernel side, paired into queries with their outcomes.
//!
//! In: [`Packet`]s, the first bytes of UDP payloads to and from DNS ports. Out: a [`Transaction`] for each query. The modules, in the
//! order of a message's path:
//!
//! | module | contents |
//! |---|---|
//! | `packet` | a payload with its socket |
//! | [`message`] | header, question and addresses, also of a message that is cut off |
//! | `name` | names as they are compared |
//! | `transactions` | the bounded table of queries that wait |
//! | `search` | queries that a search list wastes |
//! | `policy` | which names leave the receiver |
//! | `observer` | all of it in order, into records, with counters |
//!
//! Messages over TCP are not read: the connections and bytes of name servers are in the metrics of TCP, and an answer that sent a
//! client there counts as truncated.

mod config;
pub mod message;
mod name;
mod observer;
mod packet;
mod policy;
mod search;
mod transactions;

pub use self::config::{Config, MAX_PORTS};
pub use self::name::DomainName;
pub use self::observer::Observer;
pub use self::packet::{Owner, Packet};
pub use self::policy::{NamePolicy, Named, Names};
pub use self::transactions::{Rejected, Transaction, Transactions};

#[cfg(test)]
mod tests;
