//! Folding of the limits of a connection into the window: its sender's time, its losses, its queues.

use flowtap_pipeline::catalog::FamilyId;
use flowtap_pipeline::{Events, Limit, Queue, TcpRecord, Timestamp};

use super::super::event_label::EventLabel;
use super::super::key::KeyInputs;
use super::super::levels::Noted;
use super::Window;

/// The kernel's number of the state CLOSE (`include/net/tcp_states.h`).
const TCP_CLOSE: u8 = 7;

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
        if self.queues.note(
            connection,
            [unsent, unacked, unread],
            Queue::ALL.map(|queue| record.queues.of(queue)),
            self.opened,
        ) == Noted::Full
        {
            self.telemetry.unqueued();
        }
    }

    /// A connect waits for an answer, or no longer does. It is in no counter: its end is.
    pub(super) fn fold_connecting(&mut self, receiver: u16, record: &TcpRecord) {
        let connection = (receiver, record.flow.cookie);
        if record.state == TCP_CLOSE {
            self.connecting.forget(connection);
            return;
        }
        let families = [FamilyId::Connecting, FamilyId::ConnectingRetransmits];
        let values = [1, u32::from(record.syn_retransmits)];
        // A family that is not enabled has no key; the other's then stands for both, with a value of 0.
        let keys = families.map(|family| self.catalog.key(family, &record.flow, KeyInputs::default()));
        let (keys, values) = match keys {
            [Some(connects), Some(retransmits)] => ([connects, retransmits], values),
            [Some(connects), None] => ([connects, connects], [values[0], 0]),
            [None, Some(retransmits)] => ([retransmits, retransmits], [0, values[1]]),
            [None, None] => return,
        };
        if self.connecting.note(connection, keys, values, self.opened) == Noted::Full {
            self.telemetry.uncounted_connect();
        }
    }

    /// The connect of a connection has ended, if it was seen waiting.
    pub(super) fn end_connecting(&mut self, receiver: u16, record: &TcpRecord) {
        if record.events != Events::NONE {
            self.connecting.forget((receiver, record.flow.cookie));
        }
    }

    /// Moves the gauges to what the connections have queued, and to the connects that wait.
    pub(super) fn fold_levels(&mut self, at: Timestamp) {
        let queues = self
            .queues
            .changes(at, self.expiration[FamilyId::QueuedBytes as usize]);
        let connecting = self
            .connecting
            .changes(at, self.expiration[FamilyId::Connecting as usize]);
        for (key, change) in queues.into_iter().chain(connecting) {
            let hashed = (self.sums.hash(&key), key);
            self.sums.change(hashed, change, self.opened, &mut self.catalog);
        }
    }
}
