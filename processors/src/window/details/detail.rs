//! The values of a flow's or a reading's labels: how they are hashed, compared and rendered.

use std::hash::{BuildHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use flowtap_pipeline::catalog::{Label, LabelSet};
use flowtap_pipeline::{
    AppProtocol, Endpoint, Flow, FlowKind, Hop, KubernetesNames, LabelValue, PeerName, Place, ReadingLabels,
    RoleSource, plain_text::process_name,
};
use foldhash::fast::RandomState;

/// Labels that are names of the peer.
const PEER_NAMES: [Label; 5] = [
    Label::PeerNamespace,
    Label::PeerPod,
    Label::PeerWorkload,
    Label::PeerService,
    Label::PeerNode,
];

/// Labels that are names of this side.
const LOCAL_NAMES: [Label; 3] = [Label::LocalNamespace, Label::LocalPod, Label::LocalWorkload];

/// Names in the cluster; `None` for what has none.
type Names = Option<Arc<KubernetesNames>>;

/// The name that `label` is.
fn name(label: Label, names: &Names) -> &str {
    let Some(names) = names else { return "" };
    match label {
        Label::PeerNamespace | Label::LocalNamespace => &names.namespace,
        Label::PeerPod | Label::LocalPod => &names.pod,
        Label::PeerWorkload | Label::LocalWorkload => &names.workload,
        Label::PeerService => &names.service,
        Label::PeerNode => &names.node,
        _ => "",
    }
}

/// Whether those of `asked` that are in `labels` are the same.
fn same_names(labels: LabelSet, asked: &[Label], ours: &Names, theirs: &Names) -> bool {
    let pointer = |names: &Names| names.as_ref().map(Arc::as_ptr);
    // Most often the cluster's state gave out the same names, or none.
    if pointer(ours) == pointer(theirs) {
        return true;
    }
    asked.iter().filter(|label| labels.has(**label)).all(|label| {
        let (ours, theirs) = (name(*label, ours), name(*label, theirs));
        // An empty `str` points to no memory, and some processors take hundreds of cycles to compare nothing there: the C
        // library's memcmp() loads it under a mask of zeros, whose fault is put aside by microcode.
        ours.len() == theirs.len() && (ours.is_empty() || ours == theirs)
    })
}

/// Values of labels, of which only those in `labels` count.
#[derive(Clone, Debug)]
pub(in crate::window) struct Detail {
    labels: LabelSet,
    laddr: IpAddr,
    role_source: RoleSource,
    netns: u32,
    pid: u32,
    comm: [u8; 16],
    /// `comm` as a label; made with the row, so that rendering a series borrows it. Empty if that label is not asked for.
    process_name: Box<str>,
    cgroup_id: u64,
    container_id: Option<Arc<str>>,
    peer_names: Names,
    local_names: Names,
    peer_name: Option<PeerName>,
    qname: Option<Arc<str>>,
    peer_network: Option<Arc<str>>,
    peer_place: Option<Arc<Place>>,
    backend: Option<Endpoint>,
    hop: Option<Hop>,
    zones: [Option<Arc<str>>; 2],
    policy_rule: Option<Arc<str>>,
    /// Labels of a reading, which has nothing of the above.
    reading: Option<ReadingLabels>,
    protocol: Option<AppProtocol>,
    server_name: Option<Arc<str>>,
}

fn protocol(flow: &Flow) -> Option<AppProtocol> {
    flow.inspection.as_ref()?.protocol
}

fn server_name(flow: &Flow) -> Option<&Arc<str>> {
    flow.inspection.as_ref()?.server_name.as_ref()
}

/// The port behind a service address. A client behind a masquerade has a separate port per connection, which is of no use.
fn backend_port(flow: &Flow) -> Option<u16> {
    let backend = flow.backend()?;
    (flow.kind != Some(FlowKind::Ingress)).then_some(backend.port)
}

/// Labels of the place of the peer.
const PLACE: [Label; 3] = [Label::PeerAsn, Label::PeerAsOrg, Label::PeerCountry];

/// Whether the labels of [`PLACE`] that are in `labels` are the same.
fn same_place(labels: LabelSet, ours: Option<&Arc<Place>>, theirs: Option<&Arc<Place>>) -> bool {
    // Most often the cache gave out the same place, or there is none.
    if ours.map(Arc::as_ptr) == theirs.map(Arc::as_ptr) {
        return true;
    }
    let mut asked = PLACE.iter().filter(|label| labels.has(**label));
    asked.all(|label| place_label(*label, ours) == place_label(*label, theirs))
}

/// The label of a place; `Number(0)` and empty text stand for what is not known.
fn place_label(label: Label, place: Option<&Arc<Place>>) -> LabelValue<'_> {
    match label {
        Label::PeerAsn => LabelValue::Number(place.map_or(0, |place| u64::from(place.asn))),
        Label::PeerAsOrg => LabelValue::Text(place.map_or("", |place| &place.as_org)),
        _ => LabelValue::Text(place.map_or("", |place| &place.country)),
    }
}

