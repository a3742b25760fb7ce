//! The steps: ways to attach the programs, tried in order until one passes the self-test.
//!
//! A step is all or nothing; each attempt begins with a separate object, as Linux 5.10 attaches no program a second
//! time after it was detached.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use aya::programs::cgroup_skb::CgroupSkbAttachType;
use aya::programs::{BtfTracePoint, CgroupAttachMode, CgroupSkb, CgroupSock, FEntry, KProbe, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader};

use super::abi::{UdpKey, UdpTotals};
use super::kprobe_multi::Probes;
use super::map::Map;
use super::self_test;
use crate::capability;
use crate::error::LoadError;
use crate::kernel_btf;
use crate::kernel_types::KernelTypes;
use crate::object::{Compressed, compressed};
use crate::preemption;

/// The compiled programs.
pub(crate) const OBJECT: Compressed = compressed!("udp");

/// Options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpOptions {
    /// The hooks to use.
    pub hooks: Hooks,
    /// Places in each of the two tables of flows: sockets with their first peer, and further peers.
    pub max_flows: u32,
    /// A flow without a datagram for so long is removed.
    pub idle: Duration,
    /// Ports whose datagrams are forwarded, 8 at most.
    pub dns_ports: Vec<u16>,
    /// Size of the ring of these: a power of two, at least a page.
    pub dns_ring_bytes: u32,
}

/// Size of the ring of closed sockets: 5,000 of them.
const CLOSED_RING_BYTES: u32 = 1 << 20;

/// Programs that are loaded and attached, and have passed the self-test.
pub(super) struct Attached {
    pub(super) step: Step,
    /// Steps that were tried before.
    pub(super) refused: Vec<Refusal>,
    /// Programs that the step works without.
    pub(super) absent: Vec<Refusal>,
    pub(super) sockets: Map<u64>,
    pub(super) flows: Map<UdpKey>,
    /// Totals of the self-test.
    pub(super) tested: UdpTotals,
    /// Datagrams of the self-tests of all steps that were tried.
    pub(super) own: UdpTotals,
    /// Programs that are not in `ebpf`.
    pub(super) programs: Vec<(&'static str, OwnedFd)>,
    pub(super) links: Vec<OwnedFd>,
    pub(super) ebpf: Ebpf,
}

/// Programs that the kernel may skip: those of trampolines and tracepoints on a CPU that is already running them, a kprobe's on a
/// CPU that is running another one or is inside bpf(2).
pub(super) const MISSABLE: [&str; 16] = [
    "sent4",
    "sent6",
    "taken",
    "gone4",
    "gone6",
    "sent4_probe",
    "sent6_probe",
    "taken_probe",
    "gone4_probe",
    "gone6_probe",
    "length_sent",
    "length_received",
    "dropped",
    "uncount_dropped",
    "uncount_filtered",
    "failed",
];

/// The hooks that the config asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hooks {
    /// Functions of UDP, by the best step that works.
    #[default]
    Functions,
    /// Programs of the root cgroup.
    Cgroup,
    /// The tracepoints at `sendmsg` and `recvmsg`.
    Tracepoints,
    /// One step and no other, to compare steps on the same kernel.
    Only(Step),
}

/// A way to attach the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// By trampolines.
    Fentry,
    /// By fprobe.
    KprobeMulti,
    /// By kprobes through perf.
    Kprobe,
    /// By programs of the root cgroup.
    Cgroup,
    /// By the tracepoints `sock_send_length` and `sock_recv_length`.
    Tracepoints,
}

impl Step {
    /// The name, as a label has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::KprobeMulti => "kprobe_multi",
            Self::Kprobe => "kprobe",
            Self::Cgroup => "cgroup",
            Self::Tracepoints => "tracepoints",
        }
    }

    /// Whether payload can be read, so that there is DNS.
    pub const fn has_payload(self) -> bool {
        !matches!(self, Self::Tracepoints)
    }

    /// Whether keys are cookies of sockets.
    const fn by_cookie(self) -> bool {
        matches!(self, Self::Cgroup | Self::Tracepoints)
    }
}

/// A step or a program that does not work here, and why.
#[derive(Debug)]
pub struct Refusal {
    /// Name of the step or of the program.
    pub what: &'static str,
    /// The missing requirement.
    pub error: LoadError,
}

