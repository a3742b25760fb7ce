//! The length of a jiffy, in which the kernel's clocks of a socket count.

use std::sync::LazyLock;

/// In nanoseconds: the resolution of the coarse clock, which moves with each tick (`CONFIG_HZ`; kernel/time/posix-timers.c,
/// `posix_get_coarse_res()`). Read once, as the sandbox may forbid the call later.
static TICK_NS: LazyLock<i64> = LazyLock::new(tick_ns);

/// The most common length, `CONFIG_HZ=250`.
const COMMON_NS: i64 = 4_000_000;

fn tick_ns() -> i64 {
    let mut resolution = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a `timespec` of this frame.
    let result = unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut resolution) };
    // It fails for clocks that the kernel does not have only, and this one is older than BPF.
    if result == 0 && resolution.tv_sec == 0 && resolution.tv_nsec > 0 {
        resolution.tv_nsec
    } else {
        COMMON_NS
    }
}

/// Reads the length, as long as that is allowed.
pub(crate) fn prepare() {
    LazyLock::force(&TICK_NS);
}

/// Microseconds of a difference in jiffies.
pub fn microseconds_of_jiffies(jiffies: i32) -> i64 {
    i64::from(jiffies) * *TICK_NS / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jiffy_is_as_long_as_kernels_are_built_with() {
        let lengths = [1_000, 3_333, 4_000, 10_000];
        assert!(
            lengths.contains(&microseconds_of_jiffies(1)),
            "{}",
            microseconds_of_jiffies(1)
        );
        assert_eq!(microseconds_of_jiffies(-3_000), -3_000 * *TICK_NS / 1000);
    }
}
