//! Watches what ranges and names are made of, and publishes it as a whole.
//!
//! In: the Kubernetes API. Out: a [`ClusterState`] in a [`Published`]. The rules:
//!
//! 1. Pod ranges come from kubeadm's `ConfigMap` and the nodes' `podCIDRs`; service ranges from that `ConfigMap` and the
//!    `ServiceCIDR` objects; DNS from the services of kube-system with the label `k8s-app=kube-dns`.
//! 2. Pods, services and addresses of nodes are watched only if names are wanted.
//! 3. While a source can't be reached, what was known stays, and it is tried again with a growing pause.
//! 4. A source that is forbidden is logged once, with the rule that allows it; the others go on.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use flowtap_pipeline::plain::plain;
use flowtap_pipeline::{ClusterState, Published, Timestamp};
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Service};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Meter};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::bounded;
use super::facts::ClusterCache;
use crate::watches::WatchBoard;

/// Changes that come within this time are published together.
const SETTLE: Duration = Duration::from_millis(500);

/// Settings of the watches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchConfig {
    /// Whether names are wanted; ranges always are.
    pub names: bool,
    /// The node that flowtap runs on: whose containers' names are wanted.
    pub node_name: Option<String>,
}

/// A kind of object that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Source {
    Kubeadm,
    Nodes,
    ServiceCidrs,
    Dns,
    Services,
    Pods,
}

impl Source {
    /// Resource and API group, as a rule of RBAC names them, and where.
    const fn rule(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Kubeadm => ("configmaps", "", "namespace kube-system"),
            Self::Nodes => ("nodes", "", "cluster"),
            Self::ServiceCidrs => ("servicecidrs", "networking.k8s.io", "cluster"),
            Self::Dns => ("services", "", "namespace kube-system"),
            Self::Services => ("services", "", "cluster"),
            Self::Pods => ("pods", "", "cluster"),
        }
    }
}

impl Source {
    /// The resource, distinguished where it has two watches: services of kube-system for DNS, and
    /// all of them for names.
    const fn name(self) -> &'static str {
        match self {
            Self::Dns => "services/kube-dns",
            other => other.rule().0,
        }
    }

    fn attribute(self) -> KeyValue {
        KeyValue::new("resource", self.name())
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.rule().0)
    }
}

impl Source {
    /// Sources of a watch with `config`.
    fn of(config: &WatchConfig) -> impl Iterator<Item = Self> {
        let names = config.names.then_some([Self::Services, Self::Pods]);
        let ranges = [Self::Kubeadm, Self::Nodes, Self::ServiceCidrs, Self::Dns];
        ranges.into_iter().chain(names.into_iter().flatten())
    }
}

/// An update from a source.
enum Change {
    Kubeadm(Box<Event<ConfigMap>>),
    Node(Box<Event<Node>>),
    ServiceCidr(Box<Event<ServiceCIDR>>),
    Dns(Box<Event<Service>>),
    Service(Box<Event<Service>>),
    Pod(Box<Event<Pod>>),
    Failed(Source, watcher::Error),
}

impl Change {
    const fn source(&self) -> Source {
        match self {
            Self::Kubeadm(_) => Source::Kubeadm,
            Self::Node(_) => Source::Nodes,
            Self::ServiceCidr(_) => Source::ServiceCidrs,
            Self::Dns(_) => Source::Dns,
            Self::Service(_) => Source::Services,
            Self::Pod(_) => Source::Pods,
            Self::Failed(source, _) => *source,
        }
    }
}

/// When each source was last heard of, and how often it failed.
struct Telemetry {
    last_event: Gauge<f64>,
    errors: Counter<u64>,
}

impl Telemetry {
    fn new(meter: &Meter) -> Self {
        Self {
            last_event: meter
                .f64_gauge("kubernetes_last_event_timestamp")
                .with_description(
                    "Unix time at which the Kubernetes API last reported an object of a resource.",
                )
                .with_unit("s")
                .build(),
            errors: meter
                .u64_counter("kubernetes_watch_errors")
                .with_description("Failed requests and broken watches of the Kubernetes API.")
                .with_unit("{error}")
                .build(),
        }
    }

