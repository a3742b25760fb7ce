//! The receiver `generator`: synthetic flows at a set rate and cardinality, for load tests of everything after it.
//!
//! In: nothing but its config. Out: records of connections that nobody has made, and a watermark per `interval`. The log says so
//! at the start. The rules, in order:
//!
//! 1. At the start `flows` connections open.
//! 2. In each interval the next `active_per_interval` of them, all in turn, move `sent_bytes` and `received_bytes` each.
//! 3. Then the `churn_per_interval` oldest close, and as many open.
//! 4. Connection n, counted from 0 on, is to peer n modulo `peers`. So with as many peers as flows a new connection is to the
//!    peer of the one that has closed; with more, it is to the next peer, until all have had their turn.
//! 5. An interval that is over before its turn comes is left out and counted: `receiver_missed_intervals`.
//!
//! A peer is an address and a service's port, no two alike: the first `addresses` of 198.18.0.0/15 (RFC 2544) with port 443, then
//! the same with 444 and so on; `2001:2::/48` (RFC 5180) with port 443. The port is the peer's own where this side is the client, and
//! this side's where it serves. This side is 192.0.2.1 (RFC 5737) and `2001:db8::1` (RFC 3849), its process `generator`.
//!
//! After K intervals it has come to this, whatever the seed:
//!
//! | quantity | formula |
//! |---|---|
//! | records | `flows` + K × (`active_per_interval` + 2 × `churn_per_interval`) |
//! | bytes sent | K × `active_per_interval` × `sent_bytes` |
//! | bytes received | K × `active_per_interval` × `received_bytes` |
//! | connections opened | `flows` + K × `churn_per_interval` |
//! | connections closed | K × `churn_per_interval` |
//! | connections open | `flows` |
//! | peers by IPv6 | `peers` × `ipv6_share`, rounded |
//! | peers that this side serves | `peers` × `server_share`, rounded |
//! | peers that moved bytes, if `peers` is `flows` | `flows`, at most K × `active_per_interval` |
//! | peers that moved bytes, if all flows are active | `flows` + (K - 1) × `churn_per_interval`, at most `peers` |
//!
//! If `peers` is `flows` and K × `active_per_interval` a multiple of it, each peer has moved the same. A peer that moved bytes
//! is a series of `network_tcp_flow_egress` or `_ingress` for each direction in which there are any.

mod flows;

use std::time::Duration;

use flowtap_pipeline::Ticker;
use flowtap_pipeline::schema::DurationText;
use flowtap_pipeline::{
    BuildContext, BuildError, ComponentConfig, Contract, Factory, FlowBatch, FlowRecord, Receiver,
    ReceiverConfig, RecordField, Sink, Stability, StageError, Timestamp, Violation,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use self::flows::Flows;

/// The most peers, and with them the most flows.
const MAX_PEERS: u32 = 10_000_000;

/// Number of addresses in 198.18.0.0/15.
const MAX_ADDRESSES: u32 = 1 << 17;

/// Number of ports from 443 on.
const PORTS: u32 = 65_536 - 443;

/// Maximum number of records in a batch.
const BATCH_RECORDS: usize = 1024;

/// Settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Number of connections that are open at a time, each to a separate peer: from 1 to
    /// 10,000,000.
    pub flows: u32,
    /// Number of peers that new connections go to in turn: from `flows` to 10,000,000. Unset: as
    /// many as `flows`, so that churn makes no new series.
    pub peers: Option<u32>,
    /// Interval at which flows move bytes. At least 100 ms.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub interval: Duration,
    /// Number of intervals after which no more bytes move; open connections stay open. At least 1.
    /// Unset: no limit.
    pub max_intervals: Option<u64>,
    /// Number of flows that move bytes in an interval, all in turn: at most `flows`. Unset: all.
    pub active_per_interval: Option<u32>,
    /// Number of connections that close in an interval, and of those that open: at most `flows`.
    pub churn_per_interval: u32,
    /// Bytes that an active flow sends in an interval.
    pub sent_bytes: u32,
    /// Bytes that an active flow receives in an interval.
    pub received_bytes: u32,
    /// Number of addresses that the IPv4 peers share: from 1 to 131,072. Peers of the same address
    /// differ by the service's port, of which there are 65,093 for each.
    pub addresses: u32,
    /// Share of the peers with an IPv6 address, each a different one: from 0 to 1.
    pub ipv6_share: f64,
    /// Share of the peers with role ingress; the others have egress. From 0 to 1.
    pub server_share: f64,
    /// Seed for the order of peers and their round-trip times. The same seed produces the same
    /// records; sums don't depend on it.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            flows: 1000,
            peers: None,
            interval: Duration::from_secs(1),
            max_intervals: None,
            active_per_interval: None,
            churn_per_interval: 0,
            sent_bytes: 1000,
            received_bytes: 10_000,
            addresses: MAX_ADDRESSES,
            ipv6_share: 0.0,
            server_share: 0.5,
            seed: 0,
        }
    }
}

impl ComponentConfig for Config {
    fn contract(&self) -> Contract {
        Contract::default().fills([RecordField::Process])
    }

