//! The processor `attributes`: constant labels, other names of labels, shorter addresses, names of networks.
//!
//! In: records of any signal. Out: the same, with `peer_network`, and with shortened addresses. The rules:
//!
//! 1. `add`, `rename` and `drop` are the same for all series of the pipeline: the window applies them when it renders a series, and
//!    a record costs nothing ([`LabelChanges`](flowtap_pipeline::LabelChanges)).
//! 2. The peer's network is the smallest of `networks` that its whole address is in.
//! 3. Then addresses are shortened: bits beyond the prefix become 0. Later components see the shortened address, so those
//!    that look addresses up come before. The addresses on the wire are shortened like those of the socket: the backend like the
//!    peer's, the frontend like this side's.

mod config;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use flowtap_pipeline::{
    BuildContext, BuildError, Factory, Flow, FlowBatch, Hop, PeerClass, Processor, ProcessorConfig,
    ProcessorStage, Stability, Translation,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

pub use self::config::{AddressOf, Config, Network, Truncate};

use crate::ranges::Ranges;

/// The processor type `attributes`.
pub const FACTORY: Factory<dyn ProcessorConfig> = Factory::of::<Config>(
    "attributes",
    "adds, renames and drops labels, shortens addresses, names networks",
    Stability::Beta,
);

impl ProcessorConfig for Config {
    fn build(&self, _: &BuildContext) -> Result<ProcessorStage, BuildError> {
        Ok(ProcessorStage::Transform(Box::new(Attributes::new(self))))
    }
}

/// The processor.
#[derive(Debug)]
pub struct Attributes {
    networks: Option<Networks>,
    shortening: Option<Shortening>,
}

/// Names of networks by address.
#[derive(Debug)]
struct Networks {
    names: Vec<Arc<str>>,
    /// Index in `names`.
    ranges: Ranges<Option<usize>>,
}

impl Networks {
    fn new(networks: &[Network]) -> Self {
        let (mut v4, mut v6) = (PrefixMap::new(), PrefixMap::new());
        for (index, network) in networks.iter().enumerate() {
            for cidr in &network.cidrs {
                match cidr.0 {
                    IpNet::V4(net) => v4.insert(net, index),
                    IpNet::V6(net) => v6.insert(net, index),
                };
            }
        }
        let smallest = |addr: IpAddr| match addr {
            IpAddr::V4(addr) => v4.get_lpm(&Ipv4Net::from(addr)).map(|(_, index)| *index),
            IpAddr::V6(addr) => v6.get_lpm(&Ipv6Net::from(addr)).map(|(_, index)| *index),
        };
        let all = networks
            .iter()
            .flat_map(|network| network.cidrs.iter().map(|cidr| cidr.0));
        Self {
            names: networks
                .iter()
                .map(|network| network.name.as_str().into())
                .collect(),
            ranges: Ranges::new(all, smallest),
        }
    }

    fn name(&self, addr: IpAddr) -> Option<Arc<str>> {
        let index = self.ranges.value(addr)?;
        Some(Arc::clone(&self.names[index]))
    }
}

/// Bits of addresses that stay.
#[derive(Debug)]
struct Shortening {
    v4: u32,
    v6: u128,
    remote: bool,
    local: bool,
    /// Empty: all.
    classes: Vec<PeerClass>,
}

impl Shortening {
    fn new(truncate: &Truncate) -> Self {
        let class = |name: &String| {
            let built_in = PeerClass::BUILT_IN
                .into_iter()
                .find(|class| class.as_str() == name);
            built_in.or_else(|| PeerClass::custom(name))
        };
        Self {
            v4: u32::MAX.checked_shl(32 - u32::from(truncate.ipv4)).unwrap_or(0),
            v6: u128::MAX.checked_shl(128 - u32::from(truncate.ipv6)).unwrap_or(0),
            remote: truncate.ends.contains(&AddressOf::Remote),
            local: truncate.ends.contains(&AddressOf::Local),
            classes: truncate.classes.iter().filter_map(class).collect(),
        }
    }

    const fn shorten(&self, addr: IpAddr) -> IpAddr {
        match addr {
            IpAddr::V4(addr) => IpAddr::V4(Ipv4Addr::from_bits(addr.to_bits() & self.v4)),
            IpAddr::V6(addr) => IpAddr::V6(Ipv6Addr::from_bits(addr.to_bits() & self.v6)),
        }
    }

    /// The ends on the wire, with those addresses shortened that name a peer or this side, of a flow with its whole addresses. An end
    /// that is the socket's stays that.
    fn on_the_wire(&self, flow: &Flow, mut wire: Translation) -> Translation {
        let (local, remote) = (flow.local.addr, flow.remote.addr);
        // Redirected to a proxy at this side's own address, by which that is recognized.
        let is_here = wire.remote.addr == local && local != remote;
        let shortens = if is_here { self.local } else { self.remote };
        if shortens {
            wire.remote.addr = self.shorten(wire.remote.addr);
        }
        // A proxy's connection from its application: what that connected to is its peer.
        let is_peer = wire.local.addr != local && flow.hop() == Some(Hop::FromApplication);
        if self.local || (self.remote && is_peer) {
            wire.local.addr = self.shorten(wire.local.addr);
        }
        wire
    }

    fn apply(&self, flow: &mut Flow) {
        let class = flow.class.unwrap_or(PeerClass::Unknown);
        if !self.classes.is_empty() && !self.classes.contains(&class) {
            return;
        }
        if let Some(translation) = flow.translation.as_deref() {
            let wire = self.on_the_wire(flow, *translation);
            if wire != *translation {
                flow.translation = Some(Arc::new(wire));
            }
        }
        if self.remote {
            flow.remote.addr = self.shorten(flow.remote.addr);
        }
        if self.local {
            flow.local.addr = self.shorten(flow.local.addr);
        }
    }
}

impl Attributes {
    /// From its config.
    pub fn new(config: &Config) -> Self {
        Self {
            networks: (!config.networks.is_empty()).then(|| Networks::new(&config.networks)),
            shortening: config.truncate.as_ref().map(Shortening::new),
        }
    }
}

impl Processor for Attributes {
    fn process(&mut self, batch: &mut FlowBatch) {
        if self.networks.is_none() && self.shortening.is_none() {
            return;
        }
        for flow in batch.flows_mut() {
            if let Some(networks) = &self.networks {
                flow.peer_network = networks.name(flow.remote.addr);
            }
            if let Some(shortening) = &self.shortening {
                shortening.apply(flow);
            }
        }
    }
}

#[cfg(test)]
mod tests;
