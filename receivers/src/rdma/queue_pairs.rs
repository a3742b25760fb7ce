//! Queue pairs of RDMA devices, by netlink.
//!
//! The kernel lists them to every user (`RDMA_NLDEV_CMD_RES_QP_GET`, `drivers/infiniband/core/nldev.c`), those of processes with
//! their pid in the pid namespace of the caller; processes outside of it are left out. A queue pair of the kernel has the name of the
//! module that made it.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use flowtap_pipeline::ReadingLabels;
use flowtap_pipeline::catalog::Label;
use flowtap_pipeline::plain_text::escape;

use super::netlink::{Attributes, Rdma};

/// Attributes (`enum rdma_nldev_attr`, `include/uapi/rdma/rdma_netlink.h`).
const DEV_INDEX: u16 = 1;
const DEV_NAME: u16 = 2;
const PORT_INDEX: u16 = 3;
const RES_QP: u16 = 19;
const RES_QP_ENTRY: u16 = 20;
const RES_TYPE: u16 = 26;
const RES_STATE: u16 = 27;
const RES_PID: u16 = 28;
const RES_KERN_NAME: u16 = 29;

/// Commands (`enum rdma_nldev_command`).
const CMD_GET: u16 = 1;
const CMD_RES_QP_GET: u16 = 10;

/// Stands for processes beyond those that are counted one by one.
const OTHER: &str = "other";

/// A queue pair, as far as it is counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct QueuePair {
    pub(super) device: String,
    /// 0 if it has none yet.
    pub(super) port: u32,
    /// `enum ib_qp_type`.
    pub(super) qp_type: u8,
    /// `enum ib_qp_state`.
    pub(super) state: u8,
    /// 0 of the kernel's.
    pub(super) pid: u32,
    /// Name of the process, or of the kernel's module in brackets.
    pub(super) comm: String,
}

impl QueuePair {
    /// The same without its process.
    pub(super) fn of_other(self) -> Self {
        Self {
            pid: 0,
            comm: OTHER.to_owned(),
            ..self
        }
    }

    pub(super) fn labels(&self) -> ReadingLabels {
        let number = |number: u32| {
            if number == 0 {
                String::new()
            } else {
                number.to_string()
            }
        };
        ReadingLabels::new([
            (Label::Device, escape(&self.device).into_owned()),
            (Label::Port, number(self.port)),
            (Label::QpType, type_name(self.qp_type).to_owned()),
            (Label::QpState, state_name(self.state).to_owned()),
            (Label::Pid, number(self.pid)),
            (Label::Comm, escape(&self.comm).into_owned()),
        ])
    }
}

/// `enum ib_qp_type` in `include/rdma/ib_verbs.h`.
const fn type_name(qp_type: u8) -> &'static str {
    match qp_type {
        0 => "SMI",
        1 => "GSI",
        2 => "RC",
        3 => "UC",
        4 => "UD",
        5 => "RAW_IPV6",
        6 => "RAW_ETHERTYPE",
        8 => "RAW_PACKET",
        9 => "XRC_INI",
        10 => "XRC_TGT",
        0xff => "DRIVER",
        _ => OTHER,
    }
}

/// `enum ib_qp_state`, the same.
const fn state_name(state: u8) -> &'static str {
    match state {
        0 => "RESET",
        1 => "INIT",
        2 => "RTR",
        3 => "RTS",
        4 => "SQD",
        5 => "SQE",
        6 => "ERR",
        _ => OTHER,
    }
}

/// A device as netlink lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) index: u32,
    pub(super) name: String,
}

/// Lists the devices. None if the kernel has no RDMA.
///
/// # Errors
/// [`io::Error`] if the kernel does not list them.
pub(super) fn devices() -> io::Result<Vec<Listed>> {
    let mut devices = Vec::new();
    if let Some(mut rdma) = Rdma::open()? {
        rdma.dump(CMD_GET, &[], |attributes| {
            if let (Some(index), Some(name)) = (attributes.u32(DEV_INDEX), attributes.text(DEV_NAME)) {
                devices.push(Listed { index, name });
            }
        })?;
    }
    Ok(devices)
}

/// Lists the queue pairs of a device. A driver may be asked for each, and take its time.
///
/// # Errors
/// [`io::Error`] if the kernel does not list all of them: a part would look like fewer.
pub(super) fn dump(proc_root: &Path, device: &Listed) -> io::Result<Vec<QueuePair>> {
    let mut pairs = Vec::new();
    if let Some(mut rdma) = Rdma::open()? {
        let mut names = HashMap::new();
        rdma.dump(CMD_RES_QP_GET, &[(DEV_INDEX, device.index)], |attributes| {
            let mut process = |pid| process_name(proc_root, pid, &mut names);
            read_message(&device.name, attributes, &mut process, &mut pairs);
        })?;
    }
    Ok(pairs)
}

