//! Roles that outlive a flow which was idle: of the next flow of the same socket and peer the first datagram may be the server's.

use std::collections::HashMap;

use flowtap_ebpf::UdpChange;
use flowtap_ebpf::udp::abi::UdpKey;
use flowtap_pipeline::{Role, RoleSource, UdpRecord};

/// Flows that are remembered; beyond that all are forgotten, and the first datagram decides again.
const REMEMBERED: usize = 1 << 14;

/// Roles by socket and peer.
#[derive(Debug, Default)]
pub(super) struct Roles(HashMap<UdpKey, (Role, RoleSource)>);

impl Roles {
    /// Gives `record` the role that its flow had before, if that is remembered; remembers it when the flow ends.
    pub(super) fn apply(&mut self, change: &UdpChange, record: &mut UdpRecord) {
        let key = change.flow.key;
        if let Some((role, source)) = self.0.get(&key) {
            (record.flow.role, record.flow.role_source) = (*role, *source);
        }
        if change.closed && record.flow.role != Role::Unknown {
            if self.0.len() >= REMEMBERED {
                self.0.clear();
            }
            self.0.insert(key, (record.flow.role, record.flow.role_source));
        }
    }
}

#[cfg(test)]
mod tests {
    use flowtap_ebpf::UdpDelta;
    use flowtap_ebpf::udp::abi::UdpFlow;

    use super::*;
    use crate::ebpf::udp::convert;

    fn role_of(roles: &mut Roles, marks: u32, closed: bool) -> Role {
        let change = UdpChange {
            flow: UdpFlow {
                key: UdpKey {
                    socket: 7,
                    remote_port: 40_000,
                    family: 2,
                    ..UdpKey::default()
                },
                marks,
                ..UdpFlow::default()
            },
            delta: UdpDelta::default(),
            opened: true,
            closed,
            idle: closed,
        };
        let mut record = convert::record(&change);
        roles.apply(&change, &mut record);
        record.flow.role
    }

    #[test]
    fn a_server_that_sends_first_after_a_pause_stays_a_server() {
        let mut roles = Roles::default();
        let received = UdpFlow::FIRST_RECEIVED | UdpFlow::BOUND;
        assert_eq!(role_of(&mut roles, received, true), Role::Server);
        let sent = UdpFlow::FIRST_SENT | UdpFlow::BOUND;
        assert_eq!(role_of(&mut roles, sent, false), Role::Server);
        assert_eq!(role_of(&mut Roles::default(), sent, false), Role::Client);
    }
}
