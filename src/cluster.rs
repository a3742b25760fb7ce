//! The Kubernetes cluster around flowtap, kept up to date if there is one.

use std::sync::Arc;

use flowtap_config::{Config, KubernetesConfig};
use flowtap_pipeline::{ClusterState, Dependency, Live};
use flowtap_processors::kubernetes::{WatchConfig, client, watch};
use opentelemetry::metrics::Meter;
use tokio_util::sync::CancellationToken;

use crate::exit::{Code, Failure};
use crate::identity;

/// Watches the cluster until `stop`, if there is one and the config wants it.
///
/// # Errors
/// A kubeconfig or service account that is there and can't be used.
pub(crate) async fn follow(
    config: &Config,
    cluster: &Arc<Live<ClusterState>>,
    meter: &Meter,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let section = &config.service.kubernetes;
    if !section.enabled {
        return Ok(());
    }
    let client = client(section.kubeconfig.as_deref())
        .await
        .map_err(|error| Failure::new(Code::Config, format!("service.kubernetes: {error}")))?;
    if let Some(client) = client {
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
