//! Errors of the kernel side, in the operator's terms.

use flowtap_ebpf::LoadError;
use flowtap_pipeline::StageError;

use super::udp::{UdpConfig, UdpHooks};

/// The missing requirement, in the operator's terms, and the command that fixes it.
pub(super) fn explain(error: LoadError, grant: Grant) -> StageError {
    if let Some(remedy) = error.descriptor_remedy() {
        return StageError::Unsupported {
            what: error.to_string(),
            remedy: remedy.to_owned(),
        };
    }
    match error {
        LoadError::Capability(missing) => StageError::Permission {
            what: match grant {
                Grant::Programs => "the eBPF programs can't be loaded".to_owned(),
                Grant::WithCgroups => "the eBPF programs of `udp.hooks: cgroup` can't be loaded".to_owned(),
            },
            missing: missing.join(", "),
            remedy: grant_command(grant),
        },
        LoadError::Refused { .. } => StageError::Permission {
            what: error.to_string(),
            missing: "permission of the kernel: it is locked down, or a seccomp or LSM policy forbids bpf(2)"
                .to_owned(),
            remedy: "see /sys/kernel/security/lockdown, and the container's seccomp profile".to_owned(),
        },
        LoadError::Btf(_) => StageError::Unsupported {
            what: error.to_string(),
            remedy: "run a kernel built with CONFIG_DEBUG_INFO_BTF=y".to_owned(),
        },
        LoadError::MissingField { .. } | LoadError::Verifier { .. } => StageError::Unsupported {
            what: error.to_string(),
            remedy: "mode `sockets` needs Linux 5.12 or later".to_owned(),
        },
        error => StageError::Other(error.into()),
    }
}

/// Capabilities that a config needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grant {
    /// Those that load programs.
    Programs,
    /// Those that also attach programs to a cgroup.
    WithCgroups,
}

impl Grant {
    /// Those that the config of UDP needs, and with it the receiver.
    pub(super) fn of(udp: &UdpConfig) -> Self {
        if udp.enabled && udp.hooks == UdpHooks::Cgroup {
            Self::WithCgroups
        } else {
            Self::Programs
        }
    }
}

/// The command that grants the capabilities to this executable.
pub(crate) fn grant_command(grant: Grant) -> String {
    let program = std::env::current_exe().map_or_else(
        |_| "/path/to/flowtap".to_owned(),
        |path| path.display().to_string(),
    );
    let capabilities = match grant {
        Grant::Programs => "cap_bpf,cap_perfmon",
        Grant::WithCgroups => "cap_bpf,cap_perfmon,cap_net_admin",
    };
    format!("sudo setcap {capabilities}+ep {program}   (or run it as root)")
}
