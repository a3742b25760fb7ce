//! The sandbox drops, before flowtap starts, privileges that it does not need and access that an
//! attacker could use.
//!
//! In order, all before the first thread, so that every thread has it:
//!
//! 1. The limit of locked memory is raised, which kernels before 5.11 ask for and which takes a capability that goes next.
//! 2. Capabilities: `CAP_BPF` and `CAP_PERFMON` stay; `CAP_NET_BIND_SERVICE` if a listener's port
//!    is below 1024; `CAP_NET_ADMIN` if the config asks for programs of the root cgroup
//!    (`udp.hooks: cgroup`). The namespace of process 1 in a proc file system other than `/proc`, for which
//!    `CAP_SYS_PTRACE` is needed, is looked up before. Everything else is also removed from the
//!    bounding set.
//! 3. `no_new_privs`: no program that is started could have more.
//! 4. Landlock (Linux 5.13): files can be read where flowtap reads any (the cgroup v2 file system among them, wherever it is
//!    mounted), written where set by the config, and not executed; from Linux 6.12 on, no other process gets a signal and no
//!    abstract Unix socket of others a connection.
//! 5. seccomp: system calls that flowtap never makes, but an attacker would, fail with `EPERM`; new
//!    namespaces and sockets of other families likewise. `clone3`, whose flags a filter can't see,
//!    does not exist, so that the C library uses `clone`.
//!
//! Mechanisms that the kernel lacks are skipped and logged. Privileges that the process does not
//! have can't be dropped, which is not an error either.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use caps::{CapSet, Capability, CapsHashSet};
use flowtap_config::Config;
use flowtap_receivers::containers::mount::Hierarchy;
use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use crate::exit::{Code, ExitError};

/// Files and folders that are read whatever the config says: the kernel's, name resolution, the system's authorities, clocks.
const READ: [&str; 25] = [
    "/proc",
    "/sys",
    "/dev/null",
    // A static binary waits here for the kernel's random numbers, where it does not find getrandom().
    "/dev/random",
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
    // Where distributions keep what their files in /etc are links to: SUSE, NixOS.
    "/var/lib/ca-certificates",
    "/nix/store",
    // Debian's own authorities are links to here.
    "/usr/local/share/ca-certificates",
    "/usr/lib",
    "/lib",
];

/// System calls that flowtap never needs: to start programs, to inspect or change other processes,
/// to change the kernel, mounts and namespaces, or to use large and error-prone interfaces of the
/// kernel.
const DENIED: [i64; 46] = [
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
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_kexec_file_load,
    libc::SYS_memfd_create,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_request_key,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_mount_setattr,
    libc::SYS_name_to_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_quotactl,
    libc::SYS_acct,
    libc::SYS_syslog,
];

/// Flags of `clone(2)` that make a namespace; `CLONE_NEWTIME` is for `unshare(2)` and `clone3(2)` alone.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWCGROUP,
];

