//! The memory limiter: watches how much memory the daemon has, and says when it is short.
//!
//! In: the process's own memory, once per `check_interval`. Out: a state that windows heed ([`SharedMemoryPressure`]), two gauges, a log line for
//! each change. Above the soft limit (`limit_mib` less `spike_limit_mib`) new series fold into `other`; above the hard one records are
//! shed. A state ends only well below the limit that began it, so that it does not flap.
//!
//! Pages of files and the kernel's rings do not count: the system takes back the former as it needs them, and the latter are of a fixed
//! size that nothing here can change.
//!
//! The allocator keeps much of what is freed, and the resident set with it: a burst that is over would count for ever. So free
//! memory is returned to the system before a state begins, and with every check until it ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flowtap_config::MemoryLimiterConfig;
use flowtap_pipeline::{MemoryPressure, SharedMemoryPressure};
use opentelemetry::metrics::{Gauge, Meter};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

const MIB: u64 = 1 << 20;

/// Distance below a limit at which its state ends: a twentieth of `limit_mib`.
const HYSTERESIS: u64 = 20;

/// The limits, in bytes.
#[derive(Clone, Copy, Debug)]
struct Limits {
    soft: u64,
    hard: u64,
}

impl Limits {
    /// `allowed`: bytes that the system allows, if it sets a limit.
    fn of(config: &MemoryLimiterConfig, allowed: Option<u64>) -> Option<Self> {
        let of_system = |bytes: u64| u32::try_from(bytes / 4 * 3 / MIB).ok();
        let limit = config.limit_mib.or_else(|| of_system(allowed?));
        let limit = limit.filter(|limit| *limit > 0)?;
        // The system's limit may be less than a spike that was configured without a limit.
        let spike = Some(config.spike_mib(limit)).filter(|spike| *spike < limit);
        let hard = u64::from(limit) * MIB;
        Some(Self {
            hard,
            soft: hard - u64::from(spike.unwrap_or(limit / 5)) * MIB,
        })
    }

    /// The state that follows `state` with this much memory in use.
    fn next(self, state: MemoryPressure, used: u64) -> MemoryPressure {
        let slack = self.hard / HYSTERESIS;
        let reaches =
            |limit: u64, holds: bool| used > if holds { limit.saturating_sub(slack) } else { limit };
        if reaches(self.hard, matches!(state, MemoryPressure::Hard)) {
            MemoryPressure::Hard
        } else if reaches(self.soft, !matches!(state, MemoryPressure::None)) {
            MemoryPressure::Soft
        } else {
            MemoryPressure::None
        }
    }
}

/// A limit that memory never reaches: the system ends the process before.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{limit_mib} MiB are more than {} has, which is {allowed_mib} MiB: this limit is never reached", .origin.name())]
pub struct LimitTooLarge {
    limit_mib: u64,
    allowed_mib: u64,
    origin: MemorySource,
}

/// Where the memory of a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MemorySource {
    ControlGroup,
    Machine,
}

impl LimitTooLarge {
    /// The remedy.
    pub fn hint(&self) -> String {
        let most = self.allowed_mib / 4 * 3;
        format!(
            "{most} or less: a quarter is for pages of files and for memory that the kernel charges; `null` sets that by the control \
             group's limit"
        )
    }
}

impl MemorySource {
    const fn name(self) -> &'static str {
        match self {
            Self::ControlGroup => "the control group of this process",
            Self::Machine => "this machine",
        }
    }
}

/// Checks that memory can reach `limit_mib` on this machine.
///
/// # Errors
/// [`LimitTooLarge`] if the control group or the machine has less.
pub fn check(config: &MemoryLimiterConfig) -> Result<(), LimitTooLarge> {
    let group = allowed().map(|bytes| (bytes, MemorySource::ControlGroup));
    let machine = fs::read_to_string("/proc/meminfo").ok();
    let machine = machine.and_then(|text| total_memory(&text));
    check_against(config, group, machine.map(|bytes| (bytes, MemorySource::Machine)))
}

