//! State of the Kubernetes cluster: owners and names of its addresses.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

/// Address ranges of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterRanges {
    /// Of pods.
    pub pods: Vec<IpNet>,
    /// Of services.
    pub services: Vec<IpNet>,
    /// Its DNS service.
    pub dns: Vec<IpAddr>,
}

/// Names of one address or container. Names that do not apply are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KubernetesNames {
    /// Namespace of the pod or service.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// Owner of the pod: `Deployment/web`, `DaemonSet/agent`, `CronJob/nightly`. See [`workload`].
    pub workload: String,
    /// Name of the service.
    pub service: String,
    /// Name of the node that the pod runs on, or that the address is of.
    pub node: String,
}

/// The known state. Empty outside a cluster.
///
/// ```
/// use std::net::IpAddr;
/// use std::sync::Arc;
/// use flowtap_model::{ClusterState, KubernetesNames};
///
/// let names = KubernetesNames { pod: "web-1".to_owned(), ..KubernetesNames::default() };
/// let mut cluster = ClusterState::default();
/// cluster.by_address.insert(IpAddr::from([10, 244, 0, 7]), Arc::new(names));
/// assert_eq!(cluster.by_address.len(), 1);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterState {
    /// Shared, so that it shows by its pointer whether ranges have changed or only names.
    pub ranges: Arc<ClusterRanges>,
    /// Names by address: pods with their own address, services, nodes.
    pub by_address: HashMap<IpAddr, Arc<KubernetesNames>>,
    /// Names by container id, of this node's pods.
    pub by_container: HashMap<Box<str>, Arc<KubernetesNames>>,
    /// Topology zones by the name of their node.
    pub zones: HashMap<Box<str>, Arc<str>>,
}

/// The workload of a pod that an object of this kind and name controls. A pod has only its `ReplicaSet` or `Job` as its controller, which a
/// rollout or the next run replaces: so it is named by what made that, as far as the name shows it. `template_hash` is the pod's label
/// `pod-template-hash`; empty without one.
///
/// ```
/// use flowtap_model::cluster::workload;
///
/// assert_eq!(workload("ReplicaSet", "web-7f9c", "7f9c"), "Deployment/web");
/// assert_eq!(workload("Job", "backup-29000060", ""), "CronJob/backup");
/// assert_eq!(workload("Job", "migrate", ""), "Job/migrate");
/// ```
pub fn workload(kind: &str, name: &str, template_hash: &str) -> String {
    let made_by = match kind {
        "ReplicaSet" if !template_hash.is_empty() => name
            .strip_suffix(template_hash)
            .and_then(|name| name.strip_suffix('-'))
            .map(|deployment| ("Deployment", deployment)),
        "Job" => cron_job(name).map(|cron_job| ("CronJob", cron_job)),
        _ => None,
    };
    let (kind, name) = made_by.unwrap_or((kind, name));
    format!("{kind}/{name}")
}

/// The `CronJob` of a run. Its controller names the `Job` by the minute that it was scheduled for, since the epoch; until Kubernetes 1.21 by the
/// second. Another number, such as the date 20260101, is part of a name.
fn cron_job(job: &str) -> Option<&str> {
    /// From 2015 on; dates of this century as `YYYYMMDD` are lower.
    const MINUTES: std::ops::RangeInclusive<u64> = 24_000_000..=999_999_999;
    /// From 2014 until 2033; dates with the hour are higher.
    const SECONDS: std::ops::RangeInclusive<u64> = 1_400_000_000..=1_999_999_999;
    let (name, time) = job.rsplit_once('-')?;
    let is_number = !time.starts_with('0') && time.bytes().all(|byte| byte.is_ascii_digit());
    let time: u64 = is_number.then(|| time.parse().ok())??;
    (!name.is_empty() && (MINUTES.contains(&time) || SECONDS.contains(&time))).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workload_of_a_run_is_its_cron_job() {
        for (job, expected) in [
            ("backup-29000060", "CronJob/backup"),
            ("backup-29000070", "CronJob/backup"),
            ("nightly-report-129000060", "CronJob/nightly-report"),
            // Of Kubernetes before 1.21.
            ("backup-1616300400", "CronJob/backup"),
            ("backup-2-29000060", "CronJob/backup-2"),
            ("nightly", "Job/nightly"),
            ("import-20260101", "Job/import-20260101"),
            ("import-2026010112", "Job/import-2026010112"),
            ("step-1", "Job/step-1"),
            ("step-2900006", "Job/step-2900006"),
            ("step-029000060", "Job/step-029000060"),
            ("step-29000060x", "Job/step-29000060x"),
            ("step-29000060000", "Job/step-29000060000"),
            ("step-99999999999999999999999", "Job/step-99999999999999999999999"),
            ("step-", "Job/step-"),
            ("-29000060", "Job/-29000060"),
            ("29000060", "Job/29000060"),
        ] {
            assert_eq!(workload("Job", job, "abc"), expected);
        }
        // Nothing else has such a name from its controller.
        assert_eq!(
            workload("StatefulSet", "db-29000060", ""),
            "StatefulSet/db-29000060"
        );
    }

    #[test]
    fn the_workload_of_a_replica_set_with_its_hash_is_its_deployment() {
        for (name, hash, expected) in [
            ("web-7f9c", "7f9c", "Deployment/web"),
            ("web-7f9c", "", "ReplicaSet/web-7f9c"),
            ("web-7f9c", "1234", "ReplicaSet/web-7f9c"),
            ("7f9c", "7f9c", "ReplicaSet/7f9c"),
        ] {
            assert_eq!(workload("ReplicaSet", name, hash), expected);
        }
    }
}
