//! Protocols, names, exchanges and addresses of connections by cookie, until they close.
//!
//! In: first bytes, exchanges and addresses from the kernel side, and records of TCP. Out: the same records with what the first bytes say,
//! with the exchanges since the last one, and with the addresses on the wire. The rules:
//!
//! 1. A connection is settled when further bytes can change nothing, when as many were seen as are read, after [`SETTLE_AFTER_NS`], or
//!    at its close. Until then its records have no protocol, so that a series need not change. Copies of its bytes are wiped then.
//! 2. The close of a connection takes its entry out. The next census takes out entries whose close was lost; an entry that no record
//!    has come for in [`ORPHANED_AFTER_NS`] goes as well.
//! 3. Beyond the bounds nothing is kept, and counted.
//! 4. Exchanges in the first turns of a TLS connection are its handshake. A request in the last of them may be answered by session
//!    tickets (RFC 8446, section 4.6.1), which look like any other record, before its answer: its time can't be known.

use std::collections::HashMap;
use std::sync::Arc;

use flowtap_ebpf::TranslationEvent;
use flowtap_ebpf::abi::{ExchangeEvent, FirstBytes};
use flowtap_pipeline::{AppProtocol, Events, Exchanges, FlowBatch, Inspection, TcpRecord, Translation};

use super::super::translations::translation;
use super::config::InspectConfig;
use crate::dns::{DomainName, NamePolicy};
use crate::inspect::{Prefix, Recognized, Verdict, recognize, tls};

/// Connections that are followed at a time; some 150 bytes each.
const CONNECTIONS: usize = 1 << 17;

/// Connections whose first bytes are kept at a time; some 200 bytes each, and 24 KiB at most.
const UNSETTLED: usize = 2048;

/// Exchanges that wait for a record.
const PENDING: usize = 1 << 20;

/// Exchanges that wait for the first bytes of their connection, within one look at the buffers.
const EARLY: usize = 1 << 14;

/// Turns of a handshake of TLS; one more where the server wants another first message.
const HANDSHAKE_TURNS: u8 = 2;

const SETTLE_AFTER_NS: u64 = 2_000_000_000;
const ORPHANED_AFTER_NS: u64 = 300_000_000_000;

/// `enum role` of the kernel side.
const ROLE_SERVER: u8 = 2;

/// First bytes that do not settle it yet.
#[derive(Debug, Default)]
struct Beginning {
    client: Prefix,
    server: Prefix,
}

#[derive(Debug)]
struct Entry {
    /// The census that saw it last, or that came before it.
    census: u64,
    /// When it was made, by `CLOCK_MONOTONIC`.
    since_ns: u64,
    has_record: bool,
    /// The protocol, once it is settled.
    settled: Option<AppProtocol>,
    beginning: Option<Box<Beginning>>,
    inspection: Option<Arc<Inspection>>,
    /// Turns that are a handshake, once first bytes were seen.
    handshake_turns: Option<u8>,
    durations_us: Vec<u32>,
    /// The addresses on the wire, where they are not those of the socket.
    translation: Option<Arc<Translation>>,
}

impl Entry {
    /// Learns from the first segments of both directions whether the connection begins with a handshake of TLS.
    fn note_opening(&mut self, is_clients: bool, first: &FirstBytes<'_>) {
        let turns = match (first.offset, is_clients) {
            (0, true) if tls::is_client_hello(first.payload) => HANDSHAKE_TURNS,
            (0, false) if tls::is_hello_retry(first.payload) => HANDSHAKE_TURNS + 1,
            (0, false) if tls::is_server_hello(first.payload) => HANDSHAKE_TURNS,
            _ => 0,
        };
        self.handshake_turns = self.handshake_turns.max(Some(turns));
    }
}

/// Running totals of rejected data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rejected {
    /// Connections beyond those that can be followed.
    pub(super) connections: u64,
    /// Connections that were settled early, as the first bytes of too many were kept.
    pub(super) settled_early: u64,
    /// Exchanges beyond those that can wait, or whose connection had no record.
    pub(super) exchanges: u64,
    /// Exchanges of connections whose first bytes were not seen, so that they may be a handshake.
    pub(super) openings: u64,
    /// Exchanges that were, or could be, part of a handshake of TLS.
    pub(super) handshakes: u64,
    /// Names that were not valid.
    pub(super) invalid_names: u64,
    /// Names that were folded into `other`.
    pub(super) folded_names: u64,
}

/// Connections that have closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Closed {
    pub(super) recognized: u64,
    pub(super) unrecognized: u64,
    /// Their first bytes were not seen: they opened before flowtap began or while the programs were detached, or nobody spoke.
    pub(super) unseen: u64,
}

/// The table.
#[derive(Debug)]
pub(super) struct Table {
    entries: HashMap<u64, Entry>,
    capacity: usize,
    unsettled: usize,
    pending: usize,
    early: Vec<ExchangeEvent>,
    census: u64,
    swept_ns: u64,
    names: NamePolicy,
    protocols: bool,
    with_names: bool,
    rejected: Rejected,
    closed: Closed,
}

