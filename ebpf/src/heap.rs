//! The heap, when the kernel's type information has been on it.
//!
//! The kernel's BTF, parsed, is some twenty MiB: a few large pieces and very many small ones. The GNU C library would keep all of it.
//! By itself it takes a large piece that is freed as a sign that the next one should be kept, and raises two thresholds
//! to match; and `malloc_trim(3)` lets the end of a thread's arena be. Other libraries' allocators are left to themselves.

/// Pieces of this size or more go back to the system as soon as they are freed.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES: libc::c_int = 4 << 20;

/// So does what is free at an arena's end, beyond this much.
#[cfg(target_env = "gnu")]
const KEPT_BYTES: libc::c_int = 1 << 20;

/// Fixes both thresholds. Call it before anything large is on the heap.
pub(crate) fn cap_malloc_thresholds() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) has no preconditions but valid values, which these are; it takes the allocator's lock.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
    }
}

/// Gives what is free within the arenas back to the system.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) has no preconditions, and is safe in any thread.
    let _ = unsafe { libc::malloc_trim(0) };
}
