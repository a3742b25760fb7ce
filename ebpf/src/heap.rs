//! The heap, when the kernel's type information has been on it.

/// Gives what is free back to the system. The kernel's BTF, parsed, is some ten MiB of small pieces, which the GNU C library
/// would keep for good; other libraries' allocators are left to themselves.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) has no preconditions, and is safe in any thread.
    let _ = unsafe { libc::malloc_trim(0) };
}
