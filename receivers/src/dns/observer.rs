//! From messages to records: what the receiver `ebpf` drives.
//!
//! In: [`Packet`]s in the order of the ring, and the time. Out: a [`DnsRecord`] for each transaction that ended, with the names that
//! the config wants; counters of what belongs to none.

use flowtap_pipeline::flow::Transport;
use flowtap_pipeline::{BuildContext, DnsAnswer, DnsRecord, Flow, FlowBatch, RoleSource, Timestamp};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge};

use super::config::Config;
use super::packet::Packet;
use super::policy::{NamePolicy, Names};
use super::transactions::{Rejected, Transaction, Transactions};

/// DNS of one receiver.
#[derive(Debug)]
pub struct Observer {
    transactions: Transactions,
    policy: NamePolicy,
    with_answers: bool,
    ended: Vec<Transaction>,
    telemetry: Telemetry,
}

impl Observer {
    /// No query waits.
    pub fn new(config: &Config, context: &BuildContext) -> Self {
        let with_answers = config.names != Names::None;
        Self {
            transactions: Transactions::new(config.max_pending, config.timeout, with_answers),
            policy: NamePolicy::new(config.names, config.max_names),
            with_answers,
            ended: Vec::new(),
            telemetry: Telemetry::new(context),
        }
    }

    /// Takes a message.
    pub fn take(&mut self, packet: &Packet<'_>) {
        self.ended.extend(self.transactions.take(packet));
    }

    /// Number of transactions that ended since they were last [flushed](Self::flush).
    pub const fn ended(&self) -> usize {
        self.ended.len()
    }

    /// Appends the transactions that have ended or timed out to `batch`. Every message up to `now`, by the clock of the packets, has
    /// to be taken before; `wall` is the time of day at `now`.
    pub fn flush(&mut self, now: u64, wall: Timestamp, batch: &mut FlowBatch) {
        let Self {
            transactions, ended, ..
        } = self;
        transactions.expire(now, |transaction| ended.push(transaction));
        self.take_ended(now, wall, batch);
        self.telemetry.update(&self.transactions, &self.policy);
    }

    /// Appends the transactions that have ended to `batch`, and leaves those that wait, however long.
    pub fn take_ended(&mut self, now: u64, wall: Timestamp, batch: &mut FlowBatch) {
        let Self {
            policy,
            with_answers,
            ended,
            ..
        } = self;
        batch.dns.extend(ended.drain(..).map(|transaction| {
            let age = now.saturating_sub(transaction.at);
            let at = Timestamp::from_nanos(wall.as_nanos().saturating_sub(age));
            record(transaction, policy, *with_answers, at)
        }));
    }

    /// Counts the queries that still wait as unfinished: no more messages come.
    pub fn abandon(&mut self) {
        self.transactions.abandon();
        self.telemetry.update(&self.transactions, &self.policy);
    }
}

fn record(transaction: Transaction, policy: &mut NamePolicy, with_answers: bool, at: Timestamp) -> DnsRecord {
    let named = policy.name(&transaction.name, transaction.at);
    let owner = transaction.owner;
    let flow = Flow {
        transport: Transport::Udp,
        netns: owner.netns,
        cookie: owner.cookie,
        role: transaction.role,
        role_source: RoleSource::Message,
        pid: owner.pid,
        comm: owner.comm,
        cgroup_id: owner.cgroup_id,
        ..Flow::new(transaction.local, transaction.remote)
    };
    let addresses = transaction.addresses;
    let answer = named.name.filter(|_| with_answers && !addresses.is_empty());
    DnsRecord {
        latency_us: u32::try_from(transaction.latency / 1000).unwrap_or(u32::MAX),
        retries: transaction.retries,
        truncated: transaction.is_truncated,
        query_bytes: transaction.query_bytes,
        answer_bytes: transaction.answer_bytes,
        search_misses: transaction.search_misses,
        at,
        qname: named.label,
        answer: answer.map(|name| DnsAnswer { name, addresses }),
        ..DnsRecord::new(flow, transaction.qtype, transaction.outcome)
    }
}

/// Counters of what belongs to no transaction or has no name.
#[derive(Debug)]
struct Telemetry {
    rejected: Counter<u64>,
    names: Counter<u64>,
    pending: Gauge<u64>,
    receiver: KeyValue,
    reported: Rejected,
    reported_names: [u64; 2],
}

impl Telemetry {
    fn new(context: &BuildContext) -> Self {
        let meter = &context.meter;
        let telemetry = Self {
            rejected: meter
                .u64_counter("receiver_dns_rejected_messages")
                .with_description("DNS messages that belong to no transaction, by reason.")
                .with_unit("{message}")
                .build(),
            names: meter
                .u64_counter("receiver_dns_replaced_names")
                .with_description("DNS names that were replaced in a label, by what they became.")
                .with_unit("{name}")
                .build(),
            pending: meter
                .u64_gauge("receiver_dns_pending_queries")
                .with_description("DNS queries that wait for an answer.")
                .with_unit("{query}")
                .build(),
            receiver: KeyValue::new("receiver", context.id.to_string()),
            reported: Rejected::default(),
            reported_names: [0; 2],
        };
        for (reason, _) in Rejected::default().by_reason() {
            telemetry.add(&telemetry.rejected, "reason", reason, 0);
        }
        for name in ["other", "invalid"] {
            telemetry.add(&telemetry.names, "name", name, 0);
        }
        telemetry
    }

    fn add(&self, counter: &Counter<u64>, key: &'static str, value: &'static str, count: u64) {
        counter.add(count, &[self.receiver.clone(), KeyValue::new(key, value)]);
    }

    fn update(&mut self, transactions: &Transactions, policy: &NamePolicy) {
        let waiting = transactions.waiting() as u64;
        self.pending.record(waiting, std::slice::from_ref(&self.receiver));
        let rejected = *transactions.rejected();
        let before = std::mem::replace(&mut self.reported, rejected).by_reason();
        for ((reason, count), (_, before)) in rejected.by_reason().into_iter().zip(before) {
            if count > before {
                self.add(&self.rejected, "reason", reason, count - before);
            }
        }
        let names = [policy.folded(), policy.invalid()];
        let before = std::mem::replace(&mut self.reported_names, names);
        for ((name, count), before) in ["other", "invalid"].into_iter().zip(names).zip(before) {
            if count > before {
                self.add(&self.names, "name", name, count - before);
            }
        }
    }
}
