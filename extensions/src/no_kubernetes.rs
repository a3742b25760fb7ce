//! In place of the watcher of the cluster in a build without the feature `kubernetes`: it logs that it is missing.

use std::convert::Infallible;
use std::sync::Arc;

use flowtap_config::{Config, Diagnostic, KubernetesConfig};
use flowtap_pipeline::{ClusterState, Published};
use opentelemetry::metrics::Meter;
use tokio_util::sync::CancellationToken;

use crate::watches::WatchBoard;

/// A cluster whose API has a client: there is none.
pub struct Cluster {
    /// Its id.
    pub uid: Option<String>,
    never: Infallible,
}

/// Connects to nothing; warns where there is a cluster to watch, unless the config disables the watcher.
///
/// # Errors
/// Never.
#[expect(
    clippy::unused_async,
    reason = "the signature of the watcher that it replaces"
)]
pub async fn connect(section: &KubernetesConfig) -> Result<Option<Cluster>, Infallible> {
    let in_cluster = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    if section.enabled && (in_cluster || section.kubeconfig.is_some()) {
        tracing::warn!(
            "this build has no Kubernetes watcher, so ranges and names of the cluster are unknown; hint: build it with \
             the feature `kubernetes`, or set service.kubernetes.enabled to false"
        );
    }
    Ok(None)
}

/// Returns nothing: this build has no watcher, as [`connect`] logs.
#[expect(
    clippy::unused_async,
    reason = "the signature of the watcher that it replaces"
)]
pub async fn unavailable(_: &Config) -> Option<Diagnostic> {
    None
}

/// The objects of a cluster.
#[derive(Debug, Default)]
pub struct Listed {
    /// Each with its kind.
    pub objects: Vec<serde_json::Value>,
    /// Whether every pod is among them.
    pub has_all_pods: bool,
}

/// Lists nothing.
#[expect(
    clippy::unused_async,
    reason = "the signature of the watcher that it replaces"
)]
pub async fn list_objects(cluster: &Cluster) -> Listed {
    match cluster.never {}
}

/// A program that gets credentials.
pub struct Plugin {
    /// The kubeconfig that names it.
    pub file: std::path::PathBuf,
    /// Its path or name.
    pub program: String,
}

/// Program that a kubeconfig names: none is started here.
pub fn plugin(_: &KubernetesConfig) -> Option<Plugin> {
    None
}

/// Files that a kubeconfig names: none is read here.
pub fn files_of(_: &std::path::Path) -> Vec<std::path::PathBuf> {
    Vec::new()
}

/// API servers that a kubeconfig names: none is asked here.
pub fn servers_of(_: &std::path::Path) -> Vec<String> {
    Vec::new()
}

/// Watches nothing.
pub fn follow(
    _: &Config,
    cluster: Cluster,
    _: &Arc<Published<ClusterState>>,
    _: WatchBoard,
    _: &Meter,
    _: CancellationToken,
) {
    match cluster.never {}
}