fn check_against(
    config: &MemoryLimiterConfig,
    group: Option<(u64, MemorySource)>,
    machine: Option<(u64, MemorySource)>,
) -> Result<(), LimitTooLarge> {
    let limit_mib = config.limit_mib.map_or(0, u64::from);
    let least = group.into_iter().chain(machine).min_by_key(|(bytes, _)| *bytes);
    match least {
        Some((bytes, origin)) if limit_mib > bytes / MIB => Err(LimitTooLarge {
            limit_mib,
            allowed_mib: bytes / MIB,
            origin,
        }),
        _ => Ok(()),
    }
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn total_memory(meminfo: &str) -> Option<u64> {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = total.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Watches until `stop`, if the config has a limit, and returns the task that does. `trim` returns free memory to the system.
pub fn watch(
    config: &MemoryLimiterConfig,
    memory: &Arc<SharedMemoryPressure>,
    meter: &Meter,
    trim: fn(),
    stop: CancellationToken,
) -> Option<JoinHandle<()>> {
    let limits = Limits::of(config, allowed())?;
    let gauge = meter
        .u64_gauge("memory_limiter_state")
        .with_description("Memory pressure: 0 none, 1 soft, 2 hard.")
        .build();
    let used_bytes = meter
        .u64_gauge("memory_limiter_used")
        .with_description("Memory that is compared with the limits: the resident set without pages of files and the kernel's rings.")
        .with_unit("By")
        .build();
    let limit_bytes = meter
        .u64_gauge("memory_limiter_limit")
        .with_description("The hard limit of memory: above it records are shed.")
        .with_unit("By")
        .build();
    limit_bytes.record(limits.hard, &[]);
    let (memory, interval) = (Arc::clone(memory), config.check_interval);
    Some(tokio::spawn(async move {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let Some(mut used) = own() else { continue };
            if limits.next(memory.state(), used) != MemoryPressure::None {
                // It takes the allocator's locks for some milliseconds.
                let trimmed = tokio::task::spawn_blocking(trim).await;
                used = trimmed.ok().and_then(|()| own()).unwrap_or(used);
            }
            used_bytes.record(used, &[]);
            look(limits, used, &memory, &gauge);
        }
    }))
}

fn look(limits: Limits, used: u64, memory: &SharedMemoryPressure, gauge: &Gauge<u64>) {
    let (before, now) = (memory.state(), limits.next(memory.state(), used));
    gauge.record(now as u64, &[]);
    if now == before {
        return;
    }
    memory.set(now);
    let (used_mib, state) = (used >> 20, now.as_str());
    match now {
        MemoryPressure::None => tracing::info!(used_mib, state, "memory is below the limits again"),
        MemoryPressure::Soft => tracing::warn!(
            used_mib,
            state,
            "memory is above the soft limit: new series fold into `other`; hint: use fewer labels, or a larger \
             service.memory_limiter.limit_mib"
        ),
        MemoryPressure::Hard => tracing::error!(
            used_mib,
            state,
            "memory is above the hard limit: records are shed, and counted; hint: use fewer labels, or a larger \
             service.memory_limiter.limit_mib"
        ),
    }
}

/// The least memory that the control groups of this process allow, in bytes; `None` where they set no limit.
fn allowed() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    allowed_in(Path::new("/sys/fs/cgroup"), &groups)
}

/// The same with `/proc/self/cgroup` as `groups` has it, and control groups mounted at `root`, version 2 or 1.
fn allowed_in(root: &Path, groups: &str) -> Option<u64> {
    let read = |file: PathBuf| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
    let lines = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?, fields.next()?.trim_start_matches('/')))
    });
    let limits = lines.filter_map(|(controllers, group)| {
        let (mount, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => return None,
        };
        // Each group above counts as well. In a container the path may be the host's, and what is mounted the container's own group.
        let parents = Path::new(group).ancestors();
        parents
            .filter_map(|group| read(mount.join(group).join(file)))
            .min()
    });
    // Version 1 writes a number near 2^63 for no limit.
    limits.min().filter(|bytes| *bytes < 1 << 60)
}

/// The resident set, in bytes.
pub fn resident() -> Option<u64> {
    let [resident, _] = pages()?;
    bytes(resident)
}

/// Resident memory that no file backs, in bytes.
fn own() -> Option<u64> {
    let [resident, shared] = pages()?;
    bytes(resident.saturating_sub(shared))
}

/// The resident set and the part of it that files back, in pages (`proc_pid_statm(5)`: the second and third number). Mapped rings are
/// in the latter.
fn pages() -> Option<[u64; 2]> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let mut numbers = statm.split_whitespace().skip(1).map(str::parse);
    Some([numbers.next()?.ok()?, numbers.next()?.ok()?])
}

