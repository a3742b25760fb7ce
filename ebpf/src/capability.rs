//! Capabilities of the process.

use caps::{CapSet, Capability};

/// Capabilities of which the process lacks at least one; loading and attaching the programs needs them all.
///
/// `CAP_SYS_ADMIN` stands for all of them, as in the kernel (`bpf_capable()`, `perfmon_capable()`, `bpf_net_capable()`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing(pub Vec<&'static str>);

/// Looks for `CAP_BPF` and `CAP_PERFMON` among the effective capabilities.
///
/// # Errors
/// [`Missing`] with the names of the missing ones. If the kernel does not report capabilities, none
/// counts as missing, and loading shows the error.
pub fn check() -> Result<(), Missing> {
    look_for(&PROGRAMS)
}

/// Looks for these, and for `CAP_NET_ADMIN`, which programs of a cgroup need as well.
///
/// # Errors
/// As [`check`].
pub(crate) fn check_for_cgroups() -> Result<(), Missing> {
    let [bpf, perfmon] = PROGRAMS;
    look_for(&[bpf, perfmon, (Capability::CAP_NET_ADMIN, "CAP_NET_ADMIN")])
}

/// Capabilities that every program needs.
const PROGRAMS: [(Capability, &str); 2] = [
    (Capability::CAP_BPF, "CAP_BPF"),
    (Capability::CAP_PERFMON, "CAP_PERFMON"),
];

fn look_for(needed: &[(Capability, &'static str)]) -> Result<(), Missing> {
    let Ok(effective) = caps::read(None, CapSet::Effective) else {
        return Ok(());
    };
    if effective.contains(&Capability::CAP_SYS_ADMIN) {
        return Ok(());
    }
    let missing = needed.iter().filter(|(cap, _)| !effective.contains(cap));
    let missing: Vec<_> = missing.map(|(_, name)| *name).collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(Missing(missing))
    }
}

/// Lets maps take as much memory as they need on kernels before 5.11, which charge them to the
/// locked memory of the user (kernel commit 3ac1f01b43b6). Later kernels charge the memory cgroup.
/// A refusal is not an error here: loading reports it.
pub(crate) fn raise_memlock() {
    let unlimited = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: setrlimit(2) reads the structure, which lives on this stack, and keeps nothing of it.
    let _ = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) };
}
