//! The aggregator `connections`: one flow log record per TCP connection and per UDP flow, for pipelines `logs`.
//!
//! In: records of sockets, watermarks. Out: batches of log records. The rules, in order:
//!
//! 1. A connection has a record at its end, and one per `active_timeout` before that, if it moved anything in that time: at the last
//!    watermark from which the record is passed on before what it reports is older than `active_timeout`.
//! 2. Each record has the difference since the record before; the sum of a connection's differences is its total. Differences are
//!    never negative but for the last one, if the socket was read too high a moment before its close.
//! 3. No clock is read: records end at the watermark that follows them, so their times are exact to the interval of the receiver.
//!    Durations of connections that ended are the kernel's, and exact.
//! 4. The table of open connections has a bound. A connection beyond it has a record at its end, without what was counted as
//!    dropped before. The next census brings it in, if there is room again.
//! 5. Sampling decides by the socket's cookie, so all records of a connection are kept or left out, unless it becomes one of those
//!    that are always kept: then it has the records from then on. A record that is left out ends where one that is kept would, so
//!    that each record is kept with the probability that it states, and sums of differences divided by it have no bias.
//! 6. When flowtap stops, or the receiver is removed, every open connection has a last record, with the outcome `detached`.
//! 7. Everything that has no record is counted by its reason, with its bytes.
//! 8. DNS transactions and dropped packets have records, if the config wants them; sampling does not apply. A drop of no flow has
//!    none.
//! 9. UDP flows have records by the same rules, if the config wants them ([`udp`]).
//! 10. A finding, which the processor `watch` adds before it, is a record, whatever is sampled.

mod config;
mod loss;
mod sampling;
mod telemetry;
#[cfg(test)]
mod tests;
mod tracker;
mod udp;
#[cfg(test)]
mod udp_tests;

use std::sync::Arc;

use flowtap_pipeline::log::{LogBody, Outcome};
use flowtap_pipeline::{
    Aggregator, BuildContext, BuildError, Census, Events, Factory, FlowBatch, Inheritance, LogBatch,
    LogRecord, MemoryPressure, Output, ProcessorConfig, ProcessorStage, SharedMemoryPressure, Stability,
    TcpRecord, Timestamp, UdpRecord,
};

pub use self::config::{Always, Config, Sample};
use self::loss::LossReason;
use self::telemetry::Telemetry;
use self::tracker::{Connection, Key, Tracker};
use self::udp::UdpTable;

/// The processor type `connections`.
pub const FACTORY: Factory<dyn ProcessorConfig> = Factory::of::<Config>(
    "connections",
    "gives a flow log record per connection and UDP flow; the last processor of a `logs` pipeline",
    Stability::Alpha,
);

impl ProcessorConfig for Config {
    fn build(&self, context: &BuildContext) -> Result<ProcessorStage, BuildError> {
        Ok(ProcessorStage::Aggregate(Box::new(Connections::new(
            self, context,
        ))))
    }
}

/// The aggregator.
#[derive(Debug)]
pub struct Connections {
    pipeline: Arc<str>,
    config: Config,
    tracker: Tracker,
    udp: UdpTable,
    /// Connections that have ended since the last watermark.
    ended: Vec<(Connection, Outcome)>,
    /// Records until the next batch.
    records: Vec<LogRecord>,
    /// Number of records before the newest watermark: they have their time.
    dated: usize,
    /// The newest watermark.
    seen: Timestamp,
    /// When the next batch is due.
    closes: Timestamp,
    memory: Arc<SharedMemoryPressure>,
    telemetry: Telemetry,
}

impl Connections {
    /// An aggregator that follows no connection yet.
    pub fn new(config: &Config, context: &BuildContext) -> Self {
        Self {
            pipeline: Arc::clone(&context.pipeline),
            tracker: Tracker::new(config.max_connections.get()),
            udp: UdpTable::new(if config.udp { config.max_udp_flows.get() } else { 0 }),
            config: config.clone(),
            ended: Vec::new(),
            records: Vec::new(),
            dated: 0,
            seen: Timestamp::default(),
            closes: Timestamp::default(),
            memory: Arc::clone(&context.memory),
            telemetry: Telemetry::new(context),
        }
    }

