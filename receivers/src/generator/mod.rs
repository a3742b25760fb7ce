//! The receiver `generator`: synthetic flows at a set rate and cardinality, for load tests of everything after it.
//!
//! In: nothing but its config. Out: records of connections that nobody has made, and a watermark per `interval`. The log says so
//! at the start. The rules, in order:
//!
//! 1. At the start `flows` connections open.
//! 2. In each interval the next `active_per_interval` of them, all in turn, move `sent_bytes` and `received_bytes` each.
//! 3. Then the `churn_per_interval` oldest close, and as many open.
//! 4. Then `dns_queries_per_interval` DNS transactions end, of this side with the name server 192.0.2.53.
//! 5. Then each of `udp_flows` UDP flows sends and receives `udp_datagrams` of `udp_datagram_bytes`, every 100th has a drop and an
//!    ICMP error, and the `udp_churn_per_interval` oldest close; as many begin in the next interval. Every other flow is QUIC.
//! 6. Then `dropped_packets_per_interval` packets are dropped, by five reasons in turn.
//! 7. Connection n, counted from 0 on, is to peer n modulo `peers`. So with as many peers as flows a new connection is to the
//!    peer of the one that has closed; with more, it is to the next peer, until all have had their turn.
//! 8. An interval that is over before its turn comes is left out and counted: `receiver_missed_intervals`.
//!
//! A peer is an address and a service's port, no two alike: `addresses` from `first_peer_address` on, of 198.18.0.0/15 (RFC 2544),
//! with port 443, then the same with 444 and so on; `2001:2::/48` (RFC 5180) with port 443. The port is the peer's own where this
//! side is the client, and this side's where it serves. This side is `local_address`, 192.0.2.1 (RFC 5737), and `2001:db8::1`
//! (RFC 3849), its process `generator`.
//!
//! After K intervals it has come to this, whatever the seed:
//!
//! | quantity | formula |
//! |---|---|
//! | records of TCP | `flows` + K × (`active_per_interval` + 2 × `churn_per_interval`) |
//! | bytes sent | K × `active_per_interval` × `sent_bytes` |
//! | bytes received | K × `active_per_interval` × `received_bytes` |
//! | connections opened | `flows` + K × `churn_per_interval` |
//! | connections closed | K × `churn_per_interval` |
//! | connections open | `flows` |
//! | DNS transactions | K × `dns_queries_per_interval`; of N one in 100, rounded down, without an answer, and one in 20 less these with NXDOMAIN |
//! | records of UDP | K × `udp_flows` |
//! | datagrams sent, and received | K × `udp_flows` × `udp_datagrams` |
//! | bytes in datagrams sent, and received | K × `udp_flows` × `udp_datagrams` × `udp_datagram_bytes` |
//! | drops of UDP sockets, ICMP errors of UDP, ICMP messages received | K × `udp_flows` / 100, rounded down before K |
//! | UDP flows opened | `udp_flows` + (K - 1) × `udp_churn_per_interval` |
//! | UDP flows closed | K × `udp_churn_per_interval` |
//! | dropped packets | K × `dropped_packets_per_interval`; of five one for each reason, from `NETFILTER_DROP` on |
//! | peers by IPv6 | `peers` × `ipv6_share`, rounded |
//! | peers that this side serves | `peers` × `server_share`, rounded |
//! | peers that moved bytes, if `peers` is `flows` | `flows`, at most K × `active_per_interval` |
//! | peers that moved bytes, if all flows are active | `flows` + (K - 1) × `churn_per_interval`, at most `peers` |
//!
//! If `peers` is `flows` and K × `active_per_interval` a multiple of it, each peer has moved the same. A peer that moved bytes
//! is a series of `network_tcp_flow_egress` or `_ingress` for each direction in which there are any.

mod config;
mod dns;
mod drops;
mod flows;
mod udp;

use std::time::Duration;

