//! Contracts: the facts about a component that others need before it is built.
//!
//! A component declares them in [`ComponentConfig::contract`](crate::ComponentConfig::contract), from its config. Four parts of
//! flowtap rely on them: `validate` checks the components of a pipeline against each other, the sandbox opens the paths and ports
//! that are listed and no others, the Kubernetes watcher follows the names of a cluster only if a component uses them, and the
//! references in `docs/` list them.
//!
//! ```
//! use flowtap_pipeline::contract::{Contract, RecordField};
//!
//! let contract = Contract::default()
//!     .needs(RecordField::Class)
//!     .reads(["/etc/flowtap/filter.txt"]);
//! assert!(contract.listens.is_empty());
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use flowtap_model::RecordField;
use flowtap_model::{LabelChanges, PipelineKind};

use crate::id::ComponentKind;

/// Stability of a component type, as in the OpenTelemetry Collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stability {
    /// Config keys and output can change with any version.
    Alpha,
    /// Config keys and output change only with an entry in the changelog.
    Beta,
    /// Config keys and output change only with a major version.
    Stable,
}

impl fmt::Display for Stability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Alpha => "alpha",
            Self::Beta => "beta",
            Self::Stable => "stable",
        })
    }
}

/// The kinds of data that pass from one component to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Signal {
    /// Differences of TCP sockets (`TcpRecord`).
    Tcp,
    /// Differences of UDP sockets, by peer (`UdpRecord`), and counts of ICMP messages.
    Udp,
    /// DNS transactions (`DnsRecord`).
    Dns,
    /// Dropped packets (`DropRecord`).
    Drops,
    /// Queues of listening sockets (`ListeningRecord`).
    Listening,
    /// Readings of devices (`ReadingRecord`).
    Readings,
    /// Findings of processors (`FindingRecord`).
    Findings,
    /// Series, in snapshots.
    Metrics,
    /// Log records, in batches.
    Logs,
}

impl Signal {
    /// The kinds of records, which processors see in batches.
    pub const RECORDS: [Self; 7] = [
        Self::Tcp,
        Self::Udp,
        Self::Dns,
        Self::Drops,
        Self::Listening,
        Self::Readings,
        Self::Findings,
    ];

    /// The signal that pipelines of a kind give to their exporters.
    pub const fn of_pipeline(kind: PipelineKind) -> Self {
        match kind {
            PipelineKind::Metrics => Self::Metrics,
            PipelineKind::Logs => Self::Logs,
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Dns => "dns",
            Self::Drops => "drops",
            Self::Listening => "listening",
            Self::Readings => "readings",
            Self::Findings => "findings",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        })
    }
}

/// A field that a component needs filled before a record reaches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// The field.
    pub field: RecordField,
    /// The key of the component's config that asks for it, which makes its absence an error. `None`: the component always uses the
    /// field, and works with less if it is absent, which is a warning.
    pub key: Option<Vec<String>>,
}

/// A key with which a component's config can ask for a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldKey {
    /// The field.
    pub field: RecordField,
    /// The key, below the component.
    pub key: Vec<String>,
    /// The value that asks for the field, if several fields have the key.
    pub value: Option<&'static str>,
}

impl FieldKey {
    fn new(field: RecordField, path: &[&str], value: Option<&'static str>) -> Self {
        let key = path.iter().map(|&key| key.to_owned()).collect();
        Self { field, key, value }
    }
}

/// The sockets or devices that a receiver reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sockets {
    /// TCP sockets of every network namespace of this machine.
    TcpOfNode,
    /// TCP sockets of the network namespace in which flowtap runs.
    TcpOfNamespace,
    /// RDMA devices of this machine.
    RdmaDevices,
}

impl Sockets {
    /// Whether two receivers in one pipeline would report the same socket or device.
    pub const fn overlaps(self, other: Self) -> bool {
        match (self, other) {
            // Of one transport the wider scope contains the narrower one.
            (Self::TcpOfNode | Self::TcpOfNamespace, Self::TcpOfNode | Self::TcpOfNamespace)
            | (Self::RdmaDevices, Self::RdmaDevices) => true,
            (Self::RdmaDevices, _) | (_, Self::RdmaDevices) => false,
        }
    }
}

impl fmt::Display for Sockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::TcpOfNode => "TCP sockets of this machine",
            Self::TcpOfNamespace => "TCP sockets of one network namespace",
            Self::RdmaDevices => "RDMA devices of this machine",
        })
    }
}

/// State that is kept up to date beside the pipelines, for the components that use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Dependency {
    /// Address ranges of the Kubernetes cluster (`service.kubernetes`).
    ClusterRanges,
    /// Names of pods, services and nodes of the Kubernetes cluster (`service.kubernetes`).
    ClusterNames,
}

