//! Why the programs can't be loaded, in the operator's terms.

use std::error::Error;
use std::io;

use aya::programs::ProgramError;
use aya::{BtfError, EbpfError};

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
    /// No BTF, or it can't be read.
    #[error("{}", btf_text(.0))]
    Btf(#[from] BtfError),
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
    #[error("the BPF object can't be loaded: {}", chain(.0))]
    Object(#[source] EbpfError),
    /// A program can't be loaded or attached for another reason.
    #[error("program {program}: {}", chain(.source))]
    Program {
        /// Name of the program.
        program: &'static str,
        /// Error of aya.
        source: ProgramError,
    },
    /// A map can't be used.
    #[error("map {map}: {}", chain(.source))]
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

/// An error with its causes: those of aya leave the kernel's answer to them.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in causes(error).skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// The error, and what caused it.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

/// Distinguishes a BTF file that can't be read from a kernel without BTF.
fn btf_text(error: &BtfError) -> String {
    match error {
        BtfError::FileError { path, error } if error.kind() != io::ErrorKind::NotFound => {
            format!("the kernel's BTF ({}) can't be read: {error}", path.display())
        }
        error => format!(
            "the kernel exposes no BTF (/sys/kernel/btf/vmlinux): {}",
            chain(error)
        ),
    }
}

/// Number of lines of the verifier's log that are shown, from its end, where the reason is.
const LOG_LINES: usize = 12;

/// libbpf and aya replace an access to a missing field by a call of this function.
const POISON: &str = "unknown#195896080";

impl LoadError {
    /// The remedy if the process, or the system, has no file descriptor left: then the error says nothing about the kernel.
    pub fn descriptor_remedy(&self) -> Option<&'static str> {
        causes(self)
            .filter_map(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error())
            .find_map(|errno| match errno {
                libc::EMFILE => Some(
                    "raise the limit of open files: LimitNOFILE= of the unit, `ulimit -n`, or ulimits of the container",
                ),
                libc::ENFILE => Some("raise the system's limit of open files: sysctl fs.file-max"),
                _ => None,
            })
    }

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
    use aya::maps::MapError;

    fn os(errno: i32) -> io::Error {
        io::Error::from_raw_os_error(errno)
    }

    #[test]
    fn a_lack_of_descriptors_is_named_wherever_it_strikes_and_is_no_lack_of_the_kernel() {
        let path = "/sys/kernel/btf/vmlinux".into();
        let errors = [
            LoadError::Btf(BtfError::FileError {
                path,
                error: os(libc::EMFILE),
            }),
            LoadError::Object(EbpfError::MapError(MapError::CreateError {
                name: "table".to_owned(),
                io_error: os(libc::EMFILE),
            })),
            LoadError::Verifier {
                program: "scan",
                source: os(libc::EMFILE),
                log: "processed 92 insns".to_owned(),
            },
            LoadError::System {
                what: "a link",
                source: os(libc::EMFILE),
            },
        ];
        for error in errors {
            let text = error.to_string();
            assert!(text.contains("Too many open files (os error 24)"), "{text}");
            assert!(!text.contains("exposes no BTF"), "{text}");
            let remedy = error.descriptor_remedy().unwrap();
            assert!(remedy.contains("LimitNOFILE"), "{remedy}");
        }
        let full = LoadError::System {
            what: "a link",
            source: os(libc::ENFILE),
        };
        assert!(full.descriptor_remedy().unwrap().contains("fs.file-max"));
    }

    #[test]
    fn a_kernel_without_btf_is_named() {
        let error = LoadError::Btf(BtfError::FileError {
            path: "/sys/kernel/btf/vmlinux".into(),
            error: os(libc::ENOENT),
        });
        assert!(
            error.to_string().starts_with("the kernel exposes no BTF"),
            "{error}"
        );
        assert_eq!(error.descriptor_remedy(), None);
    }

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
