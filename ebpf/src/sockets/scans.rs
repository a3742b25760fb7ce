//! The scans: what moved since the last one, or, in a census, every open connection.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use aya::maps::Map;
use aya::{Btf, Ebpf};

use super::programs::load_iter;
use crate::error::LoadError;
use crate::iter::IterLink;
use crate::table::{self, TableScan, Visit};

/// Programs that scan: the first where the kernel has the function that it calls.
const SCAN_BY_CAST: &str = "scan_by_cast";
const SCAN: &str = "scan_sockets";
const SCAN_ALL: &str = "scan_all";
const SCAN_TARGET: &str = "bpf_sk_storage_map";

/// The program that is run before each scan.
pub(super) const BEGIN_SCAN: &str = "begin_scan";

/// The scans of both places where connections are kept.
#[derive(Debug)]
pub(super) struct Scans {
    pub(super) storage: Option<StorageScans>,
    pub(super) table: Option<TableScan>,
}

impl Scans {
    pub(super) fn walk(
        &mut self,
        ebpf: &Ebpf,
        census: bool,
        mut make_room: impl FnMut() -> io::Result<()>,
    ) -> io::Result<()> {
        table::run(ebpf, BEGIN_SCAN, [census.into(), 0, 0])?;
        match &self.storage {
            Some(storage) if census => storage.walk_census(&mut make_room)?,
            Some(storage) => storage.scan.walk(&mut make_room)?,
            None => {}
        }
        match &mut self.table {
            Some(table) => {
                let visit = if census { Visit::Open } else { Visit::Changed };
                table.walk(ebpf, visit, make_room)
            }
            None => Ok(()),
        }
    }

    /// Takes connections out of the table whose socket has gone.
    pub(super) fn sweep(&mut self, ebpf: &Ebpf) -> io::Result<()> {
        match &mut self.table {
            Some(table) => table.walk(ebpf, Visit::Gone, || Ok(())),
            None => Ok(()),
        }
    }
}

/// Iterators over socket storage.
#[derive(Debug)]
pub(super) struct StorageScans {
    scan: IterLink,
    /// Shows every open connection.
    census: IterLink,
}

impl StorageScans {
    /// Returns them with the name of the program that scans.
    pub(super) fn load(
        ebpf: &mut Ebpf,
        btf: &Btf,
        has_cast: bool,
    ) -> Result<(Self, &'static str), LoadError> {
        let by_cast = has_cast
            .then(|| load_iter(ebpf, btf, SCAN_BY_CAST, SCAN_TARGET).ok())
            .flatten();
        let (scan, name) = match by_cast {
            Some(scan) => (scan, SCAN_BY_CAST),
            None => (load_iter(ebpf, btf, SCAN, SCAN_TARGET)?, SCAN),
        };
        let census = load_iter(ebpf, btf, SCAN_ALL, SCAN_TARGET)?;
        let [scan, census] = [scan, census].map(|program| link_to_storage(ebpf, program.as_fd()));
        Ok((
            Self {
                scan: scan?,
                census: census?,
            },
            name,
        ))
    }
}

impl StorageScans {
    /// Shows every open connection. A walk that is interrupted passes over some; so it is repeated, for those alone, until there are no
    /// fewer interruptions: the kernel itself takes a breath after a million sockets.
    fn walk_census(&self, mut make_room: impl FnMut() -> io::Result<()>) -> io::Result<()> {
        let mut before = u64::MAX;
        loop {
            let mut interruptions = 0;
            self.census.walk(|| {
                interruptions += 1;
                make_room()
            })?;
            if interruptions == 0 || interruptions >= before {
                return Ok(());
            }
            before = interruptions;
        }
    }
}

fn link_to_storage(ebpf: &Ebpf, program: BorrowedFd<'_>) -> Result<IterLink, LoadError> {
    let Some(Map::SkStorage(storage)) = ebpf.map("sockets") else {
        return Err(LoadError::Absent("map sockets"));
    };
    IterLink::over_map(program, storage.fd().as_fd()).map_err(|source| LoadError::System {
        what: "linking the scan to its map",
        source,
    })
}