/// No step works.
#[derive(Debug, thiserror::Error)]
pub enum UdpLoadError {
    /// The process lacks capabilities, or the kernel its BTF: no step was tried.
    #[error(transparent)]
    Unable(#[from] LoadError),
    /// Each step with its reason.
    #[error("{}", .0.iter().map(|refusal| format!("{}: {}", refusal.what, first_line(&refusal.error))).collect::<Vec<_>>().join("; "))]
    Steps(Vec<Refusal>),
}

impl UdpLoadError {
    /// As [`LoadError::descriptor_remedy`].
    pub fn descriptor_remedy(&self) -> Option<&'static str> {
        match self {
            Self::Unable(error) => error.descriptor_remedy(),
            Self::Steps(refusals) => refusals
                .iter()
                .find_map(|refusal| refusal.error.descriptor_remedy()),
        }
    }
}

/// The reason without the verifier's log.
fn first_line(error: &LoadError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Programs at functions, each with the function. Those of IPv6 are absent from a kernel without it.
const FUNCTIONS: [(&str, &str, &str); 5] = [
    ("sent4", "sent4_probe", "ip_send_skb"),
    ("sent6", "sent6_probe", "ip6_send_skb"),
    ("taken", "taken_probe", "skb_consume_udp"),
    ("gone4", "gone4_probe", "udp_destroy_sock"),
    ("gone6", "gone6_probe", "udpv6_destroy_sock"),
];

/// A link always lets other programs of the cgroup be, and takes no flag for it.
const LINK: CgroupAttachMode = CgroupAttachMode::Single;

/// The program of the step `cgroup` that sees sockets close.
const CLOSED: &str = "cgroup_closed";

/// Programs of the step `cgroup`.
const CGROUP: [(&str, CgroupSkbAttachType); 2] = [
    ("cgroup_sent", CgroupSkbAttachType::Egress),
    ("cgroup_received", CgroupSkbAttachType::Ingress),
];

/// Programs of the step `tracepoints`, each with its tracepoint.
const LENGTHS: [(&str, &str); 2] = [
    ("length_sent", "sock_send_length"),
    ("length_received", "sock_recv_length"),
];

/// Tries the steps that the options allow, in order.
pub(super) fn best(options: &UdpOptions) -> Result<Attached, UdpLoadError> {
    let steps = steps(options.hooks);
    let held = if steps.contains(&Step::Cgroup) {
        capability::check_for_cgroups()
    } else {
        capability::check()
    };
    held.map_err(|missing| LoadError::Capability(missing.0))?;
    capability::raise_memlock();
    let btf = kernel_btf::parsed().map_err(LoadError::from)?;
    let mut own = UdpTotals::default();
    let (attached, refused) = first_that_works(&steps, |step| attach(options, step, &btf, &mut own))?;
    Ok(Attached {
        refused,
        own,
        ..attached
    })
}

/// Tries `steps` in order, until one works. Returns what it gives, and the steps before it, each with what was missing.
fn first_that_works<T>(
    steps: &[Step],
    mut attempt: impl FnMut(Step) -> Result<T, LoadError>,
) -> Result<(T, Vec<Refusal>), UdpLoadError> {
    let mut refused = Vec::new();
    for &step in steps {
        match attempt(step) {
            Ok(works) => return Ok((works, refused)),
            Err(error) => refused.push(Refusal {
                what: step.as_str(),
                error,
            }),
        }
    }
    Err(UdpLoadError::Steps(refused))
}

/// Trampolines cost least, but a thread that is preempted inside one makes its CPU pass over the program for others.
fn steps(hooks: Hooks) -> Vec<Step> {
    match hooks {
        Hooks::Functions if preemption::threads_are_preemptible() => {
            vec![Step::KprobeMulti, Step::Kprobe, Step::Fentry]
        }
        Hooks::Functions => vec![Step::Fentry, Step::KprobeMulti, Step::Kprobe],
        Hooks::Cgroup => vec![Step::Cgroup],
        Hooks::Tracepoints => vec![Step::Tracepoints],
        Hooks::Only(step) => vec![step],
    }
}

fn attach(options: &UdpOptions, step: Step, btf: &Btf, own: &mut UdpTotals) -> Result<Attached, LoadError> {
    let mut ports = [0_u16; 8];
    if step.has_payload() {
        for (to, from) in ports.iter_mut().zip(&options.dns_ports) {
            *to = *from;
        }
    }
    let mut ebpf = EbpfLoader::new()
        .btf(Some(btf))
        .map_max_entries("udp_sockets", options.max_flows)
        .map_max_entries("udp_flows", options.max_flows)
        .map_max_entries("udp_closed", CLOSED_RING_BYTES)
        .map_max_entries("dns", options.dns_ring_bytes)
        .override_global("closed_wakeup_bytes", &u64::from(CLOSED_RING_BYTES / 4), true)
        .override_global("dns_wakeup_bytes", &u64::from(options.dns_ring_bytes / 4), true)
        .override_global("dns_ports", &ports, true)
        .override_global("by_cookie", &u8::from(step.by_cookie()), true)
        .override_global("socket_filter_reason", &socket_filter_reason(step), true)
        .load(OBJECT.unpack()?.bytes())
        .map_err(LoadError::Object)?;
    let (mut programs, mut links) = (Vec::new(), Vec::new());
    match step {
        Step::Fentry => attach_trampolines(&mut ebpf, btf)?,
        Step::KprobeMulti => (programs, links) = attach_fprobes(&ebpf, btf)?,
        Step::Kprobe => attach_kprobes(&mut ebpf)?,
        Step::Cgroup => attach_to_cgroup(&mut ebpf)?,
        Step::Tracepoints => {
            for (program, tracepoint) in LENGTHS {
                attach_tracepoint(&mut ebpf, btf, program, tracepoint)?;
            }
        }
    }
    let absent_programs = attach_events(&mut ebpf, btf, step);
    let mut sockets = Map::of(&ebpf, "udp_sockets")?;
    let flows = Map::of(&ebpf, "udp_flows")?;
    let tested = self_test::run(&mut sockets, own).map_err(|source| LoadError::System {
        what: "the self-test",
        source,
    })?;
    Ok(Attached {
        step,
        refused: Vec::new(),
        absent: absent_programs,
        sockets,
        flows,
        tested,
        own: UdpTotals::default(),
        programs,
        links,
        ebpf,
    })
}

/// A map that is not there: the object was not built from this source.
pub(super) const fn absent(map: &'static str) -> LoadError {
    LoadError::Absent(map)
}

pub(super) fn take_ring(ebpf: &mut Ebpf, map: &'static str) -> Result<RingBuf<MapData>, LoadError> {
    let ring = ebpf.take_map(map).ok_or_else(|| absent(map))?;
    RingBuf::try_from(ring).map_err(|source| LoadError::Map { map, source })
}

/// Functions that this kernel should have.
fn functions() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    let has_ipv6 = Path::new("/proc/self/net/if_inet6").exists();
    FUNCTIONS
        .into_iter()
        .filter(move |(program, ..)| has_ipv6 || !program.ends_with('6'))
}