/// The labels of a reading that are in `labels`. An empty one is the same as none.
pub(super) fn within(labels: LabelSet, reading: &ReadingLabels) -> impl Iterator<Item = (Label, &str)> {
    let pairs = reading.iter();
    pairs.filter(move |(label, value)| labels.has(*label) && !value.is_empty())
}

impl Detail {
    pub(super) fn new(labels: LabelSet, flow: &Flow, qname: Option<&Arc<str>>) -> Self {
        Self {
            labels,
            laddr: flow.local.addr,
            role_source: flow.role_source,
            netns: flow.netns,
            pid: flow.pid,
            comm: flow.comm,
            process_name: if labels.has(Label::Comm) {
                process_name(&flow.comm).into()
            } else {
                Box::default()
            },
            cgroup_id: flow.cgroup_id,
            container_id: flow.container_id.clone(),
            peer_names: flow.peer_names.clone(),
            local_names: flow.local_names.clone(),
            peer_name: flow.peer_name.clone(),
            qname: qname.cloned(),
            peer_network: flow.peer_network.clone(),
            peer_place: flow.peer_place.clone(),
            backend: flow.backend().map(|backend| Endpoint {
                port: backend_port(flow).unwrap_or(0),
                ..backend
            }),
            hop: flow.hop(),
            zones: [flow.local_zone.clone(), flow.peer_zone.clone()],
            policy_rule: flow.policy_rule.clone(),
            reading: None,
            protocol: protocol(flow),
            server_name: server_name(flow).cloned(),
        }
    }

    pub(super) fn of_reading(labels: LabelSet, reading: &ReadingLabels) -> Self {
        let nobody = Endpoint::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        Self {
            reading: Some(reading.clone()),
            ..Self::new(labels, &Flow::new(nobody, nobody), None)
        }
    }

    /// Whether a reading has the same values.
    pub(super) fn is_of_reading(&self, labels: LabelSet, reading: &ReadingLabels) -> bool {
        let ours = self.reading.as_ref();
        self.labels == labels && ours.is_some_and(|ours| within(labels, ours).eq(within(labels, reading)))
    }

    /// Whether `flow` has the same values.
    pub(super) fn is_of(&self, labels: LabelSet, flow: &Flow, qname: Option<&Arc<str>>) -> bool {
        let same = |label, equal: bool| equal || !labels.has(label);
        self.labels == labels
            && self.reading.is_none()
            && same(Label::Laddr, self.laddr == flow.local.addr)
            && same(Label::RoleSource, self.role_source == flow.role_source)
            && same(Label::Netns, self.netns == flow.netns)
            && same(Label::Pid, self.pid == flow.pid)
            && same(Label::Comm, self.comm == flow.comm)
            && same(Label::CgroupId, self.cgroup_id == flow.cgroup_id)
            && (!labels.has(Label::ContainerId) || self.container_id == flow.container_id)
            && same_names(labels, &PEER_NAMES, &self.peer_names, &flow.peer_names)
            && same_names(labels, &LOCAL_NAMES, &self.local_names, &flow.local_names)
            && (!(labels.has(Label::PeerName) || labels.has(Label::PeerNameSource))
                || self.peer_name == flow.peer_name)
            && (!labels.has(Label::Qname) || self.qname.as_ref() == qname)
            && (!labels.has(Label::PeerNetwork) || self.peer_network == flow.peer_network)
            && (!labels.has(Label::Backend)
                || self.backend.map(|end| end.addr) == flow.backend().map(|end| end.addr))
            && (!labels.has(Label::BackendPort)
                || self.backend.map_or(0, |end| end.port) == backend_port(flow).unwrap_or(0))
            && (!labels.has(Label::Hop) || self.hop == flow.hop())
            && (!labels.has(Label::LocalZone) || self.zones[0] == flow.local_zone)
            && (!labels.has(Label::PeerZone) || self.zones[1] == flow.peer_zone)
            && (!labels.has(Label::PolicyRule) || self.policy_rule == flow.policy_rule)
            && (!labels.has(Label::Protocol) || self.protocol == protocol(flow))
            && (!labels.has(Label::ServerName) || self.server_name.as_ref() == server_name(flow))
            && same_place(labels, self.peer_place.as_ref(), flow.peer_place.as_ref())
    }

