//! A client of the cluster that flowtap runs in, or one that the config names.

use std::env;
use std::path::{Path, PathBuf};

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// Why there is a cluster, and no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The pod's service account can't be used.
    #[error("the service account of this pod can't be used: {0}")]
    InCluster(String),
    /// A kubeconfig can't be used.
    #[error("{}: {reason}", .file.display())]
    Kubeconfig {
        /// Which file.
        file: PathBuf,
        /// Message of the error.
        reason: String,
    },
    /// The client can't be made of either.
    #[error("the Kubernetes API client can't be created: {0}")]
    Client(String),
}

/// The client: from `kubeconfig` if given, else from this pod's service account, else from
/// `$KUBECONFIG`. `None` outside a cluster, which is not an error.
///
/// # Errors
/// [`ClientError`] if what is there can't be used.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Option<Client>, ClientError> {
    let config = if let Some(file) = kubeconfig {
        from_file(file).await?
    } else if env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        Config::incluster().map_err(|error| ClientError::InCluster(error.to_string()))?
    } else if let Some(file) = env::var_os("KUBECONFIG").filter(|file| !file.is_empty()) {
        from_file(Path::new(&file)).await?
    } else {
        return Ok(None);
    };
    let client = Client::try_from(config).map_err(|error| ClientError::Client(error.to_string()))?;
    Ok(Some(client))
}

async fn from_file(file: &Path) -> Result<Config, ClientError> {
    let broken = |error: &dyn std::fmt::Display| ClientError::Kubeconfig {
        file: file.to_owned(),
        reason: error.to_string(),
    };
    let kubeconfig = Kubeconfig::read_from(file).map_err(|error| broken(&error))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    config.map_err(|error| broken(&error))
}
