//! Config of the receiver `ebpf`.

use std::path::PathBuf;
use std::time::Duration;

use flowtap_ebpf::MAX_SOCKETS;
use flowtap_pipeline::schema::{DurationText, SizeText};
use flowtap_pipeline::{ComponentConfig, Contract, RecordField, Signal, Sockets, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::inspect::InspectConfig;
use super::udp::{IcmpConfig, UdpConfig, UdpHooks};
use crate::dns::Names;

/// Capture mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The best mode that loads.
    #[default]
    Auto,
    /// State changes, and a scan of the sockets' own totals once per interval. Linux 5.12 and later.
    Sockets,
    /// A record per received data segment. Linux 5.8 and later.
    Events,
}

/// Packets that are counted when the kernel drops them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DropsMode {
    /// None.
    Off,
    /// All, by reason and network namespace.
    #[default]
    Reasons,
    /// All, by flow as well, for up to 4,096 flows per interval. Costs some 150 ns per dropped packet.
    Flows,
}

/// Reading of the addresses that packets have on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TranslationMode {
    /// Not read.
    Off,
    /// From the headers of what a connection has in flight: in mode `sockets` when a scan finds something in flight, in mode
    /// `events` with the first segment that finds it. With `inspect` at the first segment that acknowledges it, so for short connections
    /// as well.
    #[default]
    Scan,
}

/// Settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Capture mode.
    pub mode: Mode,
    /// Interval at which the sockets' totals are read. At least 100 ms.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub interval: Duration,
    /// Size of each ring buffer: a power of two from 4096 to 2^30. Unset: 4 MiB in mode `sockets`, which has one, for
    /// connections that closed and for what a scan found; 16 MiB in mode `events`, which has two.
    #[serde(with = "flowtap_pipeline::size::option")]
    #[schemars(with = "Option<SizeText>")]
    pub ring_buffer_bytes: Option<u32>,
    /// Mode `events`: capacity, in events, of the channel between the rings and the pipelines. At
    /// least 1.
    pub channel_capacity: usize,
    /// Connections that can be tracked at a time where they are followed in a table: on a kernel without a scan over socket storage
    /// (`flowtap doctor`), and in mode `events` on a kernel without mode `sockets`, where each takes about 200 bytes of kernel
    /// memory from the start. Those beyond are counted with their bytes when they close. From 1 to 16777216. A reload can lower
    /// and raise it.
    pub max_sockets: u32,
    /// Counting of packets that the kernel drops. Linux 5.17 and later; on older kernels a warning says that they are not.
    pub drops: DropsMode,
    /// The pod behind a service address, and the client behind a masquerade: whether they are read from the headers of packets.
    pub translation: TranslationMode,
    /// Interval at which listening ports are read again from `proc_root`, and accepted connections
    /// get the process to which they were passed. At least 1 s.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub scan_listen_interval: Duration,
    /// The proc file system: `/proc`, or the mount of the host's in a container.
    pub proc_root: PathBuf,
    /// UDP, beside TCP, in any mode.
    pub udp: UdpConfig,
    /// DNS transactions, where UDP is measured.
    pub dns: crate::dns::Config,
    /// ICMP messages, as the kernel counts them.
    pub icmp: IcmpConfig,
    /// Application protocols, names of TLS servers, and answer times.
    pub inspect: InspectConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            interval: Duration::from_secs(5),
            ring_buffer_bytes: None,
            channel_capacity: 409_600,
            max_sockets: 1 << 16,
            drops: DropsMode::default(),
            translation: TranslationMode::default(),
            scan_listen_interval: Duration::from_secs(30),
            proc_root: PathBuf::from("/proc"),
            udp: UdpConfig::default(),
            dns: crate::dns::Config::default(),
            icmp: IcmpConfig::default(),
            inspect: InspectConfig::default(),
        }
    }
}

impl Config {
    /// Whether headers are read for the addresses on the wire.
    pub(super) fn reads_translations(&self) -> bool {
        self.translation == TranslationMode::Scan
    }

    /// Whether DNS transactions have names.
    fn gives_names(&self) -> bool {
        self.udp.enabled && self.dns.enabled && self.dns.names != Names::None
    }

