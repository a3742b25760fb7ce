//! The window: what a record says to each family, and what a closed window looks like.

use std::sync::Arc;
use std::time::Duration;

use flowtap_pipeline::telemetry::ProcessorTelemetry;
use flowtap_pipeline::{
    Aggregator, BuildContext, Census, EventCount, EventHop, Family, FamilyKind, FamilySnapshot, Flow,
    FlowBatch, HistogramPoint, Inheritance, MemoryPressure, Output, Points, Series, SharedMemoryPressure,
    Snapshot, SumPoint, Timestamp, Unit, ValuePoint,
};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge};

mod dns;
mod drops;
mod exchanges;
mod findings;
mod limits;
mod listening;
mod readings;
mod tcp;
mod udp;

use super::catalog::Catalog;
use super::config::{Config, Top};
use super::connections::Connections;
use super::key::KeyInputs;
use super::levels::Levels;
use super::listening::Listening;
use super::packed::Direction;
use super::readings::{Readings, Rejection};
use super::sizes::Sizes;
use super::store::{Live, Store};
use super::totals::Totals;
use super::value::{Histogram, Observation, Sum};
use crate::hops::{Hops, LOCAL_HOP};
use flowtap_pipeline::catalog::{Definition, FAMILIES, FamilyId};

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

    /// Continues with the series of `before` that are the same here; the others end.
    fn continue_with(&mut self, before: Self) {
        let Self {
            mut catalog,
            totals,
            mut sums,
            mut histograms,
            mut connections,
            queues,
            connecting,
            sizes,
            listening,
            readings,
            opened,
            ..
        } = before;
        let families: [&Family; FAMILIES.len()] = FamilyId::ALL.map(|id| catalog.family(id));
        let stays = self.catalog.continues(&catalog);
        let ended = &mut self.ended;
        let mut keep = |family: FamilyId, series: &Series, is_exposed: bool| {
            if stays[family as usize] {
                return true;
            }
            if !is_exposed {
                return false;
            }
            ended.push((family, series.clone()));
            false
        };
        let moved = sums.sweep(opened, &mut catalog, |slot, is_exposed| {
            keep(slot.key.family(), slot.series, is_exposed)
        });
        if let Some(moved) = moved {
            connections.renumber(&moved);
        }
        histograms.sweep(opened, &mut catalog, |slot, is_exposed| {
            keep(slot.key.family(), slot.series, is_exposed)
        });
        // Of a family that has another name or other buckets, or is not exposed any more, the series end under the name and with the
        // buckets that they had.
        let is_exposed = |family: FamilyId| {
            let now = self.catalog.family(family);
            self.catalog.is_enabled(family) && *families[family as usize] == *now
        };
        let mut gone = FamilyId::ALL.map(|id| empty(families[id as usize]));
        self.ended.retain(|(family, series)| {
            let stays = is_exposed(*family);
            if !stays {
                gone[*family as usize].ended.push(series.clone());
            }
            stays
        });
        let gone = gone.into_iter().filter(|family| !family.ended.is_empty());
        self.gone.extend(gone);
        sums.set_budgets(&self.max_series, &self.tops);
        histograms.set_budgets(&self.max_series, &self.tops);
        if stays[FamilyId::Totals as usize] {
            self.totals = totals;
        }
        self.listening = listening.of_series(|family| stays[family as usize]);
        self.readings = readings.of_series(|family| stays[family as usize]);
        // Else the gauge is made anew from a census.
        if stays[FamilyId::ConnectionsActive as usize] {
            self.connections = connections;
        }
        if stays[FamilyId::QueuedBytes as usize] {
            self.queues = queues;
        }
        if stays[FamilyId::Connecting as usize] && stays[FamilyId::ConnectingRetransmits as usize] {
            self.connecting = connecting;
        }
        if stays[FamilyId::ConnectionSize as usize] {
            self.sizes = sizes;
        }
        self.catalog.take_over(catalog);
        self.sums = sums;
        self.histograms = histograms;
    }

    /// Number of points that a family has room for when a window closes: a list that grows step by step leaves holes in the heap as
    /// large as itself. A series `other` or two may come on top.
    const fn series_of(&self, family: FamilyId) -> usize {
        let live = self.sums.live()[family as usize] + self.histograms.live()[family as usize];
        live + live / 64
    }

    fn close(&mut self, at: Timestamp, last: bool) -> Snapshot {
        self.fold_levels(at);
        self.fold_totals();
        self.show_listening();
        self.show_readings(at);
        let mut families: Vec<_> = FamilyId::ALL
            .map(|id| {
                let mut family = empty(self.catalog.family(id));
                family.points.reserve(self.series_of(id));
                family
            })
            .into();
        for (family, series) in self.ended.drain(..) {
            families[family as usize].ended.push(series);
        }
        let outranked = [
            self.sums.rank(self.opened, &mut self.catalog),
            self.histograms.rank(self.opened, &mut self.catalog),
        ];
        for (family, series) in outranked.into_iter().flatten() {
            families[family as usize].ended.push(series);
        }
        families.append(&mut self.gone);
        let expiration = self.expiration;
        let expired = |family: FamilyId, updated: Timestamp| at.since(updated) >= expiration[family as usize];
        let moved = self.sums.sweep(at, &mut self.catalog, |mut slot, is_exposed| {
            let family = slot.key.family();
            let expired = |updated| expired(family, updated);
            if !is_exposed {
                return !expired(slot.updated);
            }
            close_sum(&mut families[family as usize], &mut slot, expired)
        });
        if let Some(moved) = moved {
            self.connections.renumber(&moved);
        }
        self.histograms.sweep(at, &mut self.catalog, |slot, is_exposed| {
            let family = slot.key.family();
            let expired = |updated| expired(family, updated);
            if !is_exposed {
                return !expired(slot.updated);
            }
            close_histogram(&mut families[family as usize], &slot, expired)
        });
        self.catalog.sweep();
        self.connections.shrink();
        let folded = [self.sums.take_folded(), self.histograms.take_folded()];
        // A family is in one of the two.
        let live = |family: usize| (self.sums.live()[family] + self.histograms.live()[family]) as u64;
        self.telemetry.record_series(live, &folded);
        let outranked = [self.sums.take_outranked(), self.histograms.take_outranked()];
        self.telemetry.record_outranked(&outranked);
        self.telemetry.record_connections(self.connections.len() as u64);
        let window = at.since(self.opened);
        self.opened = at;
        self.closes = at.next_multiple(self.interval);
        Snapshot {
            pipeline: Arc::clone(&self.pipeline),
            at,
            window,
            last,
            replaced: false,
            families,
        }
    }
}

