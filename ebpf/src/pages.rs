//! Mapped pages of the program's own file.
//!
//! Most of the code that a daemon ever runs is that of its start: configs, the kernel's types, loading programs. Its pages stay mapped
//! and count as memory of the process (RSS), with up to 15 neighbours of each: the kernel maps that many at a fault.

use std::ffi::{c_int, c_void};
use std::{ptr, slice};

/// Unmaps code and constants. A page that is used again comes back from the page cache.
///
/// A uprobe or a debugger's breakpoint that was set before is lost, as it is in a private copy of a page.
pub fn unmap_program() {
    // SAFETY: `unmap` has the signature of a callback, and no data.
    let _ = unsafe { libc::dl_iterate_phdr(Some(unmap), ptr::null_mut()) };
}

/// Called with the first object, which is the program itself; ends the iteration.
unsafe extern "C" fn unmap(object: *mut libc::dl_phdr_info, _: usize, _: *mut c_void) -> c_int {
    // SAFETY: sysconf(3) has no preconditions.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
    // SAFETY: dl_iterate_phdr(3) passes a valid object, and headers as many as it says.
    let (base, headers) = unsafe {
        let object = &*object;
        let headers = slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum));
        (object.dlpi_addr, headers)
    };
    // A segment that can't be written has the content of the file: relocated constants are in a writable one.
    let read_only = headers
        .iter()
        .filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0);
    for header in read_only {
        let address = |offset: u64| usize::try_from(base + header.p_vaddr + offset).unwrap_or(0);
        // Whole pages of the segment.
        let start = address(0).next_multiple_of(page);
        let end = address(header.p_memsz) / page * page;
        if end > start {
            let place = ptr::with_exposed_provenance_mut(start);
            // SAFETY: the pages are mapped from a file and were never written, so reading them again gives the same bytes.
            // If it fails, they stay mapped.
            let _ = unsafe { libc::madvise(place, end - start, libc::MADV_DONTNEED) };
        }
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// KiB of this program's code that are mapped.
    fn mapped_code() -> u64 {
        let program = std::env::current_exe().unwrap();
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut is_code = false;
        let mut mapped = 0;
        for line in smaps.lines() {
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("Rss:"), Some(kib)) if is_code => mapped += kib.parse::<u64>().unwrap(),
                // Addresses, then permissions: a mapping begins.
                (Some(range), Some(permissions)) if range.contains('-') => {
                    is_code = permissions == "r-xp" && line.ends_with(program.to_str().unwrap());
                }
                _ => {}
            }
        }
        mapped
    }

    #[test]
    fn code_that_has_run_is_unmapped_and_runs_again() {
        let parsed = || aya_obj::Object::parse(crate::sockets::OBJECT.unpack().unwrap().bytes());
        let programs = parsed().unwrap().programs.len();
        let before = mapped_code();
        unmap_program();
        let after = mapped_code();
        assert!(after < before, "{after} KiB are mapped, {before} before");
        assert_eq!(parsed().unwrap().programs.len(), programs);
    }
}
