//! seccomp: the system calls that flowtap makes, and no others.
//!
//! In: nothing of the config. Out: two filters on this thread and those that it starts. A call that neither the C library, Rust's
//! standard library, the runtime nor flowtap makes fails with `EPERM`, and the kernel's audit log has a line about it (`type=1326`, with
//! the number of the call). Newer calls that have an older equivalent fail with `ENOSYS` instead, for which the C library knows what
//! to call. Nothing ends the process: an unusual C library may lose a feature, but not the daemon.

use std::collections::BTreeMap;
use std::io;

use flowtap_ebpf::seccomp;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// Allowed whatever their arguments. The kernel keeps these in a bitmap and runs no filter for them (`seccomp_cache_prepare()`).
pub(super) const ALLOWED: &[i64] = &[
    // Memory. `mmap`, `mprotect` and `pkey_mprotect` have conditions.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mincore,
    libc::SYS_mremap,
    libc::SYS_msync,
    libc::SYS_munmap,
    // Threads and signals of this process. `clone`, `prctl` and `tgkill` have conditions.
    libc::SYS_capget,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_get_robust_list,
    libc::SYS_getcpu,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getgroups,
    libc::SYS_getpgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getresgid,
    libc::SYS_getresuid,
    libc::SYS_getrusage,
    libc::SYS_getsid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_sigaltstack,
    // Time, random numbers, the machine.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_sysinfo,
    libc::SYS_times,
    libc::SYS_uname,
    // Files, which Landlock limits.
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_faccessat,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_linkat,
    libc::SYS_lseek,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_read,
    libc::SYS_readahead,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_renameat2,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_syncfs,
    libc::SYS_truncate,
    libc::SYS_umask,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_write,
    libc::SYS_writev,
    // Events.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_rm_watch,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_signalfd4,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_gettime,
    libc::SYS_timerfd_settime,
    // Sockets. `socket` and `socketpair` have conditions.
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    // The kernel side. `bpf` has conditions.
    libc::SYS_perf_event_open,
];

/// Calls that not every architecture has: most are older equivalents of those above.
#[cfg(target_arch = "x86_64")]
pub(super) const ALLOWED_HERE: &[i64] = &[
    libc::SYS_access,
    libc::SYS_arch_prctl,
    libc::SYS_chmod,
    libc::SYS_dup2,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd,
    libc::SYS_getdents,
    libc::SYS_getpgrp,
    libc::SYS_inotify_init,
    libc::SYS_link,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_rmdir,
    libc::SYS_select,
    libc::SYS_stat,
    libc::SYS_sync_file_range,
    libc::SYS_time,
    libc::SYS_unlink,
    // `uretprobe` and `uprobe`: the kernel puts these calls into a process that somebody else traces. A refusal would be a SIGSEGV.
    335,
    336,
];
#[cfg(target_arch = "aarch64")]
pub(super) const ALLOWED_HERE: &[i64] = &[
    // `renameat` and `sync_file_range`, which the crate `libc` does not name here.
    38, 84,
];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) const ALLOWED_HERE: &[i64] = &[];

/// New calls have the same number everywhere; the crate `libc` does not name these on every architecture.
const FCHMODAT2: i64 = 452;
const MSEAL: i64 = 462;

/// Calls that do not exist in the sandbox. The C library has an older one for each, or does without. The flags of `clone3` and
/// `openat2` are in memory, where a filter can't see them.
pub(super) const ABSENT: &[i64] = &[
    libc::SYS_clone3,
    libc::SYS_epoll_pwait2,
    libc::SYS_faccessat2,
    FCHMODAT2,
    libc::SYS_futex_waitv,
    MSEAL,
    libc::SYS_openat2,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
];

/// Flags of `clone(2)` that make a namespace; `CLONE_NEWTIME` is for `unshare(2)` and `clone3(2)` alone.
const NAMESPACES: libc::c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWCGROUP;