fn attach_trampolines(ebpf: &mut Ebpf, btf: &Btf) -> Result<(), LoadError> {
    for (name, _, function) in functions() {
        let attach = |ebpf: &mut Ebpf| -> Result<(), ProgramError> {
            let program: &mut FEntry = program_mut(ebpf, name)?.try_into()?;
            program.load(function, btf)?;
            program.attach().map(drop)
        };
        attach(ebpf).map_err(|source| LoadError::program(name, source))?;
    }
    Ok(())
}

/// Programs by name, and their links.
type Fprobes = (Vec<(&'static str, OwnedFd)>, Vec<OwnedFd>);

fn attach_fprobes(ebpf: &Ebpf, btf: &Btf) -> Result<Fprobes, LoadError> {
    let probes = Probes::link(OBJECT.unpack()?.bytes(), ebpf, btf)?;
    let mut attached = Fprobes::default();
    for (_, name, function) in functions() {
        let [program, link] = probes.attach(name, function)?;
        attached.0.push((name, program));
        attached.1.push(link);
    }
    Ok(attached)
}

fn attach_kprobes(ebpf: &mut Ebpf) -> Result<(), LoadError> {
    for (_, name, function) in functions() {
        let attach = |ebpf: &mut Ebpf| -> Result<(), ProgramError> {
            let program: &mut KProbe = program_mut(ebpf, name)?.try_into()?;
            program.load()?;
            program.attach(function, 0).map(drop)
        };
        attach(ebpf).map_err(|source| LoadError::program(name, source))?;
    }
    Ok(())
}

fn attach_to_cgroup(ebpf: &mut Ebpf) -> Result<(), LoadError> {
    let root = root_cgroup().map_err(|source| LoadError::System {
        what: "opening the root of the cgroups of version 2",
        source,
    })?;
    for (name, direction) in CGROUP {
        let attach = |ebpf: &mut Ebpf| -> Result<(), ProgramError> {
            let program: &mut CgroupSkb = program_mut(ebpf, name)?.try_into()?;
            program.load()?;
            program.attach(&root, direction, LINK).map(drop)
        };
        attach(ebpf).map_err(|source| LoadError::program(name, source))?;
    }
    let attach = |ebpf: &mut Ebpf| -> Result<(), ProgramError> {
        let program: &mut CgroupSock = program_mut(ebpf, CLOSED)?.try_into()?;
        program.load()?;
        program.attach(&root, LINK).map(drop)
    };
    attach(ebpf).map_err(|source| LoadError::program(CLOSED, source))
}

/// The first mount of the cgroups of version 2.
fn root_cgroup() -> io::Result<File> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let mount = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (target, kind) = (fields.nth(1)?, fields.next()?);
        (kind == "cgroup2").then(|| target.to_owned())
    });
    let mount = mount.ok_or_else(|| io::Error::other("no file system of the type cgroup2 is mounted"))?;
    File::open(mount)
}

