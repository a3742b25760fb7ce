//! BPF object files, which the binary has in compressed form: each is read once, and most never.

use std::io::{self, Read};

use flate2::read::ZlibDecoder;

use crate::error::LoadError;

/// An object file as `build.rs` has compressed it: its length in four bytes, little-endian, then a zlib stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compressed(pub(crate) &'static [u8]);

/// The [`Compressed`] object of `bpf/$name.bpf.c`.
macro_rules! compressed {
    ($name:literal) => {
        $crate::object::Compressed(include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".bpf.z")))
    };
}
pub(crate) use compressed;

impl Compressed {
    /// Decompresses the object.
    ///
    /// # Errors
    /// [`LoadError::System`] if the stream is damaged: its checksum is verified.
    pub(crate) fn unpack(self) -> Result<Object, LoadError> {
        let unpack = || -> io::Result<Object> {
            let (len, stream) = self.0.split_first_chunk().ok_or(io::ErrorKind::UnexpectedEof)?;
            let len = u32::from_le_bytes(*len) as usize;
            let mut object = Object(vec![0; len.div_ceil(size_of::<u64>())]);
            let mut stream = ZlibDecoder::new(stream);
            stream.read_exact(&mut object.bytes_mut()[..len])?;
            // The checksum is read with the end of the stream.
            match stream.read(&mut [0])? {
                0 => Ok(object),
                _ => Err(io::Error::other(format!("it is longer than {len} bytes"))),
            }
        };
        unpack().map_err(|source| LoadError::System {
            what: "decompressing a BPF object of the binary",
            source,
        })
    }
}

/// An object file; in words, as its reader wants it aligned. The reader ignores the bytes after the object's end in the last word.
#[derive(Debug)]
pub(crate) struct Object(Vec<u64>);

impl Object {
    pub(crate) fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECTS: [Compressed; 7] = [
        crate::cgroups::OBJECT,
        crate::drops::OBJECT,
        crate::events::OBJECT,
        crate::inspect::OBJECT,
        crate::listeners::OBJECT,
        crate::sockets::OBJECT,
        crate::udp::OBJECT,
    ];

    #[test]
    fn an_object_has_its_programs_and_types_but_no_debug_information() {
        for compressed in OBJECTS {
            let object = compressed.unpack().unwrap();
            let parsed = aya_obj::Object::parse(object.bytes()).unwrap();
            assert!(!parsed.programs.is_empty());
            assert!(parsed.btf.is_some() && parsed.btf_ext.is_some());
            let has = |name: &[u8]| object.bytes().windows(name.len()).any(|bytes| bytes == name);
            assert!(has(b".BTF.ext\0") && !has(b".debug_"));
        }
    }

    #[test]
    fn the_objects_take_less_than_a_fifth_of_a_megabyte_each() {
        for compressed in OBJECTS {
            assert!(compressed.0.len() < 200_000, "{}", compressed.0.len());
        }
    }

    #[test]
    fn a_damaged_object_is_an_error() {
        let whole = crate::cgroups::OBJECT.0;
        let mut flipped = whole.to_vec();
        *flipped.last_mut().unwrap() ^= 1;
        let mut short = whole.to_vec();
        short[0] -= 1;
        for damaged in [
            &whole[..3],
            &whole[..whole.len() / 2],
            flipped.leak(),
            short.leak(),
        ] {
            let error = Compressed(damaged).unpack().unwrap_err();
            assert!(matches!(error, LoadError::System { .. }), "{error}");
        }
    }
}
