//! Config of the exporter `ipfix`.

use std::num::NonZeroU32;
use std::time::Duration;

use flowtap_pipeline::schema::DurationText;
use flowtap_pipeline::{ComponentConfig, Contract, QueueConfig, Resource, Signal, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::address::{Address, InvalidAddress};
use super::message::Encoder;
use crate::push::retry::RetryConfig;
use flowtap_net::tls::ClientTls;

/// Smallest limit of messages: RFC 7011, section 10.3.3, has it for paths of which nothing is known.
pub(super) const MIN_MESSAGE_BYTES: u16 = 512;

/// Fits in a packet on every path of IPv6, whose smallest MTU is 1,280 bytes.
const DATAGRAM_BYTES: u16 = 1232;

/// Messages over a connection are as long as the records of a batch need, within this.
const STREAM_BYTES: u16 = 16_384;

/// Transport of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Datagrams; port 4739 by default.
    #[default]
    Udp,
    /// A TCP connection; port 4739 by default.
    Tcp,
    /// TLS over TCP; port 4740 by default.
    Tls,
}

impl Protocol {
    /// The port that IANA assigned (`ipfix`, `ipfixs`).
    const fn port(self) -> u16 {
        match self {
            Self::Udp | Self::Tcp => 4739,
            Self::Tls => 4740,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }
}

/// Settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The collector, such as `collector:4739`. Without a port it is 4739, or 4740 with `protocol: tls`.
    pub endpoint: String,
    /// Transport of messages.
    pub protocol: Protocol,
    /// Send both directions of a connection in one record (RFC 5103). False: a record for each direction, which every collector
    /// accepts.
    pub biflow: bool,
    /// Identifies this flowtap among those that a collector sees behind one address. Unset: derived from `service.instance.id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observation_domain_id: Option<NonZeroU32>,
    /// Interval at which templates are repeated over UDP: a collector that has missed them can't read flows until then. Over TCP
    /// and TLS they are sent once per connection.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub template_refresh: Duration,
    /// Maximum size of a message, from 512 to 65535; over UDP to 65507. Unset: 1232 over UDP, which no path fragments, else 16384.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 512, max = 65_535))]
    pub max_message_bytes: Option<u16>,
    /// Maximum duration of an attempt to send a message.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub timeout: Duration,
    /// Maximum duration of connecting. Unset: half of `timeout`.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DurationText>")]
    pub connect_timeout: Option<Duration>,
    /// TLS, with `protocol: tls`.
    pub tls: ClientTls,
    /// Retries of messages that can't be sent.
    pub retry: RetryConfig,
    /// Queue of batches while one is sent.
    pub sending_queue: QueueConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            protocol: Protocol::default(),
            biflow: true,
            observation_domain_id: None,
            template_refresh: Duration::from_secs(60),
            max_message_bytes: None,
            timeout: Duration::from_secs(10),
            connect_timeout: None,
            tls: ClientTls::default(),
            retry: RetryConfig::default(),
            sending_queue: QueueConfig::default(),
        }
    }
}

impl Config {
    pub(super) fn address(&self) -> Result<Address, InvalidAddress> {
        Address::parse(&self.endpoint, self.protocol.port())
    }

    /// The endpoint for logs and `/status`.
    pub(super) fn shown(&self) -> String {
        let address = self
            .address()
            .map_or_else(|_| self.endpoint.clone(), |address| address.to_string());
        format!("{}://{address}", self.protocol.as_str())
    }

    pub(super) fn encoder(&self) -> Encoder {
        let default = match self.protocol {
            Protocol::Udp => DATAGRAM_BYTES,
            Protocol::Tcp | Protocol::Tls => STREAM_BYTES,
        };
        Encoder {
            max_bytes: self.max_message_bytes.unwrap_or(default).into(),
            biflow: self.biflow,
        }
    }

    /// The configured id, or a hash of the instance's: 0 stands for no domain.
    pub(super) fn observation_domain(&self, resource: &Resource) -> u32 {
        if let Some(id) = self.observation_domain_id {
            return id.get();
        }
        let hash = crc32fast::hash(resource.instance().as_bytes());
        hash.max(1)
    }
}