/// Families of sockets that flowtap opens: requests and listeners, name resolution and systemd, netlink.
const FAMILIES: [libc::c_int; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Operations of `prctl(2)`: names of threads and of mappings (`PR_SET_VMA`, by which the C library names its own), and what the
/// process may do.
const PRCTL: [libc::c_int; 6] = [
    libc::PR_SET_NAME,
    libc::PR_GET_NAME,
    libc::PR_SET_VMA,
    libc::PR_CAPBSET_READ,
    libc::PR_CAP_AMBIENT,
    libc::PR_GET_DUMPABLE,
];

/// Commands of `bpf(2)` that put an object into a file system, or take one from there. flowtap pins nothing.
const PINNING: [u64; 2] = [
    6, // BPF_OBJ_PIN
    7, // BPF_OBJ_GET
];

/// Requests of `ioctl(2)` by which a process types into the terminal that it was started from.
const TYPING: [u64; 2] = [libc::TIOCSTI, libc::TIOCLINUX];

/// Installs both filters; returns whether this architecture has them.
pub(super) fn restrict() -> Result<&'static str, seccompiler::Error> {
    let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else {
        return Ok("not on this architecture");
    };
    // First, because the other one does not allow to install a filter.
    let absent = ABSENT.iter().map(|call| (*call, Vec::new())).collect();
    let program = compile(absent, SeccompAction::Allow, errno(libc::ENOSYS), arch)?;
    install(&program, false).map_err(seccompiler::Error::Seccomp)?;
    let program = compile(rules()?, errno(libc::EPERM), SeccompAction::Allow, arch)?;
    install(&program, true).map_err(seccompiler::Error::Seccomp)?;
    Ok("on")
}

/// The calls that are allowed. A call is if one of its rules holds, and a rule does if all of its conditions do.
fn rules() -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    // Those that are absent fail by the other filter.
    let whole = [ALLOWED, ALLOWED_HERE, ABSENT].into_iter().flatten();
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = whole.map(|call| (*call, Vec::new())).collect();
    let own = u64::from(std::process::id());
    // Threads of this process, and neither processes nor namespaces.
    let thread = (NAMESPACES | libc::CLONE_THREAD, libc::CLONE_THREAD);
    let without = |argument, flag| all([is(argument, flag, 0)?]);
    // New code is how an attacker runs what they bring: a mapping that is written and executed, but also two of one file, one to write
    // and one to run. All libraries are mapped before the sandbox (`super::load_name_services`), so nothing needs any.
    let executable = libc::PROT_EXEC;
    let some = [
        (libc::SYS_clone, vec![all([is(0, thread.0, thread.1)?])?]),
        (libc::SYS_mmap, vec![without(2, executable)?]),
        (libc::SYS_mprotect, vec![without(2, executable)?]),
        (libc::SYS_pkey_mprotect, vec![without(2, executable)?]),
        (libc::SYS_socket, one_of(&FAMILIES)?),
        (libc::SYS_socketpair, one_of(&[libc::AF_UNIX])?),
        (libc::SYS_prctl, one_of(&PRCTL)?),
        // Limits of this process: 0, or its own id.
        (
            libc::SYS_prlimit64,
            vec![all([equal(0, 0)?])?, all([equal(0, own)?])?],
        ),
        (libc::SYS_tgkill, vec![all([equal(0, own)?])?]),
        (libc::SYS_bpf, vec![all(none_of(0, PINNING)?)?]),
        (libc::SYS_ioctl, vec![all(none_of(1, TYPING)?)?]),
    ];
    rules.extend(some);
    Ok(rules)
}

fn all(conditions: impl IntoIterator<Item = SeccompCondition>) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.into_iter().collect())
}

/// The bits `mask` of an argument are `value`.
fn is(argument: u8, mask: libc::c_int, value: libc::c_int) -> Result<SeccompCondition, BackendError> {
    let [mask, value] = [mask, value].map(|bits| u64::from(bits.unsigned_abs()));
    let operator = SeccompCmpOp::MaskedEq(mask);
    SeccompCondition::new(argument, SeccompCmpArgLen::Qword, operator, value)
}

fn equal(argument: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

/// Rules by which the first argument is one of `values`.
fn one_of(values: &[libc::c_int]) -> Result<Vec<SeccompRule>, BackendError> {
    let rule = |value: &libc::c_int| all([equal(0, u64::from(value.unsigned_abs()))?]);
    values.iter().map(rule).collect()
}

fn none_of<const N: usize>(argument: u8, values: [u64; N]) -> Result<Vec<SeccompCondition>, BackendError> {
    let differs = |value| SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value);
    values.into_iter().map(differs).collect()
}

fn errno(number: libc::c_int) -> SeccompAction {
    SeccompAction::Errno(number.unsigned_abs())
}

fn compile(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matched: SeccompAction,
    arch: TargetArch,
) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(rules, otherwise, matched, arch)?.try_into()
}

fn install(program: &BpfProgram, logged: bool) -> io::Result<()> {
    let program: Vec<_> = program
        .iter()
        .map(|step| libc::sock_filter {
            code: step.code,
            jt: step.jt,
            jf: step.jf,
            k: step.k,
        })
        .collect();
    seccomp::install(&program, logged)
}

#[cfg(test)]
mod tests;
