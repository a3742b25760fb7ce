//! Recordings: unchanged, and as payloads after valid heads and checksums, which random input would
//! not hit.
//!
//! Readable recordings go through a pipeline to a scrape.
#![no_main]

use std::path::Path;

use flowtap_fuzz::Pipeline;
use flowtap_receivers::replay::{Frame, Reader};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    play(bytes);
    if let Some(recording) = with_valid_heads(bytes) {
        play(&recording);
    }
});

/// The recording in `bytes` with the checksums that its payloads have, lengths cut to what is there.
fn with_valid_heads(bytes: &[u8]) -> Option<Vec<u8>> {
    let (head, mut rest) = bytes.split_at_checked(12)?;
    let mut recording = head.to_vec();
    while let Some((head, after)) = rest.split_first_chunk::<8>() {
        let [a, b, c, d, ..] = *head;
        let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).ok()?;
        let (payload, after) = after.split_at(length.min(after.len()));
        recording.extend(u32::try_from(payload.len()).ok()?.to_le_bytes());
        recording.extend(crc32fast::hash(payload).to_le_bytes());
        recording.extend(payload);
        rest = after;
    }
    Some(recording)
}

fn play(bytes: &[u8]) {
    let Ok((reader, began, node)) = Reader::new(bytes, Path::new("fuzzed")) else {
        return;
    };
    let Some(mut pipeline) = Pipeline::new(node, began) else {
        return;
    };
    for frame in reader {
        match frame {
            Ok(Frame::Batch(batch)) => pipeline.take(batch),
            Ok(Frame::Watermark(at)) => pipeline.advance(at),
            Ok(Frame::End(at)) => {
                pipeline.finish(at);
                return;
            }
            Ok(Frame::Start { .. } | Frame::Cluster(_) | Frame::Listed { .. }) => {}
            Err(error) => {
                assert!(error.to_string().contains("fuzzed"), "{error} names no file");
                return;
            }
        }
    }
}
