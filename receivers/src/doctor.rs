//! Requirements on this machine: a finding for each, with its consequence and its fix.

use std::fs;
use std::path::Path;
use std::time::Duration;

use flowtap_ebpf::probe::{self, Probed};
use flowtap_ebpf::{Hooks, LoadError, Udp, UdpLoadError, UdpOptions, capability};
use serde::Serialize;

use crate::containers::mount::{self, Hierarchy};
use crate::ebpf::{Grant, drops, grant_command, udp};
#[cfg(feature = "rdma")]
use crate::rdma;
use crate::{listen_scan, sock_diag};

/// Degree to which a requirement is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Something is not seen, or a mode is not there; flowtap runs.
    Limited,
    /// Not met.
    Missing,
}

impl Verdict {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Limited => "limited",
            Self::Missing => "missing",
        }
    }
}

/// One need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The requirement.
    pub need: &'static str,
    /// Degree to which it is met.
    pub verdict: Verdict,
    /// The finding.
    pub found: String,
    /// Consequence; empty if the requirement is met.
    pub consequence: &'static str,
    /// Fix; empty if the requirement is met.
    pub remedy: String,
    /// The mode that it is of; `None`: any.
    #[serde(rename = "mode", skip_serializing_if = "Option::is_none")]
    pub of_mode: Option<BestMode>,
}

impl Finding {
    const fn ok(need: &'static str, found: String) -> Self {
        Self {
            need,
            verdict: Verdict::Ok,
            found,
            consequence: "",
            remedy: String::new(),
            of_mode: None,
        }
    }

    fn not_ok(
        need: &'static str,
        verdict: Verdict,
        found: &dyn ToString,
        consequence: &'static str,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            need,
            verdict,
            found: found.to_string(),
            consequence,
            remedy: remedy.into(),
            of_mode: None,
        }
    }

    fn of(self, mode: BestMode) -> Self {
        Self {
            of_mode: Some(mode),
            ..self
        }
    }
}

/// The mode that `mode: auto` would choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BestMode {
    /// Capture mode `sockets` of the receiver `ebpf`.
    Sockets,
    /// Its capture mode `events`.
    Events,
    /// The receiver `sock_diag`.
    SockDiag,
    /// None works.
    None,
}

/// All findings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The mode that `flowtap run` would use.
    pub mode: BestMode,
    /// Whether it is only a privilege that stands between this and a better mode.
    pub lacks_privilege: bool,
    /// One per need.
    pub findings: Vec<Finding>,
}

/// Looks at this machine. `proc_root` is `/proc`, or where the host's is mounted. Loads programs, and lets them go again.
pub fn examine(proc_root: &Path) -> Report {
    let mut findings = vec![kernel(proc_root), btf()];
    let privilege = capabilities();
    let lacks_privilege = privilege.verdict == Verdict::Missing;
    findings.push(privilege);
    findings.push(lockdown());
    findings.push(memlock(proc_root));
    let (sockets, of_sockets) = mode_sockets();
    let (events, of_events) = mode_events();
    findings.extend(of_sockets.into_iter().map(|it| it.of(BestMode::Sockets)));
    findings.extend(of_events.into_iter().map(|it| it.of(BestMode::Events)));
    findings.push(pid_namespace(proc_root));
    findings.push(cgroups(proc_root));
    findings.extend(cgroup_programs());
    findings.extend(dropped_packets());
    findings.extend(inspection());
    findings.extend(listening_queues());
    findings.push(udp());
    findings.push(listening_ports(proc_root));
    #[cfg(feature = "rdma")]
    findings.push(rdma(Path::new("/sys")));
    let netlink = netlink();
    let mode = if sockets {
        BestMode::Sockets
    } else if events {
        BestMode::Events
    } else if netlink.verdict == Verdict::Ok {
        BestMode::SockDiag
    } else {
        BestMode::None
    };
    findings.push(netlink);
    Report {
        mode,
        lacks_privilege,
        findings,
    }
}

