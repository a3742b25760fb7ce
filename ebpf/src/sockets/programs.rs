//! Loading and attaching of programs, by their names.

use std::os::fd::AsFd;

use aya::programs::{BtfTracePoint, FEntry, Iter, ProgramError};
use aya::{Btf, Ebpf};

use crate::error::LoadError;
use crate::iter::IterLink;

/// Programs at state changes, in the order in which they are attached: each does what those before it were not run for.
const STATE_CHANGE: [&str; 2] = ["on_state_change", "on_state_nested"];

/// The same where tracepoints are preemptible: each disables preemption, and is skipped while a thread waits inside it, before
/// and after that.
const STATE_CHANGE_GUARDED: [&str; 4] = [
    "on_state_guarded",
    "on_state_missed1",
    "on_state_missed2",
    "on_state_missed3",
];

/// The programs that report connections of which those at state changes have missed the close.
pub(super) const DESTROYED: [&str; 2] = ["on_destroyed", "on_destroyed2"];

/// The program that sees which process accepts a connection, and the function that it is attached to: a hook of security modules,
/// which has had the same arguments since Linux 2.6 and is called under the new socket's lock.
const ACCEPT: &str = "on_accept";
const ACCEPT_TARGET: &str = "security_sock_graft";

/// Names of the programs at state changes, and why those at destroyed sockets are missing.
pub(super) type StateChanges = (&'static [&'static str], Result<(), LoadError>);

/// Attaches the programs at state changes. Those that disable preemption are optional: a kernel that refuses them has the
/// plain ones.
pub(super) fn attach_state_changes(
    ebpf: &mut Ebpf,
    btf: &Btf,
    guarded: bool,
) -> Result<StateChanges, LoadError> {
    let mut load = |names: &'static [&'static str]| {
        names
            .iter()
            .try_for_each(|name| load_tracepoint(ebpf, btf, name, "inet_sock_set_state"))
            .map(|()| names)
    };
    let loaded = if guarded {
        load(&STATE_CHANGE_GUARDED).or_else(|_| load(&STATE_CHANGE))
    } else {
        load(&STATE_CHANGE)
    }?;
    for name in loaded {
        attach_tracepoint(ebpf, name)?;
    }
    let destroyed = if guarded {
        attach_destroyed(ebpf, btf)
    } else {
        Ok(())
    };
    Ok((loaded, destroyed))
}

fn attach_destroyed(ebpf: &mut Ebpf, btf: &Btf) -> Result<(), LoadError> {
    for name in DESTROYED {
        load_tracepoint(ebpf, btf, name, "tcp_destroy_sock")?;
        attach_tracepoint(ebpf, name)?;
    }
    Ok(())
}

pub(super) fn load_tracepoint(
    ebpf: &mut Ebpf,
    btf: &Btf,
    name: &'static str,
    tracepoint: &str,
) -> Result<(), LoadError> {
    let failed = |source| LoadError::program(name, source);
    let program = ebpf.program_mut(name).ok_or(LoadError::Absent(name))?;
    let program: &mut BtfTracePoint = program.try_into().map_err(failed)?;
    program.load(tracepoint, btf).map_err(failed)
}

pub(super) fn attach_tracepoint(ebpf: &mut Ebpf, name: &'static str) -> Result<(), LoadError> {
    let failed = |source| LoadError::program(name, source);
    let program = ebpf.program_mut(name).ok_or(LoadError::Absent(name))?;
    let program: &mut BtfTracePoint = program.try_into().map_err(failed)?;
    program.attach().map(drop).map_err(failed)
}

pub(super) fn attach_accept(ebpf: &mut Ebpf, btf: &Btf) -> Result<(), LoadError> {
    let failed = |source| LoadError::program(ACCEPT, source);
    let program = ebpf.program_mut(ACCEPT).ok_or(LoadError::Absent(ACCEPT))?;
    let program: &mut FEntry = program.try_into().map_err(failed)?;
    program.load(ACCEPT_TARGET, btf).map_err(failed)?;
    program.attach().map(drop).map_err(failed)
}

pub(super) fn load_iter(
    ebpf: &mut Ebpf,
    btf: &Btf,
    name: &'static str,
    target: &str,
) -> Result<aya::programs::ProgramFd, LoadError> {
    let failed = |source| LoadError::program(name, source);
    let program = ebpf.program_mut(name).ok_or(LoadError::Absent(name))?;
    let program: &mut Iter = program.try_into().map_err(failed)?;
    program.load(target, btf).map_err(failed)?;
    let fd = program
        .fd()
        .and_then(|fd| fd.try_clone().map_err(ProgramError::IOError));
    fd.map_err(failed)
}

pub(super) fn link_iter(
    ebpf: &mut Ebpf,
    btf: &Btf,
    name: &'static str,
    target: &str,
) -> Result<IterLink, LoadError> {
    let program = load_iter(ebpf, btf, name, target)?;
    IterLink::new(program.as_fd()).map_err(|source| LoadError::System {
        what: "linking an iterator",
        source,
    })
}
