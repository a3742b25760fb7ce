//! The scan of the table that has the connections without socket storage (`bpf/table.h`).
//!
//! Its programs are attached to nothing: `BPF_PROG_TEST_RUN` runs them, on this CPU. One run looks at some thousand entries, as
//! the CPU does nothing else meanwhile.

use std::io;
use std::thread;

use aya::Ebpf;
use aya::programs::{Program, ProgramError, RawTracePoint, RawTracePointRunOptions, TestRun};

use crate::error::LoadError;

const BEGIN: &str = "begin_table_scan";
const SCAN: &str = "scan_table";
const END: &str = "end_table_scan";

/// Answers of [`BEGIN`].
const A_CLOSE_IS_UNDER_WAY: u32 = 1;
const EMPTY: u32 = 2;

/// Attempts of a scan to wait for a close that is about to remove its entry, which takes the close
/// less than a microsecond unless it loses its CPU.
const ATTEMPTS: usize = 100_000;

/// Task of a walk: `enum visit` of `bpf/scan.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Visit {
    /// Report connections that have moved.
    Changed = 0,
    /// Report every open connection: a census.
    Open = 1,
    /// Remove connections whose socket has gone, which every walk does.
    Gone = 2,
}

/// The scan; its programs are loaded.
#[derive(Debug)]
pub(crate) struct TableScan {
    /// The number of the last scan: an entry remembers the last one that looked at it.
    scan: u16,
    /// Older tables in use.
    older: u32,
}

impl TableScan {
    /// Loads the programs, for a table and `older` ones.
    ///
    /// # Errors
    /// [`LoadError`]: before Linux 6.2 the kernel lacks `bpf_rdonly_cast()`.
    pub(crate) fn load(ebpf: &mut Ebpf, older: u32) -> Result<Self, LoadError> {
        for name in [BEGIN, SCAN, END] {
            load(ebpf, name)?;
        }
        Ok(Self { scan: 0, older })
    }

    /// Continues the numbers of `before`, whose entries this scan looks at.
    pub(crate) const fn continue_after(&mut self, before: &Self) {
        self.scan = before.scan;
    }

    /// Walks over the table; calls `make_room` when the ring has no more room for the scan, and between runs.
    ///
    /// # Errors
    /// The error of the kernel or of `make_room`; [`io::ErrorKind::TimedOut`] if a close was under
    /// way all the time.
    pub(crate) fn walk(
        &mut self,
        ebpf: &Ebpf,
        visit: Visit,
        make_room: impl FnMut() -> io::Result<()>,
    ) -> io::Result<()> {
        let begun = begin(ebpf);
        let walked = match &begun {
            Ok(true) => self.run(ebpf, visit, make_room),
            Ok(false) => return Ok(()),
            Err(_) => Ok(()),
        };
        // In any case, or closes would leave their entries for good.
        let ended = run(ebpf, END, [0; 3]);
        begun?;
        walked?;
        ended.map(drop)
    }

    fn run(
        &mut self,
        ebpf: &Ebpf,
        visit: Visit,
        mut make_room: impl FnMut() -> io::Result<()>,
    ) -> io::Result<()> {
        // Entries begin with 0, which no scan is.
        self.scan = self.scan.checked_add(1).unwrap_or(1);
        for table in 0..=self.older {
            while run(ebpf, SCAN, [self.scan.into(), visit as u64, table.into()])? != 0 {
                make_room()?;
            }
        }
        Ok(())
    }
}

/// Whether there is anything to scan; from then on no entry is taken out.
fn begin(ebpf: &Ebpf) -> io::Result<bool> {
    for _ in 0..ATTEMPTS {
        match run(ebpf, BEGIN, [0; 3])? {
            EMPTY => return Ok(false),
            A_CLOSE_IS_UNDER_WAY => thread::yield_now(),
            _ => return Ok(true),
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// Loads a program for [`run`].
///
/// # Errors
/// [`LoadError`] with what the kernel refuses.
pub(crate) fn load(ebpf: &mut Ebpf, name: &'static str) -> Result<(), LoadError> {
    let failed = |source| LoadError::program(name, source);
    let program = ebpf.program_mut(name).ok_or(LoadError::Absent(name))?;
    let program: &mut RawTracePoint = program.try_into().map_err(failed)?;
    program.load().map_err(failed)
}

/// Runs a program once, on this CPU; returns its answer.
///
/// # Errors
/// The error of the system call.
pub(crate) fn run(ebpf: &Ebpf, name: &'static str, arguments: [u64; 3]) -> io::Result<u32> {
    let Some(Program::RawTracePoint(program)) = ebpf.program(name) else {
        return Err(io::Error::other(format!("the BPF object has no {name}")));
    };
    let mut options = RawTracePointRunOptions::new();
    options.args[..3].copy_from_slice(&arguments);
    let ran = program.test_run(options).map_err(|error| match error {
        ProgramError::SyscallError(error) => error.io_error,
        error => io::Error::other(error),
    });
    ran.map(|result| result.return_value)
}