    fn fold_tcp(&mut self, receiver: u16, pressure: MemoryPressure, record: &TcpRecord) {
        let key = Key::of(receiver, &record.flow);
        if self.config.hops.drops(record) {
            // In mode `events` a client's hop is not known when it opens.
            self.tracker.remove(&key);
            self.telemetry.lost(record, LossReason::LocalHop);
            return;
        }
        if let Some(outcome) = outcome_of(record) {
            let connection = self.tracker.close(key, receiver, record);
            self.ended.push((connection, outcome));
            return;
        }
        if pressure == MemoryPressure::Hard {
            self.telemetry.lost(record, LossReason::MemoryLimit);
            return;
        }
        if receiver == FlowBatch::DETACHED {
            // No census will ever find out that it has ended.
            let connection = Connection::first(receiver, record);
            self.ended.push((connection, Outcome::Detached));
            return;
        }
        let may_grow = pressure == MemoryPressure::None;
        if let Err(reason) = self.tracker.update(key, receiver, record, may_grow) {
            self.telemetry.lost(record, reason);
        }
    }

    fn fold_udp(&mut self, receiver: u16, pressure: MemoryPressure, record: &UdpRecord) {
        if record.unplaced {
            self.telemetry.lost_udp(record, LossReason::NoFlow);
        } else if pressure == MemoryPressure::Hard && !record.end.is_last() {
            self.telemetry.lost_udp(record, LossReason::MemoryLimit);
        } else if receiver == FlowBatch::DETACHED {
            self.udp.detach(record, self.seen);
        } else {
            let may_grow = pressure == MemoryPressure::None;
            if let Err(reason) = self.udp.update(receiver, record, self.seen, may_grow) {
                self.telemetry.lost_udp(record, reason);
            }
        }
    }

    /// The tracker has let go of `closing`.
    fn end_all(&mut self, closing: Vec<Connection>, outcome: Outcome) {
        let closing = closing.into_iter().map(|connection| (connection, outcome));
        self.ended.extend(closing);
    }

    /// Gives records to what has ended, and to what is due, at the watermark `to`.
    fn settle(&mut self, to: Timestamp) {
        self.date_drops(to);
        for (mut connection, outcome) in std::mem::take(&mut self.ended) {
            connection.begin(to);
            self.record(connection, outcome, to);
        }
        let oldest = self.oldest_that_can_wait(to);
        // Taken out of itself, so that the records can be made while it is walked.
        let mut tracker = std::mem::replace(&mut self.tracker, Tracker::new(0));
        for connection in tracker.connections_mut() {
            connection.begin(to);
            let due = connection.reported_at() < oldest && connection.has_moved();
            // Without room it keeps what it has for its next record, also outside the sample: the records that are left out are
            // those that it would have in the sample.
            if !due || !self.has_room() {
                continue;
            }
            if connection.chance(&self.config.sample).is_some() {
                self.push(connection, Outcome::Active, to);
            } else {
                self.telemetry.left_out(connection, LossReason::Sample);
                connection.pass_over(Outcome::Active, to);
            }
        }
        self.tracker = tracker;
        self.settle_udp(to, oldest);
        self.seen = to;
    }

    /// The moment such that a connection reported before it has a record at the watermark `to`. If watermarks go on as they come, a
    /// record at the next would be passed on more than `active_timeout` after the one before.
    fn oldest_that_can_wait(&self, to: Timestamp) -> Timestamp {
        let step = to.since(self.seen).as_nanos();
        let next = u128::from(to.as_nanos()) + step;
        let closes = if to < self.closes && self.seen <= to {
            self.closes
        } else {
            to.next_multiple(self.config.interval)
        };
        // A batch is passed on at the first watermark from when it is due.
        let missing = u128::from(closes.as_nanos()).saturating_sub(next);
        let passed_on = next + missing.div_ceil(step.max(1)) * step;
        let oldest = passed_on.saturating_sub(self.config.active_timeout.as_nanos());
        Timestamp::from_nanos(u64::try_from(oldest).unwrap_or(u64::MAX))
    }

