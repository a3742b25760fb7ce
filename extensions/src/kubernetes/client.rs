//! A client of the cluster that flowtap runs in, or one that the config names.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flowtap_config::KubernetesConfig;
use flowtap_pipeline::files::{self, MAX_CREDENTIAL_BYTES};
use flowtap_pipeline::plain::plain;
use k8s_openapi::api::core::v1::Namespace;
use kube::config::{AuthInfo, AuthProviderConfig, Cluster, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Api, Client, Config};

use super::bounded;
use super::watch::error_chain;

/// Why there is a cluster, and no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The pod's service account can't be used.
    #[error("the service account of this pod can't be used: {0}")]
    InCluster(String),
    /// A kubeconfig can't be used.
    #[error("{}: {}", plain(&.file.to_string_lossy()), plain(.reason))]
    Kubeconfig {
        /// Which file, or several as `$KUBECONFIG` lists them.
        file: PathBuf,
        /// Message of the error.
        reason: String,
    },
}

/// The client: from `kubeconfig` if given, else from this pod's service account, else from
/// `$KUBECONFIG`. `None` outside a cluster, which is not an error.
///
/// # Errors
/// [`ClientError`] if what is there can't be used.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Option<Client>, ClientError> {
    let Some(source) = Source::of(kubeconfig) else {
        return Ok(None);
    };
    let config = source.settings().await?;
    source.client(config).map(Some)
}

/// Checks whether [`client`] works, as far as that is known without a connection and without the program that gets credentials. `None`
/// outside a cluster.
///
/// # Errors
/// [`ClientError`] as of [`client`].
pub(super) async fn check(kubeconfig: Option<&Path>) -> Result<Option<()>, ClientError> {
    let Some(source) = Source::of(kubeconfig) else {
        return Ok(None);
    };
    let mut config = source.settings().await?;
    let user = &mut config.auth_info;
    // Without a command it stays, and is an error of the client.
    user.exec = user.exec.take().filter(|exec| exec.command.is_none());
    let starts_one = |provider: &AuthProviderConfig| provider.config.contains_key(PROVIDER_COMMAND);
    user.auth_provider = user.auth_provider.take().filter(|provider| !starts_one(provider));
    source.client(config).map(|_| Some(()))
}

/// The source of the client's settings.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Kubeconfigs, merged; several only from `$KUBECONFIG`.
    Files(Vec<PathBuf>),
    /// The pod's service account.
    InCluster,
}

impl Source {
    pub(super) async fn settings(&self) -> Result<Config, ClientError> {
        match self {
            Self::Files(files) => from_files(files).await,
            Self::InCluster => Config::incluster().map_err(|error| self.unusable(&error)),
        }
    }

    fn client(&self, config: Config) -> Result<Client, ClientError> {
        bounded::client(config).map_err(|error| self.unusable(&error))
    }

    fn unusable(&self, error: &(dyn Error + 'static)) -> ClientError {
        match self {
            Self::Files(files) => broken(&joined(files), &error_chain(error)),
            Self::InCluster => ClientError::InCluster(error_chain(error)),
        }
    }

    fn of(kubeconfig: Option<&Path>) -> Option<Self> {
        let in_cluster = env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        Self::choose(kubeconfig, in_cluster, env::var_os("KUBECONFIG"))
    }

    /// `variable`: the value of `$KUBECONFIG`, a list as in `PATH`.
    pub(super) fn choose(
        kubeconfig: Option<&Path>,
        in_cluster: bool,
        variable: Option<OsString>,
    ) -> Option<Self> {
        if let Some(file) = kubeconfig {
            return Some(Self::Files(vec![file.to_owned()]));
        }
        if in_cluster {
            return Some(Self::InCluster);
        }
        let files = env::split_paths(&variable?)
            .filter(|file| !file.as_os_str().is_empty())
            .collect::<Vec<_>>();
        (!files.is_empty()).then_some(Self::Files(files))
    }
}

/// The setting of an `auth-provider` that names a program.
const PROVIDER_COMMAND: &str = "cmd-path";

/// A program that gets credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin {
    /// The kubeconfig that names it, or the list that does.
    pub file: PathBuf,
    /// Its path or name.
    pub program: String,
}

