//! Which programs load on this machine: each is loaded by itself, and unloaded again.

use aya::programs::{Program, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader};

use crate::error::LoadError;
use crate::kernel_types::KernelTypes;
use crate::object::Compressed;
use crate::{capability, cgroups, drops, events, inspect, kernel_btf, kfunc, listeners, sockets};

/// A program, and whether this machine takes it.
#[derive(Debug)]
pub struct Probed {
    /// Name of the program.
    pub program: &'static str,
    /// Attach point, in libbpf's notation: `tp_btf/tcp_probe`.
    pub attaches_to: &'static str,
    /// Why it can't be loaded, or for a kprobe attached.
    pub outcome: Result<(), LoadError>,
}

/// Programs of mode `sockets`: name and attachment.
const SOCKETS: [(&str, &str); 10] = [
    ("on_state_change", "tp_btf/inet_sock_set_state"),
    ("on_state_nested", "tp_btf/inet_sock_set_state"),
    ("on_accept", "fentry/security_sock_graft"),
    ("scan_sockets", "iter/bpf_sk_storage_map"),
    ("scan_all", "iter/bpf_sk_storage_map"),
    ("scan_table", "raw_tp"),
    ("adopt_files", "iter/task_file"),
    ("adopt_sockets", "iter/tcp"),
    ("revisit_files", "iter/task_file"),
    ("revisit_sockets", "iter/tcp"),
];

/// Programs of mode `events`.
const EVENTS: [(&str, &str); 11] = [
    ("segment", "tp_btf/tcp_probe"),
    ("segment_raw", "raw_tp/tcp_probe"),
    ("state", "tp_btf/inet_sock_set_state"),
    ("state_raw", "raw_tp/inet_sock_set_state"),
    ("state_nested", "tp_btf/inet_sock_set_state"),
    ("state_nested_raw", "raw_tp/inet_sock_set_state"),
    ("connect_probe", "kprobe/tcp_connect"),
    ("close_probe", "kprobe/tcp_close"),
    ("accept", "fentry/security_sock_graft"),
    ("accept_probe", "kprobe/security_sock_graft"),
    ("find_listeners", "iter/task_file"),
];

/// Programs that see cgroups come and go, in either mode.
const CGROUPS: [(&str, &str); 2] = [
    ("cgroup_created", "raw_tp/cgroup_mkdir"),
    ("cgroup_removed", "raw_tp/cgroup_rmdir"),
];

/// Programs of the option `inspect`.
const INSPECT: [(&str, &str); 2] = [
    ("inspect", "tp_btf/tcp_probe"),
    ("inspect_states", "tp_btf/inet_sock_set_state"),
];

/// Tries the programs of mode `sockets`, each by itself.
///
/// # Errors
/// [`LoadError`] if not even their object can be loaded.
pub fn sockets_programs() -> Result<Vec<Probed>, LoadError> {
    probe(sockets::OBJECT, &SOCKETS)
}

/// Tries the programs of mode `events`, each by itself. Not all are needed: `tp_btf` or `raw_tp`, and kprobes at will.
///
/// # Errors
/// [`LoadError`] if not even their object can be loaded.
pub fn events_programs() -> Result<Vec<Probed>, LoadError> {
    probe(events::OBJECT, &EVENTS)
}

/// Tries the programs that see cgroups come and go, each by itself.
///
/// # Errors
/// [`LoadError`] if not even their object can be loaded.
pub fn cgroup_programs() -> Result<Vec<Probed>, LoadError> {
    probe(cgroups::OBJECT, &CGROUPS)
}

/// Tries the program that counts dropped packets: the one for the arguments that this kernel's tracepoint has.
///
/// # Errors
/// [`LoadError`] if the kernel has no such arguments, or not even the object can be loaded.
pub fn drops_program() -> Result<Vec<Probed>, LoadError> {
    let types = KernelTypes::load().ok_or(LoadError::NoTypes)?;
    let program = drops::program_for(&types)?;
    drop(types);
    probe(drops::OBJECT, &[(program, "tp_btf/kfree_skb")])
}

/// Tries the programs of the option `inspect`.
///
/// # Errors
/// [`LoadError`] if not even their object can be loaded.
pub fn inspect_programs() -> Result<Vec<Probed>, LoadError> {
    probe(inspect::OBJECT, &INSPECT)
}

/// Tries the program that scans listening sockets.
///
/// # Errors
/// [`LoadError`] if not even its object can be loaded.
pub fn listeners_program() -> Result<Vec<Probed>, LoadError> {
    probe(listeners::OBJECT, &[(listeners::SCAN, "raw_tp")])
}

fn probe(object: Compressed, programs: &[(&'static str, &'static str)]) -> Result<Vec<Probed>, LoadError> {
    capability::check().map_err(|missing| LoadError::Capability(missing.0))?;
    capability::raise_memlock();
    let btf = kernel_btf::parsed()?;
    let linked = kfunc::link(object.unpack()?, &btf);
    let mut ebpf = EbpfLoader::new()
        .btf(Some(&btf))
        // Small: nothing will be in them.
        .map_max_entries("lifecycle", 4096)
        .map_max_entries("segments", 4096)
        .map_max_entries("tcpflow", 4096)
        .map_max_entries("tcpconn", 4096)
        .map_max_entries("tracked", 1)
        .map_max_entries("table", 1)
        .load(linked.object.bytes())
        .map_err(LoadError::Object)?;
    let probed = programs.iter().map(|&(program, attaches_to)| Probed {
        program,
        attaches_to,
        // Not tried where its call can't be linked: the verifier of such a kernel may even warn in the kernel's log.
        outcome: if program == "scan_table" && !linked.has_cast {
            Err(LoadError::MissingFunction("bpf_rdonly_cast"))
        } else {
            try_program(&mut ebpf, &btf, program, attaches_to)
                .map_err(|source| LoadError::program(program, source))
        },
    });
    Ok(probed.collect())
}

fn try_program(ebpf: &mut Ebpf, btf: &Btf, name: &str, attaches_to: &str) -> Result<(), ProgramError> {
    let target = attaches_to
        .split_once('/')
        .map_or(attaches_to, |(_, target)| target);
    // A name that is not there counts as a program that is not loaded: the names are those of our own objects.
    match ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)? {
        Program::BtfTracePoint(program) => program.load(target, btf),
        Program::RawTracePoint(program) => program.load(),
        Program::FEntry(program) => {
            // Whether there is a trampoline shows only when one is attached.
            program.load(target, btf)?;
            let link = program.attach()?;
            program.detach(link)
        }
        Program::Iter(program) => program.load(target, btf),
        Program::KProbe(program) => {
            // Whether there are kprobes shows only when one is attached.
            program.load()?;
            let link = program.attach(target, 0)?;
            program.detach(link)
        }
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}