impl Aggregator for Window {
    fn begin(&mut self, at: Timestamp) {
        self.opened = at;
        self.closes = at.next_multiple(self.interval);
        self.fold_totals();
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

impl Window {
    /// Closes the window if `to` has reached its end.
    pub fn advance(&mut self, to: Timestamp) -> Option<Snapshot> {
        if to < self.opened {
            // The clock was set back: a window that waits for the old time would wait as long as it was set back by.
            tracing::warn!(now = %to, before = %self.opened, "the clock was set back; windows follow it; \
                hint: let the time service slew the clock");
            return Some(self.close(to, false));
        }
        (to >= self.closes).then(|| self.close(to, false))
    }

    /// Closes the window, however short; nothing follows.
    pub fn finish(&mut self, at: Timestamp) -> Snapshot {
        let snapshot = self.close(at.max(self.opened), true);
        // Its replacement has separate series.
        self.telemetry.record_series(|_| 0, &[[0; FAMILIES.len()]; 2]);
        self.telemetry.record_connections(0);
        snapshot
    }
}

/// In a second: sums of times are kept in whole numbers of these.
const MICROSECONDS: f64 = 1e6;

/// Whether a counter or a gauge is of seconds.
fn is_time(family: &Family) -> bool {
    family.unit == Unit::Seconds && !family.kind.is_histogram()
}

fn empty(family: &'static Family) -> FamilySnapshot {
    let points = match family.kind {
        _ if is_time(family) => Points::Values(Vec::new()),
        FamilyKind::Counter | FamilyKind::Gauge | FamilyKind::UpDownCounter => Points::Sums(Vec::new()),
        FamilyKind::Histogram(_) | FamilyKind::ExponentialHistogram => Points::Histograms(Vec::new()),
    };
    FamilySnapshot {
        family,
        points,
        ended: Vec::new(),
    }
}

fn close_sum(
    family: &mut FamilySnapshot,
    slot: &mut Live<'_, Sum>,
    expired: impl Fn(Timestamp) -> bool,
) -> bool {
    let gauge = family.family.kind.can_fall();
    let (total, delta) = if gauge {
        (slot.value.level(), 0)
    } else {
        slot.value.total()
    };
    // A connection that is open for long changes nothing, and yet it is open.
    let stays = gauge && total > 0 || slot.key.family().is_permanent();
    if expired(slot.updated) && !stays {
        family.ended.push(slot.series.clone());
        return false;
    }
    let (series, updated) = (slot.series.clone(), slot.updated);
    match &mut family.points {
        Points::Sums(points) => points.push(SumPoint {
            series,
            total,
            delta,
            updated,
        }),
        Points::Values(points) => points.push(ValuePoint {
            series,
            value: total as f64 / MICROSECONDS,
            updated,
        }),
        Points::Histograms(_) => {}
    }
    true
}

fn close_histogram(
    family: &mut FamilySnapshot,
    slot: &Live<'_, Histogram>,
    expired: impl Fn(Timestamp) -> bool,
) -> bool {
    if expired(slot.updated) {
        family.ended.push(slot.series.clone());
        return false;
    }
    if let Points::Histograms(points) = &mut family.points {
        let Histogram { buckets, sum } = slot.value.clone();
        points.push(HistogramPoint {
            series: slot.series.clone(),
            buckets,
            sum,
            updated: slot.updated,
        });
    }
    true
}

fn towards(direction: Direction) -> KeyInputs<'static> {
    KeyInputs {
        direction: Some(direction),
        ..KeyInputs::default()
    }
}

/// Gauges of the store's size.
#[derive(Debug)]
struct Telemetry {
    live: Gauge<u64>,
    /// Families that `live` was recorded for, which must also be reported when they fall to 0.
    recorded: [bool; FAMILIES.len()],
    folded: Counter<u64>,
    outranked: Counter<u64>,
    connections: Gauge<u64>,
    untracked: Counter<u64>,
    unqueued: Counter<u64>,
    uncounted_connects: Counter<u64>,
    unsized_connections: Counter<u64>,
    rejected_readings: Counter<u64>,
    pipeline: KeyValue,
}

impl Telemetry {
    fn new(context: &BuildContext) -> Self {
        let telemetry = Self {
            live: context
                .meter
                .u64_gauge("processor_live_series")
                .with_description("Series that a window holds, by family.")
                .with_unit("{series}")
                .build(),
            recorded: [false; FAMILIES.len()],
            folded: context
                .meter
                .u64_counter("processor_folded_records")
                .with_description(
                    "Changes folded into a series `other` because their family is at `max_series`.",
                )
                .with_unit("{record}")
                .build(),
            outranked: context
                .meter
                .u64_counter("processor_outranked_series")
                .with_description(
                    "Series whose changes of a window went to `other`, as others rank above them (`top`); each counts once per window.",
                )
                .with_unit("{series}")
                .build(),
            connections: context
                .meter
                .u64_gauge("processor_tracked_connections")
                .with_description("Open connections that an aggregator follows one by one.")
                .with_unit("{connection}")
                .build(),
            untracked: context
                .meter
                .u64_counter("processor_untracked_connections")
                .with_description(
                    "Open connections beyond those that a window can follow one by one, and counts by series alone.",
                )
                .with_unit("{connection}")
                .build(),
            unqueued: context
                .meter
                .u64_counter("processor_unqueued_records")
                .with_description(
                    "Records of connections with queued bytes beyond those that a window can follow one by one; the gauge of \
                     queued bytes lacks theirs.",
                )
                .with_unit("{record}")
                .build(),
            uncounted_connects: context
                .meter
                .u64_counter("processor_uncounted_connecting_records")
                .with_description(
                    "Records of connects that wait for an answer beyond those that a window can follow one by one; the gauges of \
                     these lack theirs.",
                )
                .with_unit("{record}")
                .build(),
            unsized_connections: context
                .meter
                .u64_counter("processor_unsized_connections")
                .with_description(
                    "Connections that closed and are not in the histogram of connection sizes, because not all of their bytes were \
                     followed.",
                )
                .with_unit("{connection}")
                .build(),
            rejected_readings: context
                .meter
                .u64_counter("processor_rejected_readings")
                .with_description("Readings of devices that no series could take, by reason.")
                .with_unit("{record}")
                .build(),
            pipeline: KeyValue::new("pipeline", context.pipeline.to_string()),
        };
        for reason in Rejection::ALL {
            telemetry.reject_reading(reason, 0);
        }
        let counters = [
            &telemetry.untracked,
            &telemetry.unqueued,
            &telemetry.uncounted_connects,
            &telemetry.unsized_connections,
        ];
        for counter in counters {
            counter.add(0, std::slice::from_ref(&telemetry.pipeline));
        }
        for family in &FAMILIES {
            telemetry.folded.add(0, &telemetry.labels(family));
            telemetry.outranked.add(0, &telemetry.labels(family));
        }
        telemetry
    }

