//! A cluster as it changes while flows are observed: which pod had an address, and with which labels, when a flow was seen.
//!
//! A cluster is listed now and then, so its state between two listings is not known exactly. The rules, for a flow that was seen
//! between two of them:
//!
//! 1. The pods that may have had an address are those that have it at either listing, and each that has come and ended between
//!    them, which the later one shows as ended. If it is one, the flow is of it.
//! 2. Of several, one is ruled out by a flow that was last seen before it was created, and all earlier ones by a flow that was first
//!    seen after a container of a later one had started. If that leaves more than one, it is not known whose the flow is.
//! 3. Nor is it if none is left, if the flow was last seen before a container of a new pod had started, and after the listing
//!    at which the pod of an address has ended or is gone.
//! 4. A container is of its pod, however long ago.
//! 5. A pod has the labels of the listing before the flow, or of the first that has the pod. The same holds for its namespace.
//! 6. Behind a service are the pods that it selects at either listing, by the selector that it has there.
//! 7. Of several services with one address each port is of its own. If several have the same port, it is of those that were listed last.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use flowtap_model::Timestamp;
use flowtap_model::cluster_objects::{
    ClusterChange, ObjectLabels, PodObject, PodStart, PortProtocol, ServiceObject,
};

use crate::service_ports::{backend_port, service_port};

/// The clocks of two machines of a cluster, and of its API, may differ by this.
pub(crate) const CLOCK_TOLERANCE: Duration = Duration::from_secs(2);

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
    /// The pods behind the peer, if it is the address of a service.
    pub backends: Option<Backends>,
}

/// The pods behind a port of an address that services have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Backends {
    /// The pods of a service, each with its port. Empty if a selector does not choose them.
    Pods(Arc<[(Version, u16)]>),
    /// The service has a selector, and no pod that is known is selected.
    NoPods,
    /// No service of the address has the port.
    NoPort,
}

/// A service with the address that it is looked up by.
#[derive(Clone, Debug)]
struct Listed {
    /// The number of the listing.
    listing: u64,
    service: Arc<ServiceObject>,
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
    life: Life,
}

/// The life of a pod, as a listing shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Live,
    Ended,
    Gone,
}

/// The newest two states of a cluster, and every version of its pods.
#[derive(Debug, Default)]
pub struct History {
    versions: Vec<PodVersion>,
    slots: Vec<Slot>,
    by_name: HashMap<(String, String), usize>,
    /// Slots that differ from the listing before.
    touched: Vec<usize>,
    /// Slots of the pods that have each address that a pod has had: none after the last one has left.
    holders: HashMap<IpAddr, Vec<usize>>,
    /// Addresses whose holders have changed, with those at the listing before; `None` where no pod had had it.
    holders_before: HashMap<IpAddr, Option<Vec<usize>>>,
    /// Slots of the pods that have ended since the listing before, by address.
    passed: HashMap<IpAddr, Vec<usize>>,
    containers: HashMap<String, usize>,
    /// Containers that were not there at the listing before.
    new_containers: HashSet<String>,
    namespaces: HashMap<String, ObjectLabels>,
    services: HashMap<(String, String), Arc<ServiceObject>>,
    services_by_address: HashMap<IpAddr, Vec<Listed>>,
    /// Addresses whose services have changed, with those at the listing before.
    services_before: HashMap<IpAddr, Vec<Listed>>,
    /// Number of listings.
    listings: u64,
    /// Whether no pod was known at the listing before.
    is_first: bool,
}

impl History {
    /// Every version of a pod, in the order of their indexes.
    pub fn versions(&self) -> &[PodVersion] {
        &self.versions
    }

    /// Whether the newest two states differ in pods or services.
    pub(crate) fn is_changing(&self) -> bool {
        !self.touched.is_empty() || !self.services_before.is_empty()
    }

