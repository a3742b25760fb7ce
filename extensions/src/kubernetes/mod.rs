//! The Kubernetes cluster around flowtap, kept up to date if there is one.

mod available;
mod bounded;
mod client;
mod facts;
mod listing;
pub mod watch;

use std::sync::Arc;

use flowtap_config::{Config, KubernetesConfig};
use flowtap_pipeline::{ClusterState, Published};
use kube::Client;
use opentelemetry::metrics::Meter;
use tokio_util::sync::CancellationToken;

use self::available::component_with_names;
pub use self::available::unavailable;
use self::client::cluster_uid;
pub use self::client::{ClientError, Plugin, client, files_of, plugin, servers_of};
pub use self::listing::{Listed, list_objects};
pub use self::watch::{WatchConfig, watch};
use crate::identity;
use crate::watches::WatchBoard;

/// A cluster whose API has a client.
pub struct Cluster {
    client: Client,
    /// Its id, if it may be read.
    pub uid: Option<String>,
}

/// Returns the cluster around flowtap, if there is one and the config wants it.
///
/// # Errors
/// A kubeconfig or service account that is there and can't be used.
pub async fn connect(section: &KubernetesConfig) -> Result<Option<Cluster>, ClientError> {
    if !section.enabled {
        return Ok(None);
    }
    let Some(client) = client(section.kubeconfig.as_deref()).await? else {
        return Ok(None);
    };
    let uid = cluster_uid(&client).await;
    Ok(Some(Cluster { client, uid }))
}

/// Watches the cluster until `stop`; `board` has the state of each watch.
pub fn follow(
    config: &Config,
    Cluster { client, .. }: Cluster,
    state: &Arc<Published<ClusterState>>,
    board: WatchBoard,
    meter: &Meter,
    stop: CancellationToken,
) {
    let watched = WatchConfig {
        names: component_with_names(config).is_some(),
        node_name: node_name(&config.service.kubernetes),
    };
    tracing::info!(
        names = watched.names,
        node = watched.node_name,
        "watching the Kubernetes cluster"
    );
    let (state, meter) = (Arc::clone(state), meter.clone());
    tokio::spawn(async move { watch(watched, client, state, board, &meter, stop).await });
}

fn node_name(section: &KubernetesConfig) -> Option<String> {
    identity::kubernetes_node(section).or_else(identity::host_name)
}

#[cfg(test)]
mod test_server;
#[cfg(test)]
mod tests;