impl fmt::Display for Dependency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::ClusterRanges => "address ranges of the Kubernetes cluster",
            Self::ClusterNames => "names of the Kubernetes cluster",
        })
    }
}

/// An address, with the config key that sets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound<T> {
    /// The key, below the component.
    pub key: &'static str,
    /// The address.
    pub address: T,
}

/// A place on disk that no other component may have, with the config key that sets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The key, below the component.
    pub key: &'static str,
    /// The file or directory, or a pattern of files.
    pub path: PathBuf,
    /// Whether the files of pipelines of different kinds have different names there.
    pub by_kind: bool,
}

/// The declaration of one component. Every part has a default: nothing declared.
///
/// ```
/// use flowtap_pipeline::{ComponentKind, Contract, RecordField, Signal};
///
/// // An exporter that pushes log records, with the class of each peer.
/// let contract = Contract::default()
///     .takes([Signal::Logs])
///     .needs(RecordField::Class)
///     .dials("endpoint", "203.0.113.7:4739");
/// assert_eq!(contract.dials[0].key, "endpoint");
/// assert!(!contract.signals_in(ComponentKind::Exporter).contains(&Signal::Metrics));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that do not depend on each other, each with a builder of its name"
)]
pub struct Contract {
    /// Signals that it takes. Empty: those of its kind, see [`Contract::signals_in`].
    pub takes: BTreeSet<Signal>,
    /// Signals that it gives. Empty: those of its kind, see [`Contract::signals_out`].
    pub gives: BTreeSet<Signal>,
    /// Fields of a record that are filled after it.
    pub fills: BTreeSet<RecordField>,
    /// Keys that make it fill a field, whether or not its config has them set.
    pub fill_keys: Vec<FieldKey>,
    /// Fields of a record that have to be filled before it.
    pub needs: Vec<Need>,
    /// Fields of a record that it uses if they are filled before it.
    pub uses: BTreeSet<RecordField>,
    /// Keys that make it use a field, with their values, whether or not its config has them set.
    pub use_keys: Vec<FieldKey>,
    /// Sockets that it reports, if it is a receiver of real traffic.
    pub covers: Option<Sockets>,
    /// Files and directories that it reads.
    pub reads: Vec<PathBuf>,
    /// Directories that it writes to. They are created before the sandbox is entered.
    pub writes: Vec<PathBuf>,
    /// Places that it has for itself: with two components on one, each would overwrite the other's files.
    pub owns: Vec<Place>,
    /// The root of a proc file system that it looks into.
    pub proc_root: Option<PathBuf>,
    /// Addresses that it listens on.
    pub listens: Vec<Bound<SocketAddr>>,
    /// Addresses that it connects to, without credentials.
    pub dials: Vec<Bound<String>>,
    /// State beside the pipelines that it uses.
    pub depends_on: BTreeSet<Dependency>,
    /// Labels that its series have, by their names in an exposition for Prometheus. Of a processor that gives [`Signal::Metrics`].
    pub series_labels: BTreeSet<String>,
    /// Labels that an exporter adds to every series, which must not have a label of that name: the key that asks for each, and its
    /// name.
    pub adds_labels: Vec<(Vec<String>, String)>,
    /// Custom classes that it gives to peers, in addition to the built-in ones.
    pub classes: BTreeSet<String>,
    /// Classes that its config names: the key, and the name.
    pub named_classes: Vec<(Vec<String>, String)>,
    /// Whether it attaches programs to the network, for which `CAP_NET_ADMIN` is needed.
    pub net_admin: bool,
    /// Changes that it makes to the labels of all series of its pipeline.
    pub label_changes: LabelChanges,
    /// Whether it reads the peer's address.
    pub reads_addresses: bool,
    /// Whether records that reach it may not reach the components after it.
    pub drops_records: bool,
    /// Whether the components after it may see other addresses than those of the socket.
    pub changes_addresses: bool,
    /// The key that makes it shorten addresses, for the components after it.
    pub truncates_addresses: Option<Vec<String>>,
    /// Interval at which it measures, or closes a window, with the key `interval`.
    pub interval: Option<Duration>,
}

impl Contract {
    /// Declares that it takes these signals, in place of those of its kind: none for a receiver, [`Signal::RECORDS`] for a
    /// processor, [`Signal::Metrics`] for an exporter.
    #[must_use]
    pub fn takes(mut self, signals: impl IntoIterator<Item = Signal>) -> Self {
        self.takes.extend(signals);
        self
    }

    /// Declares that it gives these signals, in place of those of its kind: [`Signal::Tcp`] for a receiver, none for a processor or
    /// an exporter. A processor passes on the records that reach it, and gives these in addition; one that gives [`Signal::Metrics`] or
    /// [`Signal::Logs`] ends the path of records.
    #[must_use]
    pub fn gives(mut self, signals: impl IntoIterator<Item = Signal>) -> Self {
        self.gives.extend(signals);
        self
    }

