//! In place of the watcher of the cluster in a build without the feature `kubernetes`: it logs that it is missing.

use std::convert::Infallible;
use std::sync::Arc;

use flowtap_config::Config;
use flowtap_pipeline::{ClusterState, Published};
use opentelemetry::metrics::Meter;
use tokio_util::sync::CancellationToken;

/// Whether this process runs in a cluster, or has a config of one, and the config does not disable the watcher.
fn is_wanted(config: &Config) -> bool {
    let section = &config.service.kubernetes;
    let in_cluster = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    section.enabled && (in_cluster || section.kubeconfig.is_some())
}

/// Watches nothing; warns where there is a cluster to watch.
///
/// # Errors
/// Never.
#[expect(
    clippy::unused_async,
    reason = "the signature of the watcher that it replaces"
)]
pub async fn follow(
    config: &Config,
    _: &Arc<Published<ClusterState>>,
    _: &Meter,
    _: CancellationToken,
) -> Result<(), Infallible> {
    if is_wanted(config) {
        tracing::warn!(
            "this build has no Kubernetes watcher, so ranges and names of the cluster are unknown; hint: build it with \
             the feature `kubernetes`, or set service.kubernetes.enabled to false"
        );
    }
    Ok(())
}