    /// Advances to the state that a listing showed.
    pub(crate) fn apply(&mut self, change: ClusterChange) {
        self.settle();
        self.listings += 1;
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
                if self.slots[slot].now.life == Life::Live && relabelled.contains(&pod.namespace) {
                    let pod = pod.clone();
                    self.slots[slot].now.version = self.version(pod, Some(slot));
                    self.touched.push(slot);
                }
            }
        }
        for name in gone {
            if let Some(slot) = self.by_name.get(&name).copied() {
                self.touched.push(slot);
                self.slots[slot].now.life = Life::Gone;
                self.release(slot, &[]);
            }
        }
        // Addresses that are given up come first: another pod of the same listing may have them.
        let changed: Vec<_> = objects.pods.into_iter().map(|pod| self.update(pod)).collect();
        let mut held = HashMap::<_, Vec<_>>::new();
        for (slot, life, addresses) in changed {
            for address in addresses {
                if life == Life::Live {
                    held.entry(address).or_default().push(slot);
                } else {
                    self.holders_of(address);
                    self.passed.entry(address).or_default().push(slot);
                }
            }
        }
        for (address, slots) in held {
            self.hold(address, slots);
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
        self.passed.clear();
        self.services_before.clear();
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

    /// The pods behind a port of this address; `None` if no service has the address.
    pub(crate) fn backends(
        &self,
        address: IpAddr,
        port: u16,
        protocol: Option<PortProtocol>,
    ) -> Option<Backends> {
        let now = self
            .services_by_address
            .get(&address)
            .map_or(&[][..], Vec::as_slice);
        let before = self.services_before.get(&address).map_or(now, Vec::as_slice);
        if now.is_empty() && before.is_empty() {
            return None;
        }
        let Some(protocol) = protocol else {
            return Some(Backends::NoPort);
        };
        let (now, before) = (with_port(now, port, protocol), with_port(before, port, protocol));
        if now.is_empty() && before.is_empty() {
            return Some(Backends::NoPort);
        }
        let ports_of = |services: &[&ServiceObject], version: Version| -> Vec<u16> {
            let pod = &self.versions[version.0].pod;
            let ports = services.iter();
            ports
                .filter_map(|service| backend_port(service, port, protocol, pod))
                .collect()
        };
        let mut found = Vec::new();
        for slot in &self.slots {
            let seen = self.seen(slot);
            let is_live = |state: &State| state.life == Life::Live;
            let mut of_pod = Vec::new();
            if slot.before.as_ref().is_some_and(is_live) {
                let ports = ports_of(&before, seen).into_iter();
                of_pod.extend(ports.map(|port| (seen, port)));
            }
            if is_live(&slot.now) {
                for service in &now {
                    let had_labels = !ports_of(&[service], seen).is_empty();
                    let version = if had_labels { seen } else { slot.now.version };
                    let ports = ports_of(&[service], slot.now.version).into_iter();
                    of_pod.extend(ports.map(|port| (version, port)));
                }
            }
            let first = found.len();
            for end in of_pod {
                if !found[first..].contains(&end) {
                    found.push(end);
                }
            }
        }
        let mut services = now.iter().chain(&before);
        if found.is_empty() && services.any(|service| !service.selector.is_empty()) {
            return Some(Backends::NoPods);
        }
        Some(Backends::Pods(found.into()))
    }

    fn owner(&self, address: IpAddr, span: Span) -> Owner {
        let Some(now) = self.holders.get(&address) else {
            return Owner::Nobody;
        };
        let before = self.holders_before.get(&address);
        let before = before.map_or(&**now, |before| before.as_deref().unwrap_or_default());
        let passed = self.passed.get(&address).map_or(&[][..], Vec::as_slice);
        let is_old = |slot: usize| before.contains(&slot);
        let pod = |slot: usize| {
            let known = &self.slots[slot];
            Owner::Pod(if is_old(slot) {
                self.seen(known)
            } else {
                known.now.version
            })
        };
        // All others have left it before the one that still has it.
        if let [slot] = now[..]
            && self.begun(slot, span) == Begun::Before
        {
            return pod(slot);
        }
        let mut candidates = [before, now, passed].concat();
        candidates.sort_unstable();
        candidates.dedup();
        candidates.retain(|slot| is_old(*slot) || self.begun(*slot, span) != Begun::After);
        let started = |slot: usize| self.slots[slot].start.as_ref().and_then(|start| start.started);
        let is_later = |slot: usize, than: usize| {
            (is_old(than) && !is_old(slot))
                || matches!((started(than), started(slot)), (Some(than), Some(it)) if than < it)
        };
        let mut begun = candidates.clone();
        begun.retain(|slot| self.begun(*slot, span) == Begun::Before);
        candidates.retain(|slot| !begun.iter().any(|it| it != slot && is_later(*it, *slot)));
        match candidates[..] {
            [slot] if is_old(slot) => pod(slot),
            // Of a pod that has ended in the first listing it is not known when.
            [slot] if self.is_first && !now.contains(&slot) => Owner::Unclear,
            [slot] if !self.is_first && self.begun(slot, span) == Begun::NotStarted => Owner::Unclear,
            [slot] => pod(slot),
            _ => Owner::Unclear,
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
        } else if start
            .started
            .is_some_and(|started| span.last.plus(CLOCK_TOLERANCE) < started)
        {
            Begun::NotStarted
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

    /// Takes over a pod's state and gives up the addresses that it no longer has. Returns its slot and state, and the addresses that
    /// it has, or had until it ended since the listing before.
    fn update(&mut self, pod: PodObject) -> (usize, Life, Vec<IpAddr>) {
        let name = (pod.namespace.clone(), pod.name.clone());
        let known = self.by_name.get(&name).copied();
        let life = if pod.ended { Life::Ended } else { Life::Live };
        // A pod on its node's network has none of its own, and leaves none.
        let mut own = if pod.host_network {
            Vec::new()
        } else {
            pod.addresses.clone()
        };
        if let Some(slot) = known {
            let State { version, life: then } = self.slots[slot].now;
            if life == Life::Live {
                self.release(slot, &own);
            } else {
                // Those that it had left before the listing before do not count.
                let known = &self.versions[version.0].pod.addresses;
                let holders = &self.holders;
                own.retain(|address| {
                    let is_held = || holders.get(address).is_some_and(|it| it.contains(&slot));
                    then == Life::Gone || !known.contains(address) || is_held()
                });
                self.release(slot, &[]);
            }
        }
        let containers = pod.containers.clone();
        let version = self.version(pod, known);
        let now = State { version, life };
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
        (slot, life, own)
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
            .copied()
            .collect();
        for address in left {
            self.holders_of(address).retain(|holder| *holder != slot);
        }
    }

    /// Gives an address to the pods of a listing that have it, in place of those of earlier ones that are not known to have left.
    fn hold(&mut self, address: IpAddr, slots: Vec<usize>) {
        let is_held = |slot| self.holders.get(&address).is_some_and(|it| it.contains(slot));
        if !slots.iter().all(is_held) {
            *self.holders_of(address) = slots;
        }
    }

    /// The holders of an address, to be changed.
    fn holders_of(&mut self, address: IpAddr) -> &mut Vec<usize> {
        let holders = self.holders.get(&address);
        self.holders_before
            .entry(address)
            .or_insert_with(|| holders.cloned());
        self.holders.entry(address).or_default()
    }

    fn add_services(&mut self, services: Vec<ServiceObject>) {
        for service in services {
            let name = (service.namespace.clone(), service.name.clone());
            let known = self.services.get(&name);
            if known.is_some_and(|known| **known == service) {
                continue;
            }
            let service = Arc::new(service);
            let known = self.services.insert(name, Arc::clone(&service));
            for address in known.iter().flat_map(|known| &known.addresses) {
                let services = self.services_at(*address);
                services.retain(|it| {
                    (&it.service.namespace, &it.service.name) != (&service.namespace, &service.name)
                });
            }
            let listing = self.listings;
            for address in &service.addresses {
                let service = Arc::clone(&service);
                self.services_at(*address).push(Listed { listing, service });
            }
        }
    }

    /// The services of an address, to be changed.
    fn services_at(&mut self, address: IpAddr) -> &mut Vec<Listed> {
        let services = self.services_by_address.entry(address).or_default();
        self.services_before
            .entry(address)
            .or_insert_with(|| services.clone());
        services
    }
}

/// The services that have a port, of those of an address. A service that is gone is not reported: another with its address and port, which
/// was listed later, has taken its place.
fn with_port(services: &[Listed], port: u16, protocol: PortProtocol) -> Vec<&ServiceObject> {
    let has_port = |it: &&Listed| service_port(&it.service, port, protocol).is_some();
    let newest = services.iter().filter(has_port).map(|it| it.listing).max();
    let newest = services
        .iter()
        .filter(has_port)
        .filter(|it| Some(it.listing) == newest);
    newest.map(|it| &*it.service).collect()
}

/// When a pod began, as seen from a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begun {
    /// A container of it had started.
    Before,
    /// It was created later.
    After,
    /// It may have been created, and a container of it was started later.
    NotStarted,
    Unknown,
}

#[cfg(test)]
mod tests;