/// The program that [`client`] would start, if the kubeconfig that it would use has one in its current context.
pub fn plugin(section: &KubernetesConfig) -> Option<Plugin> {
    let Source::Files(files) = Source::of(section.kubeconfig.as_deref()).filter(|_| section.enabled)? else {
        return None;
    };
    let (_, user) = current(&merged(&files).ok()?);
    let user = user?;
    let provider = user
        .auth_provider
        .and_then(|mut provider| provider.config.remove(PROVIDER_COMMAND));
    let program = user.exec.and_then(|exec| exec.command).or(provider)?;
    Some(Plugin {
        file: joined(&files),
        program,
    })
}

/// Maximum time for which the start waits for the cluster's id.
const UID_TIMEOUT: Duration = Duration::from_secs(2);

/// The cluster's id: the uid of its namespace kube-system, as `k8s.cluster.uid` is defined. `None` if it can't be read, with a log line.
pub(super) async fn cluster_uid(client: &Client) -> Option<String> {
    let namespaces = Api::<Namespace>::all(bounded::retrying(client));
    let error = match tokio::time::timeout(UID_TIMEOUT, namespaces.get_metadata("kube-system")).await {
        Ok(Ok(namespace)) => return namespace.metadata.uid,
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
            tracing::info!(
                "k8s.cluster.uid is not known: the Kubernetes API forbids it; hint: a rule with apiGroups: [\"\"], resources: \
                 [\"namespaces\"], resourceNames: [\"kube-system\"], verbs: [\"get\"], or service.telemetry.resource"
            );
            return None;
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", UID_TIMEOUT.as_secs()),
    };
    tracing::warn!(
        error,
        "k8s.cluster.uid is not known until the next start; hint: set it in service.telemetry.resource"
    );
    None
}

/// Files that a kubeconfig names: the authority, the client's certificate and key, tokens. None if it can't be read, which
/// [`client`] reports.
pub fn files_of(kubeconfig: &Path) -> Vec<PathBuf> {
    let Ok(kubeconfig) = read(kubeconfig) else {
        return Vec::new();
    };
    let clusters = kubeconfig.clusters.into_iter().filter_map(|named| named.cluster);
    let authorities = clusters.filter_map(|cluster| cluster.certificate_authority);
    let users = kubeconfig
        .auth_infos
        .into_iter()
        .filter_map(|named| named.auth_info);
    let of_users = users.flat_map(|user| [user.client_certificate, user.client_key, user.token_file]);
    authorities.chain(of_users.flatten()).map(PathBuf::from).collect()
}

/// URLs of the API servers, and of the proxies to them, that a kubeconfig names. None if it can't be read, which [`client`] reports.
pub fn servers_of(kubeconfig: &Path) -> Vec<String> {
    let Ok(kubeconfig) = read(kubeconfig) else {
        return Vec::new();
    };
    let clusters = kubeconfig.clusters.into_iter().filter_map(|named| named.cluster);
    let urls = clusters.flat_map(|cluster| [cluster.server, cluster.proxy_url]);
    urls.flatten().collect()
}