    /// From the first attempt, so that an alert on a rise sees the first error.
    fn begun(&self, source: Source) {
        self.errors.add(0, &[source.attribute()]);
    }

    fn reported(&self, source: Source) {
        let now = Timestamp::now().as_secs_f64();
        self.last_event.record(now, &[source.attribute()]);
    }

    fn failed(&self, source: Source) {
        self.errors.add(1, &[source.attribute()]);
    }
}

/// Watches until `stop`.
pub async fn watch(
    config: WatchConfig,
    client: Client,
    cluster: Arc<Published<ClusterState>>,
    board: WatchBoard,
    meter: &Meter,
    stop: CancellationToken,
) {
    let telemetry = Telemetry::new(meter);
    for source in Source::of(&config) {
        board.add(source.name());
    }
    let mut changes = changes(&config, &client);
    let mut cache = ClusterCache::default();
    let mut failing = HashSet::new();
    // When the changes since then are published; none wait as long as it is `None`.
    let mut due: Option<Instant> = None;
    loop {
        let settled = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = settled => {
                due = None;
                let before = cluster.load();
                let now = cache.state(&before);
                if now != *before {
                    tracing::debug!(
                        pods = now.ranges.pods.len(),
                        services = now.ranges.services.len(),
                        names = now.by_address.len(),
                        "the cluster has changed"
                    );
                    cluster.store(now);
                }
            }
            change = changes.next() => {
                let Some(change) = change else { return };
                let source = change.source();
                if let Change::Failed(_, error) = &change {
                    telemetry.failed(source);
                    if status_code(error) == Some(404) {
                        board.missing(source.name());
                    } else {
                        board.failed(source.name(), error_chain(error));
                    }
                } else {
                    telemetry.begun(source);
                    if !is_attempt(&change) {
                        telemetry.reported(source);
                    }
                }
                let is_listed = is_listed(&change);
                apply(&mut cache, change, config.node_name.as_deref(), &mut failing);
                if is_listed {
                    board.listed(source.name(), count(&cache, source));
                }
                due.get_or_insert_with(|| Instant::now() + SETTLE);
            }
        }
    }
}

/// Whether a change shows that the API has sent a whole list, or that a watch works.
const fn is_listed(change: &Change) -> bool {
    match change {
        Change::Failed(..) => false,
        Change::Kubeadm(event) => is_complete(event),
        Change::Node(event) => is_complete(event),
        Change::ServiceCidr(event) => is_complete(event),
        Change::Dns(event) | Change::Service(event) => is_complete(event),
        Change::Pod(event) => is_complete(event),
    }
}

/// Whether a change shows no more than that a list is asked for: the API has not answered yet.
const fn is_attempt(change: &Change) -> bool {
    match change {
        Change::Failed(..) => false,
        Change::Kubeadm(event) => is_init(event),
        Change::Node(event) => is_init(event),
        Change::ServiceCidr(event) => is_init(event),
        Change::Dns(event) | Change::Service(event) => is_init(event),
        Change::Pod(event) => is_init(event),
    }
}

const fn is_init<K>(event: &Event<K>) -> bool {
    matches!(event, Event::Init)
}

const fn is_complete<K>(event: &Event<K>) -> bool {
    matches!(event, Event::InitDone | Event::Apply(_) | Event::Delete(_))
}

fn count(cache: &ClusterCache, source: Source) -> usize {
    match source {
        Source::Kubeadm => cache.kubeadm.len(),
        Source::Nodes => cache.nodes.len(),
        Source::ServiceCidrs => cache.service_cidrs.len(),
        Source::Dns => cache.dns.len(),
        Source::Services => cache.services.len(),
        Source::Pods => cache.pods.len(),
    }
}

