//! Listening ports, by network namespace.

use std::collections::{HashMap, HashSet};

use flowtap_pipeline::ListenChange;

/// The listening sockets that are known.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    /// Sockets by their cookies, per namespace and port.
    live: HashMap<(u32, u16), HashSet<u64>>,
    /// Where a cookie's socket listens, for closes that no longer know their port.
    places: HashMap<u64, (u32, u16)>,
    /// Ports of the last rescan of a namespace.
    rescanned: HashMap<u32, HashSet<u16>>,
}

impl Listeners {
    pub(super) fn apply(&mut self, change: &ListenChange) {
        match change {
            ListenChange::Opened(listener) => {
                let place = (listener.netns, listener.port);
                // A socket found again by a rescan, or bound to another address since it was first
                // reported.
                if let Some(old) = self.places.insert(listener.cookie, place)
                    && old != place
                {
                    self.forget(old, listener.cookie);
                }
                self.live.entry(place).or_default().insert(listener.cookie);
            }
            ListenChange::Closed(listener) => {
                if let Some(place) = self.places.remove(&listener.cookie) {
                    self.forget(place, listener.cookie);
                }
            }
            ListenChange::Rescanned { netns, ports } => {
                self.rescanned.insert(*netns, ports.iter().copied().collect());
            }
        }
    }

    fn forget(&mut self, place: (u32, u16), cookie: u64) {
        if let Some(sockets) = self.live.get_mut(&place) {
            sockets.remove(&cookie);
            if sockets.is_empty() {
                self.live.remove(&place);
            }
        }
    }

    /// Whether someone listens on `port` in `netns`; in any namespace if that is 0, unknown.
    pub(super) fn listens(&self, netns: u32, port: u16) -> bool {
        if netns == 0 {
            return self.live.keys().any(|&(_, listened)| listened == port)
                || self.rescanned.values().any(|ports| ports.contains(&port));
        }
        self.live.contains_key(&(netns, port))
            || self
                .rescanned
                .get(&netns)
                .is_some_and(|ports| ports.contains(&port))
    }
}