async fn from_files(files: &[PathBuf]) -> Result<Config, ClientError> {
    let kubeconfig = merged(files)?;
    let file = joined(files);
    check_named(&file, &kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    config.map_err(|error| broken(&file, &error_chain(&error)))
}

/// The files as `$KUBECONFIG` lists them.
fn joined(files: &[PathBuf]) -> PathBuf {
    env::join_paths(files).map_or_else(|_| files.iter().collect(), PathBuf::from)
}

/// Reads kubeconfigs as kubectl does: of what several define the first counts, and of several those that don't exist are left out.
fn merged(files: &[PathBuf]) -> Result<Kubeconfig, ClientError> {
    let exists = |file: &&PathBuf| !matches!(file.try_exists(), Ok(false));
    let existing = files.iter().filter(exists).collect::<Vec<_>>();
    // With none, the error is that of the first.
    let existing = if existing.is_empty() {
        files.iter().take(1).collect()
    } else {
        existing
    };
    let mut merged = Kubeconfig::default();
    for file in existing {
        let mut next = read(file)?;
        // kubectl takes an empty name for none.
        next.current_context = next.current_context.filter(|name| !name.is_empty());
        merged = merged
            .merge(next)
            .map_err(|error| broken(file, &error_chain(&error)))?;
    }
    Ok(merged)
}

fn broken(file: &Path, error: &dyn fmt::Display) -> ClientError {
    ClientError::Kubeconfig {
        file: file.to_owned(),
        reason: error.to_string(),
    }
}

fn read(file: &Path) -> Result<Kubeconfig, ClientError> {
    // The library reads whatever the name leads to, and would wait for a FIFO.
    files::read(file, MAX_CREDENTIAL_BYTES).map_err(|error| broken(file, &error))?;
    Kubeconfig::read_from(file).map_err(|error| match error {
        // Its own text repeats the path.
        KubeconfigError::ReadConfig(error, _) => broken(file, &error),
        error => broken(file, &error),
    })
}

/// Checks the files that the client will read, which are those of the current context that no inline value replaces.
fn check_named(file: &Path, kubeconfig: &Kubeconfig) -> Result<(), ClientError> {
    let (cluster, user) = current(kubeconfig);
    let (cluster, user) = (cluster.unwrap_or_default(), user.unwrap_or_default());
    let inline = serde_json::to_value(&user).ok();
    let inline = inline.as_ref().and_then(|user| user.get("token")?.as_str());
    let named = [
        (
            "certificate-authority",
            cluster.certificate_authority,
            cluster.certificate_authority_data.is_some(),
        ),
        (
            "client-certificate",
            user.client_certificate,
            user.client_certificate_data.is_some(),
        ),
        ("client-key", user.client_key, user.client_key_data.is_some()),
        ("tokenFile", user.token_file, user.token.is_some()),
    ];
    for (key, path, is_replaced) in named {
        if let Some(path) = path.filter(|_| !is_replaced) {
            let unusable = |error: &dyn fmt::Display| broken(file, &format!("{key}: {path}: {error}"));
            let content =
                files::read(Path::new(&path), MAX_CREDENTIAL_BYTES).map_err(|error| unusable(&error))?;
            if key == "tokenFile" && !fits_header(&content) {
                return Err(unusable(&NO_TOKEN));
            }
        }
    }
    // The library would panic. Its type for secrets shows them to serde alone.
    let provided = user.auth_provider.as_ref();
    let provided = provided.and_then(|provider| provider.config.get("id-token"));
    for (key, token) in [
        ("token", inline),
        ("auth-provider: id-token", provided.map(String::as_str)),
    ] {
        if token.is_some_and(|token| !fits_header(token.as_bytes())) {
            return Err(broken(file, &format!("{key}: {NO_TOKEN}")));
        }
    }
    Ok(())
}

const NO_TOKEN: &str = "has a line break or another character that no token has; hint: write it without one, as \
                        `printf %s \"$TOKEN\"` does";

/// Whether an HTTP header can have it (RFC 9110, 5.5).
fn fits_header(token: &[u8]) -> bool {
    token
        .iter()
        .all(|byte| *byte == b'\t' || !byte.is_ascii_control())
}

/// The cluster and the user of the current context.
fn current(kubeconfig: &Kubeconfig) -> (Option<Cluster>, Option<AuthInfo>) {
    let current = kubeconfig.current_context.as_ref();
    let mut contexts = kubeconfig.contexts.iter();
    let context = contexts.find(|named| Some(&named.name) == current);
    let Some(context) = context.and_then(|named| named.context.as_ref()) else {
        return (None, None);
    };
    let mut clusters = kubeconfig.clusters.iter();
    let cluster = clusters.find(|named| named.name == context.cluster);
    let mut users = kubeconfig.auth_infos.iter();
    let user = users.find(|named| Some(&named.name) == context.user.as_ref());
    (
        cluster.and_then(|named| named.cluster.clone()),
        user.and_then(|named| named.auth_info.clone()),
    )
}
