//! The programs that the kernel accepts, by what they are for.

use std::time::Duration;

use flowtap_ebpf::probe::{self, Probed};
use flowtap_ebpf::{Hooks, LoadError, Udp, UdpLoadError, UdpOptions};

use super::report::{Finding, Verdict};
use crate::containers::mount;
use crate::ebpf::{Grant, drops, grant_command, udp};

/// Consequence if no program sees accepts.
const UNSEEN_ACCEPTS: &str =
    "an accepted connection has the process that listens, until a file scan or its close";

/// Requirement of programs at functions.
const TRAMPOLINES: &str = "a kernel that allows fentry: CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS, from Linux 5.5 on x86-64 and from 6.4 on arm64";

pub(super) fn mode_sockets() -> (bool, Vec<Finding>) {
    let probed = match probe::sockets_programs() {
        Ok(probed) => probed,
        Err(error) => return (false, vec![object("mode sockets", &error)]),
    };
    let loads = |name: &str| probed.iter().any(|p| p.program == name && p.outcome.is_ok());
    let has_table = loads("scan_table");
    let has_storage = loads("scan_sockets") && loads("scan_all");
    let works = loads("on_state_change") && loads("on_state_nested") && (has_storage || has_table);
    let findings = probed.iter().filter_map(|program| {
        let (verdict, consequence) = match program.program {
            "scan_sockets" | "scan_all" if has_table => (
                Verdict::Limited,
                "connections are followed in a table of `max_sockets`, those beyond are counted and not measured",
            ),
            "on_state_change" | "on_state_nested" | "scan_sockets" | "scan_all" => {
                (Verdict::Missing, "no mode sockets")
            }
            "scan_table" if has_storage => (
                Verdict::Limited,
                "connections in namespaces with a small net.core.optmem_max are measured when they close",
            ),
            "on_accept" => (Verdict::Limited, UNSEEN_ACCEPTS),
            // Then the missing table is the reason why there is no scan at all, and that finding
            // reports it.
            "scan_table" => return None,
            _ => (
                Verdict::Limited,
                "some open connections are not adopted",
            ),
        };
        let remedy = match program.program {
            "on_accept" => TRAMPOLINES,
            scan if scan.starts_with("scan_") && has_table => {
                "a kernel that allows iterators over the elements of maps, or a larger `max_sockets`"
            }
            _ => "Linux 5.12 or later",
        };
        Some(finding(program, verdict, consequence, remedy))
    });
    (works, findings.collect())
}

pub(super) fn mode_events() -> (bool, Vec<Finding>) {
    let probed = match probe::events_programs() {
        Ok(probed) => probed,
        Err(error) => return (false, vec![object("mode events", &error)]),
    };
    let loads = |name: &str| probed.iter().any(|p| p.program == name && p.outcome.is_ok());
    let either = |name: &str| loads(name) || loads(&format!("{name}_raw"));
    let works = either("segment") && either("state") && either("state_nested");
    let findings = probed.iter().map(|program| {
        let (consequence, remedy) = match program.attaches_to.split('/').next() {
            _ if program.program.starts_with("accept") => (UNSEEN_ACCEPTS, TRAMPOLINES),
            Some("iter") => (
                "connections of sockets that listened before the start have no process until one closes them",
                "Linux 5.8 or later",
            ),
            Some("kprobe") => (
                "mode events uses the process of the state change for a connect",
                "CONFIG_KPROBES=y",
            ),
            Some("raw_tp") => ("mode events needs tp_btf", "Linux 5.8 or later"),
            _ => ("mode events uses the raw tracepoint", "Linux 5.8 or later"),
        };
        finding(program, Verdict::Limited, consequence, remedy)
    });
    (works, findings.collect())
}

/// Programs that see cgroups come and go.
pub(super) fn cgroup_programs() -> Vec<Finding> {
    let probed = match probe::cgroup_programs() {
        Ok(probed) => probed,
        Err(error) => return vec![object("cgroup programs", &error)],
    };
    let findings = probed.iter().map(|program| {
        finding(
            program,
            Verdict::Limited,
            "cgroups are watched by inotify: a container that lives for some milliseconds may have no container_id",
            "Linux 5.8 or later",
        )
    });
    findings.collect()
}

