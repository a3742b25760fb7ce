//! `bpf(2)` itself, for commands that aya 0.14 does not make. The attributes of each are with its caller.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `bpf_attr` of commands for one element of a map.
#[repr(C)]
pub(crate) struct Element {
    pub(crate) map_fd: u32,
    pub(crate) pad: u32,
    pub(crate) key: u64,
    pub(crate) value: u64,
    pub(crate) flags: u64,
}

/// A descriptor as `bpf_attr` has it.
#[expect(clippy::cast_sign_loss, reason = "an open descriptor is not negative")]
pub(crate) fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

/// Makes a command, and returns its result, which is not negative.
///
/// # Safety
/// `attributes` must have the layout of the command's part of `bpf_attr`, which some commands write to, and whatever it points to must
/// live.
pub(crate) unsafe fn bpf<T>(command: libc::c_long, attributes: *const T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel accesses `size_of::<T>()` bytes at `attributes`; the caller answers for what they say.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// The same of a command that returns a descriptor.
///
/// # Safety
/// As [`bpf`]; the result of `command` must be a new descriptor.
pub(crate) unsafe fn bpf_descriptor<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the caller answers for the attributes.
    let descriptor = unsafe { bpf(command, attributes) }?;
    let descriptor = i32::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
