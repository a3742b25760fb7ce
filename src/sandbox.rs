//! What flowtap gives up before it starts: privileges that it does not need, and ways that nobody should get through it.
//!
//! In order, all before the first thread, so that every thread has it:
//!
//! 1. The limit of locked memory is raised, which kernels before 5.11 ask for and which takes a capability that goes next.
//! 2. Capabilities: `CAP_BPF` and `CAP_PERFMON` stay; `CAP_NET_BIND_SERVICE` if a listener's port is below 1024; for a proc file
//!    system other than `/proc`, `CAP_SYS_PTRACE`, without which it does not show process 1's namespace. From the bounding set
//!    everything else goes, too.
//! 3. `no_new_privs`: no program that is started could have more.
//! 4. Landlock (Linux 5.13): files can be read where flowtap reads any (the cgroup v2 file system among them, wherever it is
//!    mounted), written where the config says so, and not executed.
//! 5. seccomp: system calls that flowtap never makes, and who got into it would, fail with `EPERM`.
//!
//! What the kernel does not have is left out, and told. What the process does not have it can't give up, which is no error either.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use caps::{CapSet, Capability, CapsHashSet};
use flowtap_config::Config;
use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus,
};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use crate::exit::{Code, Failure};

/// Files and folders that are read whatever the config says: the kernel's, name resolution, the system's authorities, clocks.
const READ: [&str; 22] = [
    "/proc",
    "/sys",
    "/dev/null",
    "/dev/urandom",
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/localtime",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/etc/ld.so.cache",
    "/etc/flowtap",
    "/run/systemd/resolve",
    "/run/secrets",
    "/var/run/secrets",
    "/usr/share",
    // Debian's own authorities are links to here.
    "/usr/local/share/ca-certificates",
    "/usr/lib",
    "/lib",
];

/// What nobody needs flowtap to do: to start programs, to look into or to change other processes, to change the kernel, mounts
/// and namespaces.
const DENIED: [i64; 24] = [
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_open_by_handle_at,
    libc::SYS_userfaultfd,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
];

/// What came of it, for the log.
#[derive(Debug)]
pub(crate) struct Sandbox {
    /// Capabilities that stay.
    capabilities: Vec<String>,
    landlock: String,
    seccomp: String,
}

impl fmt::Display for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let capabilities = if self.capabilities.is_empty() {
            "none".to_owned()
        } else {
            self.capabilities.join(" ")
        };
        write!(
            f,
            "capabilities {capabilities}, landlock {}, seccomp {}",
            self.landlock, self.seccomp
        )
    }
}

/// What the sandbox must leave open.
#[derive(Debug)]
struct Needs {
    capabilities: CapsHashSet,
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
    landlock: bool,
}

impl Needs {
    fn of(config: &Config) -> Self {
        let mut capabilities = CapsHashSet::from([Capability::CAP_BPF, Capability::CAP_PERFMON]);
        let service = &config.service;
        let own = [service.admin.endpoint, service.telemetry.metrics.endpoint];
        let exporters = config
            .exporters
            .values()
            .flat_map(|exporter| exporter.listen_addresses())
            .map(|(_, address)| address);
        if own
            .into_iter()
            .flatten()
            .chain(exporters)
            .any(|address| address.port() < 1024)
        {
            capabilities.insert(Capability::CAP_NET_BIND_SERVICE);
        }
        let mut paths = Vec::new();
        let values = config
            .receivers
            .values()
            .map(|component| component.to_value())
            .chain(config.processors.values().map(|component| component.to_value()))
            .chain(config.exporters.values().map(|component| component.to_value()));
        for value in values.flatten() {
            paths_in(&value, &mut paths);
        }
        paths.extend(config.service.kubernetes.kubeconfig.clone());
        // Most often beneath /sys, but it may be mounted anywhere: containers are found in it.
        paths.extend(flowtap_receivers::containers::mount::mount_points());
        paths.extend(certificates_of_environment());
        let proc_roots = paths.iter().filter(|path| path.join("self/stat").exists());
        let other_proc = proc_roots.into_iter().any(|path| path != Path::new("/proc"));
        if other_proc {
            capabilities.insert(Capability::CAP_SYS_PTRACE);
        }
        // Of a file its folder, because one that is renewed is another file under the same name; but not the root.
        let files = config
            .files
            .iter()
            .filter_map(|path| std::path::absolute(path).ok());
        let read = paths
            .iter()
            .cloned()
            .chain(files)
            .map(|path| match path.parent() {
                Some(folder) if !path.is_dir() && folder.parent().is_some() => folder.to_owned(),
                _ => path,
            });
        let read = read.collect();
        Self {
            capabilities,
            read,
            write: config
                .exporters
                .values()
                .flat_map(|exporter| exporter.writes())
                .collect(),
            // Landlock hides other processes' namespaces whatever the capabilities, and the listening ports of the host are found
            // by those of its process 1.
            landlock: !other_proc,
        }
    }
}

