//! Records of cgroups that come and go.

use bytemuck::{Pod, Zeroable};

use super::{MalformedEvent, take};

/// `struct cgroup_event` up to its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct CgroupHead {
    pub(super) id: u64,
    /// In C `type`.
    pub(super) kind: u32,
    pub(super) path_bytes: u32,
}

/// `enum cgroup_event_type`.
pub(super) const CGROUP_CREATED: u32 = 1;
pub(super) const CGROUP_REMOVED: u32 = 2;

/// A cgroup of v2 came or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupEvent<'a> {
    /// It was created.
    Created {
        /// Its id.
        id: u64,
        /// Its path from the root of the hierarchy, whatever cgroup namespace it was created in. Cut short after 1,023 bytes.
        path: &'a [u8],
    },
    /// Its directory was removed.
    Removed {
        /// Its id.
        id: u64,
    },
}

impl<'a> CgroupEvent<'a> {
    /// Reads one record of the ring `cgroups`.
    ///
    /// # Errors
    /// [`MalformedEvent`] if the type is unknown or the record is cut short.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, MalformedEvent> {
        let malformed = |kind| MalformedEvent {
            len: bytes.len(),
            kind,
        };
        let (head, rest) = take::<CgroupHead>(bytes).ok_or_else(|| malformed(None))?;
        let path = usize::try_from(head.path_bytes)
            .ok()
            .and_then(|len| rest.get(..len));
        match (head.kind, path) {
            (CGROUP_CREATED, Some(path)) => Ok(Self::Created { id: head.id, path }),
            (CGROUP_REMOVED, _) => Ok(Self::Removed { id: head.id }),
            (kind, _) => Err(malformed(Some(kind))),
        }
    }
}
