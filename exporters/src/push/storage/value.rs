//! A request as the value of a table: its bytes, with a checksum.

use bytes::Bytes;
use flowtap_pipeline::PipelineKind;

use crate::push::Request;

/// Bytes before the body: checksum (4), number of items (7), encoding of the body and kind of the items (1).
const HEAD_BYTES: usize = 12;

/// Encodings of a body. The first is that of requests of earlier versions, whose points had eight bytes.
const PLAIN: u8 = 0;
const ZSTD: u8 = 1;

/// Added to the encoding: the items are log records, not points.
const LOGS: u8 = 0x80;

/// zstd's default level.
const ZSTD_LEVEL: i32 = 3;

pub(super) fn encode(request: &Request) -> Vec<u8> {
    // Compressing into memory fails only for want of it.
    let compressed = zstd::bulk::compress(&request.body, ZSTD_LEVEL);
    let (encoding, body) = match &compressed {
        Ok(compressed) if compressed.len() < request.body.len() => (ZSTD, &**compressed),
        _ => (PLAIN, &*request.body),
    };
    let mut value = Vec::with_capacity(HEAD_BYTES + body.len());
    value.extend_from_slice(&[0; 4]);
    let [items @ .., _] = request.items.to_le_bytes();
    value.extend_from_slice(&items);
    let kind = match request.kind {
        PipelineKind::Metrics => 0,
        PipelineKind::Logs => LOGS,
    };
    value.push(encoding | kind);
    value.extend_from_slice(body);
    let checksum = crc32fast::hash(&value[4..]);
    value[..4].copy_from_slice(&checksum.to_le_bytes());
    value
}

/// The request that `value` holds; `None` if it is damaged.
pub(super) fn decode(value: Vec<u8>) -> Option<Request> {
    let checksum = u32::from_le_bytes(*value.first_chunk()?);
    if value.len() < HEAD_BYTES || checksum != crc32fast::hash(&value[4..]) {
        return None;
    }
    let (kind, items) = items_of(&value);
    let body = match value[HEAD_BYTES - 1] & !LOGS {
        PLAIN => Bytes::from(value).slice(HEAD_BYTES..),
        // Its length is trusted: the checksum says that it is what was written.
        ZSTD => Bytes::from(zstd::stream::decode_all(&value[HEAD_BYTES..]).ok()?),
        _ => return None,
    };
    Some(Request {
        body,
        kind,
        items,
        last: false,
    })
}

pub(super) fn items_of(value: &[u8]) -> (PipelineKind, u64) {
    let Some(&bytes) = value.get(4..).and_then(<[u8]>::first_chunk::<8>) else {
        return (PipelineKind::Metrics, 0);
    };
    let [items @ .., encoding] = bytes;
    let kind = if encoding & LOGS == 0 {
        PipelineKind::Metrics
    } else {
        PipelineKind::Logs
    };
    let mut whole = [0; 8];
    whole[..7].copy_from_slice(&items);
    (kind, u64::from_le_bytes(whole))
}