    /// Declares that it fills `fields` of every record for which they can be known.
    #[must_use]
    pub fn fills(mut self, fields: impl IntoIterator<Item = RecordField>) -> Self {
        self.fills.extend(fields);
        self
    }

    /// Declares that the key at `path` makes it fill `field`, and whether it is set. Advice names the key where the field is missing,
    /// and where nothing uses it.
    #[must_use]
    pub fn fills_with(mut self, field: RecordField, path: &[&str], is_set: bool) -> Self {
        self.fill_keys.push(FieldKey::new(field, path, None));
        self.fills.extend(is_set.then_some(field));
        self
    }

    /// Declares that it uses `field`, and works with less without it.
    #[must_use]
    pub fn needs(mut self, field: RecordField) -> Self {
        let need = Need { field, key: None };
        if !self.needs.contains(&need) {
            self.needs.push(need);
        }
        self
    }

    /// Declares that the config asks for `field` with the key at `path`.
    #[must_use]
    pub fn needs_for(mut self, field: RecordField, path: &[&str]) -> Self {
        let key = Some(path.iter().map(|&key| key.to_owned()).collect());
        self.needs.push(Need { field, key });
        self
    }

    /// Declares that it uses `fields` where a component before it fills them, and is whole without them.
    #[must_use]
    pub fn uses(mut self, fields: impl IntoIterator<Item = RecordField>) -> Self {
        self.uses.extend(fields);
        self
    }

    /// Declares that `value` in the list at `path` makes it use `field`: as advice where nothing uses the field.
    #[must_use]
    pub fn uses_with(mut self, field: RecordField, path: &[&str], value: &'static str) -> Self {
        self.use_keys.push(FieldKey::new(field, path, Some(value)));
        self
    }

    /// Declares the sockets that it reports.
    #[must_use]
    pub const fn covers(mut self, sockets: Sockets) -> Self {
        self.covers = Some(sockets);
        self
    }

    /// Declares that it reads these files and directories.
    #[must_use]
    pub fn reads(mut self, paths: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        self.reads.extend(paths.into_iter().map(named));
        self
    }

    /// Declares that it writes to these directories.
    #[must_use]
    pub fn writes(mut self, directories: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        self.writes.extend(directories.into_iter().map(named));
        self
    }

    /// Declares that the file or directory that `key` sets is for it alone.
    #[must_use]
    pub fn owns(mut self, key: &'static str, path: impl Into<PathBuf>) -> Self {
        self.owns.push(Place {
            key,
            path: path.into(),
            by_kind: false,
        });
        self
    }

    /// Declares that the files of this pattern, which `key` sets, are for it alone; those of series and of log records have
    /// different names.
    #[must_use]
    pub fn owns_by_kind(mut self, key: &'static str, pattern: impl Into<PathBuf>) -> Self {
        self.owns.push(Place {
            key,
            path: pattern.into(),
            by_kind: true,
        });
        self
    }

    /// Declares that it looks into the proc file system at `root`.
    #[must_use]
    pub fn proc_root(mut self, root: impl Into<PathBuf>) -> Self {
        self.proc_root = Some(root.into());
        self
    }

    /// Declares that it listens on the address that `key` sets.
    #[must_use]
    pub fn listens(mut self, key: &'static str, address: SocketAddr) -> Self {
        self.listens.push(Bound { key, address });
        self
    }

    /// Declares that it connects to the address that `key` sets. It is shown to operators, so it must not contain credentials.
    #[must_use]
    pub fn dials(mut self, key: &'static str, address: impl fmt::Display) -> Self {
        let address = address.to_string();
        self.dials.push(Bound { key, address });
        self
    }

    /// Declares the labels that its series have.
    #[must_use]
    pub fn series_labels(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.series_labels.extend(names.into_iter().map(Into::into));
        self
    }

    /// Declares that it adds the label `name` to every series, for the key at `path`.
    #[must_use]
    pub fn adds_label(mut self, path: &[&str], name: &str) -> Self {
        let path = path.iter().map(|&key| key.to_owned()).collect();
        self.adds_labels.push((path, name.to_owned()));
        self
    }

    /// Declares the custom classes that it gives to peers.
    #[must_use]
    pub fn classes(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.classes.extend(names.into_iter().map(Into::into));
        self
    }

    /// Declares that the key at `path` names a class, which has to be built in or given by a component of the pipeline.
    #[must_use]
    pub fn names_class(mut self, name: &str, path: &[&str]) -> Self {
        let path = path.iter().map(|&key| key.to_owned()).collect();
        self.named_classes.push((path, name.to_owned()));
        self
    }

