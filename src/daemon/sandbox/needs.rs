//! Access that a config needs, from the contracts of its components.

use std::path::{Path, PathBuf};

use caps::{Capability, CapsHashSet};
use flowtap_config::Config;
use flowtap_receivers::containers::mount::Hierarchy;

/// Access that the sandbox must leave open.
#[derive(Debug)]
pub(super) struct Needs {
    pub(super) capabilities: CapsHashSet,
    pub(super) read: Vec<PathBuf>,
    pub(super) write: Vec<PathBuf>,
    pub(super) landlock: bool,
    /// Proc file systems other than `/proc`.
    pub(super) proc_roots: Vec<PathBuf>,
}

impl Needs {
    pub(super) fn of(config: &Config) -> Self {
        let mut capabilities = Self::capabilities(config);
        let contracts: Vec<_> = config
            .contracts()
            .into_iter()
            .map(|(_, _, contract)| contract)
            .collect();
        // A path may count from the folder that flowtap starts in.
        let absolute = |path: &PathBuf| std::path::absolute(path).ok();
        let roots = contracts.iter().flat_map(|contract| &contract.proc_root);
        let roots: Vec<_> = roots.filter_map(absolute).collect();
        let reads = contracts.iter().flat_map(|contract| &contract.reads);
        let mut paths: Vec<_> = reads.filter_map(absolute).chain(roots.clone()).collect();
        for file in kubeconfigs(config) {
            paths.extend(flowtap_extensions::kubernetes::files_of(&file));
            paths.push(file);
        }
        // Most often beneath /sys, but it may be mounted anywhere: containers are found in it.
        paths.extend(flowtap_receivers::containers::mount::mount_points());
        paths.extend(of_environment(&CERTIFICATES));
        let proc_roots: Vec<_> = roots
            .into_iter()
            .filter(|path| path != Path::new("/proc") && path.join("1/stat").exists())
            .collect();
        // Within Landlock even the right to look at any process shows neither those that `hidepid=` hides, nor their mounts.
        let hidden = proc_roots
            .iter()
            .any(|root| hides_processes(root) || has_the_cgroups(root));
        if hidden {
            capabilities.insert(Capability::CAP_SYS_PTRACE);
        }
        // Of a file its folder, because one that is renewed is another file under the same name; but not the root.
        let files = config
            .files
            .iter()
            .filter_map(|path| std::path::absolute(path).ok());
        // A link is followed to where it points, and Landlock asks for the rights of that place.
        let read = paths
            .iter()
            .cloned()
            .chain(files)
            .flat_map(|path| {
                let target = path.canonicalize().ok().filter(|target| *target != path);
                [Some(path), target].into_iter().flatten()
            })
            .map(|path| match path.parent() {
                Some(folder) if !path.is_dir() && folder.parent().is_some() => folder.to_owned(),
                _ => path,
            });
        let mut read: Vec<_> = read.collect();
        // A file that is renamed over /etc/hosts or /etc/resolv.conf is another file. Of a user who is not root the rights of files
        // keep the secrets in there; root owns them.
        if !nix::unistd::geteuid().is_root() {
            read.push(PathBuf::from("/etc"));
        }
        Self {
            capabilities,
            read,
            write: contracts
                .into_iter()
                .flat_map(|contract| contract.writes)
                .collect(),
            landlock: !hidden,
            proc_roots,
        }
    }
}

impl Needs {
    /// Capabilities that the config asks for; those that its proc file systems take are not among them.
    pub(super) fn capabilities(config: &Config) -> CapsHashSet {
        let asked = asked_capabilities(config).map(|(capability, _)| capability);
        let always = [Capability::CAP_BPF, Capability::CAP_PERFMON];
        always.into_iter().chain(asked).collect()
    }
}

/// Path of the first key in `config` that asks for `capability`.
pub(super) fn capability_key(config: &Config, capability: Capability) -> Vec<String> {
    let mut asked = asked_capabilities(config);
    let found = asked.find(|(asked, _)| *asked == capability);
    found.map_or_else(Vec::new, |(_, key)| key)
}

/// Capabilities that parts of the config ask for, each with the path of its key.
fn asked_capabilities(config: &Config) -> impl Iterator<Item = (Capability, Vec<String>)> {
    let path = |keys: &[&str]| -> Vec<_> { keys.iter().map(|&key| key.to_owned()).collect() };
    let service = &config.service;
    let own = [
        (service.admin.endpoint, path(&["service", "admin", "endpoint"])),
        (
            service.telemetry.metrics.endpoint,
            path(&["service", "telemetry", "metrics", "endpoint"]),
        ),
    ];
    let mut listens: Vec<_> = own
        .into_iter()
        .filter_map(|(address, key)| Some((address?.port(), key)))
        .collect();
    let mut asked = Vec::new();
    for (kind, id, contract) in config.contracts() {
        if contract.net_admin {
            asked.push((Capability::CAP_NET_ADMIN, path(&[kind.section(), id.as_str()])));
        }
        listens.extend(contract.listens.iter().map(|listen| {
            let key = path(&[kind.section(), id.as_str(), listen.key]);
            (listen.address.port(), key)
        }));
    }
    let low = listens.into_iter().filter(|(port, _)| *port < 1024);
    asked.extend(low.map(|(_, key)| (Capability::CAP_NET_BIND_SERVICE, key)));
    asked.into_iter()
}

/// Kubeconfigs that the config and the environment name.
pub(super) fn kubeconfigs(config: &Config) -> impl Iterator<Item = PathBuf> {
    let kubeconfig = config.service.kubernetes.kubeconfig.clone();
    kubeconfig.into_iter().chain(of_environment(&["KUBECONFIG"]))
}

/// Certificates and keys that the environment names: OpenSSL's variables for the system's authorities, and those of OTLP exporters.
const CERTIFICATES: [&str; 8] = [
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY",
];

/// Paths that variables of the environment hold.
fn of_environment(variables: &[&str]) -> Vec<PathBuf> {
    let values = variables.iter().filter_map(std::env::var_os);
    values
        // `SSL_CERT_DIR` and `KUBECONFIG` may be several, separated as in `PATH`.
        .flat_map(|value| std::env::split_paths(&value).collect::<Vec<_>>())
        .filter(|path| !path.as_os_str().is_empty())
        .filter_map(|path| std::path::absolute(path).ok())
        .collect()
}

/// Whether cgroups are in sight only through the root of process 1 in the proc file system at `root`.
fn has_the_cgroups(root: &Path) -> bool {
    let id = |root| Hierarchy::find(root).map(|hierarchy| hierarchy.id);
    id(root) != id(Path::new("/proc"))
}

/// Whether the proc file system at `root` hides processes of other users (`hidepid=`, proc(5)).
fn hides_processes(root: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let hides = |options: &str| {
        options
            .split(',')
            .filter_map(|option| option.strip_prefix("hidepid="))
            .any(|value| !matches!(value, "0" | "off"))
    };
    // ID, parent, device, root, mount point, options ... - type, source, options (proc_pid_mountinfo(5)).
    mounts
        .lines()
        .filter(|line| line.split(' ').nth(4).map(Path::new) == Some(root))
        .any(|line| line.rsplit(' ').next().is_some_and(hides))
}