/// Certificates and keys that the environment names: OpenSSL's variables for the system's authorities, and those of OTLP exporters.
fn certificates_of_environment() -> Vec<PathBuf> {
    const VARIABLES: [&str; 8] = [
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "OTEL_EXPORTER_OTLP_CERTIFICATE",
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
        "OTEL_EXPORTER_OTLP_CLIENT_KEY",
        "OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE",
        "OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE",
        "OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY",
    ];
    let values = VARIABLES.into_iter().filter_map(std::env::var_os);
    values
        // `SSL_CERT_DIR` may be several, separated as in `PATH`.
        .flat_map(|value| std::env::split_paths(&value).collect::<Vec<_>>())
        .filter(|path| !path.as_os_str().is_empty())
        .filter_map(|path| std::path::absolute(path).ok())
        .collect()
}

/// Every path that stands in `value`: whatever is absolute, `file:/…` included, and whatever is there beneath the current folder.
fn paths_in(value: &figment::value::Value, paths: &mut Vec<PathBuf>) {
    use figment::value::Value;
    match value {
        Value::String(_, text) => {
            let path = text.strip_prefix("file:").unwrap_or(text);
            if path.len() > 1 && path.starts_with('/') || !path.is_empty() && Path::new(path).exists() {
                paths.extend(std::path::absolute(path));
            }
        }
        Value::Dict(_, dict) => dict.values().for_each(|value| paths_in(value, paths)),
        Value::Array(_, list) => list.iter().for_each(|value| paths_in(value, paths)),
        _ => {}
    }
}

/// Enters it. Call it before the first thread.
///
/// # Errors
/// What the system refused, although it has it; `--no-sandbox` leaves all of it out.
pub(crate) fn enter(config: &Config) -> Result<Sandbox, Failure> {
    let needs = Needs::of(config);
    let failed = |what: &str, error: &dyn fmt::Display| {
        Failure::new(
            Code::System,
            format!(
                "the sandbox can't be entered: {what}: {error}\n  to mend it: --no-sandbox runs without it"
            ),
        )
    };
    // Without the capability for it the limit stays as it is, and the loader says so if it is too low.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    for path in &needs.write {
        // What does not exist can't be named to the kernel; the exporter has the better message if it can't be made.
        let _ = std::fs::create_dir_all(path);
    }
    let capabilities = keep(&needs.capabilities).map_err(|error| failed("capabilities", &error))?;
    nix::sys::prctl::set_no_new_privs().map_err(|error| failed("no_new_privs", &error))?;
    // Another sandbox around this one, such as systemd's, may refuse these two: it does their work.
    let landlock = if needs.landlock {
        restrict_files(&needs).map_or_else(|error| format!("refused ({error})"), str::to_owned)
    } else {
        "off, for proc_root is not /proc".to_owned()
    };
    let seccomp = deny_calls().map_or_else(|error| format!("refused ({error})"), str::to_owned);
    Ok(Sandbox {
        capabilities,
        landlock,
        seccomp,
    })
}

/// Gives up all capabilities but `kept`; returns those that stay.
fn keep(kept: &CapsHashSet) -> Result<Vec<String>, caps::errors::CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    if permitted.is_subset(kept) {
        return Ok(names(&permitted));
    }
    if permitted.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::read(None, CapSet::Bounding)?.difference(kept) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    let stay: CapsHashSet = permitted.intersection(kept).copied().collect();
    caps::clear(None, CapSet::Ambient)?;
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new())?;
    caps::set(None, CapSet::Effective, &stay)?;
    caps::set(None, CapSet::Permitted, &stay)?;
    Ok(names(&stay))
}

fn names(capabilities: &CapsHashSet) -> Vec<String> {
    let mut names: Vec<_> = capabilities.iter().map(ToString::to_string).collect();
    names.sort_unstable();
    names
}

