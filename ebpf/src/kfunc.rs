//! Calls of kernel functions (kfuncs), which aya 0.14 does not link.
//!
//! In: an object in which such a call names its function by a number of our own; the kernel's BTF. Out: the object with the
//! function's BTF id in that place, as the kernel wants it (`BPF_PSEUDO_KFUNC_CALL`: include/uapi/linux/bpf.h).

use aya::{Btf, BtfError};
use aya_obj::btf::BtfKind;

/// The call instruction without its immediate: `BPF_JMP | BPF_CALL`, source register 2.
const CALL: [u8; 4] = [0x85, 0x20, 0, 0];

/// A kernel function, and what stands for it in our objects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KernelFunction {
    name: &'static str,
    placeholder: u32,
}

/// `as_tcp_sock()` in `bpf/scan.h`.
pub(crate) const RDONLY_CAST: KernelFunction = KernelFunction {
    name: "bpf_rdonly_cast",
    placeholder: 0x6bf7_0001,
};

/// An object file; in words, as its reader wants it aligned.
#[derive(Debug)]
pub(crate) struct Object(Vec<u64>);

impl Object {
    pub(crate) fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// `object` with every call of `function` linked.
///
/// # Errors
/// [`BtfError`] if the kernel has no such function.
pub(crate) fn link(object: &[u8], function: KernelFunction, btf: &Btf) -> Result<Object, BtfError> {
    let id = btf.id_by_type_name_kind(function.name, BtfKind::Func)?;
    Ok(put(object, function.placeholder, id))
}

fn put(object: &[u8], placeholder: u32, id: u32) -> Object {
    // What is after the object's end in the last word, its reader does not look at.
    let mut words = vec![0_u64; object.len().div_ceil(8)];
    let (instructions, _) = bytemuck::cast_slice_mut::<u64, u8>(&mut words).split_at_mut(object.len());
    instructions.copy_from_slice(object);
    let mut call = [0; 8];
    call[..4].copy_from_slice(&CALL);
    call[4..].copy_from_slice(&placeholder.to_ne_bytes());
    // Instructions stand at multiples of their size.
    for instruction in instructions.chunks_exact_mut(8).filter(|bytes| **bytes == call) {
        instruction[4..].copy_from_slice(&id.to_ne_bytes());
    }
    Object(words)
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
        let placeholder = RDONLY_CAST.placeholder;
        assert!(
            calls(sockets::OBJECT, placeholder) > 0,
            "the object has no such call"
        );
        let linked = put(sockets::OBJECT, placeholder, 77);
        let bytes = &linked.bytes()[..sockets::OBJECT.len()];
        assert_eq!(calls(bytes, placeholder), 0);
        assert_eq!(calls(bytes, 77), calls(sockets::OBJECT, placeholder));
        let changed = bytes.iter().zip(sockets::OBJECT).filter(|(a, b)| a != b).count();
        assert!(changed <= 4 * calls(bytes, 77), "{changed} bytes changed");
    }
}
