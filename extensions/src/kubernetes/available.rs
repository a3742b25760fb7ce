//! Whether this machine has a way to the cluster that a config asks for: a warning of `flowtap validate`.
//!
//! In: a checked config. Out: a warning where the start would fail for the kubeconfig or the service account, or where a component
//! uses names of a cluster and there is none. Files are read; nothing is connected to, and no program is started. A warning and not an
//! error, as configs are validated on other machines than those that they are for.

use flowtap_config::{Config, Diagnostic};
use flowtap_pipeline::plain::plain;
use flowtap_pipeline::{ComponentId, ComponentKind, Contract, Dependency, RecordField};

use super::client::{ClientError, check};

/// Returns what keeps the watcher of the cluster from working on this machine, with the fix.
pub async fn unavailable(config: &Config) -> Option<Diagnostic> {
    let section = &config.service.kubernetes;
    if !section.enabled {
        return None;
    }
    let kubeconfig = ["service", "kubernetes", "kubeconfig"];
    let enabled = ["service", "kubernetes", "enabled"];
    let without = "`service.kubernetes.enabled: false` does without the cluster";
    let (path, message, help) = match check(section.kubeconfig.as_deref()).await {
        Ok(Some(())) => return None,
        Ok(None) => {
            let (kind, id) = component_with_names(config)?;
            let message = format!(
                "uses names of a Kubernetes cluster, and this machine is in none: KUBERNETES_SERVICE_HOST is not set, and no \
                 kubeconfig is named; {}",
                RecordField::ClusterNames.if_missing()
            );
            let help = "run flowtap in a pod with a service account, or set `service.kubernetes.kubeconfig` to the path of a kubeconfig";
            ([kind.section(), id.as_str()].to_vec(), message, help.to_owned())
        }
        Err(ClientError::Kubeconfig { file, reason }) => {
            let file = file.to_string_lossy();
            let file = plain(&file);
            let named = if section.kubeconfig.is_some() {
                file.into_owned()
            } else {
                format!("is null, and {file} that $KUBECONFIG names")
            };
            let message = format!("{named} can't be used on this machine: {reason}");
            let help = format!(
                "correct it, or name a file that can be used when flowtap starts, which it does not do without; {without}"
            );
            (kubeconfig.to_vec(), message, help)
        }
        Err(error) => {
            let help = format!(
                "mount the token of the service account (`automountServiceAccountToken: true`), or set `{}`; {without}",
                kubeconfig.join(".")
            );
            (enabled.to_vec(), error.to_string(), help)
        }
    };
    let mut warning = config.error_at(&path, &message).0.pop()?;
    warning.help = Some(help);
    Some(warning)
}

/// The first component that uses names of the cluster.
pub(super) fn component_with_names(config: &Config) -> Option<(ComponentKind, &ComponentId)> {
    let mut contracts = config.contracts().into_iter();
    let uses = |contract: &Contract| contract.depends_on.contains(&Dependency::ClusterNames);
    contracts.find_map(|(kind, id, contract)| uses(&contract).then_some((kind, id)))
}
