//! The window: what a record says to each family, and what a closed window looks like.

use std::sync::Arc;
use std::time::Duration;

use flowtap_pipeline::telemetry::ProcessorTelemetry;
use flowtap_pipeline::{
    Aggregator, BuildContext, Census, EventCount, EventHop, FamilyKind, FamilySnapshot, Findings, Flow,
    FlowBatch, Inheritance, MemoryPressure, Output, Series, SharedMemoryPressure, Timestamp,
};

mod close;
mod continuation;
mod dns;
mod drops;
mod exchanges;
mod findings;
mod limits;
mod listening;
mod readings;
mod tcp;
mod telemetry;
mod udp;

use self::telemetry::Telemetry;
use super::catalog::Catalog;
use super::config::{Config, Top};
use super::connections::Connections;
use super::key::KeyInputs;
use super::levels::Levels;
use super::listening::Listening;
use super::packed::Direction;
use super::readings::Readings;
use super::sizes::Sizes;
use super::store::Store;
use super::totals::Totals;
use super::value::{Histogram, Observation, Sum};
use crate::hops::{Hops, LOCAL_HOP};
use flowtap_pipeline::catalog::{FAMILIES, FamilyId};

/// Why records are left out: memory is above its hard limit.
const MEMORY_LIMIT: &str = "memory_limit";

/// The aggregator.
#[derive(Debug)]
pub struct Window {
    pipeline: Arc<str>,
    interval: Duration,
    expiration: [Duration; FAMILIES.len()],
    rtt_include_local_peers: bool,
    hops: Hops,
    catalog: Catalog,
    totals: Totals,
    max_series: [usize; FAMILIES.len()],
    tops: [Option<Top>; FAMILIES.len()],
    sums: Store<Sum>,
    histograms: Store<Histogram>,
    connections: Connections,
    /// Bytes in each of `Queue::ALL`.
    queues: Levels<3>,
    /// Connects that wait, and their retransmitted SYNs.
    connecting: Levels<2>,
    sizes: Sizes,
    listening: Listening,
    readings: Readings,
    /// Has the processors that make findings.
    findings: Arc<Findings>,
    memory: Arc<SharedMemoryPressure>,
    /// Counters of records dropped because of memory pressure.
    shed: ProcessorTelemetry,
    /// Series that a reload has ended, until the next window lists them.
    ended: Vec<(FamilyId, Series)>,
    /// Families that a reload has disabled, renamed or given other buckets, with the series that end with them, until the next window
    /// lists them.
    gone: Vec<FamilySnapshot>,
    /// Where the open window began.
    opened: Timestamp,
    /// Where it ends.
    closes: Timestamp,
    telemetry: Telemetry,
}

impl Window {
    /// A window without series. It opens with [`Aggregator::begin`].
    pub fn new(config: &Config, context: &BuildContext) -> Self {
        let (max_series, tops) = (config.max_series_of_each(), config.top_of_each());
        Self {
            pipeline: Arc::clone(&context.pipeline),
            interval: config.interval,
            expiration: config.expiration_of_each(),
            rtt_include_local_peers: config.rtt_include_local_peers,
            hops: config.hops,
            catalog: Catalog::new(config, &context.label_changes),
            totals: Totals::default(),
            max_series,
            tops,
            sums: Store::new(&max_series, &tops),
            histograms: Store::new(&max_series, &tops),
            connections: Connections::default(),
            queues: Levels::default(),
            connecting: Levels::default(),
            sizes: Sizes::default(),
            listening: Listening::default(),
            readings: Readings::default(),
            findings: Arc::clone(&context.findings),
            memory: Arc::clone(&context.memory),
            shed: ProcessorTelemetry::new(
                &context.meter,
                &context.id,
                &context.pipeline,
                &[MEMORY_LIMIT, LOCAL_HOP],
            ),
            ended: Vec::new(),
            gone: Vec::new(),
            opened: Timestamp::default(),
            closes: Timestamp::default(),
            telemetry: Telemetry::new(context),
        }
    }

    fn release(&mut self, slot: u32, count: u64) {
        if let Some(gauge) = self.sums.value_mut(slot) {
            gauge.release(count);
        }
    }

    fn begin_census(&mut self, receiver: u16) {
        let sums = &mut self.sums;
        self.connections.begin_census(receiver, |slot, count| {
            if let Some(gauge) = sums.value_mut(slot) {
                gauge.release(count);
            }
        });
    }

    fn end_census(&mut self, receiver: u16) {
        let sums = &mut self.sums;
        let mut lost = 0_u64;
        self.connections.end_census(receiver, |slot| {
            lost += 1;
            if let Some(gauge) = sums.value_mut(slot) {
                gauge.release(1);
            }
        });
        if self.catalog.is_enabled(FamilyId::ConnectionsActive) {
            let connections = &self.connections;
            self.sizes
                .retain_open(receiver, |cookie| connections.may_be_open(receiver, cookie));
        }
        if lost > 0 {
            tracing::debug!(
                connections = lost,
                "a census did not find connections that were open: the records of their ends were lost"
            );
        }
    }