fn restrict_files(needs: &Needs) -> Result<&'static str, landlock::RulesetError> {
    // What the newest of these knows is asked for; an older kernel does what it can.
    let abi = ABI::V5;
    let all = AccessFs::from_all(abi);
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .create()?;
    let read_paths = READ.iter().map(PathBuf::from).chain(needs.read.iter().cloned());
    let beneath = read_paths.map(|path| (path, read)).chain(
        needs
            .write
            .iter()
            .map(|path| (path.clone(), all & !AccessFs::Execute)),
    );
    for (path, access) in beneath {
        // What is not there needs no rule.
        let Ok(fd) = PathFd::new(&path) else { continue };
        let access = if path.is_dir() {
            access
        } else {
            access & AccessFs::from_file(abi)
        };
        rules = rules.add_rule(PathBeneath::new(fd, access))?;
    }
    Ok(match rules.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => "on",
        RulesetStatus::PartiallyEnforced => "as far as this kernel has it",
        RulesetStatus::NotEnforced => "not on this kernel",
    })
}

fn deny_calls() -> Result<&'static str, seccompiler::Error> {
    let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else {
        return Ok("not on this architecture");
    };
    let rules: BTreeMap<i64, Vec<seccompiler::SeccompRule>> =
        DENIED.iter().map(|call| (*call, Vec::new())).collect();
    let errno = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, errno, arch)?;
    let program: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&program)?;
    Ok("on")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::process::Command;
    use std::thread;

    fn config(set: &[&str]) -> Config {
        let layers = flowtap_config::Layers {
            set: set.iter().map(|&text| text.to_owned()).collect(),
            ..flowtap_config::Layers::default()
        };
        flowtap_config::load(&layers, &crate::components::registry()).unwrap()
    }

    /// The sandbox is the thread's, so a test can have one of its own.
    fn within<T: Send>(config: &Config, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                enter(config).unwrap();
                work()
            });
            inside.join().unwrap()
        })
    }

    #[test]
    fn inside_no_program_starts_and_only_files_that_the_config_names_open() {
        let folder = tempfile::tempdir().unwrap();
        let (mine, other) = (folder.path().join("mine"), tempfile::tempdir().unwrap());
        fs::create_dir(&mine).unwrap();
        fs::write(mine.join("flowtap.yaml"), "{}").unwrap();
        fs::write(other.path().join("secret"), "hunter2").unwrap();
        let has_landlock = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::ReadFile)
            .is_ok();
        let mut config = config(&[]);
        config.files.push(mine.join("flowtap.yaml"));
        within(&config, || {
            let started = Command::new("/bin/true").status();
            assert!(started.is_err(), "{started:?}");
            assert!(fs::read_to_string(mine.join("flowtap.yaml")).is_ok());
            assert!(fs::read_to_string("/proc/self/status").is_ok());
            if has_landlock {
                let read = fs::read_to_string(other.path().join("secret"));
                assert!(read.is_err(), "{read:?}");
                let written = fs::write(mine.join("new"), "x");
                assert!(written.is_err(), "{written:?}");
            }
        });
    }

    #[test]
    fn inside_no_capability_can_be_had_but_the_two() {
        within(&config(&[]), || {
            let permitted = caps::read(None, CapSet::Permitted).unwrap();
            let two = CapsHashSet::from([Capability::CAP_BPF, Capability::CAP_PERFMON]);
            assert!(permitted.is_subset(&two), "{permitted:?}");
            assert!(caps::raise(None, CapSet::Effective, Capability::CAP_SYS_ADMIN).is_err());
            let status = fs::read_to_string("/proc/thread-self/status").unwrap();
            assert!(status.contains("NoNewPrivs:\t1"), "{status}");
            assert!(status.contains("Seccomp:\t2"), "{status}");
        });
    }

    #[test]
    fn a_low_port_and_another_proc_file_system_keep_what_they_need() {
        let needs = Needs::of(&config(&["exporters.prometheus.endpoint=127.0.0.1:443"]));
        assert!(needs.capabilities.contains(&Capability::CAP_NET_BIND_SERVICE));
        assert!(needs.landlock);
        // A path may count from the folder that flowtap starts in, which is the package's for a test.
        let here = std::env::current_dir().unwrap();
        let lists = tempfile::tempdir_in("tests").unwrap();
        fs::write(lists.path().join("name"), "x").unwrap();
        let name = lists.path().join("name").display().to_string();
        for (setting, expected) in [
            ("processors.policy.dns=[\"file:Cargo.toml\"]".to_owned(), here),
            (
                format!("exporters.prometheus.namespace=${{file:{name}}}"),
                std::path::absolute(lists.path()).unwrap(),
            ),
        ] {
            let needs = Needs::of(&config(&[&setting]));
            assert!(needs.read.contains(&expected), "{setting}: {:?}", needs.read);
        }
        let list = "processors.policy.dns=[\"file:/etc/lists/dns.txt\"]";
        let needs = Needs::of(&config(&[list]));
        assert!(
            needs.read.contains(&PathBuf::from("/etc/lists")),
            "{:?}",
            needs.read
        );
    }
}
