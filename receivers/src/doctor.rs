//! Requirements on this machine: a finding for each, with its consequence and its fix.

mod environment;
mod kernel;
mod programs;
mod report;

use std::path::Path;

#[cfg(feature = "rdma")]
use self::environment::rdma;
use self::environment::{cgroups, listening_ports, netlink, pid_namespace};
use self::kernel::{btf, capabilities, kernel, lockdown, memlock};
use self::programs::{
    cgroup_programs, dropped_packets, inspection, listening_queues, mode_events, mode_sockets, udp,
};
pub use self::report::{BestMode, Finding, Report, Verdict};

/// Looks at this machine. `proc_root` is `/proc`, or where the host's is mounted. Loads programs, and lets them go again.
pub fn examine(proc_root: &Path) -> Report {
    let mut findings = vec![kernel(proc_root), btf()];
    let privilege = capabilities();
    let lacks_privilege = privilege.verdict == Verdict::Missing;
    findings.push(privilege);
    findings.push(lockdown());
    findings.push(memlock(proc_root));
    let (sockets, of_sockets) = mode_sockets();
    let (events, of_events) = mode_events();
    findings.extend(of_sockets.into_iter().map(|it| it.of(BestMode::Sockets)));
    findings.extend(of_events.into_iter().map(|it| it.of(BestMode::Events)));
    findings.push(pid_namespace(proc_root));
    findings.push(cgroups(proc_root));
    findings.extend(cgroup_programs());
    findings.extend(dropped_packets());
    findings.extend(inspection());
    findings.extend(listening_queues());
    findings.push(udp());
    findings.push(listening_ports(proc_root));
    #[cfg(feature = "rdma")]
    findings.push(rdma(Path::new("/sys")));
    let netlink = netlink();
    let mode = if sockets {
        BestMode::Sockets
    } else if events {
        BestMode::Events
    } else if netlink.verdict == Verdict::Ok {
        BestMode::SockDiag
    } else {
        BestMode::None
    };
    findings.push(netlink);
    Report {
        mode,
        lacks_privilege,
        findings,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_need_that_is_not_met_says_what_follows_and_what_to_do() {
        let report = examine(Path::new("/nowhere"));
        let needs: Vec<_> = report.findings.iter().map(|finding| finding.need).collect();
        for need in [
            "kernel",
            "BTF",
            "capabilities",
            "lockdown",
            "memlock",
            "pid namespace",
            "cgroup v2",
        ] {
            assert!(needs.contains(&need), "no {need} among {needs:?}");
        }
        for finding in &report.findings {
            let reported = !finding.consequence.is_empty() && !finding.remedy.is_empty();
            assert_eq!(reported, finding.verdict != Verdict::Ok, "{finding:?}");
        }
        assert!(needs.contains(&"RDMA"));
        for finding in &report.findings {
            assert!(!finding.found.is_empty(), "{finding:?}");
        }
        let pid = report
            .findings
            .iter()
            .find(|f| f.need == "pid namespace")
            .unwrap();
        assert_eq!(
            pid.verdict,
            Verdict::Limited,
            "no proc file system is no initial namespace"
        );
        let path = "unknown: /nowhere/self/ns/pid: No such file or directory";
        assert!(pid.found.starts_with(path), "{}", pid.found);
    }

    #[cfg(feature = "rdma")]
    #[test]
    fn values_of_rdma_devices_that_cannot_be_read_are_named() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(rdma(root.path()), Finding::ok("RDMA", "no devices".to_owned()));
        let port = root.path().join("class/infiniband/mlx4_0/ports/1");
        fs::create_dir_all(port.join("counters")).unwrap();
        fs::write(port.join("state"), "4: ACTIVE\n").unwrap();
        assert_eq!(rdma(root.path()).verdict, Verdict::Ok);
        fs::write(port.join("counters/symbol_error"), "N/A (no PMA)\n").unwrap();
        let finding = rdma(root.path());
        assert_eq!(finding.verdict, Verdict::Limited);
        assert!(finding.found.starts_with("mlx4_0; "), "{}", finding.found);
        assert!(
            finding
                .found
                .contains("counters/symbol_error: the driver does not have it")
        );
    }
}
