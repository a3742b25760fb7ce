//! Dropped packets and listening sockets, which a receiver reports beside the flows of its sockets.
//!
//! Both are collected on the receiver's own thread right before a watermark, so they are in the window that it closes.

use flowtap_pipeline::FlowBatch;

use crate::ebpf::drops::DropCapture;
use crate::listeners::ListenerTotals;

/// The state that goes from a receiver to its replacement.
#[derive(Debug, Default)]
pub(crate) struct Extras {
    pub(crate) listeners: ListenerTotals,
    /// `None` where packets are not counted, or can't be.
    pub(crate) drops: Option<DropCapture>,
}

impl Extras {
    /// Adds what has come together since the last call.
    pub(crate) fn collect(&mut self, batch: &mut FlowBatch) {
        if let Some(drops) = &mut self.drops {
            drops.collect(&mut batch.drops);
        }
        self.listeners.end_look(&mut batch.listening);
    }
}