    fn validate(&self) -> Vec<Violation> {
        let flows = self.flows;
        let active = self.active_per_interval.unwrap_or(flows);
        let is_share = |share: f64| (0.0..=1.0).contains(&share);
        let at_most = || format!("must be at most `flows`, {flows}");
        let share = || "must be from 0 to 1".to_owned();
        let fewest = self.peers.unwrap_or(flows).div_ceil(PORTS).max(1);
        let rules = [
            (
                (1..=MAX_PEERS).contains(&flows),
                "flows",
                format!("must be from 1 to {MAX_PEERS}"),
            ),
            (
                self.peers
                    .is_none_or(|peers| (flows..=MAX_PEERS).contains(&peers)),
                "peers",
                format!("must be from `flows`, {flows}, to {MAX_PEERS}"),
            ),
            (
                self.interval >= Duration::from_millis(100),
                "interval",
                "must be at least 100ms".to_owned(),
            ),
            (
                self.max_intervals != Some(0),
                "max_intervals",
                "must be at least 1".to_owned(),
            ),
            (active <= flows, "active_per_interval", at_most()),
            (self.churn_per_interval <= flows, "churn_per_interval", at_most()),
            (
                (fewest..=MAX_ADDRESSES).contains(&self.addresses),
                "addresses",
                format!("must be from {fewest}, required by the number of peers, to {MAX_ADDRESSES}"),
            ),
            (is_share(self.ipv6_share), "ipv6_share", share()),
            (is_share(self.server_share), "server_share", share()),
        ];
        let broken = rules.into_iter().filter(|(holds, ..)| !holds);
        broken
            .map(|(_, key, message)| Violation::new(key, message))
            .collect()
    }
}

impl ReceiverConfig for Config {
    fn build(&self, context: &BuildContext) -> Result<Box<dyn Receiver>, BuildError> {
        Ok(Box::new(Generator::new(self.clone(), context)))
    }
}

/// The receiver type `generator`.
pub const FACTORY: Factory<dyn ReceiverConfig> = Factory::of::<Config>(
    "generator",
    "synthetic flows at a set rate and cardinality, for load tests",
    Stability::Beta,
);

/// The receiver.
#[derive(Debug)]
pub struct Generator {
    config: Config,
    flows: Flows,
    missed: Counter<u64>,
    receiver: KeyValue,
}

impl Generator {
    /// A receiver of a valid config, before its first interval.
    pub fn new(config: Config, context: &BuildContext) -> Self {
        let receiver = KeyValue::new("receiver", context.id.to_string());
        let missed = context
            .meter
            .u64_counter("receiver_missed_intervals")
            .with_description("Intervals that were left out because those before took too long.")
            .with_unit("{interval}")
            .build();
        missed.add(0, std::slice::from_ref(&receiver));
        Self {
            flows: Flows::new(&config),
            config,
            missed,
            receiver,
        }
    }

    /// Counts the intervals between two ticks.
    fn count_missed(&self, before: Timestamp, at: Timestamp) {
        let missed = intervals_between(before, at, self.config.interval);
        if missed > 0 {
            self.missed.add(missed, std::slice::from_ref(&self.receiver));
            tracing::warn!(
                missed,
                "the pipelines take longer than an interval; the rate is lower than configured"
            );
        }
    }
}

impl Receiver for Generator {
    fn start(&mut self) -> Result<(), StageError> {
        tracing::warn!(
            receiver = %self.receiver.value,
            flows = self.config.flows,
            "generating synthetic flows, which are not traffic of this machine"
        );
        Ok(())
    }

    fn run<'a>(
        &'a mut self,
        sink: &'a mut dyn Sink,
        stop: CancellationToken,
    ) -> BoxFuture<'a, Result<(), StageError>> {
        async move {
            let mut batch = FlowBatch::default();
            if !hand_on(self.flows.opening(), &mut batch, &stop, |batch| sink.accept(batch)).await {
                return Ok(());
            }
            let intervals = self.config.max_intervals.unwrap_or(u64::MAX);
            let mut ticks = Ticker::new(self.config.interval);
            let (mut done, mut before) = (0, None);
            loop {
                let at = tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(()),
                    at = ticks.tick() => at,
                };
                if done < intervals {
                    self.count_missed(before.replace(at).unwrap_or(at), at);
                    let records = self.flows.interval(done);
                    if !hand_on(records, &mut batch, &stop, |batch| sink.accept(batch)).await {
                        return Ok(());
                    }
                    done += 1;
                    if done == intervals {
                        tracing::info!(receiver = %self.receiver.value, intervals, "all intervals are generated");
                    }
                }
                // Without new records time also advances, so that windows close and series expire.
                sink.watermark(at);
            }
        }
        .boxed()
    }
}

/// Number of intervals between two ticks; 0 if the clock was set back.
fn intervals_between(before: Timestamp, at: Timestamp, interval: Duration) -> u64 {
    let passed = at.since(before).as_nanos() / interval.as_nanos().max(1);
    u64::try_from(passed.saturating_sub(1)).unwrap_or(u64::MAX)
}

/// Passes `records` to `accept`, which empties the batch, in batches of limited size. Returns
/// whether all were passed on before `stop`.
async fn hand_on(
    mut records: impl Iterator<Item = FlowRecord>,
    batch: &mut FlowBatch,
    stop: &CancellationToken,
    mut accept: impl FnMut(&mut FlowBatch),
) -> bool {
    loop {
        batch.records.extend(records.by_ref().take(BATCH_RECORDS));
        if batch.records.is_empty() {
            return true;
        }
        accept(batch);
        // Other tasks run on this thread.
        tokio::task::yield_now().await;
        if stop.is_cancelled() {
            return false;
        }
    }
}

#[cfg(test)]
mod tests;
