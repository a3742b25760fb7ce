use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use caps::{CapSet, Capability, CapsHashSet};
use landlock::{AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, Scope};

use super::*;

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
        // Not on any list of what is forbidden, but flowtap has no use for it.
        assert_eq!(nix::unistd::setsid().err(), Some(Errno::EPERM));
        assert_eq!(nix::unistd::chroot("/").err(), Some(Errno::EPERM));
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

/// Calls that start programs, look into other processes, change the kernel, its mounts or the machine, or that are large interfaces with
/// a history of errors. Independent of the list of what is allowed.
const FORBIDDEN: &[i64] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_capset,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_clone3,
    libc::SYS_delete_module,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_init_module,
    libc::SYS_io_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_kill,
    libc::SYS_memfd_create,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_personality,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_open,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_seccomp,
    libc::SYS_setgid,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_setuid,
    libc::SYS_splice,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_symlinkat,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vmsplice,
];

#[test]
fn no_call_that_an_attacker_would_want_is_on_the_list() {
    let allowed: Vec<_> = [calls::ALLOWED, calls::ALLOWED_HERE].concat();
    for call in FORBIDDEN {
        assert!(!allowed.contains(call), "{call}");
    }
    for call in calls::ABSENT {
        assert!(!allowed.contains(call), "{call}");
    }
}

/// The kernel's answers, for those that can be called safely.
#[test]
fn inside_calls_that_are_not_on_the_list_fail_with_eperm() {
    use nix::errno::Errno;
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    use nix::sched::{CloneFlags, setns};
    use nix::unistd;

    let here = fs::File::open("/proc/self/ns/net").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("link");
    let none = None::<&str>;
    // Without Landlock, which refuses some of these by itself.
    let answers = within(&config(&["service.sandbox.landlock=false"]), || {
        [
            ("chroot", unistd::chroot("/")),
            ("pivot_root", unistd::pivot_root("/", "/")),
            ("setsid", unistd::setsid().map(drop)),
            ("setns", setns(&here, CloneFlags::CLONE_NEWNET)),
            ("mount", mount(none, "/proc", none, MsFlags::MS_REMOUNT, none)),
            ("umount2", umount2("/nowhere", MntFlags::empty())),
            ("symlink", unistd::symlinkat("x", nix::fcntl::AT_FDCWD, &link)),
            ("kill", nix::sys::signal::kill(unistd::getpid(), None)),
            ("execve", unistd::execv(c"/nowhere", &[c"/nowhere"]).map(drop)),
            ("chdir", unistd::chdir("/")),
        ]
    });
    for (call, answer) in answers {
        assert_eq!(answer, Err(Errno::EPERM), "{call}");
    }
}

#[test]
fn each_mechanism_can_be_turned_off_and_only_that_one_is() {
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("file"), "x").unwrap();
    let file = other.path().join("file");
    let has_landlock = within(&config(&[]), || fs::read(&file).is_err());
    let starts = || nix::unistd::setsid().err() != Some(nix::errno::Errno::EPERM);
    let without_landlock = within(&config(&["service.sandbox.landlock=false"]), || {
        (fs::read(&file).is_ok(), starts())
    });
    assert_eq!(without_landlock, (true, false));
    let seccomp = |set: &[&str]| {
        within(&config(set), || {
            let status = fs::read_to_string("/proc/thread-self/status").unwrap();
            (status.contains("Seccomp:\t2"), fs::read(&file).is_err())
        })
    };
    assert_eq!(seccomp(&["service.sandbox.seccomp=false"]), (false, has_landlock));
    assert_eq!(seccomp(&[]), (true, has_landlock));
}

#[test]
fn tcp_is_limited_to_the_ports_of_the_config_where_it_asks_for_that() {
    if !access::knows_ports() {
        return;
    }
    let refused = |address: std::net::SocketAddr| {
        let connected = std::net::TcpStream::connect(address);
        connected.is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
    };
    let [collector, other] = ["127.0.0.1:0"; 2].map(|any| std::net::TcpListener::bind(any).unwrap());
    let [collector, other] = [&collector, &other].map(|listener| listener.local_addr().unwrap());
    let endpoint = format!("exporters.otlp.endpoint=http://{collector}");
    let set = [
        endpoint.as_str(),
        "service.pipelines.metrics.exporters=[prometheus, otlp]",
        "service.sandbox.tcp_ports=true",
    ];
    within(&config(&set), || {
        assert!(!refused(collector));
        assert!(refused(other));
        let bound = std::net::TcpListener::bind("127.0.0.1:0").map_err(|error| error.kind());
        assert_eq!(bound.err(), Some(std::io::ErrorKind::PermissionDenied));
    });
    within(&config(&set[..2]), || assert!(!refused(other)));
}