    /// Gives records to UDP flows that have ended, and to those that were reported before `oldest`, at the watermark `to`.
    fn settle_udp(&mut self, to: Timestamp, oldest: Timestamp) {
        for (mut flow, outcome) in self.udp.settle(to, self.config.idle_timeout) {
            match flow.chance(&self.config.sample) {
                None => self.telemetry.udp_left_out(&flow, LossReason::Sample),
                Some(probability) if self.has_room() || outcome == Outcome::Detached => {
                    self.records.push(flow.report(outcome, probability, to));
                }
                Some(_) => self.telemetry.udp_left_out(&flow, LossReason::MaxRecords),
            }
        }
        for flow in self.udp.due(oldest) {
            if self.records.len() >= self.config.max_records.get() {
                // They keep what they have for their next record.
                break;
            }
            if let Some(probability) = flow.chance(&self.config.sample) {
                self.records.push(flow.report(Outcome::Active, probability, to));
            } else {
                self.telemetry.udp_left_out(flow, LossReason::Sample);
                flow.pass_over(Outcome::Active, to);
            }
        }
    }

    fn has_room(&self) -> bool {
        self.records.len() < self.config.max_records.get()
    }

    /// Makes the last record of a connection, or counts why there is none.
    fn record(&mut self, mut connection: Connection, outcome: Outcome, to: Timestamp) {
        connection.outcome = outcome;
        if connection.chance(&self.config.sample).is_none() {
            self.telemetry.left_out(&connection, LossReason::Sample);
        } else if self.has_room() || outcome == Outcome::Detached {
            self.push(&mut connection, outcome, to);
        } else {
            self.telemetry.left_out(&connection, LossReason::MaxRecords);
        }
    }

    fn push(&mut self, connection: &mut Connection, outcome: Outcome, to: Timestamp) {
        let probability = connection.chance(&self.config.sample).unwrap_or(1.0);
        let log = connection.report(outcome, probability, to);
        self.records.push(LogRecord {
            at: to,
            flow: connection.flow.clone(),
            body: LogBody::Connection(log),
        });
    }

    /// Gives records to DNS transactions and dropped packets, if the config wants them.
    fn fold_events(&mut self, batch: &FlowBatch, pressure: MemoryPressure) {
        if pressure == MemoryPressure::Hard {
            let left_out = batch.dns.len() * usize::from(self.config.dns)
                + batch.drops.len() * usize::from(self.config.drops);
            for _ in 0..left_out {
                self.telemetry.event_left_out(LossReason::MemoryLimit);
            }
            return;
        }
        let (dns, drops) = (self.config.dns, self.config.drops);
        for record in batch.dns.iter().filter(|_| dns) {
            self.push_event(LogRecord::from(record));
        }
        for record in batch.drops.iter().filter(|_| drops) {
            // The time of what has none itself is the watermark that follows it.
            match record.to_log(Timestamp::default()) {
                Some(log) => self.push_event(log),
                None => self.telemetry.event_left_out(LossReason::NoFlow),
            }
        }
    }

    fn push_event(&mut self, record: LogRecord) {
        if self.has_room() {
            self.records.push(record);
        } else {
            self.telemetry.event_left_out(LossReason::MaxRecords);
        }
    }

    /// Gives the watermark `to` to drops since the one before.
    fn date_drops(&mut self, to: Timestamp) {
        let undated = |record: &&mut LogRecord| record.at == Timestamp::default();
        for record in self.records[self.dated..].iter_mut().filter(undated) {
            record.at = to;
        }
        self.dated = self.records.len();
    }

    fn batch(&mut self, at: Timestamp, cut_short: Option<usize>) -> Output {
        self.tracker.shrink();
        self.udp.shrink();
        self.telemetry.tracked(self.tracker.len(), self.udp.len());
        self.closes = at.next_multiple(self.config.interval);
        self.dated = 0;
        LogBatch {
            pipeline: Arc::clone(&self.pipeline),
            at,
            last: cut_short.is_some(),
            records: std::mem::take(&mut self.records),
            cut_short: cut_short.unwrap_or(0),
        }
        .into()
    }
}

