//! Records from the kernel side, concatenated, through a pipeline to a scrape.
#![no_main]

use flowtap_ebpf::Event;
use flowtap_fuzz::Pipeline;
use flowtap_pipeline::{FlowBatch, NodeInfo, Timestamp};
use flowtap_receivers::ebpf::flow_record;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some(mut pipeline) = Pipeline::new(NodeInfo::default(), Timestamp::from_nanos(0)) else {
        return;
    };
    let mut batch = FlowBatch::default();
    let mut rest = bytes;
    while let Ok((event, after)) = Event::read(rest) {
        if let Event::Flow(flow) = event {
            batch.tcp.push(flow_record(&flow));
        }
        assert!(after.len() < rest.len(), "a record without a length");
        rest = after;
    }
    pipeline.take(batch);
    pipeline.finish(Timestamp::from_nanos(5_000_000_000));
});
