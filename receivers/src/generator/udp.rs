//! Which UDP flows there are. As with connections all of it is arithmetic.

use flowtap_pipeline::flow::Transport;
use flowtap_pipeline::{Flow, IcmpCount, RoleSource, UdpApp, UdpEnd, UdpRecord};

use super::config::Config;
use super::flows::Flows;

/// Cookies of UDP flows begin above those of connections.
const FIRST_COOKIE: u64 = 1 << 40;

/// Of so many flows one has a dropped datagram and an ICMP error in each interval.
pub(super) const FAILING: u64 = 100;

/// `ECONNREFUSED`, and the ICMP type that causes it: destination unreachable (RFC 792).
const REFUSED: u16 = 111;
const UNREACHABLE: u8 = 3;

/// The UDP flows of a config.
#[derive(Clone, Debug)]
pub(super) struct Datagrams {
    flows: Flows,
    open: u64,
    churn: u64,
    /// Datagrams of a flow and an interval, each way, and their bytes.
    count: i64,
    bytes: i64,
}

impl Datagrams {
    pub(super) fn new(config: &Config) -> Self {
        let count = i64::from(config.udp_datagrams);
        Self {
            flows: Flows::new(&Config {
                flows: config.udp_flows,
                peers: None,
                ..config.clone()
            }),
            open: config.udp_flows.into(),
            churn: config.udp_churn_per_interval.into(),
            count,
            bytes: count * i64::from(config.udp_datagram_bytes),
        }
    }

    /// Records of the interval `index`, from 0 on: one for each flow.
    pub(super) fn interval(&self, index: u64) -> impl Iterator<Item = UdpRecord> {
        let first = index * self.churn;
        (0..self.open).map(move |place| {
            let flow = first + place;
            let is_failing = place % FAILING == FAILING - 1;
            UdpRecord {
                sent_bytes: self.bytes,
                received_bytes: self.bytes,
                sent_datagrams: self.count,
                received_datagrams: self.count,
                drops: is_failing.into(),
                errors: is_failing.into(),
                error: if is_failing { REFUSED } else { 0 },
                app: if flow.is_multiple_of(2) {
                    UdpApp::Quic
                } else {
                    UdpApp::Unknown
                },
                // The first interval has them all, each later one those that replace the closed ones.
                opened: index == 0 || place >= self.open - self.churn,
                end: if place < self.churn {
                    UdpEnd::Closed
                } else {
                    UdpEnd::Open
                },
                ..UdpRecord::new(Flow {
                    transport: Transport::Udp,
                    role_source: RoleSource::FirstDatagram,
                    cookie: FIRST_COOKIE + flow,
                    ..self.flows.flow(flow)
                })
            }
        })
    }

    /// The ICMP messages of an interval: one for each error of a flow.
    pub(super) fn messages(&self) -> Option<IcmpCount> {
        let count = self.open / FAILING;
        (count > 0).then_some(IcmpCount {
            netns: 0,
            is_v6: false,
            is_sent: false,
            message_type: UNREACHABLE,
            count,
        })
    }
}