/// The kernel's number of the reason why a filter drops packets, where a program asks for it: kernels number reasons differently.
/// No packet has the number that stands for none.
fn socket_filter_reason(step: Step) -> u32 {
    const NONE: u32 = u32::MAX;
    if step != Step::Cgroup {
        return NONE;
    }
    let reasons = KernelTypes::load().map(|types| types.enumeration("skb_drop_reason"));
    let mut reasons = reasons.unwrap_or_default().into_iter();
    let found = reasons.find(|(_, name)| name == "SKB_DROP_REASON_SOCKET_FILTER");
    found.map_or(NONE, |(reason, _)| reason)
}

/// Attaches the programs at drops and errors. Returns those that are not there.
fn attach_events(ebpf: &mut Ebpf, btf: &Btf, step: Step) -> Vec<Refusal> {
    const DROPS: &str = "udp_fail_queue_rcv_skb";
    let mut refused = Vec::new();
    let mut attach = |what, tracepoint| {
        let attached = attach_tracepoint(ebpf, btf, what, tracepoint);
        let is_there = attached.is_ok();
        refused.extend(attached.err().map(|error| Refusal { what, error }));
        is_there
    };
    // This step counts at the queue: what the queue then has no room for must be taken out again, which takes the
    // tracepoint's third argument: 6.1 lacks it, 6.12 has it.
    if step != Step::Cgroup || !attach("uncount_dropped", DROPS) {
        attach("dropped", DROPS);
    }
    // The tracepoint has the socket since 6.11.
    if step == Step::Cgroup {
        attach("uncount_filtered", "kfree_skb");
    }
    attach("failed", "inet_sk_error_report");
    refused
}

fn attach_tracepoint(
    ebpf: &mut Ebpf,
    btf: &Btf,
    name: &'static str,
    tracepoint: &str,
) -> Result<(), LoadError> {
    let attach = |ebpf: &mut Ebpf| -> Result<(), ProgramError> {
        let program: &mut BtfTracePoint = program_mut(ebpf, name)?.try_into()?;
        program.load(tracepoint, btf)?;
        program.attach().map(drop)
    };
    attach(ebpf).map_err(|source| LoadError::program(name, source))
}

fn program_mut<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut aya::programs::Program, ProgramError> {
    // A name that is not there counts as a program that is not loaded: the names are those of our own object.
    ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn not_seen() -> LoadError {
        LoadError::System {
            what: "the self-test",
            source: io::Error::other("a datagram from 127.0.0.1:9 to itself was not seen"),
        }
    }

    #[test]
    fn a_step_that_fails_its_self_test_falls_to_the_next_and_is_named() {
        let steps = [Step::Fentry, Step::KprobeMulti, Step::Kprobe];
        let mut tried = Vec::new();
        let (step, refused) = first_that_works(&steps, |step| {
            tried.push(step);
            if step == Step::Fentry {
                Err(not_seen())
            } else {
                Ok(step)
            }
        })
        .expect("the second works");
        assert_eq!(step, Step::KprobeMulti);
        assert_eq!(tried, [Step::Fentry, Step::KprobeMulti], "no more than is needed");
        let [refusal] = &refused[..] else {
            panic!("{refused:?}");
        };
        assert_eq!(refusal.what, "fentry");
        assert!(refusal.error.to_string().contains("was not seen"));
    }

    #[test]
    fn where_no_step_works_each_is_named_with_its_reason() {
        let steps = [Step::KprobeMulti, Step::Kprobe, Step::Fentry];
        let failed = first_that_works(&steps, |_| Err::<(), _>(not_seen()));
        let said = failed.expect_err("none works").to_string();
        for step in steps {
            assert!(said.contains(&format!("{}: ", step.as_str())), "{said}");
        }
        assert_eq!(said.matches("was not seen").count(), 3, "{said}");
    }

    #[test]
    fn functions_have_all_three_steps_and_one_step_has_no_other() {
        let mut all = steps(Hooks::Functions);
        // Whichever comes first on this kernel.
        all.sort_by_key(|step| step.as_str());
        assert_eq!(all, [Step::Fentry, Step::Kprobe, Step::KprobeMulti]);
        assert_eq!(steps(Hooks::Only(Step::Kprobe)), [Step::Kprobe]);
    }
}
