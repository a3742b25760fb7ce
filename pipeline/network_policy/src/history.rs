//! A cluster as it changes while flows are observed: which pod had an address, and with which labels, when a flow was seen.
//!
//! A cluster is listed now and then, so its state between two listings is not known exactly. The rules, for a flow that was seen
//! between two of them:
//!
//! 1. An address is of the pod that has it at both listings, or at one of them while no pod has it at the other. A pod that has
//!    come and ended between them had it also.
//! 2. If two pods have it in turn, the flow is of the earlier one if it was last seen before the later one was created, and of
//!    the later one if it was first seen after a container of it had started. Else it is not known whose it is.
//! 3. After the listing at which the pod of an address has ended or is gone, it is not known whose the address is.
//! 4. A container is of its pod, however long ago.
//! 5. A pod has the labels of the listing before the flow, or of the first that has the pod. The same holds for its namespace.
//! 6. Behind a service are the pods that it selects at either listing.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use flowtap_model::Timestamp;
use flowtap_model::cluster_objects::{
    ClusterChange, ObjectLabels, PodObject, PodStart, PortProtocol, ServiceObject,
};

use crate::service_ports::backend_port;

/// The clocks of two machines of a cluster, and of its API, may differ by this.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(2);

/// Index of a version of a pod in its [`History`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version(usize);

impl Version {
    pub(crate) const fn index(self) -> usize {
        self.0
    }
}

/// A pod with the labels that it and its namespace had for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodVersion {
    /// The pod. Its containers, and whether it has ended, do not count.
    pub pod: PodObject,
    /// The labels of its namespace; `None` if it was not listed.
    pub namespace: Option<ObjectLabels>,
}

/// The owner of an end of a flow when it was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The observation has no pods: only other sources know.
    #[default]
    Elsewhere,
    /// A pod.
    Pod(Version),
    /// One of several pods, or a pod that is not known.
    Unclear,
    /// No pod.
    Nobody,
}

/// The ends of a flow when it was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ends {
    /// This machine's.
    pub local: Owner,
    /// The peer.
    pub remote: Owner,
    /// The pods behind the peer, each with its port, if it is a service.
    pub backends: Option<Arc<[(Version, u16)]>>,
}

/// When a flow was seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Span {
    /// Not before this.
    pub first: Timestamp,
    /// Not after this.
    pub last: Timestamp,
}

/// A pod, or several of one name after each other.
#[derive(Debug)]
struct Slot {
    now: State,
    /// At the listing before; `None` if it was not there.
    before: Option<State>,
    start: Option<PodStart>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    version: Version,
    is_live: bool,
}

/// The relation of an address to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    /// The pod of this slot has it.
    Held(usize),
    /// The pod had it, and has ended or is gone.
    Left(usize),
}

/// The newest two states of a cluster, and every version of its pods.
#[derive(Debug, Default)]
pub struct History {
    versions: Vec<PodVersion>,
    slots: Vec<Slot>,
    by_name: HashMap<(String, String), usize>,
    /// Slots that differ from the listing before.
    touched: Vec<usize>,
    holders: HashMap<IpAddr, Holder>,
    /// Addresses whose holder has changed, with the one at the listing before.
    holders_before: HashMap<IpAddr, Option<Holder>>,
    containers: HashMap<String, usize>,
    /// Containers that were not there at the listing before.
    new_containers: HashSet<String>,
    namespaces: HashMap<String, ObjectLabels>,
    services: Vec<ServiceObject>,
    services_by_address: HashMap<IpAddr, usize>,
    /// Whether no pod was known at the listing before.
    is_first: bool,
}

impl History {
    /// Every version of a pod, in the order of their indexes.
    pub fn versions(&self) -> &[PodVersion] {
        &self.versions
    }

