//! Whether programs at tracepoints can be preempted on the running kernel.
//!
//! Up to Linux 6.18 a tracepoint calls its probes with preemption disabled, whatever the preemption model. Later kernels
//! protect them by SRCU, and a thread can be preempted in the middle of a program. Another one that then reaches the same
//! tracepoint on that CPU finds the program busy, and the kernel skips it. No flag of the kernel shows this, so its release decides.

use std::mem::MaybeUninit;

/// The first release whose tracepoints may be preemptible.
const FIRST: (u32, u32) = (6, 19);

/// Whether the running kernel may preempt programs at tracepoints. On an unknown release it may.
pub(crate) fn tracepoints_are_preemptible() -> bool {
    release().is_none_or(|release| may_preempt(&release))
}

fn may_preempt(release: &str) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|digits| digits.parse().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor) >= FIRST,
        _ => true,
    }
}

/// `utsname.release`.
fn release() -> Option<String> {
    let mut name = MaybeUninit::<libc::utsname>::uninit();
    // SAFETY: uname(2) fills the whole structure that it is given, or fails.
    let name = unsafe {
        if libc::uname(name.as_mut_ptr()) != 0 {
            return None;
        }
        name.assume_init()
    };
    let bytes = name.release.iter().map(|&c| c.cast_unsigned());
    String::from_utf8(bytes.take_while(|&byte| byte != 0).collect()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_after_6_18_may_preempt_programs() {
        for (release, expected) in [
            ("5.10.0-46-cloud-amd64", false),
            ("6.12.118+deb13-cloud-amd64", false),
            ("6.18.44", false),
            ("6.19-rc1", true),
            ("7.2.13", true),
            ("unknown", true),
        ] {
            assert_eq!(may_preempt(release), expected, "{release}");
        }
    }
}