#[test]
fn a_reload_that_needs_another_port_is_refused_with_its_key() {
    let before = config(&["exporters.prometheus.endpoint=127.0.0.1:9464"]);
    let ports = Ports::of(&before);
    assert_eq!(ports.check(&before).map_err(|error| error.to_string()), Ok(()));
    let after = config(&["exporters.prometheus.endpoint=127.0.0.1:9465"]);
    let error = ports.check(&after).unwrap_err().to_string();
    for part in [
        "exporters.prometheus.endpoint",
        "listens on TCP port 9465",
        "hint: restart",
    ] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_reload_that_needs_a_closed_path_is_refused_with_its_key_and_an_open_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let [open, closed] = ["open", "closed"].map(|name| folder.path().join(name));
    fs::create_dir(&closed).unwrap();
    fs::write(closed.join("ca.pem"), "x").unwrap();
    let with_file = |path: &Path| {
        let file = format!("exporters.file.path={}", path.display());
        config(&[&file, "service.pipelines.metrics.exporters=[prometheus, file]"])
    };
    let authority = closed.join("ca.pem");
    let with_authority = config(&[
        &format!(
            "exporters.otlp={{endpoint: 'https://x', tls: {{ca_file: {}}}}}",
            authority.display()
        ),
        "service.pipelines.metrics.exporters=[prometheus, otlp]",
    ]);
    let [before, below, elsewhere] = [&open, &open.join("below/it"), &closed].map(|path| with_file(path));
    let inside = || {
        let limits = enter(&before).unwrap().limits;
        let check = |config| limits.check(config).map_err(|error| error.to_string());
        assert_eq!(check(&before), Ok(()));
        assert_eq!(check(&below), Ok(()));
        assert!(fs::write(open.join("x"), "x").is_ok());
        // The kernel has the last word.
        let may_write = fs::write(closed.join("x"), "x").is_ok();
        let may_read = fs::read(&authority).is_ok();
        for (may, config, parts) in [
            (may_write, &elsewhere, ["exporters.file.path: ", "writes to"]),
            (may_read, &with_authority, ["exporters.otlp: ", "reads"]),
        ] {
            let checked = check(config);
            assert_eq!(checked.is_ok(), may, "{checked:?}");
            if let Err(error) = checked {
                for part in parts.into_iter().chain(["hint: restart flowtap"]) {
                    assert!(error.contains(part), "{error}");
                }
            }
        }
    };
    thread::scope(|scope| scope.spawn(inside).join().unwrap());
}

#[test]
fn a_reload_that_needs_a_capability_that_was_given_up_is_refused_with_its_key() {
    let had = caps::has_cap(None, CapSet::Permitted, Capability::CAP_NET_ADMIN).unwrap();
    let (before, after) = (
        config(&[]),
        config(&["receivers.ebpf.udp={enabled: true, hooks: cgroup}"]),
    );
    let inside = || {
        let limits = enter(&before).unwrap().limits;
        assert_eq!(limits.check(&before).map_err(|error| error.to_string()), Ok(()));
        let checked = limits.check(&after).map_err(|error| error.to_string());
        // Without it at the start, a restart would not help: the component has the better message.
        assert_eq!(checked.is_err(), had, "{checked:?}");
        if let Err(error) = checked {
            for part in ["receivers.ebpf: ", "CAP_NET_ADMIN", "hint: restart flowtap"] {
                assert!(error.contains(part), "{error}");
            }
        }
    };
    thread::scope(|scope| scope.spawn(inside).join().unwrap());
    let kept = || {
        let limits = enter(&after).unwrap().limits;
        assert!(limits.check(&after).is_ok());
    };
    thread::scope(|scope| scope.spawn(kept).join().unwrap());
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
    let paths =
        ["ca/ca.pem", "client/tls.crt", "key/tls.key", "token/token"].map(|path| folder.path().join(path));
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

/// `exec` and the like: the sandbox starts nothing.
#[cfg(feature = "kubernetes")]
#[test]
fn a_kubeconfig_that_needs_a_program_is_refused_with_the_remedy_unless_nothing_is_closed() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = "{apiVersion: v1, kind: Config, current-context: a, contexts: [{name: a, context: {cluster: c, user: u}}],
        clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}],
        users: [{name: u, user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: aws-iam}}}]}";
    fs::write(file.path(), text).unwrap();
    let kubeconfig = format!("service.kubernetes.kubeconfig={}", file.path().display());
    let error = plugins::refused(&config(&[&kubeconfig])).unwrap().to_string();
    for part in [
        "service.kubernetes.kubeconfig",
        "`aws-iam`",
        "the sandbox",
        "hint: ",
        "--no-sandbox",
    ] {
        assert!(error.contains(part), "{error}");
    }
    let open = "service.sandbox={landlock: false, seccomp: false}";
    assert_eq!(plugins::refused(&config(&[&kubeconfig, open])), None);
    assert_eq!(plugins::refused(&config(&[])), None);
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
