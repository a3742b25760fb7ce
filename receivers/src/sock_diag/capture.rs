//! The receiver at work: compares dumps with each other and with closes.

use std::time::{Duration, Instant};

use flowtap_pipeline::node::EphemeralPorts;
use flowtap_pipeline::{NodeInfo, Subscription, Timestamp};

use super::closes::Closes;
use super::dump::{Dump, Dumper};
use super::roles::Roles;
use super::table::{Look, Table};
use super::telemetry::{LossReason, Telemetry};
use crate::coverage::MeteredSink;

/// Records of this many connections go to the pipelines at once.
const BATCH: usize = 4096;

/// Time to wait for outstanding closes at the end.
const FINISH: Duration = Duration::from_secs(1);

/// Sockets that are closed in the kernel and held open by their processes, at most. Each has a socket in the kernel.
const MAX_HELD: usize = 1 << 16;

/// The sockets, and what is known of connections.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) dumper: Dumper,
    pub(super) closes: Option<Closes>,
    /// The first dump, until it was compared.
    pub(super) found: Option<Dump>,
    pub(super) table: Table,
}

pub(super) struct Capture<'a> {
    pub(super) telemetry: &'a Telemetry,
    pub(super) node: Subscription<NodeInfo>,
    pub(super) dumper: Dumper,
    /// Without it, a connection that is in the dump no more has closed.
    pub(super) closes: Option<Closes>,
    pub(super) table: Table,
    pub(super) output: MeteredSink<'a>,
}

impl Capture<'_> {
    /// Adopts the connections of the first dump.
    pub(super) fn adopt(&mut self, found: Dump, at: Timestamp) {
        self.compare(found, at);
        self.flush();
    }

    /// Does the last collection, and returns what another receiver can continue with. Recent closes are still on their way through the kernel's work
    /// queue.
    pub(super) async fn finish(mut self, at: Timestamp) -> Opened {
        self.look(at);
        let patience = Instant::now() + FINISH;
        while self.table.awaits_closes() && Instant::now() < patience {
            tokio::time::sleep(FINISH / 100).await;
            self.take_closes(at);
        }
        if let Some(closes) = &self.closes {
            closes.flush();
        }
        self.take_closes(at);
        self.output.watermark(at);
        // Closes are still followed: another receiver may continue.
        Opened {
            dumper: self.dumper,
            closes: self.closes,
            found: None,
            table: self.table,
        }
    }

    /// Dumps, passes on what moved and what closed, and then the watermark.
    pub(super) fn collect(&mut self, at: Timestamp) {
        self.look(at);
        self.output.watermark(at);
    }

    fn look(&mut self, at: Timestamp) {
        match self.dumper.dump() {
            Ok(found) => self.compare(found, at),
            Err(error) => {
                self.telemetry.dump_failed();
                self.output.scan_failed(&error);
                tracing::warn!(%error, "a dump of the sockets was cut short; the next one recovers it; \
                hint: raise net.core.rmem_max if it comes again");
            }
        }
        self.take_closes(at);
        let replaced = self.table.take_replaced();
        if replaced > 0 {
            self.telemetry.refused(LossReason::CountersCleared, replaced);
        }
    }

    fn compare(&mut self, found: Dump, at: Timestamp) {
        let look = Look {
            roles: Roles::new(&found, self.ephemeral_ports()),
            at,
            awaits_closes: self.closes.is_some(),
            // The table loses no close, so only a window that is new needs one.
            census: self.output.wants_census(),
        };
        self.table.compare(found, look);
    }

    /// Passes on what closed. Never between a dump and its comparison: a socket that closed after it was dumped would be taken
    /// for a new one.
    pub(super) fn take_closes(&mut self, at: Timestamp) {
        if let Some(closes) = &self.closes {
            let taken = closes.take();
            for close in taken.closes {
                if let Some(refused) = self.table.close(close, at) {
                    self.telemetry.refused(refused, 1);
                }
                if self.table.batch.tcp.len() >= BATCH {
                    self.output.accept(&mut self.table.batch);
                }
            }
            let lost = taken.overrun + taken.rejected;
            if lost > 0 {
                self.telemetry
                    .refused(LossReason::ReceiveBufferFull, taken.overrun);
                self.telemetry.refused(LossReason::ChannelFull, taken.rejected);
                self.table.forget(at);
                tracing::warn!(
                    lost,
                    "closes of connections were lost: those shorter than an interval are not counted, of longer ones the last \
                     bytes; hint: raise net.core.rmem_max, or grant CAP_NET_ADMIN"
                );
            } else if self.table.held > MAX_HELD {
                self.table.forget(at);
            }
            if let Some(error) = taken.broken {
                tracing::error!(
                    %error,
                    "closed connections are no longer reported; those shorter than an interval are not counted from now on; \
                hint: restart flowtap"
                );
                self.table.forget(at);
                self.closes = None;
            }
        }
        self.flush();
    }

    fn flush(&mut self) {
        self.output.accept(&mut self.table.batch);
    }

    fn ephemeral_ports(&mut self) -> EphemeralPorts {
        self.node.refresh();
        self.node.last().ephemeral_ports
    }
}