fn bytes(pages: u64) -> Option<u64> {
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * u64::try_from(page).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_begins_above_its_limit_and_ends_well_below_it() {
        let limits = Limits::of(
            &MemoryLimiterConfig {
                limit_mib: Some(100),
                spike_limit_mib: Some(20),
                ..MemoryLimiterConfig::default()
            },
            None,
        )
        .unwrap();
        let mut state = MemoryPressure::None;
        for (used, expected) in [
            (80, MemoryPressure::None),
            (81, MemoryPressure::Soft),
            (78, MemoryPressure::Soft),
            (101, MemoryPressure::Hard),
            (97, MemoryPressure::Hard),
            (94, MemoryPressure::Soft),
            (76, MemoryPressure::Soft),
            (74, MemoryPressure::None),
            (120, MemoryPressure::Hard),
            (10, MemoryPressure::None),
        ] {
            state = limits.next(state, used * MIB);
            assert_eq!(state, expected, "{used} MiB");
        }
    }

    #[test]
    fn without_a_limit_nothing_is_watched_and_a_fifth_is_the_spike_by_default() {
        assert!(Limits::of(&MemoryLimiterConfig::default(), None).is_none());
        let config = MemoryLimiterConfig {
            limit_mib: Some(100),
            ..MemoryLimiterConfig::default()
        };
        assert_eq!(Limits::of(&config, None).unwrap().soft, 80 * MIB);
    }

    #[test]
    fn a_limit_that_the_system_does_not_allow_is_an_error_that_names_what_it_allows() {
        let limited = |limit_mib| MemoryLimiterConfig {
            limit_mib,
            ..MemoryLimiterConfig::default()
        };
        let machine = total_memory("MemTotal:       24646716 kB\nMemFree:         1 kB\n");
        assert_eq!(machine, Some(24_646_716 << 10));
        let machine = machine.map(|bytes| (bytes, MemorySource::Machine));
        let group = Some((512 * MIB, MemorySource::ControlGroup));
        for (limit, group, fits) in [
            (None, group, true),
            (Some(0), group, true),
            (Some(512), group, true),
            (Some(513), group, false),
            (Some(513), None, true),
            (Some(24_069), None, true),
            (Some(24_070), None, false),
        ] {
            let checked = check_against(&limited(limit), group, machine);
            assert_eq!(checked.is_ok(), fits, "{limit:?}: {checked:?}");
        }
        let error = check_against(&limited(Some(1_000_000)), group, machine).unwrap_err();
        assert_eq!(
            error.to_string(),
            "1000000 MiB are more than the control group of this process has, which is 512 MiB: this limit is never reached"
        );
        assert!(error.hint().starts_with("384 or less: "), "{}", error.hint());
        // Without memory of any size known nothing can be said.
        assert_eq!(check_against(&limited(Some(1)), None, None), Ok(()));
    }

    #[test]
    fn this_process_has_memory() {
        let (own, resident) = (own().unwrap(), resident().unwrap());
        // The program itself is a file of some MiB.
        assert!((1..resident - MIB).contains(&own), "{own} of {resident}");
    }

    #[test]
    fn without_a_configured_limit_it_is_three_quarters_of_the_systems() {
        let config = MemoryLimiterConfig::default();
        let limits = Limits::of(&config, Some(512 * MIB)).unwrap();
        assert_eq!((limits.hard, limits.soft), (384 * MIB, 308 * MIB));
        let off = MemoryLimiterConfig {
            limit_mib: Some(0),
            ..config
        };
        assert!(Limits::of(&off, Some(512 * MIB)).is_none());
    }

    #[test]
    fn the_systems_limit_is_the_least_of_the_groups_above_in_both_versions() {
        let root = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let file = root.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        let allowed = |groups: &str| allowed_in(root.path(), groups);
        write("system.slice/flowtap.service/memory.max", "max\n");
        write("system.slice/memory.max", "536870912\n");
        assert_eq!(allowed("0::/system.slice/flowtap.service\n"), Some(512 * MIB));
        write("system.slice/flowtap.service/memory.max", "268435456\n");
        assert_eq!(allowed("0::/system.slice/flowtap.service\n"), Some(256 * MIB));
        assert_eq!(allowed("0::/\n"), None);
        write("memory/docker/a/memory.limit_in_bytes", "134217728\n");
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(
            allowed("4:cpu,memory:/docker/a\n1:name=systemd:/x\n0::/\n"),
            Some(128 * MIB)
        );
        assert_eq!(allowed("4:memory:/\n"), None);
        // A container's own group is the root of what it has mounted, whatever its path is on the host.
        write("memory.max", "67108864\n");
        assert_eq!(allowed("0::/kubepods/pod1\n"), Some(64 * MIB));
    }
}
