//! Compiles the BPF programs with clang: `bpf/*.bpf.c` to `$OUT_DIR/*.bpf.o`; and those, without debug information and compressed, to
//! `$OUT_DIR/*.bpf.z`, which the binary has.
//!
//! `CLANG` names another compiler than `clang`.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;

const INSTALL: &str = "on Debian and Ubuntu: apt-get install clang libbpf-dev linux-libc-dev\n  \
    on Fedora: dnf install clang libbpf-devel kernel-headers\n  or run `make setup`";

#[derive(Debug, thiserror::Error)]
enum BuildError {
    #[error("cargo did not set {0}")]
    Environment(&'static str),
    #[error(
        "the BPF programs need a C compiler for the BPF target, and `{clang}` can't be run: {source}\n  {INSTALL}"
    )]
    NoClang { clang: String, source: io::Error },
    #[error("{header} is missing: the BPF programs are compiled against it\n  {INSTALL}")]
    NoHeader { header: &'static str },
    #[error("`{clang}` could not compile {program}:\n{stderr}")]
    Compile {
        clang: String,
        program: &'static str,
        stderr: String,
    },
    #[error("{program}: the object can't be read or compressed: {source}")]
    Compress {
        program: &'static str,
        source: Box<dyn std::error::Error>,
    },
}

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=bpf");
    println!("cargo::rerun-if-env-changed=CLANG");
    match compile_all() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            for line in error.to_string().lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn compile_all() -> Result<(), BuildError> {
    let variable = |name| env::var(name).map_err(|_| BuildError::Environment(name));
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let arch = variable("CARGO_CFG_TARGET_ARCH")?;
    let out = PathBuf::from(variable("OUT_DIR")?);
    let includes = include_dirs(&arch);
    for header in ["bpf/bpf_helpers.h", "asm/types.h"] {
        if !includes.iter().any(|dir| dir.join(header).exists()) {
            return Err(BuildError::NoHeader { header });
        }
    }
    for program in [
        "sockets.bpf.c",
        "events.bpf.c",
        "cgroups.bpf.c",
        "drops.bpf.c",
        "listeners.bpf.c",
        "udp.bpf.c",
        "inspect.bpf.c",
    ] {
        let object = compile(&clang, &arch, &includes, program, &out)?;
        compress(&object).map_err(|source| BuildError::Compress { program, source })?;
    }
    Ok(())
}

/// Where the system's headers are: clang does not look into Debian's folder of the host when its target is bpf.
fn include_dirs(arch: &str) -> Vec<PathBuf> {
    let dirs = [
        "/usr/include".to_owned(),
        format!("/usr/include/{arch}-linux-gnu"),
    ];
    dirs.iter()
        .map(PathBuf::from)
        .filter(|dir| dir.exists())
        .collect()
}

fn compile(
    clang: &str,
    arch: &str,
    includes: &[PathBuf],
    program: &'static str,
    out: &Path,
) -> Result<PathBuf, BuildError> {
    // libbpf's names of architectures: bpf_tracing.h.
    let arch = match arch {
        "x86_64" => "x86",
        "aarch64" => "arm64",
        other => other,
    };
    let object = out.join(program).with_extension("o");
    let mut command = Command::new(clang);
    command
        // v3: 64-bit atomic exchange, kernel 5.12.
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g"])
        // Debug information names the folder of the build otherwise, and builds in two folders differ.
        .arg("-ffile-compilation-dir=ebpf")
        // A table for linkers, in a section that not every reader knows.
        .arg("-fno-addrsig")
        // libbpf's BPF_PROG names a parameter that no program here uses.
        .args(["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"])
        .arg(format!("-D__TARGET_ARCH_{arch}"))
        .args(includes.iter().map(|dir| format!("-I{}", dir.display())))
        .arg("-c")
        .arg(Path::new("bpf").join(program))
        .arg("-o")
        .arg(&object);
    let output = command.output().map_err(|source| BuildError::NoClang {
        clang: clang.to_owned(),
        source,
    })?;
    if output.status.success() {
        Ok(object)
    } else {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(BuildError::Compile {
            clang: clang.to_owned(),
            program,
            stderr,
        })
    }
}

/// Writes `object` anew next to it, as `ebpf/src/object.rs` reads it: its length, then a zlib stream.
fn compress(object: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let whole = fs::read(object)?;
    let mut builder = Builder::read(whole.as_slice())?;
    for section in &mut builder.sections {
        // Types are in `.BTF`, lines for the verifier's log in `.BTF.ext`; only linkers read the relocations of these two.
        section.delete = [".debug_", ".rel.debug_", ".rel.BTF"]
            .iter()
            .any(|prefix| section.name.starts_with(prefix.as_bytes()));
    }
    builder.delete_orphans();
    // clang has one table for the names of sections and symbols, the builder two.
    let names = builder.sections.add();
    names.name = ".shstrtab".into();
    names.sh_type = SHT_STRTAB;
    names.data = SectionData::SectionString;
    let mut stripped = Vec::new();
    builder.write(&mut stripped)?;
    let mut packed = u32::try_from(stripped.len())?.to_le_bytes().to_vec();
    let mut encoder = ZlibEncoder::new(&mut packed, Compression::best());
    encoder.write_all(&stripped)?;
    encoder.finish()?;
    fs::write(object.with_extension("z"), packed)?;
    Ok(())
}
