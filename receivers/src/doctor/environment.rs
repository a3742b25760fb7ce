//! Namespaces, cgroups, ports, devices and netlink: requirements beside programs.

use std::fs;
use std::path::Path;

use super::report::{Finding, Verdict};
use crate::containers::mount::Hierarchy;
#[cfg(feature = "rdma")]
use crate::rdma;
use crate::{listen_scan, sock_diag};

/// Inode number of the initial pid namespace (`include/linux/proc_ns.h`, `PROC_PID_INIT_INO`).
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

pub(super) fn pid_namespace(proc_root: &Path) -> Finding {
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

pub(super) fn cgroups(proc_root: &Path) -> Finding {
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

pub(super) fn listening_ports(proc_root: &Path) -> Finding {
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
pub(super) fn rdma(sysfs_root: &Path) -> Finding {
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

pub(super) fn netlink() -> Finding {
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
