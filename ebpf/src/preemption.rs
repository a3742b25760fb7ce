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

/// Whether the running kernel may preempt a thread inside a program of a trampoline. Programs of kprobes run with preemption
/// disabled.
pub(crate) fn threads_are_preemptible() -> bool {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    may_preempt_threads(
        &read("/proc/sys/kernel/version"),
        &read("/sys/kernel/debug/sched/preempt"),
        &read("/proc/cmdline"),
    )
}

/// `version` is that of uname(2), which names the model; `models` lists those that can be switched to, the present one in
/// parentheses.
fn may_preempt_threads(version: &str, models: &str, cmdline: &str) -> bool {
    let mut words = version.split_whitespace();
    let Some(model) = words.find(|word| word.starts_with("PREEMPT")) else {
        return false;
    };
    if model != "PREEMPT_DYNAMIC" {
        return true;
    }
    let now = models
        .split_once('(')
        .and_then(|(_, rest)| rest.split(')').next());
    let asked = cmdline
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("preempt="))
        .next_back();
    // Unknown counts as preemptible: the other steps are exact on either.
    !matches!(now.or(asked), Some("none" | "voluntary"))
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
    // c_char is i8 on x86-64 and u8 on arm64.
    let bytes = name.release.iter().map(|&c| c.to_ne_bytes()[0]);
    String::from_utf8(bytes.take_while(|&byte| byte != 0).collect()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_preempted_unless_the_kernel_says_that_they_are_not() {
        for (version, models, cmdline, expected) in [
            ("#1 SMP Debian 5.10.209-2", "", "", false),
            (
                "#1 SMP PREEMPT_DYNAMIC Debian 6.1",
                "none (voluntary) full",
                "",
                false,
            ),
            (
                "#1 SMP PREEMPT_DYNAMIC Debian 6.1",
                "none voluntary (full)",
                "",
                true,
            ),
            (
                "#1 SMP PREEMPT_DYNAMIC Debian 6.1",
                "",
                "quiet preempt=none",
                false,
            ),
            ("#1 SMP PREEMPT_DYNAMIC Debian 6.1", "", "quiet", true),
            ("#1 SMP PREEMPT_DYNAMIC @0", "(full) lazy", "preempt=none", true),
            ("#1 SMP PREEMPT_RT Debian 6.1", "", "", true),
            ("#1 SMP PREEMPT Debian 6.1", "", "", true),
        ] {
            let found = may_preempt_threads(version, models, cmdline);
            assert_eq!(found, expected, "{version} {models} {cmdline}");
        }
    }

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
