//! Why the programs can't be loaded, in the operator's terms.

use std::io;

use aya::EbpfError;
use aya::programs::ProgramError;

/// The reason why the programs can't be loaded or attached.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Capabilities that the process lacks.
    #[error("the process lacks {}", .0.join(" and "))]
    Capability(Vec<&'static str>),
    /// The kernel says no although the capabilities are there: lockdown, seccomp, or an LSM.
    #[error("the kernel refuses bpf(2) although the capabilities are there ({what}: {source})")]
    Refused {
        /// The operation.
        what: String,
        /// Error of the kernel.
        source: io::Error,
    },
    /// No BTF.
    #[error("the kernel exposes no BTF (/sys/kernel/btf/vmlinux): {0}")]
    Btf(#[from] aya::BtfError),
    /// The running kernel lacks a field that the program reads.
    #[error("program {program}: the running kernel lacks a field that it reads\n{log}")]
    MissingField {
        /// Name of the program.
        program: &'static str,
        /// The verifier's last words.
        log: String,
    },
    /// The verifier refused a program.
    #[error("program {program} was refused: {source}\n{log}")]
    Verifier {
        /// Name of the program.
        program: &'static str,
        /// Error of the kernel.
        source: io::Error,
        /// The verifier's last words.
        log: String,
    },
    /// The object can't be loaded: a map can't be made, or a relocation has no target.
    #[error("the BPF object can't be loaded: {0}")]
    Object(#[source] EbpfError),
    /// A program can't be loaded or attached for another reason.
    #[error("program {program}: {}", with_causes(source))]
    Program {
        /// Name of the program.
        program: &'static str,
        /// Error of aya.
        source: ProgramError,
    },
    /// A map can't be used.
    #[error("map {map}: {source}")]
    Map {
        /// Name of the map.
        map: &'static str,
        /// Error of aya.
        source: aya::maps::MapError,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// The operation.
        what: &'static str,
        /// Error of the system.
        source: io::Error,
    },
    /// The running kernel lacks a function that the program calls.
    #[error("the running kernel lacks {0}()")]
    MissingFunction(&'static str),
    /// The kernel's type information can't be read.
    #[error("the kernel's types (/sys/kernel/btf/vmlinux) can't be read")]
    NoTypes,
    /// A tracepoint of the running kernel lacks an argument.
    #[error("the tracepoint {tracepoint} has no {argument} before {since}")]
    MissingArgument {
        /// The tracepoint.
        tracepoint: &'static str,
        /// The argument.
        argument: &'static str,
        /// The release that brought it.
        since: &'static str,
    },
    /// The object lacks a program or a map: it was not built from this source.
    #[error("the BPF object has no {0}")]
    Absent(&'static str),
}

/// The message of `error` and of what led to it: aya's errors of files name the file alone.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text += ": ";
            text += &message;
        }
        cause = error.source();
    }
    text
}

/// Number of lines of the verifier's log that are shown, from its end, where the reason is.
const LOG_LINES: usize = 12;

/// libbpf and aya replace an access to a missing field by a call of this function.
const POISON: &str = "unknown#195896080";

impl LoadError {
    /// From what aya says of `program`.
    pub(crate) fn program(program: &'static str, source: ProgramError) -> Self {
        match source {
            ProgramError::LoadError {
                io_error,
                verifier_log,
            } => {
                let log = verifier_log.to_string();
                let lines: Vec<_> = log.lines().filter(|line| !line.is_empty()).collect();
                let log = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
                if log.contains(POISON) {
                    Self::MissingField { program, log }
                } else if io_error.kind() == io::ErrorKind::PermissionDenied && log.is_empty() {
                    Self::Refused {
                        what: format!("loading {program}"),
                        source: io_error,
                    }
                } else {
                    Self::Verifier {
                        program,
                        source: io_error,
                        log,
                    }
                }
            }
            source => Self::Program { program, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_missing_is_said_to_be() {
        let source = aya::programs::kprobe::KProbeError::FileError {
            filename: "/sys/bus/event_source/devices/kprobe/type".into(),
            io_error: io::Error::from_raw_os_error(2),
        };
        let error = LoadError::program("connect_probe", source.into());
        assert_eq!(
            error.to_string(),
            "program connect_probe: `/sys/bus/event_source/devices/kprobe/type`: No such file or directory (os error 2)"
        );
    }
}