fn apply(cache: &mut ClusterCache, change: Change, node_name: Option<&str>, failing: &mut HashSet<Source>) {
    let listed = is_listed(&change);
    let source = match change {
        Change::Failed(source, error) => {
            // Once per failure, not once per attempt.
            if failing.insert(source) {
                warn(source, &error);
            }
            return;
        }
        Change::Kubeadm(event) => {
            cache.kubeadm.apply(&event, node_name);
            Source::Kubeadm
        }
        Change::Node(event) => {
            cache.nodes.apply(&event, node_name);
            Source::Nodes
        }
        Change::ServiceCidr(event) => {
            cache.service_cidrs.apply(&event, node_name);
            Source::ServiceCidrs
        }
        Change::Dns(event) => {
            cache.dns.apply(&event, node_name);
            Source::Dns
        }
        Change::Service(event) => {
            cache.services.apply(&event, node_name);
            Source::Services
        }
        Change::Pod(event) => {
            cache.pods.apply(&event, node_name);
            Source::Pods
        }
    };
    // An attempt also begins with an event, and may fail after it.
    if listed && failing.remove(&source) {
        tracing::info!(resource = %source, "watched again");
    }
}

/// Every source, merged.
fn changes(config: &WatchConfig, client: &Client) -> stream::SelectAll<BoxStream<'static, Change>> {
    let in_kube_system = |fields: &str| watcher::Config::default().fields(fields);
    let dns = watcher::Config::default().labels("k8s-app=kube-dns");
    let all = || watcher::Config::default().page_size(bounded::PAGE);
    let (client, system) = (|| client.clone(), "kube-system");
    let mut sources = vec![
        source(
            watcher(
                Api::namespaced(client(), system),
                in_kube_system("metadata.name=kubeadm-config"),
            ),
            Change::Kubeadm,
            Source::Kubeadm,
        ),
        source(watcher(Api::all(client()), all()), Change::Node, Source::Nodes),
        source(
            watcher(Api::all(client()), all()),
            Change::ServiceCidr,
            Source::ServiceCidrs,
        ),
        source(
            watcher(Api::namespaced(client(), system), dns),
            Change::Dns,
            Source::Dns,
        ),
    ];
    if config.names {
        sources.push(source(
            watcher(Api::all(client()), all()),
            Change::Service,
            Source::Services,
        ));
        sources.push(source(
            watcher(Api::all(client()), all()),
            Change::Pod,
            Source::Pods,
        ));
    }
    stream::select_all(sources)
}

fn source<K: Send + 'static>(
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
    change: fn(Box<Event<K>>) -> Change,
    source: Source,
) -> BoxStream<'static, Change> {
    let events = events.default_backoff();
    events
        .map(move |event| match event {
            Ok(event) => change(Box::new(event)),
            Err(error) => Change::Failed(source, error),
        })
        .boxed()
}

fn warn(source: Source, error: &watcher::Error) {
    let (resource, group, place) = source.rule();
    match status_code(error) {
        Some(403) => tracing::warn!(
            resource,
            "the Kubernetes API forbids watching {resource} ({place}); hint: add a rule with apiGroups: [\"{group}\"], \
             resources: [\"{resource}\"], verbs: [\"list\", \"watch\"]; until then only the config is used for it"
        ),
        // An API server before 1.33 has none of these.
        Some(404) => tracing::debug!(resource, "this cluster's API has no {resource}"),
        _ => {
            let error = error_chain(error);
            tracing::warn!(
                resource,
                error,
                "the Kubernetes API can't be watched; the last known state stays in use; \
                hint: check the service account's role (deploy/) and the way to the API server"
            );
        }
    }
}

/// Characters of an error of the API that are kept: a server, or what answers in its place, may send any length.
const MAX_ERROR: usize = 300;

/// The error and its causes as one line, of at most [`MAX_ERROR`] characters: the server may have sent any text.
pub(super) fn error_chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut texts: Vec<String> = Vec::new();
    for text in causes.map(ToString::to_string) {
        // Many errors repeat their cause.
        if !texts.last().is_some_and(|before| before.contains(&text)) {
            texts.push(text);
        }
    }
    let text = texts.join(": ");
    match text.char_indices().nth(MAX_ERROR) {
        Some((end, _)) => format!("{}…", plain(&text[..end])),
        None => plain(&text).into_owned(),
    }
}

/// The API server's answer, if it was one.
fn status_code(error: &watcher::Error) -> Option<u16> {
    let (watcher::Error::InitialListFailed(kube::Error::Api(status))
    | watcher::Error::WatchStartFailed(kube::Error::Api(status))
    | watcher::Error::WatchFailed(kube::Error::Api(status))
    | watcher::Error::WatchError(status)) = error
    else {
        return None;
    };
    Some(status.code)
}
