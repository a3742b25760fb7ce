//! Config of UDP in the receiver `ebpf`.

use std::time::Duration;

use flowtap_ebpf::Hooks;
use flowtap_pipeline::Violation;
use flowtap_pipeline::schema::DurationText;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Hooks that see datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UdpHooks {
    /// As `functions`; where these can't be used UDP is not measured, and a warning says why.
    #[default]
    Auto,
    /// Functions of UDP, by `fentry`, fprobe or kprobes, whichever works. Exact, and no cost for TCP.
    Functions,
    /// Programs of the root cgroup. Needs `CAP_NET_ADMIN`, and costs TCP some per cent. Received datagrams count when they are
    /// queued.
    Cgroup,
    /// Tracepoints at `sendmsg` and `recvmsg`, Linux 6.3 and later. Peers of sockets that are not connected are not known, and a
    /// call counts as one datagram. Costs TCP some per cent.
    Tracepoints,
}

impl UdpHooks {
    pub(super) const fn kernel(self) -> Hooks {
        match self {
            Self::Auto | Self::Functions => Hooks::Functions,
            Self::Cgroup => Hooks::Cgroup,
            Self::Tracepoints => Hooks::Tracepoints,
        }
    }
}

/// UDP, beside TCP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UdpConfig {
    /// Whether UDP is measured.
    pub enabled: bool,
    /// Hooks that see datagrams. With a value other than `auto` the receiver does not start without them.
    pub hooks: UdpHooks,
    /// Sockets, and further peers of sockets, that can be followed at a time: each takes about 250 bytes of kernel memory from the
    /// start. Datagrams of those beyond are counted without peer. At least 64.
    pub max_flows: u32,
    /// A flow without a datagram for so long is removed; the next datagram begins another one. At least 1 s.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub idle: Duration,
}

impl Default for UdpConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            hooks: UdpHooks::default(),
            max_flows: 16_384,
            idle: Duration::from_secs(15),
        }
    }
}

impl UdpConfig {
    /// The violations, with paths below the key `udp`.
    pub(in crate::ebpf) fn validate(&self) -> Vec<Violation> {
        let mut faults = Vec::new();
        if !(64..=1 << 22).contains(&self.max_flows) {
            let message = format!("{} is not from 64 to 4194304", self.max_flows);
            faults.push(Violation::new("udp.max_flows", message));
        }
        if self.idle < Duration::from_secs(1) {
            faults.push(Violation::new("udp.idle", "must be at least 1s"));
        }
        faults
    }
}

/// ICMP, as the kernel counts it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IcmpConfig {
    /// Whether messages are read from the kernel's counters, once per `interval`.
    pub enabled: bool,
}

impl Default for IcmpConfig {
    fn default() -> Self {
        Self { enabled: true }
    }
}
