//! The Kubernetes cluster around flowtap, kept up to date if there is one.

mod client;
mod facts;
pub mod watch;

use std::sync::Arc;

use flowtap_config::{Config, KubernetesConfig};
use flowtap_pipeline::{ClusterState, Dependency, Published};
use opentelemetry::metrics::Meter;
use tokio_util::sync::CancellationToken;

pub use self::client::{ClientError, client};
pub use self::watch::{WatchConfig, watch};
use crate::identity;

/// Watches the cluster until `stop`, if there is one and the config wants it.
///
/// # Errors
/// A kubeconfig or service account that is there and can't be used.
pub async fn follow(
    config: &Config,
    cluster: &Arc<Published<ClusterState>>,
    meter: &Meter,
    stop: CancellationToken,
) -> Result<(), ClientError> {
    let section = &config.service.kubernetes;
    if !section.enabled {
        return Ok(());
    }
    if let Some(client) = client(section.kubeconfig.as_deref()).await? {
        let watched = WatchConfig {
            names: names_are_wanted(config),
            node_name: node_name(section),
        };
        tracing::info!(
            names = watched.names,
            node = watched.node_name,
            "watching the Kubernetes cluster"
        );
        let (cluster, meter) = (Arc::clone(cluster), meter.clone());
        tokio::spawn(async move { watch(watched, client, cluster, &meter, stop).await });
    }
    Ok(())
}

/// Whether a component uses them.
fn names_are_wanted(config: &Config) -> bool {
    let contracts = config.contracts();
    let mut dependencies = contracts.iter().flat_map(|(_, _, contract)| &contract.depends_on);
    dependencies.any(|dependency| *dependency == Dependency::ClusterNames)
}

fn node_name(section: &KubernetesConfig) -> Option<String> {
    identity::kubernetes_node(section).or_else(identity::host_name)
}

#[cfg(test)]
mod test_server;
#[cfg(test)]
mod tests;