    fn labels(&self, family: &Definition) -> [KeyValue; 2] {
        [self.pipeline.clone(), KeyValue::new("family", family.family.name)]
    }

    /// Records how many series each family has, and counts what went into a series `other`.
    fn record_series(&mut self, live: impl Fn(usize) -> u64, folded: &[[u64; FAMILIES.len()]; 2]) {
        for (family, definition) in FAMILIES.iter().enumerate() {
            let live = live(family);
            self.recorded[family] |= live > 0;
            if self.recorded[family] {
                self.live.record(live, &self.labels(definition));
            }
            let folded = folded.iter().map(|by_family| by_family[family]).sum();
            if folded > 0 {
                self.folded.add(folded, &self.labels(definition));
            }
        }
    }

    /// Counts series whose changes went to a series `other` by their rank.
    fn record_outranked(&self, outranked: &[[u64; FAMILIES.len()]; 2]) {
        for (family, definition) in FAMILIES.iter().enumerate() {
            let outranked = outranked.iter().map(|by_family| by_family[family]).sum();
            if outranked > 0 {
                self.outranked.add(outranked, &self.labels(definition));
            }
        }
    }

    fn record_connections(&self, tracked: u64) {
        self.connections
            .record(tracked, std::slice::from_ref(&self.pipeline));
    }

    fn untracked(&self) {
        self.untracked.add(1, std::slice::from_ref(&self.pipeline));
    }

    fn unsized_connection(&self) {
        self.unsized_connections
            .add(1, std::slice::from_ref(&self.pipeline));
    }

    fn reject_reading(&self, reason: Rejection, count: u64) {
        let reason = KeyValue::new("reason", reason.as_str());
        self.rejected_readings
            .add(count, &[self.pipeline.clone(), reason]);
    }

    fn unqueued(&self) {
        self.unqueued.add(1, std::slice::from_ref(&self.pipeline));
    }

    fn uncounted_connect(&self) {
        self.uncounted_connects
            .add(1, std::slice::from_ref(&self.pipeline));
    }
}

#[cfg(test)]
mod drops_tests;
#[cfg(test)]
mod readings_tests;
#[cfg(test)]
mod tests;
