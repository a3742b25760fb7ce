//! Config of the aggregator `connections`.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::time::Duration;

use flowtap_pipeline::schema::DurationText;
use flowtap_pipeline::{ComponentConfig, Contract, RecordField, Signal, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::hops::Hops;

/// Connections and UDP flows that are kept whatever `ratio` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Always {
    /// Those that were never established, or ended by an error; UDP flows with an ICMP error.
    Failed,
    /// Those that one end reset.
    Reset,
    /// Those with a segment that this machine retransmitted.
    Retransmitting,
    /// UDP flows with a datagram for which the socket's receive buffer had no room.
    Dropping,
}

/// Which connections and UDP flows have records.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sample {
    /// Share of the connections and UDP flows that have records, from 0 to 1. Decided by the socket's cookie, of UDP also by the peer: all
    /// records of a connection or flow, or none.
    pub ratio: f64,
    /// Those that have records in any case, from the one that shows it on: `failed`, `reset`, `retransmitting`, and of UDP `dropping`.
    pub always: BTreeSet<Always>,
}

impl Default for Sample {
    fn default() -> Self {
        Self {
            ratio: 1.0,
            always: BTreeSet::from([
                Always::Failed,
                Always::Reset,
                Always::Retransmitting,
                Always::Dropping,
            ]),
        }
    }
}

/// Settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Interval at which records are passed to exporters. At least 100 ms.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub interval: Duration,
    /// Longest time that bytes of a connection or UDP flow that stays open wait for a record, and so about the interval of its records. At
    /// least `interval`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub active_timeout: Duration,
    /// A UDP flow of which the receiver reports nothing for so long has ended, as the report of its end may be lost. Longer than
    /// `receivers.ebpf.udp.idle`, after which the receiver ends idle flows. At least `interval`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub idle_timeout: Duration,
    /// Open connections that are followed, about half a KiB each. One beyond has a record at its end only.
    pub max_connections: NonZeroUsize,
    /// UDP flows that are followed, about half a KiB each. One beyond has a record at its end only.
    pub max_udp_flows: NonZeroUsize,
    /// Records per `interval`. Connections and flows that end beyond it are counted, and have no record.
    pub max_records: NonZeroUsize,
    /// Which connections and UDP flows have records.
    pub sample: Sample,
    /// Whether connections have records that do not leave their network namespace: those to a sidecar, and of a sidecar to its
    /// application.
    pub hops: Hops,
    /// Whether UDP flows have records.
    pub udp: bool,
    /// Whether DNS transactions have records.
    pub dns: bool,
    /// Whether dropped packets have records: those of a flow and a reason, once per interval of the receiver.
    pub drops: bool,
}

impl Default for Config {
    fn default() -> Self {
        const CONNECTIONS: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();
        const RECORDS: NonZeroUsize = NonZeroUsize::new(100_000).unwrap();
        Self {
            interval: Duration::from_secs(5),
            active_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(30),
            max_connections: CONNECTIONS,
            max_udp_flows: CONNECTIONS,
            max_records: RECORDS,
            sample: Sample::default(),
            hops: Hops::default(),
            udp: false,
            dns: false,
            drops: false,
        }
    }
}

impl ComponentConfig for Config {
    fn contract(&self) -> Contract {
        Contract::default()
            .takes([
                Signal::Tcp,
                Signal::Udp,
                Signal::Findings,
                Signal::Dns,
                Signal::Drops,
            ])
            .gives([Signal::Logs])
            .every(self.interval)
            .needs(RecordField::Role)
            .uses([RecordField::Class])
    }

    fn validate(&self) -> Vec<Violation> {
        let mut faults = Vec::new();
        if self.interval < Duration::from_millis(100) {
            faults.push(Violation::new("interval", "must be at least 100ms"));
        }
        for (key, timeout) in [
            ("active_timeout", self.active_timeout),
            ("idle_timeout", self.idle_timeout),
        ] {
            let interval = self.interval;
            if timeout < interval {
                let message = format!(
                    "`{key}` is {timeout:?}, shorter than `interval`, which is {interval:?}; \
                     hint: raise `{key}` to {interval:?} or more, or lower `interval`"
                );
                faults.push(Violation::new(key, message));
            }
        }
        if !(0.0..=1.0).contains(&self.sample.ratio) {
            let message = format!("expected a number from 0 to 1, found {}", self.sample.ratio);
            faults.push(Violation::new("sample.ratio", message));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_reported_with_its_key() {
        let config = Config {
            interval: Duration::ZERO,
            active_timeout: Duration::ZERO,
            sample: Sample {
                ratio: f64::NAN,
                ..Sample::default()
            },
            ..Config::default()
        };
        let keys: Vec<_> = config
            .validate()
            .iter()
            .map(|fault| fault.path.join("."))
            .collect();
        assert_eq!(keys, ["interval", "sample.ratio"]);
        let config = Config {
            active_timeout: Duration::from_secs(1),
            ..Config::default()
        };
        let fault = &config.validate()[0];
        assert_eq!(fault.path, ["active_timeout"]);
        assert_eq!(
            fault.message,
            "`active_timeout` is 1s, shorter than `interval`, which is 5s; \
             hint: raise `active_timeout` to 5s or more, or lower `interval`"
        );
        let config = Config {
            idle_timeout: Duration::from_secs(4),
            ..Config::default()
        };
        assert_eq!(config.validate()[0].path, ["idle_timeout"]);
        assert_eq!(Config::default().validate(), []);
    }
}
