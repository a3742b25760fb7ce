//! Calls of kernel functions (kfuncs), which aya 0.14 does not link.
//!
//! In: an object in which such a call names its function by a placeholder; the kernel's BTF. Out: the object with the
//! function's BTF id in that place, as the kernel expects it (`BPF_PSEUDO_KFUNC_CALL`: include/uapi/linux/bpf.h).

use aya::Btf;
use aya_obj::btf::BtfKind;

use crate::object::Object;

/// The call instruction without its immediate: `BPF_JMP | BPF_CALL`, source register 2.
const CALL: [u8; 4] = [0x85, 0x20, 0, 0];

/// A kernel function, and what stands for it in our objects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KernelFunction {
    name: &'static str,
    placeholder: u32,
}

/// `as_tcp_sock()` in `bpf/scan.h`.
const RDONLY_CAST: KernelFunction = KernelFunction {
    name: "bpf_rdonly_cast",
    placeholder: 0x6bf7_0001,
};

/// `preempt_disable()` and `preempt_enable()` in `bpf/guard.h`.
const PREEMPT: [KernelFunction; 2] = [
    KernelFunction {
        name: "bpf_preempt_disable",
        placeholder: 0x6bf7_0002,
    },
    KernelFunction {
        name: "bpf_preempt_enable",
        placeholder: 0x6bf7_0003,
    },
];

impl Object {
    /// Replaces the function in every call of `placeholder`.
    fn patch_calls(&mut self, placeholder: u32, id: u32) {
        let mut call = [0; 8];
        call[..4].copy_from_slice(&CALL);
        call[4..].copy_from_slice(&placeholder.to_ne_bytes());
        // Instructions stand at multiples of their size.
        let instructions = self.bytes_mut().chunks_exact_mut(8);
        for instruction in instructions.filter(|bytes| **bytes == call) {
            instruction[4..].copy_from_slice(&id.to_ne_bytes());
        }
    }
}

/// An object, with its calls of those kernel functions patched that the running kernel has.
#[derive(Debug)]
pub(crate) struct Linked {
    pub(crate) object: Object,
    /// Whether programs that call `bpf_rdonly_cast()` can be loaded.
    pub(crate) has_cast: bool,
    /// Whether programs that call `bpf_preempt_disable()` can be loaded.
    pub(crate) has_preempt: bool,
}

/// Links `object` with the running kernel, whose BTF is `btf`.
pub(crate) fn link(object: Object, btf: &Btf) -> Linked {
    let mut linked = object;
    let mut patch = |function: KernelFunction| {
        let id = btf.id_by_type_name_kind(function.name, BtfKind::Func);
        id.map(|id| linked.patch_calls(function.placeholder, id)).is_ok()
    };
    let has_cast = patch(RDONLY_CAST);
    let has_preempt = PREEMPT.into_iter().all(patch);
    Linked {
        object: linked,
        has_cast,
        has_preempt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sockets;

    fn calls(object: &[u8], id: u32) -> usize {
        let mut call = CALL.to_vec();
        call.extend(id.to_ne_bytes());
        object.windows(8).filter(|bytes| *bytes == call).count()
    }

    #[test]
    fn every_call_is_linked_and_nothing_else_changes() {
        for function in PREEMPT.into_iter().chain([RDONLY_CAST]) {
            let placeholder = function.placeholder;
            let object = sockets::OBJECT.unpack().unwrap();
            assert!(
                calls(object.bytes(), placeholder) > 0,
                "the object does not call {}",
                function.name
            );
            let mut linked = sockets::OBJECT.unpack().unwrap();
            linked.patch_calls(placeholder, 77);
            let (before, bytes) = (object.bytes(), linked.bytes());
            assert_eq!(calls(bytes, placeholder), 0);
            assert_eq!(calls(bytes, 77), calls(before, placeholder));
            let changed = bytes.iter().zip(before).filter(|(a, b)| a != b).count();
            assert!(changed <= 4 * calls(bytes, 77), "{changed} bytes changed");
        }
    }
}