fn kernel(proc_root: &Path) -> Finding {
    let read = |name| fs::read_to_string(proc_root.join("sys/kernel").join(name));
    match read("osrelease") {
        Ok(release) => Finding::ok("kernel", format!("Linux {}", release.trim())),
        Err(error) => Finding::not_ok(
            "kernel",
            Verdict::Limited,
            &error,
            "unknown release; the programs are tried below",
            "mount the host's /proc",
        ),
    }
}

fn btf() -> Finding {
    const PATH: &str = "/sys/kernel/btf/vmlinux";
    match fs::metadata(PATH) {
        Ok(file) => Finding::ok("BTF", format!("{PATH}, {} KiB", file.len() / 1024)),
        Err(error) => Finding::not_ok(
            "BTF",
            Verdict::Missing,
            &format!("{PATH}: {error}"),
            "no eBPF program can find the kernel's fields",
            "run a kernel built with CONFIG_DEBUG_INFO_BTF=y; in a container, mount /sys",
        ),
    }
}

fn capabilities() -> Finding {
    match capability::check() {
        Ok(()) => Finding::ok("capabilities", "CAP_BPF, CAP_PERFMON".to_owned()),
        Err(missing) => Finding::not_ok(
            "capabilities",
            Verdict::Missing,
            &format!("no {}", missing.0.join(", no ")),
            "no eBPF program can be loaded",
            grant_command(Grant::Programs),
        ),
    }
}

fn lockdown() -> Finding {
    // Absent where the kernel has no lockdown, or securityfs is not mounted.
    let text = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    let level = text
        .split('[')
        .nth(1)
        .and_then(|rest| rest.split(']').next())
        .unwrap_or("none");
    if level == "confidentiality" {
        return Finding::not_ok(
            "lockdown",
            Verdict::Missing,
            &level,
            "no eBPF program may read the kernel's memory",
            "boot with lockdown=integrity, or without",
        );
    }
    Finding::ok("lockdown", level.to_owned())
}

/// Kernels before 5.11 charge maps to the locked memory of the user.
fn memlock(proc_root: &Path) -> Finding {
    let limits = fs::read_to_string(proc_root.join("self/limits")).unwrap_or_default();
    let limit = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"))
        .and_then(|rest| rest.split_whitespace().next())
        .map_or("unknown".to_owned(), |limit| format!("{limit} bytes"));
    Finding::ok(
        "memlock",
        format!("{limit}; counts before Linux 5.11 only, and is raised then"),
    )
}

fn mode_sockets() -> (bool, Vec<Finding>) {
    let probed = match probe::sockets_programs() {
        Ok(probed) => probed,
        Err(error) => return (false, vec![object("mode sockets", &error)]),
    };
    let loads = |name: &str| probed.iter().any(|p| p.program == name && p.outcome.is_ok());
    let has_table = loads("scan_table");
    let has_storage = loads("scan_sockets") && loads("scan_all");
    let works = loads("on_state_change") && loads("on_state_nested") && (has_storage || has_table);
    let findings = probed.iter().filter_map(|program| {
        let (verdict, consequence) = match program.program {
            "scan_sockets" | "scan_all" if has_table => (
                Verdict::Limited,
                "connections are followed in a table of `max_sockets`, those beyond are counted and not measured",
            ),
            "on_state_change" | "on_state_nested" | "scan_sockets" | "scan_all" => {
                (Verdict::Missing, "no mode sockets")
            }
            "scan_table" if has_storage => (
                Verdict::Limited,
                "connections in namespaces with a small net.core.optmem_max are measured when they close",
            ),
            "on_accept" => (Verdict::Limited, UNSEEN_ACCEPTS),
            // Then the missing table is the reason why there is no scan at all, and that finding
            // reports it.
            "scan_table" => return None,
            _ => (
                Verdict::Limited,
                "some open connections are not adopted",
            ),
        };
        let remedy = match program.program {
            "on_accept" => TRAMPOLINES,
            scan if scan.starts_with("scan_") && has_table => {
                "a kernel that allows iterators over the elements of maps, or a larger `max_sockets`"
            }
            _ => "Linux 5.12 or later",
        };
        Some(finding(program, verdict, consequence, remedy))
    });
    (works, findings.collect())
}