impl ComponentConfig for Config {
    fn validate(&self) -> Vec<Violation> {
        let mut faults = Vec::new();
        if let Err(error) = self.address() {
            faults.push(Violation::new("endpoint", error.to_string()));
        }
        let largest = match self.protocol {
            // The payload of the largest datagram of IPv4.
            Protocol::Udp => 65_507,
            Protocol::Tcp | Protocol::Tls => u16::MAX,
        };
        if let Some(bytes) = self.max_message_bytes
            && !(MIN_MESSAGE_BYTES..=largest).contains(&bytes)
        {
            let message = format!("{bytes} is out of range: expected {MIN_MESSAGE_BYTES} to {largest}");
            faults.push(Violation::new("max_message_bytes", message));
        }
        for (key, duration) in [
            ("template_refresh", self.template_refresh),
            ("timeout", self.timeout),
            ("connect_timeout", self.connect_timeout.unwrap_or(Duration::MAX)),
        ] {
            if duration.is_zero() {
                faults.push(Violation::new(key, "must be longer than 0s"));
            }
        }
        if self.connect_timeout.is_some_and(|connect| connect > self.timeout) {
            let message = "must not be longer than `timeout`";
            faults.push(Violation::new("connect_timeout", message));
        }
        faults.extend(self.retry.validate());
        faults.extend(self.tls.validate());
        faults
    }

    fn warnings(&self) -> Vec<Violation> {
        let mut warnings = Vec::new();
        if self.tls != ClientTls::default() && self.protocol != Protocol::Tls {
            let message = format!(
                "has no effect with `protocol: {}`; hint: set `protocol: tls`, or remove it",
                self.protocol.as_str()
            );
            warnings.push(Violation::new("tls", message));
        }
        warnings
    }

    fn contract(&self) -> Contract {
        let contract = Contract::default().takes([Signal::Logs]).reads(self.tls.files());
        match self.address() {
            Ok(_) => contract.dials("endpoint", self.shown()),
            // `validate` reports it, and nothing is started.
            Err(_) => contract,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::resource;

    #[test]
    fn every_fault_is_reported_at_once_with_its_key() {
        let config = Config {
            endpoint: "udp://collector".to_owned(),
            max_message_bytes: Some(511),
            template_refresh: Duration::ZERO,
            connect_timeout: Some(Duration::from_secs(11)),
            retry: RetryConfig {
                initial_interval: Duration::ZERO,
                ..RetryConfig::default()
            },
            tls: ClientTls {
                cert_file: Some("client.crt".into()),
                ..ClientTls::default()
            },
            ..Config::default()
        };
        let faults = config.validate();
        let keys: Vec<_> = faults.iter().map(|fault| fault.path.join(".")).collect();
        assert_eq!(
            keys,
            [
                "endpoint",
                "max_message_bytes",
                "template_refresh",
                "connect_timeout",
                "retry.initial_interval",
                "tls"
            ]
        );
        assert_eq!(config.warnings().len(), 1);
        assert!(config.warnings()[0].message.contains("`protocol: tls`"));
    }

    #[test]
    fn the_address_has_the_protocols_port_and_is_dialled() {
        for (protocol, shown) in [
            (Protocol::Udp, "udp://collector:4739"),
            (Protocol::Tcp, "tcp://collector:4739"),
            (Protocol::Tls, "tls://collector:4740"),
        ] {
            let config = Config {
                endpoint: "collector".to_owned(),
                protocol,
                ..Config::default()
            };
            assert!(config.validate().is_empty());
            assert_eq!(config.contract().dials[0].address, shown);
        }
    }

    #[test]
    fn the_observation_domain_is_the_instances_unless_it_is_set() {
        let id = Config::default().observation_domain(&resource());
        assert_eq!(id, Config::default().observation_domain(&resource()));
        assert_ne!(id, Config::default().observation_domain(&Resource::default()));
        let config = Config {
            observation_domain_id: NonZeroU32::new(7),
            ..Config::default()
        };
        assert_eq!(config.observation_domain(&resource()), 7);
    }
}
