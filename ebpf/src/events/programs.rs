//! Loading and attaching of programs, by their names.

use std::os::fd::AsFd;

use aya::programs::{BtfTracePoint, FEntry, Iter, KProbe, ProgramError, RawTracePoint};
use aya::{Btf, Ebpf};

use crate::error::LoadError;
use crate::iter::IterLink;

/// Programs at state changes where tracepoints are preemptible, in the order in which they are attached.
const STATE_GUARDED: [&str; 4] = ["state_guarded", "state_missed1", "state_missed2", "state_missed3"];

/// Every program at state changes.
pub(super) const STATE_NAMES: [&str; 8] = [
    "state",
    "state_raw",
    "state_nested",
    "state_nested_raw",
    "state_guarded",
    "state_missed1",
    "state_missed2",
    "state_missed3",
];

/// Programs at segments. Changes that these miss come with the next segment or the close.
pub(super) const SEGMENT: [&str; 2] = ["segment", "segment_raw"];

/// Programs at connects and closes, for the process. A connect that the first misses is a client without a process.
pub(super) const PROBES: [&str; 2] = ["connect_probe", "close_probe"];

/// Attaches the programs at state changes, those that disable preemption if `guarded` and the kernel takes them. Returns
/// `tp_btf` or `raw_tp`.
pub(super) fn attach_state_changes(
    ebpf: &mut Ebpf,
    btf: &Btf,
    guarded: bool,
) -> Result<&'static str, LoadError> {
    const TRACEPOINT: &str = "inet_sock_set_state";
    let mut load = |name| -> Result<(), ProgramError> {
        let program: &mut BtfTracePoint = program_mut(ebpf, name)?.try_into()?;
        program.load(TRACEPOINT, btf)
    };
    if guarded && STATE_GUARDED.iter().all(|name| load(name).is_ok()) {
        for name in STATE_GUARDED {
            let attach = |ebpf: &mut Ebpf| -> Result<(), ProgramError> {
                let program: &mut BtfTracePoint = program_mut(ebpf, name)?.try_into()?;
                program.attach().map(drop)
            };
            attach(ebpf).map_err(|source| LoadError::program(name, source))?;
        }
        return Ok("tp_btf");
    }
    let state = attach_tracepoint(ebpf, btf, ["state", "state_raw"], TRACEPOINT)?;
    // After it: it does what the first was not run for.
    attach_tracepoint(ebpf, btf, ["state_nested", "state_nested_raw"], TRACEPOINT)?;
    Ok(state)
}

/// Attaches the first of `names` that the kernel takes, as `tp_btf`, or else the second, as raw tracepoint. Returns which.
pub(super) fn attach_tracepoint(
    ebpf: &mut Ebpf,
    btf: &Btf,
    names: [&'static str; 2],
    tracepoint: &str,
) -> Result<&'static str, LoadError> {
    let [typed, raw] = names;
    let by_btf = |ebpf: &mut Ebpf| -> Result<(), ProgramError> {
        let program: &mut BtfTracePoint = program_mut(ebpf, typed)?.try_into()?;
        program.load(tracepoint, btf)?;
        program.attach().map(drop)
    };
    if by_btf(ebpf).is_ok() {
        return Ok("tp_btf");
    }
    let by_name = |ebpf: &mut Ebpf| -> Result<(), ProgramError> {
        let program: &mut RawTracePoint = program_mut(ebpf, raw)?.try_into()?;
        program.load()?;
        program.attach(tracepoint).map(drop)
    };
    by_name(ebpf)
        .map(|()| "raw_tp")
        .map_err(|source| LoadError::program(raw, source))
}

pub(super) fn attach_kprobe(ebpf: &mut Ebpf, name: &'static str, function: &str) -> Result<(), LoadError> {
    let attach = |ebpf: &mut Ebpf| -> Result<(), ProgramError> {
        let program: &mut KProbe = program_mut(ebpf, name)?.try_into()?;
        program.load()?;
        program.attach(function, 0).map(drop)
    };
    attach(ebpf).map_err(|source| LoadError::program(name, source))
}

/// Attaches the program that sees accepts, by a trampoline or a kprobe. Returns which.
pub(super) fn attach_accept(ebpf: &mut Ebpf, btf: &Btf, kprobes: bool) -> Option<&'static str> {
    const HOOK: &str = "security_sock_graft";
    let traced = |ebpf: &mut Ebpf| -> Result<(), ProgramError> {
        let program: &mut FEntry = program_mut(ebpf, "accept")?.try_into()?;
        program.load(HOOK, btf)?;
        program.attach().map(drop)
    };
    if traced(ebpf).is_ok() {
        return Some("fentry");
    }
    let probed = kprobes && attach_kprobe(ebpf, "accept_probe", HOOK).is_ok();
    probed.then_some("kprobe")
}

pub(super) fn link_walk(ebpf: &mut Ebpf, btf: &Btf) -> Result<IterLink, LoadError> {
    const NAME: &str = "find_listeners";
    let load = |ebpf: &mut Ebpf| -> Result<_, ProgramError> {
        let program: &mut Iter = program_mut(ebpf, NAME)?.try_into()?;
        program.load("task_file", btf)?;
        program.fd()?.try_clone().map_err(ProgramError::IOError)
    };
    let program = load(ebpf).map_err(|source| LoadError::program(NAME, source))?;
    IterLink::new(program.as_fd()).map_err(|source| LoadError::System {
        what: "linking an iterator",
        source,
    })
}

fn program_mut<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut aya::programs::Program, ProgramError> {
    // A name that is not there counts as a program that is not loaded: the names are those of our own object.
    ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)
}