    fn fold_count(&mut self, count: &EventCount) {
        let family = match count.hop {
            EventHop::Received => FamilyId::EventReceived,
            EventHop::Dropped => FamilyId::EventDropped,
        };
        if let Some(key) = self.catalog.key_of_events(family, count.event_type) {
            let difference = i64::try_from(count.count).unwrap_or(i64::MAX);
            let hashed = (self.sums.hash(&key), key);
            self.sums
                .change(hashed, difference, self.opened, &mut self.catalog);
        }
    }

    /// Moves what was added up to the series, which it opens where there are none.
    fn fold_totals(&mut self) {
        for (cell, bytes) in self.totals.take() {
            if let Some(key) = self.catalog.key_of_total(cell) {
                let hashed = (self.sums.hash(&key), key);
                self.sums.change(hashed, bytes, self.opened, &mut self.catalog);
            }
        }
        self.sums.flush(self.opened, &mut self.catalog);
    }

    fn add(&mut self, family: FamilyId, flow: &Flow, inputs: KeyInputs<'_>, difference: i64) {
        if let Some(key) = self.catalog.key(family, flow, inputs) {
            let hashed = (self.sums.hash(&key), key);
            self.sums
                .change(hashed, difference, self.opened, &mut self.catalog);
        }
    }

    fn observe(&mut self, family: FamilyId, flow: &Flow, inputs: KeyInputs<'_>, value: f64) {
        let bounds = match self.catalog.family(family).kind {
            FamilyKind::Histogram(bounds) => Some(bounds),
            FamilyKind::ExponentialHistogram => None,
            FamilyKind::Counter | FamilyKind::Gauge | FamilyKind::UpDownCounter => return,
        };
        if let Some(key) = self.catalog.key(family, flow, inputs) {
            let observation = Observation { value, bounds };
            let hashed = (self.histograms.hash(&key), key);
            self.histograms
                .change(hashed, observation, self.opened, &mut self.catalog);
        }
    }
}

impl Aggregator for Window {
    fn begin(&mut self, at: Timestamp) {
        self.opened = at;
        self.closes = at.next_multiple(self.interval);
        self.open_findings();
        self.fold_totals();
    }

    fn opening(&self) -> Option<Output> {
        Some(Self::opening(self).into())
    }

    fn fold(&mut self, batch: &FlowBatch) {
        let memory = self.memory.state();
        let full = memory >= MemoryPressure::Soft;
        self.sums.set_frozen(full);
        self.histograms.set_frozen(full);
        if batch.census.begins {
            self.begin_census(batch.receiver);
        }
        if batch.census == Census::WHOLE && batch.records() == 0 {
            self.listening.end_receiver(batch.receiver);
            self.readings.end_receiver(batch.receiver);
        }
        if memory == MemoryPressure::Hard {
            self.shed_tcp(batch.receiver, &batch.tcp);
            self.shed_dns(&batch.dns);
            self.shed_udp(&batch.udp);
        } else {
            for record in &batch.dns {
                self.fold_dns(record);
            }
            for record in &batch.tcp {
                if self.hops.drops(record) {
                    self.drop_local(batch.receiver, record);
                } else {
                    self.fold_tcp(batch.receiver, record);
                }
            }
            for record in &batch.udp {
                self.fold_udp(record);
            }
        }
        if batch.census.ends {
            self.end_census(batch.receiver);
        }
        for count in &batch.counts {
            self.fold_count(count);
        }
        for finding in &batch.findings {
            self.fold_finding(finding);
        }
        self.fold_listening(batch.receiver, &batch.listening);
        for record in &batch.drops {
            self.fold_drop(record);
        }
        for count in &batch.icmp {
            self.fold_icmp(count);
        }
        for record in &batch.readings {
            self.fold_reading(batch.receiver, record);
        }
        self.sums.flush(self.opened, &mut self.catalog);
        self.histograms.flush(self.opened, &mut self.catalog);
    }

    fn wants_census(&self, receiver: u16) -> bool {
        self.catalog.is_enabled(FamilyId::ConnectionsActive) && self.connections.wants_census(receiver)
    }

    fn open_connections(&self, receiver: u16) -> u64 {
        self.connections.open_of(receiver)
    }

    fn request_census(&mut self) {
        self.connections.request_census();
    }

    fn advance(&mut self, to: Timestamp) -> Option<Output> {
        Self::advance(self, to).map(Output::from)
    }

    fn finish(&mut self, at: Timestamp) -> Output {
        Self::finish(self, at).into()
    }

    fn hand_over(self: Box<Self>) -> Option<Inheritance> {
        Some(self)
    }

    fn take_over(&mut self, before: Inheritance) {
        if let Ok(before) = before.downcast::<Self>() {
            self.continue_with(*before);
        }
    }
}

fn towards(direction: Direction) -> KeyInputs<'static> {
    KeyInputs {
        direction: Some(direction),
        ..KeyInputs::default()
    }
}

#[cfg(test)]
mod drops_tests;
#[cfg(test)]
mod readings_tests;
#[cfg(test)]
mod tests;