    /// Declares changes to the labels of all series of its pipeline.
    #[must_use]
    pub fn changes_labels(mut self, changes: LabelChanges) -> Self {
        self.label_changes.merge(changes);
        self
    }

    /// Declares that it reads the peer's address, so that it has to come before a component that shortens addresses.
    #[must_use]
    pub const fn reads_addresses(mut self) -> Self {
        self.reads_addresses = true;
        self
    }

    /// Declares that records that reach it may not reach the components after it. A command that measures one peer, such as
    /// `flowtap diagnose`, leaves it out.
    #[must_use]
    pub const fn drops_records(mut self) -> Self {
        self.drops_records = true;
        self
    }

    /// Declares that it changes addresses of records. A command that looks for an address leaves it out.
    #[must_use]
    pub const fn changes_addresses(mut self) -> Self {
        self.changes_addresses = true;
        self
    }

    /// Declares that it shortens addresses, for the key at `path`.
    #[must_use]
    pub fn truncates_addresses(mut self, path: &[&str]) -> Self {
        self.changes_addresses = true;
        self.truncates_addresses = Some(path.iter().map(|&key| key.to_owned()).collect());
        self
    }

    /// Declares how often it measures, or closes a window.
    #[must_use]
    pub const fn every(mut self, interval: Duration) -> Self {
        self.interval = Some(interval);
        self
    }

    /// Declares that it attaches programs to the network, for which `CAP_NET_ADMIN` is needed: the sandbox leaves it.
    #[must_use]
    pub const fn net_admin(mut self) -> Self {
        self.net_admin = true;
        self
    }

    /// Declares that it uses state beside the pipelines.
    #[must_use]
    pub fn depends_on(mut self, dependency: Dependency) -> Self {
        self.depends_on.insert(dependency);
        self
    }

    /// The signals that a component of this contract takes, by its kind if it declares none.
    pub fn signals_in(&self, kind: ComponentKind) -> BTreeSet<Signal> {
        if !self.takes.is_empty() {
            return self.takes.clone();
        }
        match kind {
            ComponentKind::Receiver | ComponentKind::Extension => BTreeSet::new(),
            ComponentKind::Processor => BTreeSet::from(Signal::RECORDS),
            ComponentKind::Exporter => BTreeSet::from([Signal::Metrics]),
        }
    }

    /// The signals that a component of this contract gives, by its kind if it declares none.
    pub fn signals_out(&self, kind: ComponentKind) -> BTreeSet<Signal> {
        if !self.gives.is_empty() {
            return self.gives.clone();
        }
        match kind {
            ComponentKind::Receiver => BTreeSet::from([Signal::Tcp]),
            ComponentKind::Processor | ComponentKind::Exporter | ComponentKind::Extension => BTreeSet::new(),
        }
    }

    /// Whether a processor of this contract ends the path of records: it turns them into series or log records.
    pub fn is_aggregator(&self) -> bool {
        self.pipeline_kind().is_some()
    }

    /// The kind of pipelines that a processor of this contract can end, if it is an aggregator.
    pub fn pipeline_kind(&self) -> Option<PipelineKind> {
        PipelineKind::ALL
            .into_iter()
            .find(|kind| self.gives.contains(&Signal::of_pipeline(*kind)))
    }
}

/// The folder of a path without one has an empty name, which no system call takes.
fn named(path: impl Into<PathBuf>) -> PathBuf {
    let path = path.into();
    if path.as_os_str().is_empty() {
        return PathBuf::from(".");
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_folder_of_a_file_without_one_is_the_current_one() {
        let folder = Path::new("watch.state").parent();
        let contract = Contract::default().reads(folder).writes(folder);
        assert_eq!(
            (contract.reads, contract.writes),
            (vec![PathBuf::from(".")], vec![PathBuf::from(".")])
        );
    }

    #[test]
    fn signals_are_those_of_the_kind_unless_declared() {
        let plain = Contract::default();
        let metrics = BTreeSet::from([Signal::Metrics]);
        let tcp = BTreeSet::from([Signal::Tcp]);
        assert_eq!(plain.signals_out(ComponentKind::Receiver), tcp);
        let records = BTreeSet::from(Signal::RECORDS);
        assert_eq!(plain.signals_in(ComponentKind::Processor), records);
        assert!(plain.signals_out(ComponentKind::Processor).is_empty());
        assert_eq!(plain.signals_in(ComponentKind::Exporter), metrics);
        assert!(plain.signals_in(ComponentKind::Receiver).is_empty());
        assert!(plain.signals_out(ComponentKind::Exporter).is_empty());
        let window = Contract::default().gives([Signal::Metrics]);
        assert_eq!(window.signals_in(ComponentKind::Processor), records);
        assert_eq!(window.signals_out(ComponentKind::Processor), metrics);
        assert!(window.is_aggregator() && !plain.is_aggregator());
    }
}