fn mode_events() -> (bool, Vec<Finding>) {
    let probed = match probe::events_programs() {
        Ok(probed) => probed,
        Err(error) => return (false, vec![object("mode events", &error)]),
    };
    let loads = |name: &str| probed.iter().any(|p| p.program == name && p.outcome.is_ok());
    let either = |name: &str| loads(name) || loads(&format!("{name}_raw"));
    let works = either("segment") && either("state") && either("state_nested");
    let findings = probed.iter().map(|program| {
        let (consequence, remedy) = match program.attaches_to.split('/').next() {
            _ if program.program.starts_with("accept") => (UNSEEN_ACCEPTS, TRAMPOLINES),
            Some("iter") => (
                "connections of sockets that listened before the start have no process until one closes them",
                "Linux 5.8 or later",
            ),
            Some("kprobe") => (
                "mode events uses the process of the state change for a connect",
                "CONFIG_KPROBES=y",
            ),
            Some("raw_tp") => ("mode events needs tp_btf", "Linux 5.8 or later"),
            _ => ("mode events uses the raw tracepoint", "Linux 5.8 or later"),
        };
        finding(program, Verdict::Limited, consequence, remedy)
    });
    (works, findings.collect())
}

/// Consequence if no program sees accepts.
const UNSEEN_ACCEPTS: &str =
    "an accepted connection has the process that listens, until a file scan or its close";

/// Requirement of programs at functions.
const TRAMPOLINES: &str = "a kernel that allows fentry: CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS, from Linux 5.5 on x86-64 and from 6.4 on arm64";

/// Programs that see cgroups come and go.
fn cgroup_programs() -> Vec<Finding> {
    let probed = match probe::cgroup_programs() {
        Ok(probed) => probed,
        Err(error) => return vec![object("cgroup programs", &error)],
    };
    let findings = probed.iter().map(|program| {
        finding(
            program,
            Verdict::Limited,
            "cgroups are watched by inotify: a container that lives for some milliseconds may have no container_id",
            "Linux 5.8 or later",
        )
    });
    findings.collect()
}

/// The program that counts dropped packets.
fn dropped_packets() -> Vec<Finding> {
    const CONSEQUENCE: &str = "dropped packets are not counted";
    match probe::drops_program() {
        Ok(probed) => probed
            .iter()
            .map(|program| {
                finding(
                    program,
                    Verdict::Limited,
                    CONSEQUENCE,
                    "Linux 5.17 or later; the receiver logs the verifier's message",
                )
            })
            .collect(),
        Err(error @ LoadError::Capability(_)) => vec![object("dropped packets", &error)],
        Err(error) => vec![Finding::not_ok(
            "dropped packets",
            Verdict::Limited,
            &first_line(&error),
            CONSEQUENCE,
            drops::remedy(&error),
        )],
    }
}

/// The programs of the option `inspect`, as one need.
fn inspection() -> Vec<Finding> {
    const NEED: &str = "option inspect";
    const CONSEQUENCE: &str = "protocols, names of TLS servers and exchanges are not available";
    match probe::inspect_programs() {
        Ok(probed) => {
            let refused = probed.iter().find(|program| program.outcome.is_err());
            let Some(program) = refused.or(probed.first()) else {
                return Vec::new();
            };
            let found = finding(program, Verdict::Limited, CONSEQUENCE, "Linux 5.12 or later");
            vec![Finding { need: NEED, ..found }]
        }
        Err(error) => vec![object(NEED, &error)],
    }
}

/// The program that scans listening sockets.
fn listening_queues() -> Vec<Finding> {
    let probed = match probe::listeners_program() {
        Ok(probed) => probed,
        Err(error) => return vec![object("listening queues", &error)],
    };
    let findings = probed.iter().map(|program| {
        let found = finding(
            program,
            Verdict::Limited,
            "queues and drops of listening sockets are not measured",
            "Linux 5.13 or later",
        );
        Finding {
            need: "listening queues",
            ..found
        }
    });
    findings.collect()
}

