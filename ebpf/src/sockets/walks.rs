//! The walks over all sockets: adoption of those that are open already, and the processes of connections.

use std::os::unix::fs::MetadataExt;
use std::{fs, io, mem};

use aya::{Btf, Ebpf};

use super::programs::link_iter;
use crate::abi::Event;
use crate::error::LoadError;
use crate::iter::IterLink;
use crate::table;

/// The program that is run after the first walks.
const END_ADOPTION: &str = "end_adoption";

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
    /// Whether the first walk over files worked.
    has_seen_files: bool,
    /// Whether the first walk over sockets worked.
    has_seen_sockets: bool,
}

impl Walks {
    pub(super) fn load(ebpf: &mut Ebpf, btf: &Btf) -> Self {
        // If it was refused, running it fails.
        table::load(ebpf, END_ADOPTION).ok();
        let mut link = |name, target| link_iter(ebpf, btf, name, target).map_err(Some);
        Self {
            adopt_files: link("adopt_files", "task_file"),
            adopt_sockets: link("adopt_sockets", "tcp"),
            revisit_files: link("revisit_files", "task_file"),
            revisit_sockets: link("revisit_sockets", "tcp"),
            adopted: false,
            has_seen_files: false,
            has_seen_sockets: false,
        }
    }

    pub(super) fn run(&mut self, buffer: &mut [u8], mut each: impl FnMut(Event)) -> Adoption {
        if !mem::replace(&mut self.adopted, true) {
            // Files first: they show the process. The second walk finds what has none: orphans, sockets not accepted yet.
            let files = run_iter(&mut self.adopt_files, buffer, "adopt_files", &mut each);
            let sockets = run_iter(&mut self.adopt_sockets, buffer, "adopt_sockets", &mut each);
            self.has_seen_files = matches!(files, Some(Ok(_)));
            self.has_seen_sockets = matches!(sockets, Some(Ok(_)));
            return Adoption { files, sockets };
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

    /// Lets the programs at destroyed sockets know which connections have been adopted.
    pub(super) fn end_adoption(&self, ebpf: &Ebpf, others_are_known: bool) -> io::Result<()> {
        let is_complete = others_are_known && self.has_seen_files;
        let netns = if self.has_seen_sockets {
            fs::metadata("/proc/self/ns/net")?.ino()
        } else {
            0
        };
        table::run(ebpf, END_ADOPTION, [is_complete.into(), netns, 0]).map(drop)
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
