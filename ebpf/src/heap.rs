//! Limits of freed memory that the allocator keeps.
//!
//! The GNU C library keeps most of what is freed. It takes a large piece that is freed as a sign that the next one should be kept, and
//! raises two thresholds to match; and `malloc_trim(3)` leaves the end of each thread's arena as it is, up to the second of them.
//! The kernel's BTF, parsed, is some twenty MiB, in a few large pieces and very many small ones; a burst of requests is
//! spread over the arenas of all threads. Other libraries' allocators are left to themselves.

/// Pieces of this size or more go back to the system as soon as they are freed.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES: libc::c_int = 4 << 20;

/// So does what is free at an arena's end, beyond this much.
#[cfg(target_env = "gnu")]
const KEPT_BYTES: libc::c_int = 128 << 10;

/// Arenas. By default there are eight for each processor, and what is free between pieces in use is kept in each of them: a node of 64
/// processors would have 512. Threads of the daemon allocate little at the same time.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 4;

/// Fixes both thresholds and the number of arenas for the process. Called once, before other threads start: the daemon's memory limits depend on it.
pub fn limit_kept_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) has no preconditions but valid values, which these are; it takes the allocator's lock.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
    }
}

/// Gives what is free within the arenas back to the system.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) has no preconditions, and is safe in any thread.
    let _ = unsafe { libc::malloc_trim(0) };
}