/// Families of sockets that flowtap opens: requests and listeners, name resolution and systemd, netlink.
const FAMILIES: [libc::c_int; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Result, for the log.
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

/// Access that the sandbox must leave open.
#[derive(Debug)]
struct Needs {
    capabilities: CapsHashSet,
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
    landlock: bool,
    /// Proc file systems other than `/proc`.
    proc_roots: Vec<PathBuf>,
}

impl Needs {
    fn of(config: &Config) -> Self {
        let mut capabilities = CapsHashSet::from([Capability::CAP_BPF, Capability::CAP_PERFMON]);
        let service = &config.service;
        let own = [service.admin.endpoint, service.telemetry.metrics.endpoint];
        let contracts: Vec<_> = config
            .contracts()
            .into_iter()
            .map(|(_, _, contract)| contract)
            .collect();
        let listens = contracts.iter().flat_map(|contract| &contract.listens);
        if own
            .into_iter()
            .flatten()
            .chain(listens.map(|listen| listen.address))
            .any(|address| address.port() < 1024)
        {
            capabilities.insert(Capability::CAP_NET_BIND_SERVICE);
        }
        if contracts.iter().any(|contract| contract.net_admin) {
            capabilities.insert(Capability::CAP_NET_ADMIN);
        }
        // A path may count from the folder that flowtap starts in.
        let absolute = |path: &PathBuf| std::path::absolute(path).ok();
        let roots = contracts.iter().flat_map(|contract| &contract.proc_root);
        let roots: Vec<_> = roots.filter_map(absolute).collect();
        let reads = contracts.iter().flat_map(|contract| &contract.reads);
        let mut paths: Vec<_> = reads.filter_map(absolute).chain(roots.clone()).collect();
        let kubeconfig = config.service.kubernetes.kubeconfig.iter().cloned();
        for file in kubeconfig.chain(of_environment(&["KUBECONFIG"])) {
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

/// Enters it. Call it before the first thread.
///
/// # Errors
/// A mechanism that the system refused although it has it; `--no-sandbox` skips all of them.
pub(crate) fn enter(config: &Config) -> Result<Sandbox, ExitError> {
    let needs = Needs::of(config);
    let failed = |what: &str, error: &dyn fmt::Display| {
        ExitError::new(
            Code::System,
            format!("the sandbox can't be entered: {what}: {error}\n  hint: --no-sandbox runs without it"),
        )
    };
    for root in &needs.proc_roots {
        // Landlock hides the namespaces of other processes whatever the capabilities.
        flowtap_receivers::listen_scan::remember_namespace(root);
    }
    // Without the capability for it the limit stays as it is, and the loader says so if it is too low.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    for path in &needs.write {
        // A missing path can't be passed to the kernel; the exporter has the better message if it
        // can't be created.
        let _ = std::fs::create_dir_all(path);
    }
    let capabilities = keep(&needs.capabilities).map_err(|error| failed("capabilities", &error))?;
    nix::sys::prctl::set_no_new_privs().map_err(|error| failed("no_new_privs", &error))?;
    // Another sandbox around this one, such as systemd's, may refuse these two: it does their work.
    let landlock = if needs.landlock {
        restrict_files(&needs).map_or_else(|error| format!("refused ({error})"), str::to_owned)
    } else {
        "off, to reach files beneath proc_root".to_owned()
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
    // The newest known ABI is requested; an older kernel enforces its subset.
    let abi = ABI::V6;
    let all = AccessFs::from_all(abi);
    let mut scopes = BitFlags::from(Scope::Signal);
    // systemd may receive notifications through one.
    if !std::env::var_os("NOTIFY_SOCKET").is_some_and(|path| path.as_encoded_bytes().starts_with(b"@")) {
        scopes |= Scope::AbstractUnixSocket;
    }
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .scope(scopes)?
        .create()?;
    let read_paths = READ.iter().map(PathBuf::from).chain(needs.read.iter().cloned());
    let beneath = read_paths.map(|path| (path, read)).chain(
        needs
            .write
            .iter()
            .map(|path| (path.clone(), all & !AccessFs::Execute)),
    );
    for (path, access) in beneath {
        // Missing paths need no rule.
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
        RulesetStatus::PartiallyEnforced => "partial, as far as this kernel supports it",
        RulesetStatus::NotEnforced => "not on this kernel",
    })
}

fn deny_calls() -> Result<&'static str, seccompiler::Error> {
    let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else {
        return Ok("not on this architecture");
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = DENIED.iter().map(|call| (*call, Vec::new())).collect();
    // A call is denied if one of its rules holds, and a rule if all of its conditions do.
    let new_namespaces: Result<Vec<_>, BackendError> = NAMESPACES
        .iter()
        .map(|flag| {
            let flag = u64::from(flag.unsigned_abs());
            let is_set = condition(SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flag), flag)?;
            SeccompRule::new(vec![is_set])
        })
        .collect();
    rules.insert(libc::SYS_clone, new_namespaces?);
    let other_families: Result<Vec<_>, BackendError> = FAMILIES
        .iter()
        .map(|family| {
            let family = u64::from(family.unsigned_abs());
            condition(SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, family)
        })
        .collect();
    rules.insert(libc::SYS_socket, vec![SeccompRule::new(other_families?)?]);
    apply(rules, libc::EPERM, arch)?;
    let absent = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    apply(absent, libc::ENOSYS, arch)?;
    Ok("on")
}

/// A condition on the first argument of a call.
fn condition(
    length: SeccompCmpArgLen,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(0, length, operator, value)
}

/// Lets the calls of `rules` fail with `errno`.
fn apply(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    errno: libc::c_int,
    arch: TargetArch,
) -> Result<(), seccompiler::Error> {
    let errno = SeccompAction::Errno(errno.unsigned_abs());
    let program: BpfProgram = SeccompFilter::new(rules, SeccompAction::Allow, errno, arch)?.try_into()?;
    seccompiler::apply_filter(&program)
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

    /// The sandbox applies to a thread, so a test can have a separate one.
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
    fn inside_no_namespace_is_made_no_strange_socket_opened_and_threads_still_start() {
        use nix::errno::Errno;
        use nix::sched::{CloneFlags, unshare};
        use nix::sys::memfd::{MFdFlags, memfd_create};
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
        use nix::unistd::{Pid, getppid};

        within(&config(&[]), || {
            assert_eq!(unshare(CloneFlags::CLONE_NEWUSER), Err(Errno::EPERM));
            assert_eq!(memfd_create("x", MFdFlags::empty()).err(), Some(Errno::EPERM));
            let open = |family| socket(family, SockType::Stream, SockFlag::empty(), None).err();
            assert_eq!(open(AddressFamily::Vsock), Some(Errno::EPERM));
            assert_eq!(open(AddressFamily::Packet), Some(Errno::EPERM));
            for family in [AddressFamily::Inet, AddressFamily::Inet6, AddressFamily::Unix] {
                assert_eq!(open(family), None, "{family:?}");
            }
            // The C library starts a thread with clone3, and with clone where there is none.
            assert_eq!(thread::scope(|scope| scope.spawn(|| 7).join().unwrap()), 7);
            let knows_scopes = Ruleset::default()
                .set_compatibility(CompatLevel::HardRequirement)
                .scope(Scope::Signal)
                .is_ok();
            if knows_scopes {
                let parent: Pid = getppid();
                assert_eq!(nix::sys::signal::kill(parent, None), Err(Errno::EPERM));
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
    fn inside_the_namespace_of_another_proc_file_system_is_still_known_and_files_stay_closed() {
        // Another path than /proc, so process 1 of it is looked at; a process that may not look there can't say anything.
        let root = Path::new("/proc/../proc");
        if fs::metadata(root.join("1/ns/net")).is_err() {
            return;
        }
        let other = tempfile::tempdir().unwrap();
        fs::write(other.path().join("secret"), "hunter2").unwrap();
        let config = config(&["receivers.ebpf.proc_root=/proc/../proc"]);
        let needs = Needs::of(&config);
        assert_eq!(needs.proc_roots, [root]);
        assert!(!needs.capabilities.contains(&Capability::CAP_SYS_PTRACE));
        within(&config, || {
            let scanned = flowtap_receivers::listen_scan::scan(root);
            assert!(scanned.is_ok(), "{scanned:?}");
            let restricts = fs::metadata("/proc/1/ns/net").is_err();
            let read = fs::read_to_string(other.path().join("secret"));
            assert!(!restricts || read.is_err(), "{read:?}");
        });
    }

    #[test]
    fn a_value_that_happens_to_name_a_path_opens_nothing() {
        // The package's folder has an entry `src`, which is not a file of any component.
        let needs = Needs::of(&config(&[
            "exporters.prometheus.namespace=src",
            "exporters.prometheus.labels.cluster=/root",
        ]));
        let here = std::env::current_dir().unwrap();
        for path in [here.join("src"), here, PathBuf::from("/root"), PathBuf::from("/")] {
            assert!(
                !needs.read.contains(&path),
                "{} in {:?}",
                path.display(),
                needs.read
            );
        }
    }

    #[test]
    fn files_and_folders_of_every_component_stay_open() {
        let config = config(&[
            "receivers.replay.file=/var/recordings/one",
            "exporters.prometheus.tls={cert_file: /etc/one/cert.pem, key_file: /etc/two/key.pem, client_ca_file: /etc/three/ca.pem}",
            "exporters.otlp={tls: {ca_file: /etc/four/ca.pem}, storage: {directory: /var/queue}}",
            "exporters.remote_write={endpoint: 'https://store', tls: {ca_file: /etc/five/ca.pem}}",
            "exporters.file.path=/var/flows",
            "service.pipelines.metrics.receivers=[ebpf, replay]",
            "service.pipelines.metrics.exporters=[prometheus, otlp, remote_write, file]",
        ]);
        let needs = Needs::of(&config);
        for path in [
            "/var/recordings",
            "/etc/one",
            "/etc/two",
            "/etc/three",
            "/etc/four",
            "/etc/five",
        ] {
            assert!(
                needs.read.contains(&PathBuf::from(path)),
                "no {path} in {:?}",
                needs.read
            );
        }
        let mut written = needs.write;
        written.sort();
        assert_eq!(
            written,
            [PathBuf::from("/var/flows"), PathBuf::from("/var/queue")]
        );
    }

    /// Paths in it count from its folder. Certificates are renewed by a rename, so it is the folder of each that stays open.
    #[cfg(feature = "kubernetes")]
    #[test]
    fn files_that_a_kubeconfig_names_stay_readable() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["ca/ca.pem", "client/tls.crt", "key/tls.key", "token/token"]
            .map(|path| folder.path().join(path));
        for path in &paths {
            fs::create_dir(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        let kubeconfig = folder.path().join("kube/config");
        fs::create_dir(kubeconfig.parent().unwrap()).unwrap();
        let text = "
            apiVersion: v1
            kind: Config
            current-context: one
            contexts: [{name: one, context: {cluster: one, user: one}}]
            clusters: [{name: one, cluster: {server: 'https://127.0.0.1:1', certificate-authority: ../ca/ca.pem}}]
            users: [{name: one, user: {client-certificate: ../client/tls.crt, client-key: ../key/tls.key, tokenFile: ../token/token}}]";
        fs::write(&kubeconfig, text).unwrap();
        let config = config(&[&format!("service.kubernetes.kubeconfig={}", kubeconfig.display())]);
        within(&config, || {
            for path in &paths {
                assert!(fs::read_to_string(path).is_ok(), "{}", path.display());
                assert!(fs::read_dir(path.parent().unwrap()).is_ok(), "{}", path.display());
            }
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
