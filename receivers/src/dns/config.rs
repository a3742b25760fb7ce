//! Config of DNS transactions, as the receiver `ebpf` has it below `dns`.

use std::time::Duration;

use flowtap_pipeline::Violation;
use flowtap_pipeline::schema::{DurationText, SizeText};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::policy::Names;

/// Most ports that can be watched.
pub const MAX_PORTS: usize = 8;

/// Settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Whether DNS messages over UDP are read. Takes effect where UDP is measured.
    pub enabled: bool,
    /// UDP ports of name servers, 1 to 8 of them; 5353 is mDNS.
    pub ports: Vec<u16>,
    /// Time after the last query at which a transaction without an answer has timed out. From 100 ms to 10 min.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub timeout: Duration,
    /// Queries that can wait for an answer at a time: from 1 to 1,048,576. Those beyond are counted as lost.
    pub max_pending: usize,
    /// Size of the ring buffer of messages, some 200 bytes each: a power of two from 4096 to 2^30. Messages that do not fit are counted
    /// as lost.
    #[serde(with = "flowtap_pipeline::size")]
    #[schemars(with = "SizeText")]
    pub ring_buffer_bytes: u32,
    /// Names in records: in the label `qname`, in recordings and for the processor `names`.
    pub names: Names,
    /// Names that can be values of the label `qname`: from 1 to 100,000. Further ones are `other`.
    pub max_names: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            ports: vec![53],
            timeout: Duration::from_secs(5),
            max_pending: 8192,
            ring_buffer_bytes: 1 << 21,
            names: Names::None,
            max_names: 200,
        }
    }
}

impl Config {
    /// The ports that the kernel side watches: none if DNS is not enabled.
    pub fn kernel_ports(&self) -> &[u16] {
        if self.enabled { &self.ports } else { &[] }
    }

    /// The violations, with paths below the key `dns`.
    pub fn validate(&self) -> Vec<Violation> {
        let is_new = |(index, port): (usize, &u16)| !self.ports[..index].contains(port);
        let rules = [
            (
                (1..=MAX_PORTS).contains(&self.ports.len())
                    && !self.ports.contains(&0)
                    && self.ports.iter().enumerate().all(is_new),
                "ports",
                "must be 1 to 8 different ports, none of them 0",
            ),
            (
                (Duration::from_millis(100)..=Duration::from_secs(600)).contains(&self.timeout),
                "timeout",
                "must be from 100ms to 10m",
            ),
            (
                (1..=1 << 20).contains(&self.max_pending),
                "max_pending",
                "must be from 1 to 1048576",
            ),
            (
                self.ring_buffer_bytes.is_power_of_two()
                    && (1 << 12..=1 << 30).contains(&self.ring_buffer_bytes),
                "ring_buffer_bytes",
                "must be a power of two from 4096 to 1073741824",
            ),
            (
                (1..=100_000).contains(&self.max_names),
                "max_names",
                "must be from 1 to 100000",
            ),
        ];
        let broken = rules.into_iter().filter(|(holds, ..)| !holds);
        broken
            .map(|(_, key, message)| Violation {
                path: vec!["dns".to_owned(), key.to_owned()],
                message: message.to_owned(),
            })
            .chain(self.names.violation("dns.names"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_checked_with_their_keys() {
        assert_eq!(Config::default().validate(), []);
        let config = Config {
            ports: vec![53, 53],
            timeout: Duration::ZERO,
            max_pending: 0,
            ring_buffer_bytes: 5000,
            max_names: 0,
            ..Config::default()
        };
        let keys: Vec<_> = config
            .validate()
            .into_iter()
            .map(|fault| fault.path.join("."))
            .collect();
        assert_eq!(
            keys,
            [
                "dns.ports",
                "dns.timeout",
                "dns.max_pending",
                "dns.ring_buffer_bytes",
                "dns.max_names"
            ]
        );
    }
}
