//! The kernel, its limits, and the rights of this process.

use std::fs;
use std::path::Path;

use flowtap_ebpf::capability;

use super::report::{Finding, Verdict};
use crate::ebpf::{Grant, grant_command};

pub(super) fn kernel(proc_root: &Path) -> Finding {
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

pub(super) fn btf() -> Finding {
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

pub(super) fn capabilities() -> Finding {
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

pub(super) fn lockdown() -> Finding {
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
pub(super) fn memlock(proc_root: &Path) -> Finding {
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