/// Reads the queue pairs of a message.
fn read_message(
    device: &str,
    attributes: Attributes<'_>,
    process: &mut impl FnMut(u32) -> String,
    pairs: &mut Vec<QueuePair>,
) {
    for table in attributes.nested(RES_QP) {
        for entry in table.nested(RES_QP_ENTRY) {
            let pid = entry.u32(RES_PID).unwrap_or(0);
            let comm = match entry.text(RES_KERN_NAME) {
                Some(name) => format!("[{name}]"),
                None => process(pid),
            };
            pairs.push(QueuePair {
                device: device.to_owned(),
                port: entry.u32(PORT_INDEX).unwrap_or(0),
                qp_type: entry.u8(RES_TYPE).unwrap_or(0xfe),
                state: entry.u8(RES_STATE).unwrap_or(0xfe),
                pid,
                comm,
            });
        }
    }
}

/// The name of a process; empty if it has ended. Read once per dump.
fn process_name(proc_root: &Path, pid: u32, names: &mut HashMap<u32, String>) -> String {
    let name = names.entry(pid).or_insert_with(|| {
        let text = fs::read(proc_root.join(pid.to_string()).join("comm")).unwrap_or_default();
        String::from_utf8_lossy(&text).trim_end_matches('\n').to_owned()
    });
    name.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An attribute: length and type (16 bits each), then the value, padded to four bytes (RFC 3549, 2.2.1).
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn nested(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
        // NLA_F_NESTED, which newer kernels set.
        attribute(kind | 1 << 15, &attributes.concat())
    }

    fn entry(qp_type: u8, state: u8, owner: Vec<u8>) -> Vec<u8> {
        // A number of the queue pair, which is not counted, is among them.
        let attributes = [
            attribute(21, &17_u32.to_ne_bytes()),
            attribute(RES_TYPE, &[qp_type]),
            attribute(RES_STATE, &[state]),
            owner,
        ];
        nested(RES_QP_ENTRY, &attributes)
    }

    #[test]
    fn queue_pairs_are_read_with_the_process_or_the_module_that_has_them() {
        let pid = |pid: u32| attribute(RES_PID, &pid.to_ne_bytes());
        let entries = [
            entry(2, 3, pid(42)),
            entry(2, 6, pid(42)),
            entry(1, 3, attribute(RES_KERN_NAME, b"ib_core\0")),
        ];
        let message = [
            attribute(DEV_INDEX, &0_u32.to_ne_bytes()),
            attribute(DEV_NAME, b"rxe0\0"),
            nested(RES_QP, &entries),
        ]
        .concat();
        let mut pairs = Vec::new();
        let mut process = |pid| format!("process {pid}");
        read_message("rxe0", Attributes::new(&message), &mut process, &mut pairs);
        let shown: Vec<_> = pairs
            .iter()
            .map(|pair| {
                let labels = pair.labels();
                let labels: Vec<_> = labels.iter().map(|(_, value)| value.to_owned()).collect();
                labels.join(",")
            })
            .collect();
        assert_eq!(
            shown,
            [
                "42,process 42,rxe0,,RC,RTS",
                "42,process 42,rxe0,,RC,ERR",
                ",[ib_core],rxe0,,GSI,RTS"
            ]
        );
    }

    #[test]
    fn a_message_that_is_cut_anywhere_ends_nothing() {
        let pid = attribute(RES_PID, &42_u32.to_ne_bytes());
        let message = nested(RES_QP, &[entry(2, 3, pid.clone()), entry(2, 3, pid)]);
        for end in 0..message.len() {
            let mut pairs = Vec::new();
            read_message(
                "rxe0",
                Attributes::new(&message[..end]),
                &mut |_| String::new(),
                &mut pairs,
            );
            assert!(pairs.len() <= 2);
        }
    }

    #[test]
    fn names_of_processes_are_read_once_and_empty_if_there_is_no_such_process() {
        let root = tempfile::tempdir().unwrap();
        let process = root.path().join("42");
        fs::create_dir(&process).unwrap();
        fs::write(process.join("comm"), "ib_send_bw\n").unwrap();
        let mut names = HashMap::new();
        assert_eq!(process_name(root.path(), 42, &mut names), "ib_send_bw");
        fs::write(process.join("comm"), "another\n").unwrap();
        assert_eq!(process_name(root.path(), 42, &mut names), "ib_send_bw");
        assert_eq!(process_name(root.path(), 43, &mut names), "");
    }

    #[test]
    fn the_kernel_of_this_machine_lists_its_queue_pairs_or_has_no_rdma() {
        // Without InfiniBand in the kernel there are none, which is not an error.
        for device in devices().unwrap() {
            let pairs = dump(Path::new("/proc"), &device).unwrap();
            assert!(pairs.iter().all(|pair| pair.device == device.name));
        }
    }
}
