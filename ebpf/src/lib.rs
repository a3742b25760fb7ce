//! The kernel side: BPF programs in C, their loader, and the mirror of what they hand over.
//!
//! This is the only crate with `unsafe` code, and a leaf: it does not depend on flowtap's records.
//!
//! # Layout
//!
//! | path | contents |
//! |---|---|
//! | `bpf/kernel.h` | the kernel's types, cut down to the fields that are read |
//! | `bpf/abi.h` | records passed to user space |
//! | `bpf/socket_state.h`, `totals.h`, `flow.h` | per-socket state; exact differences; one record |
//! | `bpf/translation.h` | the addresses of a connection on the wire |
//! | `bpf/maps.h`, `table.h` | the maps of mode `sockets`; connections without socket storage |
//! | `bpf/owners.h` | the process that a connection belongs to |
//! | `bpf/state.h`, `scan.h`, `adopt.h` | the three concerns, each one inline handler |
//! | `bpf/control.h` | programs that replace others, and tables that grow |
//! | `bpf/guard.h` | programs that can't be preempted |
//! | `bpf/sockets.bpf.c` | capture mode `sockets`: the programs, thin |
//! | `bpf/segment.h`, `per_segment.h` | a received segment; capture mode `events` with the maps of mode `sockets` |
//! | `bpf/segments.h`, `events.bpf.c` | capture mode `events` where the kernel does not take that |
//! | `bpf/cgroups.bpf.c` | cgroups as they come and go |
//! | `bpf/drops.bpf.c`, `drops.h` | dropped packets by reason, namespace and flow |
//! | `bpf/listeners.bpf.c`, `owner_map.h` | queues and drops of listening sockets, and the map that they are in |
//! | `bpf/inspect.bpf.c`, `inspect_abi.h` | first bytes of connections, and exchanges |
//! | `bpf/udp_abi.h`, `udp_kernel.h`, `udp_maps.h` | UDP: records, kernel types, maps |
//! | `bpf/udp_count.h`, `udp_buffer.h`, `udp_cgroup.h` | a datagram counted; datagrams in buffers and in packets |
//! | `bpf/udp.bpf.c` | UDP: the programs, thin |
//! | [`abi`] | the Rust mirror of `abi.h` |
//! | [`sockets`] | [`Sockets`]: loads and attaches capture mode `sockets` |
//! | [`iter`] | BPF iterators: links by `bpf(2)`, and reading records |
//! | `table` | the scan of connections without socket storage |
//! | [`events`] | [`Events`]: loads and attaches capture mode `events` |
//! | [`cgroups`] | [`Cgroups`]: loads and attaches the programs that see cgroups come and go |
//! | [`drops`] | [`Drops`]: loads and attaches the program that counts dropped packets |
//! | [`inspect`] | [`Inspect`]: loads the programs of the option `inspect`, and attaches them for a part of the time |
//! | `perf` | perf buffers, for records with payload |
//! | [`listeners`] | [`Listeners`]: the scan of listening sockets |
//! | `kernel_btf` | the running kernel's BTF, parsed once for several objects |
//! | `kernel_types` | enumerations and tracepoints in the running kernel's BTF |
//! | [`udp`] | [`Udp`]: loads and attaches the UDP programs by the best step that works |
//! | [`probe`] | which programs load on this machine |
//! | [`ring`] | [`RingWatch`]: waits for a ring to fill, on tokio |
//! | `kfunc` | links calls of kernel functions |
//! | `preemption` | whether programs at tracepoints can be preempted |
//! | [`misses`] | runs that the kernel skipped |
//! | `sharing`, `control`, `replace` | maps that the programs of two objects share; which of the two are at work; how one replaces the other |
//! | `table_names` | names of the maps that are tables of connections |
//! | `tables` | tables of connections that grow |
//! | `jiffies` | the unit of the kernel's clocks of a socket |
//! | `object` | the object files, which the binary has in compressed form |
//! | `heap` | limits the freed memory that the allocator keeps |
//! | `pages` | unmaps the pages of the program that its start needed |
//! | [`capability`] | capabilities of the process |
//! | [`seccomp`] | installs a filter of system calls |
//! | [`error`] | [`LoadError`]: the missing requirement, with the verifier's log |

pub mod abi;
mod bpf_call;
pub mod capability;
pub mod cgroups;
mod control;
pub mod drops;
pub mod error;
pub mod events;
mod heap;
pub mod inspect;
pub mod iter;
mod jiffies;
mod kernel_btf;
mod kernel_types;
mod kfunc;
pub mod listeners;
mod losses;
pub mod misses;
mod object;
mod pages;
mod perf;
mod preemption;
pub mod probe;
mod replace;
pub mod ring;
pub mod seccomp;
mod sharing;
pub mod sockets;
mod table;
mod table_names;
mod tables;
pub mod udp;

pub use abi::{CgroupEvent, Event, FlowEvent, ListenEvent, ListenerEvent, Losses, TranslationEvent};
pub use cgroups::Cgroups;
pub use drops::{Dropped, Drops};
pub use error::LoadError;
pub use events::{Attachment, Events, EventsOptions};
pub use heap::{limit_kept_memory, trim as trim_heap};
pub use inspect::{Inspect, InspectEvent, InspectOptions};
pub use jiffies::microseconds_of_jiffies;
pub use kernel_btf::KeptBtf;
pub use listeners::Listeners;
pub use misses::ProgramMisses;
pub use pages::unmap_program;
pub use ring::{Ring, RingWatch};
pub use sockets::{Adoption, Sockets, SocketsOptions, Store};
pub use tables::MAX_SOCKETS;
pub use udp::{Hooks, Step, Udp, UdpChange, UdpDelta, UdpLoadError, UdpOptions};