use flowtap_pipeline::{
    BuildContext, BuildError, Factory, FlowBatch, Receiver, ReceiverConfig, Sink, Stability, StageError,
    TcpRecord, Ticker, Timestamp,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;
use tokio_util::sync::CancellationToken;

pub use self::config::Config;
use self::dns::Queries;
use self::drops::Drops;
use self::flows::Flows;
use self::udp::Datagrams;
use crate::census;

/// Maximum number of records in a batch.
const BATCH_RECORDS: usize = 1024;

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
    queries: Queries,
    datagrams: Datagrams,
    drops: Drops,
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
            queries: Queries::new(&config),
            datagrams: Datagrams::new(&config),
            drops: Drops::new(&config),
            config,
            missed,
            receiver,
        }
    }

    /// Passes on the records of the interval `index`, which ended `at`. Returns whether all were passed on before `stop`.
    async fn interval(
        &self,
        index: u64,
        at: Timestamp,
        batch: &mut FlowBatch,
        stop: &CancellationToken,
        sink: &mut dyn Sink,
    ) -> bool {
        let mut accept = |batch: &mut FlowBatch| sink.accept(batch);
        let put_dns = |batch: &mut FlowBatch, record| batch.dns.push(record);
        let put_udp = |batch: &mut FlowBatch, record| batch.udp.push(record);
        let put_icmp = |batch: &mut FlowBatch, count| batch.icmp.push(count);
        let put_drop = |batch: &mut FlowBatch, record| batch.drops.push(record);
        let messages = self.datagrams.messages().into_iter();
        hand_on(self.flows.interval(index), put_tcp, batch, stop, &mut accept).await
            && hand_on(
                self.queries.interval(index, at),
                put_dns,
                batch,
                stop,
                &mut accept,
            )
            .await
            && hand_on(self.datagrams.interval(index), put_udp, batch, stop, &mut accept).await
            && hand_on(messages, put_icmp, batch, stop, &mut accept).await
            && hand_on(self.drops.interval(index), put_drop, batch, stop, &mut accept).await
    }

    /// Counts the intervals between two ticks.
    fn count_missed(&self, before: Timestamp, at: Timestamp) {
        let missed = intervals_between(before, at, self.config.interval);
        if missed > 0 {
            self.missed.add(missed, std::slice::from_ref(&self.receiver));
            tracing::warn!(
                missed,
                "the pipelines take longer than an interval; the rate is lower than configured; \
                hint: lower `flows`, or raise `interval`"
            );
        }
    }
}

fn put_tcp(batch: &mut FlowBatch, record: TcpRecord) {
    batch.tcp.push(record);
}

impl Receiver for Generator {
    fn start(&mut self) -> Result<(), StageError> {
        tracing::warn!(
            receiver = %self.receiver.value,
            flows = self.config.flows,
            "generating synthetic flows, which are not traffic of this machine; \
                hint: use the receiver `ebpf` to measure"
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
            if !hand_on(self.flows.opening(), put_tcp, &mut batch, &stop, |batch| sink.accept(batch)).await {
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
                    if !self.interval(done, at, &mut batch, &stop, sink).await {
                        return Ok(());
                    }
                    done += 1;
                    if done == intervals {
                        tracing::info!(receiver = %self.receiver.value, intervals, "all intervals are generated");
                    }
                }
                if sink.wants_census() {
                    census::begin(&mut batch);
                    if !hand_on(self.flows.census(done), put_tcp, &mut batch, &stop, |batch| sink.accept(batch)).await {
                        return Ok(());
                    }
                    census::end(&mut batch);
                    sink.accept(&mut batch);
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

/// Passes `records`, which `put` puts into a batch, to `accept`, which empties the batch, in batches of limited size. Returns
/// whether all were passed on before `stop`.
async fn hand_on<T>(
    mut records: impl Iterator<Item = T>,
    put: impl Fn(&mut FlowBatch, T),
    batch: &mut FlowBatch,
    stop: &CancellationToken,
    mut accept: impl FnMut(&mut FlowBatch),
) -> bool {
    loop {
        for record in records.by_ref().take(BATCH_RECORDS) {
            put(batch, record);
        }
        if batch.is_empty() {
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