    /// Advances to the state that a listing showed.
    pub(crate) fn apply(&mut self, change: ClusterChange) {
        self.settle();
        // Of pods that have ended in the first listing it is not known when.
        self.is_first = self.slots.is_empty();
        let ClusterChange {
            objects,
            gone,
            starts,
        } = change;
        let mut relabelled = HashSet::new();
        for namespace in objects.namespaces {
            if self.namespaces.get(&namespace.name) != Some(&namespace.labels) {
                relabelled.insert(namespace.name.clone());
                self.namespaces.insert(namespace.name, namespace.labels);
            }
        }
        if !relabelled.is_empty() {
            for slot in 0..self.slots.len() {
                let pod = &self.versions[self.slots[slot].now.version.0].pod;
                if self.slots[slot].now.is_live && relabelled.contains(&pod.namespace) {
                    let pod = pod.clone();
                    self.slots[slot].now.version = self.version(pod, Some(slot));
                    self.touched.push(slot);
                }
            }
        }
        for name in gone {
            if let Some(slot) = self.by_name.get(&name).copied() {
                self.touched.push(slot);
                self.slots[slot].now.is_live = false;
                self.release(slot, &[]);
            }
        }
        // Addresses that are given up come first: another pod of the same listing may have them.
        let changed: Vec<_> = objects.pods.into_iter().map(|pod| self.update(pod)).collect();
        for (slot, is_holding, addresses) in changed {
            for address in addresses {
                if is_holding {
                    self.hold(address, Holder::Held(slot));
                } else if !matches!(self.holders.get(&address), Some(Holder::Held(_))) {
                    self.hold(address, Holder::Left(slot));
                }
            }
        }
        for start in starts {
            let name = (start.namespace.clone(), start.name.clone());
            if let Some(slot) = self.by_name.get(&name) {
                self.slots[*slot].start = Some(start);
            }
        }
        self.add_services(objects.services);
    }

    /// Makes the newest state that of the listing before also.
    pub(crate) fn settle(&mut self) {
        for slot in self.touched.drain(..) {
            let slot = &mut self.slots[slot];
            slot.before = Some(slot.now);
        }
        self.holders_before.clear();
        self.new_containers.clear();
    }

    /// The ends of a flow that was seen between the newest two states.
    pub(crate) fn ends(
        &self,
        (local, container): (IpAddr, Option<&str>),
        remote: IpAddr,
        span: Span,
    ) -> Ends {
        if self.slots.is_empty() {
            return Ends::default();
        }
        let contained = container.and_then(|id| self.of_container(id));
        Ends {
            local: contained.map_or_else(|| self.owner(local, span), Owner::Pod),
            remote: self.owner(remote, span),
            backends: None,
        }
    }

    /// The pods behind the service with this address, each with its port.
    pub(crate) fn backends(
        &self,
        address: IpAddr,
        port: u16,
        protocol: Option<PortProtocol>,
    ) -> Option<Arc<[(Version, u16)]>> {
        let service = &self.services[*self.services_by_address.get(&address)?];
        let mut found = Vec::new();
        if let Some(protocol) = protocol {
            for slot in self.slots.iter().filter(|slot| slot.is_live_at_either()) {
                let version = self.seen(slot);
                let pod = &self.versions[version.0].pod;
                let port = backend_port(service, port, protocol, pod);
                found.extend(port.map(|port| (version, port)));
            }
        }
        Some(found.into())
    }

    fn owner(&self, address: IpAddr, span: Span) -> Owner {
        let now = self.holders.get(&address).copied();
        let before = self.holders_before.get(&address).copied().unwrap_or(now);
        let pod = |slot: usize| Owner::Pod(self.seen(&self.slots[slot]));
        match (before, now) {
            (None, None) => Owner::Nobody,
            (Some(Holder::Held(slot)), Some(Holder::Held(newer))) if slot == newer => pod(slot),
            (Some(Holder::Held(slot)), Some(Holder::Held(newer))) => match self.begun(newer, span) {
                Begun::Before => Owner::Pod(self.slots[newer].now.version),
                Begun::After => pod(slot),
                Begun::Unknown => Owner::Unclear,
            },
            (Some(Holder::Held(slot)), Some(Holder::Left(same))) if slot == same => pod(slot),
            (Some(Holder::Held(slot)), None) => pod(slot),
            (None | Some(Holder::Left(_)), Some(Holder::Held(slot))) => match self.begun(slot, span) {
                Begun::After => Owner::Unclear,
                Begun::Before | Begun::Unknown => Owner::Pod(self.slots[slot].now.version),
            },
            // It has come and ended since the listing before.
            (None, Some(Holder::Left(slot))) if !self.is_first => Owner::Pod(self.slots[slot].now.version),
            (Some(Holder::Left(other)), Some(Holder::Left(slot))) if slot != other && !self.is_first => {
                Owner::Pod(self.slots[slot].now.version)
            }
            (_, Some(Holder::Left(_))) | (Some(Holder::Left(_)), None) => Owner::Unclear,
        }
    }

