//! Fields of Protocol Buffers ("Encoding"), for the messages that are written by hand because there are so many of them.
//!
//! Short fields, as nearly all here are, are appended at once: growing the output byte by byte
//! costs more than all else.

use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

/// A fixed64 or double with its key, if that is one byte.
pub(crate) const FIXED64_BYTES: usize = 9;

/// The key of a field whose number is below 16, where it is one byte.
const fn short_key(number: u32, wire: WireType) -> Option<u8> {
    let [key, ..] = (number << 3 | wire as u32).to_le_bytes();
    if number < 16 { Some(key) } else { None }
}

/// A length or number that takes one byte.
const fn short(value: u64) -> Option<u8> {
    let [byte, ..] = value.to_le_bytes();
    if value < 0x80 { Some(byte) } else { None }
}

/// Appends key and length of field `number`, whose content is `len` bytes.
#[inline]
pub(crate) fn begin(out: &mut Vec<u8>, number: u32, len: usize) {
    if let (Some(key), Some(len)) = (short_key(number, WireType::LengthDelimited), short(len as u64)) {
        out.extend_from_slice(&[key, len]);
    } else {
        encode_key(number, WireType::LengthDelimited, out);
        encode_varint(len as u64, out);
    }
}

/// Appends a text, or a message that is encoded already.
#[inline]
pub(crate) fn push_bytes(out: &mut Vec<u8>, number: u32, content: &[u8]) {
    begin(out, number, content.len());
    out.extend_from_slice(content);
}

/// Appends a fixed64 or, by its bits, a double.
#[inline]
pub(crate) fn push_fixed64(out: &mut Vec<u8>, number: u32, bits: u64) {
    if let Some(key) = short_key(number, WireType::SixtyFourBit) {
        let mut field = [key; FIXED64_BYTES];
        field[1..].copy_from_slice(&bits.to_le_bytes());
        out.extend_from_slice(&field);
    } else {
        encode_key(number, WireType::SixtyFourBit, out);
        out.extend_from_slice(&bits.to_le_bytes());
    }
}

/// Appends a number.
#[inline]
pub(crate) fn push_varint(out: &mut Vec<u8>, number: u32, value: u64) {
    if let (Some(key), Some(value)) = (short_key(number, WireType::Varint), short(value)) {
        out.extend_from_slice(&[key, value]);
    } else {
        encode_key(number, WireType::Varint, out);
        encode_varint(value, out);
    }
}

/// Appends a number without a key, as it stands in packed fields.
#[inline]
pub(crate) fn push_packed(out: &mut Vec<u8>, value: u64) {
    match short(value) {
        Some(value) => out.push(value),
        None => encode_varint(value, out),
    }
}

/// Bytes of a field with a key of one byte and a content of `len` bytes.
pub(crate) const fn len_delimited(len: usize) -> usize {
    1 + encoded_len_varint(len as u64) + len
}

/// Bytes of a varint field with a key of one byte.
pub(crate) const fn varint_len(value: u64) -> usize {
    1 + encoded_len_varint(value)
}

/// A signed number, as fields of the types `sint32` and `sint64` have it.
pub(crate) const fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

/// A packed field of varints.
pub(crate) fn push_packed_varints(out: &mut Vec<u8>, number: u32, values: impl Iterator<Item = u64> + Clone) {
    begin(out, number, packed_len(values.clone()));
    for value in values {
        push_packed(out, value);
    }
}

/// Bytes of the content of such a field.
pub(crate) fn packed_len(values: impl Iterator<Item = u64>) -> usize {
    values.map(encoded_len_varint).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[derive(Clone, PartialEq, Message)]
    struct Fields {
        #[prost(bytes = "vec", tag = "1")]
        low: Vec<u8>,
        #[prost(bytes = "vec", tag = "16")]
        high: Vec<u8>,
        #[prost(fixed64, tag = "2")]
        low_fixed: u64,
        #[prost(double, tag = "17")]
        high_fixed: f64,
        #[prost(uint64, tag = "3")]
        low_number: u64,
        #[prost(uint64, tag = "18")]
        high_number: u64,
        #[prost(uint64, repeated, tag = "4")]
        packed: Vec<u64>,
    }

    #[test]
    fn fields_of_all_lengths_are_those_of_protocol_buffers() {
        for value in [1, 0x7f, 0x80, 0x3fff, 0x4000, u64::MAX] {
            let content = vec![7; usize::try_from(value.min(20_000)).unwrap()];
            let mut out = Vec::new();
            push_bytes(&mut out, 1, &content);
            push_fixed64(&mut out, 2, value);
            push_varint(&mut out, 3, value);
            let (mut packed, twice) = (Vec::new(), [value, 1]);
            for value in twice {
                push_packed(&mut packed, value);
            }
            push_bytes(&mut out, 4, &packed);
            let low = out.len();
            assert_eq!(
                low,
                len_delimited(content.len())
                    + FIXED64_BYTES
                    + varint_len(value)
                    + len_delimited(packed.len())
            );
            push_bytes(&mut out, 16, &content);
            push_fixed64(&mut out, 17, (-1.5_f64).to_bits());
            push_varint(&mut out, 18, value);
            let fields = Fields {
                low: content.clone(),
                high: content,
                low_fixed: value,
                high_fixed: -1.5,
                low_number: value,
                high_number: value,
                packed: twice.to_vec(),
            };
            assert_eq!(Fields::decode(&*out), Ok(fields));
        }
    }
}
