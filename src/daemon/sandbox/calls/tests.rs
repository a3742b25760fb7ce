//! The answers of the filters to calls that a test can't make: some need `unsafe`, others would end it.

use seccompiler::sock_filter;

use super::*;

/// Classes and modes of instructions (`include/uapi/linux/bpf_common.h`), as far as filters have them.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

/// The value that a filter returns for a call, by the kernel's rules (`struct seccomp_data`, `include/uapi/linux/seccomp.h`).
fn returned(program: &[sock_filter], call: i64, arguments: [u64; 6]) -> u32 {
    let audit_arch: u32 = if cfg!(target_arch = "x86_64") {
        0xC000_003E
    } else {
        0xC000_00B7
    };
    let mut data = Vec::new();
    data.extend(u32::try_from(call).unwrap().to_le_bytes());
    data.extend(audit_arch.to_le_bytes());
    data.extend([0; 8]);
    data.extend(arguments.iter().flat_map(|argument| argument.to_le_bytes()));
    let (mut value, mut at) = (0_u32, 0_usize);
    loop {
        let step = &program[at];
        at += 1;
        let jump = |holds: bool| usize::from(if holds { step.jt } else { step.jf });
        match step.code {
            LOAD => {
                let from = usize::try_from(step.k).unwrap();
                value = u32::from_le_bytes(data[from..from + 4].try_into().unwrap());
            }
            AND => value &= step.k,
            JUMP => at += usize::try_from(step.k).unwrap(),
            JUMP_EQUAL => at += jump(value == step.k),
            JUMP_GREATER => at += jump(value > step.k),
            JUMP_GREATER_OR_EQUAL => at += jump(value >= step.k),
            RETURN => return step.k,
            code => panic!("unknown instruction {code:#x}"),
        }
    }
}

#[test]
fn no_memory_can_be_mapped_as_code_or_become_code() {
    let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else {
        return;
    };
    let program = compile(rules().unwrap(), errno(libc::EPERM), SeccompAction::Allow, arch).unwrap();
    let allowed = |call: i64, argument: usize, bits: libc::c_int| {
        let mut arguments = [0; 6];
        arguments[argument] = u64::from(bits.unsigned_abs());
        match returned(&program, call, arguments) {
            0x7fff_0000 => true,
            refused => {
                assert_eq!(refused, 0x0005_0000 | libc::EPERM.unsigned_abs());
                false
            }
        }
    };
    let (read, write, execute) = (libc::PROT_READ, libc::PROT_WRITE, libc::PROT_EXEC);
    for call in [libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_pkey_mprotect] {
        for bits in [libc::PROT_NONE, read, write, read | write] {
            assert!(allowed(call, 2, bits), "{call} {bits:#x}");
            assert!(!allowed(call, 2, bits | execute), "{call} {bits:#x}");
        }
    }
    // Those that would make code of other memory.
    for call in [libc::SYS_shmat, libc::SYS_remap_file_pages, libc::SYS_personality] {
        assert!(!allowed(call, 0, 0), "{call}");
    }
}
