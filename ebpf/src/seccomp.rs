//! Installs a seccomp filter.
//!
//! The crate `seccompiler` compiles filters, but it can't have the kernel log the calls that one refuses.

use std::io;

/// Lets `program`, in classic BPF, decide about every system call of this thread and of those that it starts from now on. `logged`: the
/// kernel's audit log has a line for each call that the filter refuses. The thread needs `no_new_privs`, or `CAP_SYS_ADMIN`.
///
/// # Errors
/// The kernel's, such as `EINVAL` for a program that is not valid.
pub fn install(program: &[libc::sock_filter], logged: bool) -> io::Result<()> {
    let too_long = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let program = libc::sock_fprog {
        len: program.len().try_into().map_err(too_long)?,
        // The kernel only reads it.
        filter: program.as_ptr().cast_mut(),
    };
    let flags = if logged { libc::SECCOMP_FILTER_FLAG_LOG } else { 0 };
    // SAFETY: seccomp(2) copies `len` instructions from the slice, which outlives the call, and keeps no pointer.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