/// The program that counts dropped packets.
pub(super) fn dropped_packets() -> Vec<Finding> {
    const CONSEQUENCE: &str = "dropped packets are not counted";
    match probe::drops_program() {
        Ok(probed) => probed
            .iter()
            .map(|program| {
                finding(
                    program,
                    Verdict::Limited,
                    CONSEQUENCE,
                    "Linux 5.17 or later; the receiver logs the verifier's message",
                )
            })
            .collect(),
        Err(error @ LoadError::Capability(_)) => vec![object("dropped packets", &error)],
        Err(error) => vec![Finding::not_ok(
            "dropped packets",
            Verdict::Limited,
            &first_line(&error),
            CONSEQUENCE,
            drops::remedy(&error),
        )],
    }
}

/// The programs of the option `inspect`, as one need.
pub(super) fn inspection() -> Vec<Finding> {
    const NEED: &str = "option inspect";
    const CONSEQUENCE: &str = "protocols, names of TLS servers and exchanges are not available";
    match probe::inspect_programs() {
        Ok(probed) => {
            let refused = probed.iter().find(|program| program.outcome.is_err());
            let Some(program) = refused.or(probed.first()) else {
                return Vec::new();
            };
            let found = finding(program, Verdict::Limited, CONSEQUENCE, "Linux 5.12 or later");
            vec![Finding { need: NEED, ..found }]
        }
        Err(error) => vec![object(NEED, &error)],
    }
}

/// The program that scans listening sockets.
pub(super) fn listening_queues() -> Vec<Finding> {
    let probed = match probe::listeners_program() {
        Ok(probed) => probed,
        Err(error) => return vec![object("listening queues", &error)],
    };
    let findings = probed.iter().map(|program| {
        let found = finding(
            program,
            Verdict::Limited,
            "queues and drops of listening sockets are not measured",
            "Linux 5.13 or later",
        );
        Finding {
            need: "listening queues",
            ..found
        }
    });
    findings.collect()
}

/// The programs of UDP, attached and tested, and detached again.
pub(super) fn udp() -> Finding {
    const NEED: &str = "UDP";
    let options = UdpOptions {
        hooks: Hooks::Functions,
        max_flows: 64,
        idle: Duration::from_secs(1),
        dns_ports: Vec::new(),
        dns_ring_bytes: 1 << 16,
    };
    match Udp::load(&options) {
        Ok(udp) => {
            let absent: Vec<_> = udp.absent().iter().map(|refusal| refusal.what).collect();
            let but = if absent.is_empty() {
                String::new()
            } else {
                format!("; not counted: {}", absent.join(", "))
            };
            Finding::ok(
                NEED,
                format!("by {}, which passes its self-test{but}", udp.step().as_str()),
            )
        }
        Err(UdpLoadError::Unable(error)) => object(NEED, &error),
        Err(error) => Finding::not_ok(
            NEED,
            Verdict::Limited,
            &error,
            "UDP is not measured with `udp.hooks: auto`",
            format!(
                "use a kernel with fentry, fprobe or kprobes (for kprobes on Debian and Ubuntu: sysctl -w kernel.perf_event_paranoid=2); \
                 {}",
                udp::hooks_hint(!mount::mount_points().is_empty())
            ),
        ),
    }
}

/// Of a program that loads, or why not.
fn finding(program: &Probed, verdict: Verdict, consequence: &'static str, remedy: &str) -> Finding {
    match &program.outcome {
        Ok(()) => Finding::ok(program.attaches_to, format!("{} loads", program.program)),
        Err(error) => Finding::not_ok(
            program.attaches_to,
            verdict,
            &first_line(error),
            consequence,
            remedy,
        ),
    }
}

/// Of an object none of whose programs can be tried.
fn object(need: &'static str, error: &LoadError) -> Finding {
    let remedy = match (error, error.descriptor_remedy()) {
        (_, Some(remedy)) => remedy.to_owned(),
        (LoadError::Capability(_), None) => grant_command(Grant::Programs),
        _ => "see the findings above".to_owned(),
    };
    Finding::not_ok(
        need,
        Verdict::Missing,
        &first_line(error),
        "it can't be tried",
        remedy,
    )
}

fn first_line(error: &LoadError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
