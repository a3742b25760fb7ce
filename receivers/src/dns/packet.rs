//! A DNS message on its way, as the kernel side reports it.

use flowtap_pipeline::Endpoint;

/// The first bytes of a UDP payload to or from a DNS port, with the socket that sent or received it.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// When it passed, in nanoseconds of the clock that all packets of one source have in common.
    pub at: u64,
    /// Whether this machine's socket sent it.
    pub is_sent: bool,
    /// The socket's end.
    pub local: Endpoint,
    /// The peer's end.
    pub remote: Endpoint,
    /// The socket and its owner.
    pub owner: Owner,
    /// Length of the whole payload, in bytes.
    pub length: u32,
    /// As many bytes of it as were copied.
    pub payload: &'a [u8],
}

/// A socket and its owner. Unknown values are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// Inode number of the socket's network namespace.
    pub netns: u32,
    /// The kernel's socket cookie.
    pub cookie: u64,
    /// Process id (thread group).
    pub pid: u32,
    /// Name of the process, NUL-padded.
    pub comm: [u8; 16],
    /// cgroup v2 id.
    pub cgroup_id: u64,
}