    /// Names are in payload.
    fn names_without_payload(&self) -> Option<Violation> {
        (self.gives_names() && self.udp.hooks == UdpHooks::Tracepoints).then(|| {
            let message = "there are no DNS transactions with `udp.hooks: tracepoints`, which sees no payload; hint: set `udp.hooks` to \
                           `auto` or `cgroup`, or `dns.names` to `none`";
            Violation {
                path: vec!["dns".to_owned(), "names".to_owned()],
                message: message.to_owned(),
            }
        })
    }
}

impl ComponentConfig for Config {
    fn contract(&self) -> Contract {
        let udp = [Signal::Udp].into_iter().filter(|_| self.udp.enabled);
        let dns = [Signal::Dns]
            .into_iter()
            .filter(|_| self.udp.enabled && self.dns.enabled);
        let drops = [Signal::Drops]
            .into_iter()
            .filter(|_| self.drops != DropsMode::Off);
        let mut contract = Contract::default()
            .gives([Signal::Tcp, Signal::Listening])
            .gives(udp.chain(dns).chain(drops))
            .fills([RecordField::Process, RecordField::Container, RecordField::Netns])
            .covers(Sockets::TcpOfNode)
            .proc_root(&self.proc_root)
            .every(self.interval);
        if self.reads_translations() {
            contract = contract.fills([RecordField::Translation]);
        }
        let inspect = &self.inspect;
        contract = contract
            .fills_with(RecordField::DnsName, &["dns", "names"], self.gives_names())
            .fills_with(
                RecordField::Protocol,
                &["inspect", "protocols"],
                inspect.protocols,
            )
            .fills_with(
                RecordField::ServerName,
                &["inspect", "server_names"],
                inspect.has_server_names(),
            );
        if self.udp.enabled && self.udp.hooks == UdpHooks::Cgroup {
            contract.net_admin()
        } else {
            contract
        }
    }

    fn validate(&self) -> Vec<Violation> {
        let mut faults = Vec::new();
        if self.interval < Duration::from_millis(100) {
            faults.push(Violation::new("interval", "must be at least 100ms"));
        }
        if let Some(bytes) = self.ring_buffer_bytes
            && (!bytes.is_power_of_two() || !(1 << 12..=1 << 30).contains(&bytes))
        {
            let message = format!(
                "{bytes} is not a power of two from 4096 to 1073741824; hint: the next one is {}",
                bytes.clamp(1 << 12, 1 << 30).next_power_of_two()
            );
            faults.push(Violation::new("ring_buffer_bytes", message));
        }
        // tokio's channels count in half of a usize, less some bits.
        if !(1..=1 << 28).contains(&self.channel_capacity) {
            faults.push(Violation::new("channel_capacity", "must be from 1 to 268435456"));
        }
        if !(1..=MAX_SOCKETS).contains(&self.max_sockets) {
            let message = format!("{} is not from 1 to {MAX_SOCKETS}", self.max_sockets);
            faults.push(Violation::new("max_sockets", message));
        }
        if self.scan_listen_interval < Duration::from_secs(1) {
            faults.push(Violation::new("scan_listen_interval", "must be at least 1s"));
        }
        faults.extend(self.udp.validate());
        faults.extend(self.dns.validate());
        faults.extend(self.names_without_payload());
        faults.extend(self.inspect.validate());
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Config::default().validate(), []);
    }

    #[test]
    fn dns_names_need_hooks_that_see_payload() {
        let mut config = Config::default();
        config.udp.hooks = UdpHooks::Tracepoints;
        assert_eq!(config.validate(), []);
        config.dns.names = Names::Full;
        let faults = config.validate();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert_eq!(faults[0].path.join("."), "dns.names");
        config.udp.hooks = UdpHooks::Cgroup;
        assert_eq!(config.validate(), []);
    }

    #[test]
    fn every_bound_that_is_broken_is_reported_at_once() {
        let config = Config {
            interval: Duration::from_millis(1),
            ring_buffer_bytes: Some(5000),
            scan_listen_interval: Duration::ZERO,
            ..Config::default()
        };
        let faults = config.validate();
        let keys: Vec<_> = faults.iter().map(|fault| fault.path.join(".")).collect();
        assert_eq!(keys, ["interval", "ring_buffer_bytes", "scan_listen_interval"]);
        assert!(faults[1].message.contains("8192"), "{}", faults[1].message);
    }
}
