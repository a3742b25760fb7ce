//! The walks over all sockets: adoption of those that are open already, and the processes of connections.

use std::mem;

use aya::{Btf, Ebpf};

use super::programs::link_iter;
use crate::abi::Event;
use crate::error::LoadError;
use crate::iter::IterLink;

/// The way in which sockets that were already open were found.
#[derive(Debug, Default)]
pub struct Adoption {
    /// Records shown by the walk over every process' files, or why there was none.
    pub files: Option<Result<u64, LoadError>>,
    /// Records shown by the walk over this network namespace's sockets, or why there was none.
    pub sockets: Option<Result<u64, LoadError>>,
}

/// Walks over all sockets that exist; which of them were not loaded, and why, is reported once.
#[derive(Debug)]
pub(super) struct Walks {
    adopt_files: Result<IterLink, Option<LoadError>>,
    adopt_sockets: Result<IterLink, Option<LoadError>>,
    revisit_files: Result<IterLink, Option<LoadError>>,
    revisit_sockets: Result<IterLink, Option<LoadError>>,
    /// Whether what was open before has been picked up.
    pub(super) adopted: bool,
}

impl Walks {
    pub(super) fn load(ebpf: &mut Ebpf, btf: &Btf) -> Self {
        let mut link = |name, target| link_iter(ebpf, btf, name, target).map_err(Some);
        Self {
            adopt_files: link("adopt_files", "task_file"),
            adopt_sockets: link("adopt_sockets", "tcp"),
            revisit_files: link("revisit_files", "task_file"),
            revisit_sockets: link("revisit_sockets", "tcp"),
            adopted: false,
        }
    }

    pub(super) fn run(&mut self, buffer: &mut [u8], mut each: impl FnMut(Event)) -> Adoption {
        if !mem::replace(&mut self.adopted, true) {
            // Files first: they show the process. The second walk finds what has none: orphans, sockets not accepted yet.
            return Adoption {
                files: run_iter(&mut self.adopt_files, buffer, "adopt_files", &mut each),
                sockets: run_iter(&mut self.adopt_sockets, buffer, "adopt_sockets", &mut each),
            };
        }
        let files = run_iter(&mut self.revisit_files, buffer, "revisit_files", &mut each);
        // The walk over sockets goes through the kernel's table of all connections, with those in TIME_WAIT.
        let sockets = if matches!(files, Some(Ok(_))) {
            None
        } else {
            run_iter(&mut self.revisit_sockets, buffer, "revisit_sockets", &mut each)
        };
        Adoption { files, sockets }
    }
}

/// Runs an iterator that may not have been loaded; the reason is logged once.
fn run_iter(
    link: &mut Result<IterLink, Option<LoadError>>,
    buffer: &mut [u8],
    name: &'static str,
    each: impl FnMut(Event),
) -> Option<Result<u64, LoadError>> {
    match link {
        Ok(link) => Some(
            link.run(buffer, each)
                .map_err(|source| LoadError::System { what: name, source }),
        ),
        Err(reason) => reason.take().map(Err),
    }
}