/// The outcome of a connection whose last record this is; `None` if it is open.
fn outcome_of(record: &TcpRecord) -> Option<Outcome> {
    let events = record.events;
    if events.contains(Events::FAILED) {
        Some(Outcome::Failed)
    } else if events.contains(Events::RESET) {
        Some(Outcome::Reset)
    } else if record.is_broken() {
        Some(Outcome::Broken)
    } else if events.contains(Events::CLOSED) {
        Some(Outcome::Closed)
    } else {
        None
    }
}

impl Aggregator for Connections {
    fn begin(&mut self, at: Timestamp) {
        self.seen = at;
        self.closes = at.next_multiple(self.config.interval);
    }

    fn fold(&mut self, batch: &FlowBatch) {
        let pressure = self.memory.state();
        if batch.census == Census::WHOLE && batch.records() == 0 {
            // The engine's way to say that the receiver is gone.
            let closing = self.tracker.forget(batch.receiver);
            self.end_all(closing, Outcome::Detached);
            // Not UDP flows: a census whose connections a filter has all dropped looks the same. They end by `idle_timeout`.
            return;
        }
        if batch.census.begins {
            self.tracker.begin_census(batch.receiver);
        }
        // A connect that waits is not a connection yet; its end is recorded.
        for record in batch.tcp.iter().filter(|record| !record.is_connecting()) {
            self.fold_tcp(batch.receiver, pressure, record);
        }
        let udp = self.config.udp;
        for record in batch.udp.iter().filter(|_| udp) {
            self.fold_udp(batch.receiver, pressure, record);
        }
        for finding in &batch.findings {
            self.push_event(LogRecord::from(finding));
        }
        self.fold_events(batch, pressure);
        if batch.census.ends {
            let closing = self.tracker.end_census(batch.receiver);
            self.end_all(closing, Outcome::Lost);
        }
    }

    fn wants_census(&self, receiver: u16) -> bool {
        self.tracker.wants_census(receiver)
    }

    fn request_census(&mut self) {
        self.tracker.request_census();
    }

    fn advance(&mut self, to: Timestamp) -> Option<Output> {
        let set_back = to < self.seen;
        if set_back {
            tracing::warn!(now = %to, before = %self.seen, "the clock was set back; flow logs follow it; \
                hint: let the time service slew the clock");
            self.tracker.restart_clock(to);
            self.udp.restart_clock(to);
        }
        self.settle(to);
        (set_back || to >= self.closes).then(|| self.batch(to, None))
    }

    fn finish(&mut self, at: Timestamp) -> Output {
        let at = at.max(self.seen);
        self.settle(at);
        let whole = self.records.len();
        let mut tracker = std::mem::replace(&mut self.tracker, Tracker::new(0));
        for connection in tracker.connections_mut() {
            if connection.chance(&self.config.sample).is_some() {
                self.push(connection, Outcome::Detached, at);
            } else {
                self.telemetry.left_out(connection, LossReason::Sample);
                connection.pass_over(Outcome::Detached, at);
            }
        }
        self.tracker = tracker;
        for flow in self.udp.flows_mut() {
            if let Some(probability) = flow.chance(&self.config.sample) {
                self.records.push(flow.report(Outcome::Detached, probability, at));
            } else {
                self.telemetry.udp_left_out(flow, LossReason::Sample);
                flow.pass_over(Outcome::Detached, at);
            }
        }
        let cut_short = self.records.len() - whole;
        let output = self.batch(at, Some(cut_short));
        // Its replacement has its own.
        self.telemetry.tracked(0, 0);
        output
    }

    fn hand_over(self: Box<Self>) -> Option<Inheritance> {
        Some(self)
    }

    fn take_over(&mut self, before: Inheritance) {
        if let Ok(before) = before.downcast::<Self>() {
            let Self {
                tracker, udp, seen, ..
            } = *before;
            self.seen = seen;
            self.udp.continue_with(udp);
            self.tracker.continue_with(tracker);
        }
    }
}

const _: () = assert!(
    size_of::<Connection>() <= 480,
    "an entry takes more memory than is documented"
);