/// The programs of UDP, attached and tested, and detached again.
fn udp() -> Finding {
    const NEED: &str = "UDP";
    let options = UdpOptions {
        hooks: Hooks::Functions,
        max_flows: 64,
        idle: Duration::from_secs(1),
        dns_ports: Vec::new(),
        dns_ring_bytes: 1 << 16,
    };
    match Udp::load(&options) {
        Ok(udp) => {
            let absent: Vec<_> = udp.absent().iter().map(|refusal| refusal.what).collect();
            let but = if absent.is_empty() {
                String::new()
            } else {
                format!("; not counted: {}", absent.join(", "))
            };
            Finding::ok(
                NEED,
                format!("by {}, which passes its self-test{but}", udp.step().as_str()),
            )
        }
        Err(UdpLoadError::Unable(error)) => object(NEED, &error),
        Err(error) => Finding::not_ok(
            NEED,
            Verdict::Limited,
            &error,
            "UDP is not measured with `udp.hooks: auto`",
            format!(
                "use a kernel with fentry, fprobe or kprobes (for kprobes on Debian and Ubuntu: sysctl -w kernel.perf_event_paranoid=2); \
                 {}",
                udp::hooks_hint(!mount::mount_points().is_empty())
            ),
        ),
    }
}

/// Of a program that loads, or why not.
fn finding(program: &Probed, verdict: Verdict, consequence: &'static str, remedy: &str) -> Finding {
    match &program.outcome {
        Ok(()) => Finding::ok(program.attaches_to, format!("{} loads", program.program)),
        Err(error) => Finding::not_ok(
            program.attaches_to,
            verdict,
            &first_line(error),
            consequence,
            remedy,
        ),
    }
}

/// Of an object none of whose programs can be tried.
fn object(need: &'static str, error: &LoadError) -> Finding {
    let remedy = match (error, error.descriptor_remedy()) {
        (_, Some(remedy)) => remedy.to_owned(),
        (LoadError::Capability(_), None) => grant_command(Grant::Programs),
        _ => "see the findings above".to_owned(),
    };
    Finding::not_ok(
        need,
        Verdict::Missing,
        &first_line(error),
        "it can't be tried",
        remedy,
    )
}

/// Inode number of the initial pid namespace (`include/linux/proc_ns.h`, `PROC_PID_INIT_INO`).
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

fn pid_namespace(proc_root: &Path) -> Finding {
    let link = proc_root.join("self/ns/pid");
    let own = fs::read_link(&link).map_or_else(
        |error| format!("unknown: {}: {error}", link.display()),
        |namespace| namespace.display().to_string(),
    );
    if own == INITIAL_PID_NAMESPACE {
        return Finding::ok("pid namespace", "the host's".to_owned());
    }
    Finding::not_ok(
        "pid namespace",
        Verdict::Limited,
        &own,
        "open connections of processes outside it, and processes of accepted ones, are not visible",
        "run in the host's (hostPID: true)",
    )
}

fn cgroups(proc_root: &Path) -> Finding {
    const NEED: &str = "cgroup v2";
    match Hierarchy::find(proc_root) {
        Some(part) if part.is_whole() => Finding::ok(NEED, part.root.display().to_string()),
        Some(part) => Finding::not_ok(
            NEED,
            Verdict::Limited,
            &format!("only a part of the hierarchy, at {}", part.root.display()),
            "connections of other cgroups that exist already have no container_id",
            "mount the host's /sys/fs/cgroup, read-only, at any place",
        ),
        None => Finding::not_ok(
            NEED,
            Verdict::Limited,
            &"not mounted",
            "container ids come from cgroup v1, which has none for processes that have ended",
            "boot with systemd.unified_cgroup_hierarchy=1; in a container, mount the host's /sys/fs/cgroup",
        ),
    }
}

fn listening_ports(proc_root: &Path) -> Finding {
    const NEED: &str = "listening ports";
    match listen_scan::scan(proc_root) {
        Ok(_) => {
            let namespace = listen_scan::process_dir(proc_root).join("ns/net");
            Finding::ok(NEED, format!("of {}", namespace.display()))
        }
        Err(error) => Finding::not_ok(
            NEED,
            Verdict::Limited,
            &error,
            "which side serves an adopted connection is known from its counters and ports only",
            "set receivers.ebpf.proc_root to the mount of the host's /proc",
        ),
    }
}

