//! Findings of the option `inspect` of the receiver `ebpf`: the protocol that a connection speaks, the name that its client asks
//! for, and how long answers take.
//!
//! Only these leave the receiver, never a byte of payload.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// An application protocol, by the first bytes of a connection. A recording holds a variant by its position: append new ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AppProtocol {
    /// The bytes are of no protocol that is known here.
    #[default]
    Unknown,
    /// HTTP/1.0 and HTTP/1.1.
    Http,
    /// HTTP/2 without TLS, and with prior knowledge.
    Http2,
    /// gRPC over HTTP/2 without TLS.
    Grpc,
    /// TLS from the first byte on; what it carries is not visible.
    Tls,
    /// Redis.
    Redis,
    /// Memcached, its text protocol.
    Memcached,
    /// PostgreSQL, also if it changes to TLS later.
    Postgresql,
    /// MySQL and MariaDB, also if they change to TLS later.
    Mysql,
    /// Microsoft SQL Server (TDS).
    Mssql,
    /// MongoDB.
    Mongodb,
    /// Cassandra (CQL).
    Cassandra,
    /// Kafka.
    Kafka,
    /// AMQP 0-9-1 and 1.0.
    Amqp,
    /// MQTT.
    Mqtt,
    /// NATS.
    Nats,
    /// DNS over TCP.
    Dns,
    /// LDAP.
    Ldap,
    /// SSH.
    Ssh,
    /// SMTP.
    Smtp,
    /// SMB.
    Smb,
    /// BGP.
    Bgp,
}

impl AppProtocol {
    /// Every protocol.
    pub const ALL: [Self; 22] = [
        Self::Unknown,
        Self::Http,
        Self::Http2,
        Self::Grpc,
        Self::Tls,
        Self::Redis,
        Self::Memcached,
        Self::Postgresql,
        Self::Mysql,
        Self::Mssql,
        Self::Mongodb,
        Self::Cassandra,
        Self::Kafka,
        Self::Amqp,
        Self::Mqtt,
        Self::Nats,
        Self::Dns,
        Self::Ldap,
        Self::Ssh,
        Self::Smtp,
        Self::Smb,
        Self::Bgp,
    ];

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tls => "tls",
            Self::Redis => "redis",
            Self::Memcached => "memcached",
            Self::Postgresql => "postgresql",
            Self::Mysql => "mysql",
            Self::Mssql => "mssql",
            Self::Mongodb => "mongodb",
            Self::Cassandra => "cassandra",
            Self::Kafka => "kafka",
            Self::Amqp => "amqp",
            Self::Mqtt => "mqtt",
            Self::Nats => "nats",
            Self::Dns => "dns",
            Self::Ldap => "ldap",
            Self::Ssh => "ssh",
            Self::Smtp => "smtp",
            Self::Smb => "smb",
            Self::Bgp => "bgp",
        }
    }

    /// The value of OpenTelemetry's `network.protocol.name`, which has the version apart.
    pub const fn otel_name(self) -> &'static str {
        match self {
            Self::Http2 => "http",
            protocol => protocol.as_str(),
        }
    }

    /// The value of OpenTelemetry's `network.protocol.version`, where the first bytes settle it.
    pub const fn version(self) -> Option<&'static str> {
        match self {
            Self::Http2 => Some("2"),
            _ => None,
        }
    }
}

/// Findings in the first bytes of a connection, as far as the config asks for them.
///
/// ```
/// use flowtap_model::{AppProtocol, Inspection};
///
/// let inspection = Inspection { protocol: Some(AppProtocol::Tls), ..Inspection::default() };
/// assert_eq!(inspection.protocol.map(AppProtocol::as_str), Some("tls"));
/// assert_eq!(inspection.server_name, None);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// The protocol.
    pub protocol: Option<AppProtocol>,
    /// The name that a TLS client asks for, as a label: one of `max_names`, `other`, or `invalid` for what no host can be called.
    pub server_name: Option<Arc<str>>,
    /// The same, however many there are; `None` if it is not valid.
    pub server_name_full: Option<Arc<str>>,
    /// The protocols that a TLS client offers (ALPN), in its order: `h2,http/1.1`. Those that are not known are `other`.
    pub alpn: Option<Arc<str>>,
}

/// Exchanges of a connection since its last record: data one way, and the first data of its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchanges {
    /// The time of each answer, in µs: from the last segment of the request to the first one of the answer.
    pub durations_us: Vec<u32>,
}

impl Exchanges {
    /// Their number.
    pub const fn count(&self) -> usize {
        self.durations_us.len()
    }

    /// The sum of their times, in µs.
    pub fn sum_us(&self) -> u64 {
        self.durations_us.iter().copied().map(u64::from).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_protocol_has_a_name_of_its_own_in_lower_case() {
        let names: BTreeSet<_> = AppProtocol::ALL.map(AppProtocol::as_str).into();
        assert_eq!(names.len(), AppProtocol::ALL.len());
        assert!(names.iter().all(|name| {
            name.bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        }));
        assert_eq!(AppProtocol::Http2.otel_name(), "http");
        assert_eq!(AppProtocol::Http2.version(), Some("2"));
    }

    #[test]
    fn the_sum_of_exchanges_does_not_overflow() {
        let exchanges = Exchanges {
            durations_us: vec![u32::MAX; 3],
        };
        assert_eq!(
            (exchanges.count(), exchanges.sum_us()),
            (3, 3 * u64::from(u32::MAX))
        );
    }
}
