//! The usual design, written for comparison: `capture.bpf.c` on every packet of loopback, and a
//! process that reads its table once per window. It runs as a separate process, so that it is
//! measured as the others are.

use std::collections::HashMap;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{HashMap as Table, MapData};
use aya::programs::{SchedClassifier, TcAttachType};
use aya::util::KernelVersion;

use crate::agent::Agent;

/// Argument with which this program becomes the capture.
pub(crate) const ARGUMENT: &str = "--capture";

/// As flowtap's.
const WINDOW: Duration = Duration::from_secs(5);

/// `struct flow` and `struct counts` of capture.bpf.c, as bytes.
type Flow = [u8; 40];
type Counts = [u64; 2];

/// Packets and IP bytes, by both ports.
type Totals = HashMap<Flow, Counts>;

/// The compiled program, gone with its folder.
#[derive(Debug)]
pub(crate) struct Object {
    folder: tempfile::TempDir,
}

impl Object {
    pub(crate) fn compile() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/benches/overhead/capture.bpf.c");
        let arch = std::env::consts::ARCH;
        let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
        let status = Command::new(clang)
            .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror"])
            .arg(format!("-I/usr/include/{arch}-linux-gnu"))
            .arg("-c")
            .arg(source)
            .arg("-o")
            .arg(folder.path().join("capture.bpf.o"))
            .status();
        assert!(status.is_ok_and(|status| status.success()), "clang");
        Self { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("capture.bpf.o")
    }

    /// Where a capture leaves its totals.
    fn totals(&self) -> PathBuf {
        self.folder.path().join("totals")
    }

    /// Starts a capture; waits until it counts.
    pub(crate) fn start(&self) -> Agent {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command
            .args([
                ARGUMENT.as_ref(),
                self.path().as_os_str(),
                self.totals().as_os_str(),
            ])
            .stderr(Stdio::piped());
        Agent::when(command, "counting")
    }

    /// Packets and IP bytes of the connections to `port` in the last window of the capture.
    pub(crate) fn counted(&self, port: u16) -> Counts {
        let file = std::fs::File::open(self.totals()).expect("totals");
        let lines = std::io::BufReader::new(file).lines().map_while(Result::ok);
        lines.fold([0, 0], |sum, line| {
            let fields: Vec<u64> = line
                .split(' ')
                .map(|field| field.parse().expect("a number"))
                .collect();
            if fields[..2].contains(&u64::from(port)) {
                [sum[0] + fields[2], sum[1] + fields[3]]
            } else {
                sum
            }
        })
    }
}

/// Its life: counts until it is killed, and once per window leaves all it knows in the file `totals`.
pub(crate) fn run(object: &str, totals: &str) {
    let mut ebpf = Ebpf::load_file(object).expect("a program that loads");
    if KernelVersion::current().is_ok_and(|version| version < KernelVersion::new(6, 6, 0)) {
        // Without TCX. There may be one already.
        let _ = aya::programs::tc::qdisc_add_clsact("lo");
    }
    let program: &mut SchedClassifier = ebpf
        .program_mut("count_packet")
        .and_then(|program| program.try_into().ok())
        .expect("count_packet");
    program.load().expect("loaded");
    program.attach("lo", TcAttachType::Ingress).expect("attached");
    let table: Table<MapData, Flow, Counts> =
        Table::try_from(ebpf.take_map("flows").expect("flows")).expect("a table");
    eprintln!("counting");
    let mut known = Totals::new();
    loop {
        std::thread::sleep(WINDOW);
        // An entry that the kernel throws away while it is read may end the walk early.
        known.extend(table.iter().map_while(Result::ok));
        let lines = known.iter().map(|(flow, counts)| {
            let port = |at: usize| u16::from_ne_bytes([flow[at], flow[at + 1]]);
            format!("{} {} {} {}\n", port(32), port(34), counts[0], counts[1])
        });
        std::fs::write(totals, lines.collect::<String>()).expect("written");
    }
}