    /// Of what [`Detail::is_of`] compares.
    pub(super) fn hash(hasher: &RandomState, labels: LabelSet, flow: &Flow, qname: Option<&Arc<str>>) -> u64 {
        let mut state = hasher.build_hasher();
        let with = |label| labels.has(label);
        labels.hash(&mut state);
        if with(Label::Laddr) {
            flow.local.addr.hash(&mut state);
        }
        if with(Label::RoleSource) {
            flow.role_source.hash(&mut state);
        }
        if with(Label::Netns) {
            state.write_u32(flow.netns);
        }
        if with(Label::Pid) {
            state.write_u32(flow.pid);
        }
        if with(Label::Comm) {
            state.write_u128(u128::from_ne_bytes(flow.comm));
        }
        if with(Label::CgroupId) {
            state.write_u64(flow.cgroup_id);
        }
        if with(Label::ContainerId) {
            flow.container_id.hash(&mut state);
        }
        let of_both = [
            (&PEER_NAMES[..], &flow.peer_names),
            (&LOCAL_NAMES[..], &flow.local_names),
        ];
        for (asked, names) in of_both {
            for label in asked.iter().filter(|label| with(**label)) {
                name(*label, names).hash(&mut state);
            }
        }
        if with(Label::PeerName) || with(Label::PeerNameSource) {
            flow.peer_name.hash(&mut state);
        }
        if with(Label::Qname) {
            qname.hash(&mut state);
        }
        if with(Label::PeerNetwork) {
            flow.peer_network.hash(&mut state);
        }
        if with(Label::Backend) {
            flow.backend().map(|end| end.addr).hash(&mut state);
        }
        if with(Label::BackendPort) {
            backend_port(flow).hash(&mut state);
        }
        if with(Label::Hop) {
            flow.hop().hash(&mut state);
        }
        for (label, zone) in [
            (Label::LocalZone, &flow.local_zone),
            (Label::PeerZone, &flow.peer_zone),
        ] {
            if with(label) {
                zone.hash(&mut state);
            }
        }
        if with(Label::PolicyRule) {
            flow.policy_rule.hash(&mut state);
        }
        if with(Label::Protocol) {
            protocol(flow).hash(&mut state);
        }
        if with(Label::ServerName) {
            server_name(flow).hash(&mut state);
        }
        let place = flow.peer_place.as_ref();
        for label in PLACE.into_iter().filter(|label| with(*label)) {
            match place_label(label, place) {
                LabelValue::Number(number) => number.hash(&mut state),
                LabelValue::Text(text) => text.hash(&mut state),
                LabelValue::Addr(_) | LabelValue::Port(_) => {}
            }
        }
        state.finish()
    }

    /// The value of `label`, which is in `labels`; what is not known, or no detail, is empty.
    pub(in crate::window) fn value(&self, label: Label) -> LabelValue<'_> {
        use LabelValue::{Addr, Number, Text};
        if let Some(reading) = &self.reading {
            return Text(reading.get(label).unwrap_or(""));
        }
        let number = |number: u64| if number == 0 { Text("") } else { Number(number) };
        match label {
            Label::Laddr => Addr(self.laddr),
            Label::RoleSource => Text(self.role_source.as_str()),
            Label::Netns => number(u64::from(self.netns)),
            Label::Pid => number(u64::from(self.pid)),
            Label::CgroupId => number(self.cgroup_id),
            Label::Comm => Text(&self.process_name),
            Label::Qname => Text(self.qname.as_deref().unwrap_or("")),
            Label::PeerNetwork => Text(self.peer_network.as_deref().unwrap_or("")),
            Label::PolicyRule => Text(self.policy_rule.as_deref().unwrap_or("")),
            Label::PeerAsn => number(self.peer_place.as_ref().map_or(0, |place| u64::from(place.asn))),
            Label::Backend => self.backend.map_or(Text(""), |end| Addr(end.addr)),
            Label::BackendPort => number(self.backend.map_or(0, |end| u64::from(end.port))),
            Label::Protocol => Text(self.protocol.map_or("", AppProtocol::as_str)),
            Label::ServerName => Text(self.server_name.as_deref().unwrap_or("")),
            Label::Hop => Text(self.hop.map_or("", Hop::as_str)),
            Label::LocalZone => Text(self.zones[0].as_deref().unwrap_or("")),
            Label::PeerZone => Text(self.zones[1].as_deref().unwrap_or("")),
            Label::PeerAsOrg | Label::PeerCountry => place_label(label, self.peer_place.as_ref()),
            Label::PeerName => Text(self.peer_name.as_ref().map_or("", |peer| &peer.name)),
            Label::PeerNameSource => Text(self.peer_name.as_ref().map_or("", |peer| peer.source.as_str())),
            Label::ContainerId => Text(self.container_id.as_deref().unwrap_or("")),
            _ if LOCAL_NAMES.contains(&label) => Text(name(label, &self.local_names)),
            _ => Text(name(label, &self.peer_names)),
        }
    }
}