impl Table {
    pub(super) fn new(config: &InspectConfig) -> Self {
        Self {
            entries: HashMap::new(),
            capacity: CONNECTIONS,
            unsettled: 0,
            pending: 0,
            early: Vec::new(),
            census: 0,
            swept_ns: 0,
            names: NamePolicy::new(config.server_names, config.max_names),
            protocols: config.protocols,
            with_names: config.has_server_names(),
            rejected: Rejected::default(),
            closed: Closed::default(),
        }
    }

    pub(super) fn rejected(&self) -> Rejected {
        Rejected {
            invalid_names: self.names.invalid(),
            folded_names: self.names.folded(),
            ..self.rejected
        }
    }

    pub(super) const fn closed(&self) -> Closed {
        self.closed
    }

    /// Number of connections that are followed.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn entry(&mut self, cookie: u64, now_ns: u64) -> Option<&mut Entry> {
        if self.entries.len() >= self.capacity && !self.entries.contains_key(&cookie) {
            self.sweep(now_ns);
            if self.entries.len() >= self.capacity {
                self.rejected.connections += 1;
                return None;
            }
        }
        let census = self.census;
        Some(self.entries.entry(cookie).or_insert_with(|| Entry {
            census,
            since_ns: now_ns,
            has_record: false,
            settled: None,
            beginning: None,
            inspection: None,
            handshake_turns: None,
            durations_us: Vec::new(),
            translation: None,
        }))
    }

    /// Adds the addresses of a connection on the wire.
    pub(super) fn add_translation(&mut self, found: &TranslationEvent, now_ns: u64) {
        if let Some(entry) = self.entry(found.cookie, now_ns) {
            entry.translation = Some(Arc::new(translation(found)));
        }
    }

    /// Adds a segment from the beginning of a connection.
    pub(super) fn add_first_bytes(&mut self, first: &FirstBytes<'_>, now_ns: u64) {
        let unsettled = self.unsettled;
        let keeps_bytes = self.protocols || self.with_names;
        let Some(entry) = self.entry(first.cookie, now_ns) else {
            return;
        };
        let is_clients = first.is_sent != (first.role == ROLE_SERVER);
        entry.note_opening(is_clients, first);
        if entry.settled.is_some() || !keeps_bytes {
            return;
        }
        let is_new = entry.beginning.is_none();
        let beginning = entry.beginning.get_or_insert_default();
        let stream = if is_clients {
            &mut beginning.client
        } else {
            &mut beginning.server
        };
        stream.add(first.offset, first.payload);
        let is_full = beginning.client.is_full() && beginning.server.is_full();
        let verdict = recognize(beginning.client.bytes(), beginning.server.bytes());
        if let Verdict::Final(recognized) | Verdict::SoFar(recognized) = &verdict
            && recognized.protocol == AppProtocol::Tls
        {
            entry.handshake_turns = entry.handshake_turns.max(Some(HANDSHAKE_TURNS));
        }
        self.unsettled += usize::from(is_new);
        let is_final = matches!(verdict, Verdict::Final(_));
        let is_early = !is_final && !is_full && is_new && unsettled >= UNSETTLED;
        self.rejected.settled_early += u64::from(is_early);
        if is_final || is_full || is_early {
            self.settle(first.cookie, verdict.into_recognized(), now_ns);
        }
    }

    fn settle(&mut self, cookie: u64, recognized: Recognized, now_ns: u64) {
        let protocol = recognized.protocol;
        let inspection = self.inspection(recognized, now_ns);
        if let Some(entry) = self.entries.get_mut(&cookie) {
            self.unsettled -= usize::from(entry.beginning.take().is_some());
            entry.settled = Some(protocol);
            entry.inspection = Some(Arc::new(inspection));
        }
    }

    fn inspection(&mut self, recognized: Recognized, now_ns: u64) -> Inspection {
        let mut inspection = Inspection {
            protocol: self.protocols.then_some(recognized.protocol),
            ..Inspection::default()
        };
        if let Some(hello) = recognized.hello.filter(|_| self.with_names) {
            if let Some(name) = hello.server_name {
                let named = match DomainName::from_host(&name).filter(|_| !is_address(&name)) {
                    Some(name) => self.names.name(&name, now_ns),
                    None => self.names.invalid_name(),
                };
                (inspection.server_name, inspection.server_name_full) = (named.label, named.name);
            }
            inspection.alpn = (!hello.alpn.is_empty()).then(|| hello.alpn.join(",").into());
        }
        inspection
    }

    /// Adds an exchange, or puts it aside until first bytes have been looked for once more.
    pub(super) fn add_exchange(&mut self, exchange: &ExchangeEvent, now_ns: u64) {
        let is_early = exchange.turn <= HANDSHAKE_TURNS;
        let opening = self
            .entries
            .get(&exchange.cookie)
            .map(|entry| entry.handshake_turns);
        match opening.flatten() {
            None if is_early && self.early.len() < EARLY => self.early.push(*exchange),
            None if is_early => self.rejected.openings += 1,
            Some(turns) if exchange.turn < turns => self.rejected.handshakes += 1,
            _ => self.count_exchange(exchange, now_ns),
        }
    }

    /// Whether exchanges were put aside.
    pub(super) fn has_early_exchanges(&self) -> bool {
        !self.early.is_empty()
    }

    /// Adds the exchanges that were put aside.
    pub(super) fn add_early_exchanges(&mut self, now_ns: u64) {
        let mut early = std::mem::take(&mut self.early);
        for exchange in early.drain(..) {
            let entry = self.entries.get(&exchange.cookie);
            if entry.is_some_and(|entry| entry.handshake_turns.is_some()) {
                self.add_exchange(&exchange, now_ns);
            } else {
                self.rejected.openings += 1;
            }
        }
        self.early = early;
    }

    fn count_exchange(&mut self, exchange: &ExchangeEvent, now_ns: u64) {
        if self.pending >= PENDING {
            self.rejected.exchanges += 1;
            return;
        }
        let Some(entry) = self.entry(exchange.cookie, now_ns) else {
            self.rejected.exchanges += 1;
            return;
        };
        entry.durations_us.push(exchange.duration_us);
        self.pending += 1;
    }

    /// Completes the records of a batch.
    pub(super) fn complete(&mut self, batch: &mut FlowBatch, now_ns: u64) {
        if batch.census.begins {
            self.census += 1;
        }
        for record in &mut batch.tcp {
            self.complete_record(record, now_ns);
        }
        if batch.census.ends {
            let census = self.census;
            self.retain(|entry| entry.census == census || !entry.has_record);
        }
        if now_ns.saturating_sub(self.swept_ns) > ORPHANED_AFTER_NS {
            self.sweep(now_ns);
        }
    }

    fn complete_record(&mut self, record: &mut TcpRecord, now_ns: u64) {
        let is_closed = record.events.contains(Events::CLOSED);
        let cookie = record.flow.cookie;
        let census = self.census;
        let Some(entry) = self.entries.get_mut(&cookie) else {
            self.closed.unseen += u64::from(is_closed);
            return;
        };
        (entry.census, entry.has_record) = (census, true);
        let is_due = is_closed || now_ns.saturating_sub(entry.since_ns) > SETTLE_AFTER_NS;
        if let Some(beginning) = entry.beginning.as_ref().filter(|_| is_due) {
            let verdict = recognize(beginning.client.bytes(), beginning.server.bytes());
            self.settle(cookie, verdict.into_recognized(), now_ns);
        }
        let Some(entry) = self.entries.get_mut(&cookie) else {
            return;
        };
        record.flow.inspection.clone_from(&entry.inspection);
        if record.flow.translation.is_none() {
            record.flow.translation.clone_from(&entry.translation);
        }
        if !entry.durations_us.is_empty() {
            let durations_us = std::mem::take(&mut entry.durations_us);
            self.pending -= durations_us.len();
            record.exchanges = Some(Box::new(Exchanges { durations_us }));
        }
        if is_closed {
            self.close(cookie);
        }
    }

    fn close(&mut self, cookie: u64) {
        let Some(entry) = self.entries.remove(&cookie) else {
            return;
        };
        match entry.settled {
            None => self.closed.unseen += 1,
            Some(AppProtocol::Unknown) => self.closed.unrecognized += 1,
            Some(_) => self.closed.recognized += 1,
        }
        if self.entries.is_empty() {
            self.entries.shrink_to(1024);
        }
    }

    /// Takes out entries that no record has come for.
    fn sweep(&mut self, now_ns: u64) {
        self.swept_ns = now_ns;
        self.retain(|entry| entry.has_record || now_ns.saturating_sub(entry.since_ns) <= ORPHANED_AFTER_NS);
    }

    fn retain(&mut self, mut keep: impl FnMut(&Entry) -> bool) {
        let (unsettled, pending, rejected) = (
            &mut self.unsettled,
            &mut self.pending,
            &mut self.rejected.exchanges,
        );
        self.entries.retain(|_, entry| {
            let keeps = keep(entry);
            if !keeps {
                *unsettled -= usize::from(entry.beginning.is_some());
                *pending -= entry.durations_us.len();
                *rejected += entry.durations_us.len() as u64;
            }
            keeps
        });
    }
}

/// Whether a name is an IPv4 address, which is none (RFC 6066); one of IPv6 is not text of a name.
fn is_address(name: &[u8]) -> bool {
    std::str::from_utf8(name).is_ok_and(|name| name.parse::<std::net::Ipv4Addr>().is_ok())
}

#[cfg(test)]
mod tests;
