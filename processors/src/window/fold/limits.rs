//! Folding of the limits of a connection into the window: its sender's time, its losses, its queues.

use flowtap_pipeline::catalog::FamilyId;
use flowtap_pipeline::{Events, Limit, Queue, TcpRecord, Timestamp};

use super::super::key::{EventLabel, KeyInputs};
use super::super::queues::Noted;
use super::Window;

impl Window {
    pub(super) fn fold_limits(&mut self, receiver: u16, record: &TcpRecord) {
        self.fold_send_time(record);
        let counts = [
            (FamilyId::RtoTime, record.rto_us),
            (FamilyId::SynRetransmits, i64::from(record.syn_retransmits)),
            (FamilyId::OutOfOrder, record.out_of_order),
            (FamilyId::Lost, record.lost),
            (FamilyId::EcnCe, record.ecn_ce),
        ];
        for (family, count) in counts.into_iter().filter(|(_, count)| *count != 0) {
            self.add(family, &record.flow, KeyInputs::default(), count);
        }
        self.fold_queues(receiver, record);
    }

    fn fold_send_time(&mut self, record: &TcpRecord) {
        let times = Limit::ALL.map(|limit| (limit, record.time.of(limit)));
        for (limit, microseconds) in times.into_iter().filter(|(_, time)| *time != 0) {
            let inputs = KeyInputs {
                cause: Some(EventLabel::Limit(limit)),
                ..KeyInputs::default()
            };
            self.add(FamilyId::SendTime, &record.flow, inputs, microseconds);
        }
    }

    fn fold_queues(&mut self, receiver: u16, record: &TcpRecord) {
        let connection = (receiver, record.flow.cookie);
        if record.queues.is_empty() || record.events.contains(Events::CLOSED) {
            self.queues.forget(connection);
            return;
        }
        if !self.catalog.is_enabled(FamilyId::QueuedBytes) {
            return;
        }
        let keys = Queue::ALL.map(|queue| {
            let inputs = KeyInputs {
                cause: Some(EventLabel::Queue(queue)),
                ..KeyInputs::default()
            };
            self.catalog.key(FamilyId::QueuedBytes, &record.flow, inputs)
        });
        let [Some(unsent), Some(unacked), Some(unread)] = keys else {
            return;
        };
        if self
            .queues
            .note(connection, [unsent, unacked, unread], record.queues, self.opened)
            == Noted::Full
        {
            self.telemetry.unqueued();
        }
    }

    /// Moves the gauge of queued bytes to what the connections have queued.
    pub(super) fn fold_levels(&mut self, at: Timestamp) {
        for (key, change) in self
            .queues
            .changes(at, self.expiration[FamilyId::QueuedBytes as usize])
        {
            let hashed = (self.sums.hash(&key), key);
            self.sums.change(hashed, change, self.opened, &mut self.catalog);
        }
    }
}
