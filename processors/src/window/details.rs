//! Labels of one connection or process: the rows that keys have the number of.
//!
//! In: a flow, and which labels its family has. Out: the number of the row with the same values of those labels. A row that
//! is there is found without making one: a flow's hash and comparison touch what `labels` asks for, and no heap.

use std::hash::{BuildHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use flowtap_pipeline::{
    AppProtocol, Endpoint, Flow, FlowKind, Hop, KubernetesNames, LabelValue, PeerName, Place, ReadingLabels,
    RoleSource, plain_text::process_name,
};
use foldhash::fast::RandomState;
use hashbrown::HashTable;

use flowtap_pipeline::catalog::{Label, LabelSet};

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
pub(super) struct Detail {
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
fn within(labels: LabelSet, reading: &ReadingLabels) -> impl Iterator<Item = (Label, &str)> {
    let pairs = reading.iter();
    pairs.filter(move |(label, value)| labels.has(*label) && !value.is_empty())
}

impl Detail {
    fn new(labels: LabelSet, flow: &Flow, qname: Option<&Arc<str>>) -> Self {
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

    fn of_reading(labels: LabelSet, reading: &ReadingLabels) -> Self {
        let nobody = Endpoint::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        Self {
            reading: Some(reading.clone()),
            ..Self::new(labels, &Flow::new(nobody, nobody), None)
        }
    }

    /// Whether a reading has the same values.
    fn is_of_reading(&self, labels: LabelSet, reading: &ReadingLabels) -> bool {
        let ours = self.reading.as_ref();
        self.labels == labels && ours.is_some_and(|ours| within(labels, ours).eq(within(labels, reading)))
    }

    /// Whether `flow` has the same values.
    fn is_of(&self, labels: LabelSet, flow: &Flow, qname: Option<&Arc<str>>) -> bool {
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
    fn hash(hasher: &RandomState, labels: LabelSet, flow: &Flow, qname: Option<&Arc<str>>) -> u64 {
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
    pub(super) fn value(&self, label: Label) -> LabelValue<'_> {
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

/// Rows that are kept whether they are taken or not.
const LEAST: usize = 1024;

/// A row that is taken.
#[derive(Debug)]
struct Row {
    detail: Detail,
    hash: u64,
    /// Number of series that use it.
    series: usize,
}

/// The rows that keys point to. A row lives as long as a series has it.
#[derive(Debug)]
pub(super) struct Details {
    /// Row 0 is never taken.
    rows: Vec<Option<Row>>,
    /// Numbers of rows, by the hash of their values.
    numbers: HashTable<u32>,
    hasher: RandomState,
    free: Vec<u32>,
}

impl Default for Details {
    fn default() -> Self {
        Self {
            rows: vec![None],
            numbers: HashTable::new(),
            hasher: RandomState::default(),
            free: Vec::new(),
        }
    }
}

impl Details {
    /// The row of `flow`'s details among `labels`; 0 if none of those is a detail. A row that no series has is freed by
    /// the next [`Details::sweep`].
    #[inline]
    pub(super) fn index(&mut self, labels: LabelSet, flow: &Flow, qname: Option<&Arc<str>>) -> u32 {
        let labels = labels.details();
        if labels.is_empty() {
            return 0;
        }
        self.find(labels, flow, qname)
    }

    /// The same of a reading. Its direction is not in the row, but in the key.
    pub(super) fn index_of_reading(&mut self, labels: LabelSet, reading: &ReadingLabels) -> u32 {
        let labels = labels.without(Label::Direction);
        if labels.is_empty() {
            return 0;
        }
        let mut state = self.hasher.build_hasher();
        labels.hash(&mut state);
        for pair in within(labels, reading) {
            pair.hash(&mut state);
        }
        let hash = state.finish();
        let is_it = |index: &u32| {
            let row = self.rows[*index as usize].as_ref();
            row.is_some_and(|row| row.detail.is_of_reading(labels, reading))
        };
        match self.numbers.find(hash, is_it) {
            Some(index) => *index,
            None => self.insert(hash, Detail::of_reading(labels, reading)),
        }
    }

    /// Apart from [`Details::index`], so that a record without details passes by.
    #[inline(never)]
    fn find(&mut self, labels: LabelSet, flow: &Flow, qname: Option<&Arc<str>>) -> u32 {
        let hash = Detail::hash(&self.hasher, labels, flow, qname);
        let is_it = |index: &u32| {
            let row = self.rows[*index as usize].as_ref();
            row.is_some_and(|row| row.detail.is_of(labels, flow, qname))
        };
        match self.numbers.find(hash, is_it) {
            Some(index) => *index,
            None => self.insert(hash, Detail::new(labels, flow, qname)),
        }
    }

    #[cold]
    fn insert(&mut self, hash: u64, detail: Detail) -> u32 {
        let row = Some(Row {
            detail,
            hash,
            series: 0,
        });
        let index = if let Some(index) = self.free.pop() {
            self.rows[index as usize] = row;
            index
        } else {
            self.rows.push(row);
            // Memory ends long before 2^32 rows.
            u32::try_from(self.rows.len() - 1).unwrap_or(0)
        };
        let rows = &self.rows;
        self.numbers.insert_unique(hash, index, |index| {
            rows[*index as usize].as_ref().map_or(0, |row| row.hash)
        });
        index
    }

    pub(super) fn get(&self, index: u32) -> Option<&Detail> {
        self.rows.get(index as usize)?.as_ref().map(|row| &row.detail)
    }

    /// A series has come to have row `index`.
    pub(super) fn take(&mut self, index: u32) {
        if let Some(Some(row)) = self.rows.get_mut(index as usize) {
            row.series += 1;
        }
    }

    /// A series with row `index` has left.
    pub(super) fn release(&mut self, index: u32) {
        if let Some(Some(row)) = self.rows.get_mut(index as usize) {
            row.series = row.series.saturating_sub(1);
        }
    }

    /// Frees the rows that no series has.
    pub(super) fn sweep(&mut self) {
        for (index, place) in (0..).zip(&mut self.rows) {
            let Some(row) = place.take_if(|row| row.series == 0) else {
                continue;
            };
            if let Ok(entry) = self.numbers.find_entry(row.hash, |found| *found == index) {
                entry.remove();
            }
            self.free.push(index);
        }
        // Keys hold the numbers of rows, so only those at the end can go.
        let taken = self.rows.iter().rposition(Option::is_some).unwrap_or(0);
        if self.rows.len() > LEAST && taken < self.rows.len() / 4 {
            self.rows.truncate(taken + 1);
            self.rows.shrink_to_fit();
            self.free.retain(|index| (*index as usize) <= taken);
            self.free.shrink_to_fit();
            let rows = &self.rows;
            let hash_of = |index: &u32| rows[*index as usize].as_ref().map_or(0, |row| row.hash);
            self.numbers.shrink_to_fit(hash_of);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::flow;

    fn of(pid: u32, netns: u32) -> Flow {
        Flow {
            pid,
            netns,
            comm: *b"nginx\0\0\0\0\0\0\0\0\0\0\0",
            ..flow("192.0.2.1:80", "198.51.100.7:4000")
        }
    }

    fn named(pod: &str, workload: &str) -> Flow {
        let names = KubernetesNames {
            pod: pod.to_owned(),
            workload: workload.to_owned(),
            ..KubernetesNames::default()
        };
        Flow {
            peer_names: Some(Arc::new(names)),
            ..of(7, 1)
        }
    }

    #[test]
    fn details_are_numbered_by_what_is_asked_for_and_freed_when_no_series_has_them() {
        let mut details = Details::default();
        let labels = LabelSet::new(&[Label::Pid, Label::Comm]);
        let first = details.index(labels, &of(7, 1), None);
        assert_eq!(
            details.index(labels, &of(7, 2), None),
            first,
            "netns is not asked for"
        );
        let second = details.index(labels, &of(8, 1), None);
        assert_ne!(first, second);
        assert_eq!(details.index(LabelSet::new(&[Label::Raddr]), &of(7, 1), None), 0);

        let detail = details.get(first).unwrap();
        assert_eq!(detail.value(Label::Comm), LabelValue::Text("nginx"));
        assert_eq!(detail.value(Label::Pid), LabelValue::Number(7));
        assert_eq!(detail.value(Label::ContainerId), LabelValue::Text(""));

        details.take(first);
        details.sweep();
        assert_eq!(details.index(labels, &of(7, 1), None), first);
        assert_eq!(
            details.index(labels, &of(9, 1), None),
            second,
            "the row is free again"
        );
        details.release(first);
        details.sweep();
        assert!(details.get(first).is_none());
    }

    #[test]
    fn families_that_differ_only_in_labels_that_are_no_details_share_rows() {
        let mut details = Details::default();
        let number = |details: &mut Details, label| {
            details.index(LabelSet::new(&[label, Label::Netns]), &of(7, 1), None)
        };
        let first = number(&mut details, Label::Rport);
        assert_eq!(number(&mut details, Label::Lport), first);
        assert_ne!(number(&mut details, Label::Pid), first);
    }

    #[test]
    fn names_distinguish_series_only_where_they_are_configured() {
        let mut details = Details::default();
        let workload = LabelSet::new(&[Label::PeerWorkload]);
        let first = details.index(workload, &named("web-1", "Deployment/web"), None);
        assert_eq!(
            details.index(workload, &named("web-2", "Deployment/web"), None),
            first
        );
        let other = details.index(workload, &named("db-0", "StatefulSet/db"), None);
        assert_ne!(other, first);
        let none = details.index(workload, &of(7, 1), None);
        assert!(![first, other].contains(&none), "no names are no names");
        assert_eq!(
            details.index(workload, &named("", ""), None),
            none,
            "nor are empty ones"
        );
        assert_eq!(
            details.get(first).unwrap().value(Label::PeerWorkload),
            LabelValue::Text("Deployment/web")
        );

        let pods = LabelSet::new(&[Label::PeerPod, Label::LocalPod]);
        let web = details.index(pods, &named("web-1", "Deployment/web"), None);
        assert_eq!(
            details.get(web).unwrap().value(Label::LocalPod),
            LabelValue::Text("")
        );
        assert_ne!(details.index(pods, &named("web-2", "Deployment/web"), None), web);
    }

    #[test]
    fn names_of_processes_are_distinguished_by_their_bytes_and_shown_without_control_characters() {
        let mut details = Details::default();
        let labels = LabelSet::new(&[Label::Comm]);
        let mut number = |comm: &[u8; 16]| {
            let flow = Flow {
                comm: *comm,
                ..of(7, 1)
            };
            details.index(labels, &flow, None)
        };
        let (first, second) = (
            number(b"\x1b[2J\xff\0\0\0\0\0\0\0\0\0\0\0"),
            number(b"\x1b[2J\xfe\0\0\0\0\0\0\0\0\0\0\0"),
        );
        assert_ne!(first, second);
        for index in [first, second] {
            let shown = details.get(index).unwrap().value(Label::Comm);
            assert_eq!(shown, LabelValue::Text("\\x1b[2J\u{fffd}"));
        }
    }
}
