//! Cost of counting a dropped packet: a flood of datagrams to a port that nobody has, by reason and by flow.
//!
//! The kernel's times of a program have the cost of being called and of being timed in them; those of a program that does nothing
//! are subtracted.

use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::Command;

use aya::programs::BtfTracePoint;
use aya::{Btf, Ebpf};

use crate::agent::Agent;
use crate::kernel;

/// Packets per measurement.
const FLOOD: u32 = 200_000;

/// Addresses in a flood of many flows, which a table of 4,096 has no room for.
const MANY: u32 = 50_000;

/// A port that nobody has.
const PORT: u16 = 9;

pub(crate) fn run() {
    let _nothing = nothing();
    println!("drops: {FLOOD} dropped datagrams, less a program that does nothing:");
    for (mode, flows) in [("reasons", 1), ("flows", 1), ("flows", MANY)] {
        let agent = Agent::start(&[&format!("receivers.ebpf.drops={mode}")]);
        // Once to make the entries.
        flood(flows);
        let before = programs();
        flood(flows);
        let [counted, empty] = [0, 1].map(|index| {
            let (before, after) = (before[index], programs()[index]);
            (after.run_time_ns - before.run_time_ns) as f64 / (after.runs - before.runs).max(1) as f64
        });
        println!("{mode:>8} {flows:>6} flows {:>8.1} ns", counted - empty);
        drop(agent);
    }
}

/// The program that counts, and that which does nothing.
fn programs() -> [kernel::Program; 2] {
    let programs = kernel::programs();
    let of = |names: &[&str]| {
        let found = names.iter().find_map(|name| programs.get(*name));
        *found.unwrap_or_else(|| panic!("none of {names:?} among {programs:?}"))
    };
    [
        of(&["on_drop_at_socket", "on_drop_at_sock", "on_drop"]),
        of(&["on_nothing"]),
    ]
}

fn flood(flows: u32) {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket");
    for index in 0..FLOOD {
        let [.., high, low] = (index % flows + 1).to_be_bytes();
        // An error means that an earlier datagram was dropped.
        let _ = socket.send_to(&[0; 100], (Ipv4Addr::new(127, 1, high, low), PORT));
    }
}

/// Attaches the program that does nothing.
fn nothing() -> Ebpf {
    let folder = tempfile::tempdir().expect("a folder");
    let object = folder.path().join("nothing.bpf.o");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/benches/overhead/nothing.bpf.c");
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let status = Command::new(clang)
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror"])
        .arg(format!("-I/usr/include/{}-linux-gnu", std::env::consts::ARCH))
        .arg("-c")
        .arg(source)
        .arg("-o")
        .arg(&object)
        .status();
    assert!(status.is_ok_and(|status| status.success()), "clang");
    let mut ebpf = Ebpf::load_file(&object).expect("a program that loads");
    let program: &mut BtfTracePoint = ebpf
        .program_mut("on_nothing")
        .and_then(|program| program.try_into().ok())
        .expect("on_nothing");
    let btf = Btf::from_sys_fs().expect("the kernel's types");
    program.load("kfree_skb", &btf).expect("loaded");
    program.attach().expect("attached");
    ebpf
}