    /// Whether the pod of a slot had its addresses before a flow was seen, or only afterwards.
    fn begun(&self, slot: usize, span: Span) -> Begun {
        let Some(start) = &self.slots[slot].start else {
            return Begun::Unknown;
        };
        if span.last.plus(CLOCK_TOLERANCE) < start.created {
            Begun::After
        } else if start
            .started
            .is_some_and(|started| started.plus(CLOCK_TOLERANCE) < span.first)
        {
            Begun::Before
        } else {
            Begun::Unknown
        }
    }

    /// The version of a pod that a flow between the newest two states is of.
    fn seen(&self, slot: &Slot) -> Version {
        let before = slot.before.map(|before| before.version);
        // Before it had an address there was no flow of it.
        let before = before.filter(|version| !self.versions[version.0].pod.addresses.is_empty());
        before.unwrap_or(slot.now.version)
    }

    fn of_container(&self, id: &str) -> Option<Version> {
        let slot = &self.slots[*self.containers.get(id)?];
        Some(if self.new_containers.contains(id) {
            slot.now.version
        } else {
            self.seen(slot)
        })
    }

    /// Takes over a pod's state and gives up the addresses that it no longer has. Returns its slot, whether it has its addresses,
    /// and these.
    fn update(&mut self, pod: PodObject) -> (usize, bool, Vec<IpAddr>) {
        let name = (pod.namespace.clone(), pod.name.clone());
        let known = self.by_name.get(&name).copied();
        let (is_live, is_holding) = (!pod.ended, !pod.ended && !pod.host_network);
        // A pod on its node's network has none of its own, and leaves none.
        let own = if pod.host_network {
            Vec::new()
        } else {
            pod.addresses.clone()
        };
        if let Some(slot) = known {
            self.release(slot, if is_holding { &own } else { &[] });
        }
        let containers = pod.containers.clone();
        let version = self.version(pod, known);
        let now = State { version, is_live };
        let slot = known.unwrap_or(self.slots.len());
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.now = now;
        } else {
            self.by_name.insert(name, slot);
            self.slots.push(Slot {
                now,
                before: None,
                start: None,
            });
        }
        self.touched.push(slot);
        for container in containers {
            if self.containers.get(&container) != Some(&slot) {
                self.new_containers.insert(container.clone());
                self.containers.insert(container, slot);
            }
        }
        (slot, is_holding, own)
    }

    /// The index of a pod's version: that of its slot if nothing is different.
    fn version(&mut self, mut pod: PodObject, slot: Option<usize>) -> Version {
        pod.containers.clear();
        pod.ended = false;
        let namespace = self.namespaces.get(&pod.namespace).cloned();
        let version = PodVersion { pod, namespace };
        let last = slot.map(|slot| self.slots[slot].now.version);
        match last {
            Some(last) if self.versions[last.0] == version => last,
            _ => {
                self.versions.push(version);
                Version(self.versions.len() - 1)
            }
        }
    }

    /// Gives up a slot's addresses except `kept`.
    fn release(&mut self, slot: usize, kept: &[IpAddr]) {
        let pod = &self.versions[self.slots[slot].now.version.0].pod;
        let left: Vec<_> = pod
            .addresses
            .iter()
            .filter(|address| !kept.contains(address))
            .filter(|address| self.holders.get(address) == Some(&Holder::Held(slot)))
            .copied()
            .collect();
        for address in left {
            self.hold(address, Holder::Left(slot));
        }
    }

    fn hold(&mut self, address: IpAddr, holder: Holder) {
        let before = self.holders.insert(address, holder);
        if before != Some(holder) {
            self.holders_before.entry(address).or_insert(before);
        }
    }

    fn add_services(&mut self, services: Vec<ServiceObject>) {
        if services.is_empty() {
            return;
        }
        for service in services {
            let same = |it: &ServiceObject| (&it.namespace, &it.name) == (&service.namespace, &service.name);
            match self.services.iter_mut().find(|it| same(it)) {
                Some(known) => *known = service,
                None => self.services.push(service),
            }
        }
        let addresses = self.services.iter().enumerate();
        self.services_by_address = addresses
            .flat_map(|(index, service)| service.addresses.iter().map(move |address| (*address, index)))
            .collect();
    }
}

impl Slot {
    fn is_live_at_either(&self) -> bool {
        self.now.is_live || self.before.is_some_and(|before| before.is_live)
    }
}

/// When a pod began, as seen from a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begun {
    Before,
    After,
    Unknown,
}

#[cfg(test)]
mod tests;