/// RDMA devices, as the receiver `rdma` sees them.
#[cfg(feature = "rdma")]
fn rdma(sysfs_root: &Path) -> Finding {
    const NEED: &str = "RDMA";
    let survey = match rdma::survey(sysfs_root) {
        Ok(survey) => survey,
        Err(error) => {
            return Finding::not_ok(
                NEED,
                Verdict::Limited,
                &error,
                "the receiver `rdma` lacks some devices or queue pairs",
                "in a container, mount /sys; `rdma link` and `rdma resource` show what the kernel lists",
            );
        }
    };
    if survey.devices.is_empty() {
        return Finding::ok(NEED, "no devices".to_owned());
    }
    let found = format!(
        "{}; {} queue pairs",
        survey.devices.join(", "),
        survey.queue_pairs
    );
    match survey.unread.split_first() {
        None => Finding::ok(NEED, found),
        Some((first, others)) => Finding::not_ok(
            NEED,
            Verdict::Limited,
            &format!("{found}; can't be read: {first} and {} more", others.len()),
            "the receiver `rdma` leaves these values out and counts them as unread",
            "a kernel or driver that has them; those that it does not have cost nothing",
        ),
    }
}

fn netlink() -> Finding {
    match sock_diag::count_sockets() {
        Ok(count) => Finding::ok(
            "netlink sock_diag",
            match count {
                1 => "1 connection in this namespace".to_owned(),
                count => format!("{count} connections in this namespace"),
            },
        ),
        Err(error) => Finding::not_ok(
            "netlink sock_diag",
            Verdict::Limited,
            &error,
            "no fallback without privileges",
            "CONFIG_INET_TCP_DIAG",
        ),
    }
}

fn first_line(error: &LoadError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_need_that_is_not_met_says_what_follows_and_what_to_do() {
        let report = examine(Path::new("/nowhere"));
        let needs: Vec<_> = report.findings.iter().map(|finding| finding.need).collect();
        for need in [
            "kernel",
            "BTF",
            "capabilities",
            "lockdown",
            "memlock",
            "pid namespace",
            "cgroup v2",
        ] {
            assert!(needs.contains(&need), "no {need} among {needs:?}");
        }
        for finding in &report.findings {
            let reported = !finding.consequence.is_empty() && !finding.remedy.is_empty();
            assert_eq!(reported, finding.verdict != Verdict::Ok, "{finding:?}");
        }
        assert!(needs.contains(&"RDMA"));
        for finding in &report.findings {
            assert!(!finding.found.is_empty(), "{finding:?}");
        }
        let pid = report
            .findings
            .iter()
            .find(|f| f.need == "pid namespace")
            .unwrap();
        assert_eq!(
            pid.verdict,
            Verdict::Limited,
            "no proc file system is no initial namespace"
        );
        let path = "unknown: /nowhere/self/ns/pid: No such file or directory";
        assert!(pid.found.starts_with(path), "{}", pid.found);
    }

    #[cfg(feature = "rdma")]
    #[test]
    fn values_of_rdma_devices_that_cannot_be_read_are_named() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(rdma(root.path()), Finding::ok("RDMA", "no devices".to_owned()));
        let port = root.path().join("class/infiniband/mlx4_0/ports/1");
        fs::create_dir_all(port.join("counters")).unwrap();
        fs::write(port.join("state"), "4: ACTIVE\n").unwrap();
        assert_eq!(rdma(root.path()).verdict, Verdict::Ok);
        fs::write(port.join("counters/symbol_error"), "N/A (no PMA)\n").unwrap();
        let finding = rdma(root.path());
        assert_eq!(finding.verdict, Verdict::Limited);
        assert!(finding.found.starts_with("mlx4_0; "), "{}", finding.found);
        assert!(
            finding
                .found
                .contains("counters/symbol_error: the driver does not have it")
        );
    }
}
