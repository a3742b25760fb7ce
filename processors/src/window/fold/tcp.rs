//! Folding of the records of TCP sockets into the window.

use flowtap_pipeline::catalog::FamilyId;
use flowtap_pipeline::{Events, FlowBatch, FlowKind, Naming, PeerClass, Role, TcpRecord};

use super::super::connections::Placed;
use super::super::event_label::{ConnectionEvent, EventLabel, FailureReason};
use super::super::key::{KeyInputs, class_of, kind_of};
use super::super::packed::Direction;
use super::{MEMORY_LIMIT, Window, towards};
use crate::hops::{LOCAL_HOP, payload};

impl Window {
    pub(super) fn fold_tcp(&mut self, receiver: u16, record: &TcpRecord) {
        if record.is_connecting() {
            self.fold_connecting(receiver, record);
            return;
        }
        self.end_connecting(receiver, record);
        self.fold_bytes(record);
        self.fold_rtt(record);
        if self.catalog.is_enabled(FamilyId::Segments) {
            self.fold_segments(record);
        }
        self.fold_connection(receiver, record);
        if self.catalog.is_enabled(FamilyId::ConnectionSize) {
            self.fold_size(receiver, record);
        }
        self.fold_limits(receiver, record);
        self.fold_exchanges(record);
        if record.retransmits != 0 {
            self.add(
                FamilyId::Retransmits,
                &record.flow,
                KeyInputs::default(),
                record.retransmits,
            );
        }
    }

    /// Leaves out a record of a connection whose bytes another one has. In mode `events` a client's hop is not known when it opens,
    /// so it may be in the gauge of open connections.
    pub(super) fn drop_local(&mut self, receiver: u16, record: &TcpRecord) {
        if let Some(slot) = self.connections.remove(receiver, record.flow.cookie) {
            self.release(slot, 1);
        }
        self.sizes.remove(receiver, record.flow.cookie);
        self.shed.dropped(1, payload(record), LOCAL_HOP);
    }

    fn fold_bytes(&mut self, record: &TcpRecord) {
        self.totals.add(record);
        let family = match (class_of(&record.flow), kind_of(&record.flow)) {
            _ if self.catalog.is_enabled(FamilyId::Io) => FamilyId::Io,
            (PeerClass::K8sPod | PeerClass::K8sSvc, _) => FamilyId::K8s,
            (PeerClass::Dns, _) => FamilyId::Dns,
            (_, FlowKind::Egress) => FamilyId::Egress,
            (_, FlowKind::Ingress) => FamilyId::Ingress,
        };
        let Some(key) = self
            .catalog
            .key(family, &record.flow, towards(Direction::Outbound))
        else {
            return;
        };
        let hash = self.sums.hash(&key) ^ key.direction_salt();
        for (direction, bytes) in moved(record) {
            let key = key.towards(direction);
            self.sums.change(
                (hash ^ key.direction_salt(), key),
                bytes,
                self.opened,
                &mut self.catalog,
            );
        }
    }

    /// As in the Go exporter, only for peers beyond this machine and cluster unless the config wants all (ADR 4 has the
    /// direction).
    fn fold_rtt(&mut self, record: &TcpRecord) {
        let near = matches!(
            class_of(&record.flow),
            PeerClass::K8sPod | PeerClass::K8sSvc | PeerClass::Dns | PeerClass::Localhost | PeerClass::Docker
        );
        if near && !self.rtt_include_local_peers || record.rtt_us == 0 || moved(record).next().is_none() {
            return;
        }
        let rtt = self.catalog.duration(FamilyId::Rtt, record.rtt_us);
        match self.catalog.naming() {
            Naming::PrimusLens => {
                for (direction, _) in moved(record) {
                    self.observe(FamilyId::Rtt, &record.flow, towards(direction), rtt);
                }
            }
            // Below 40 ms the acknowledgement of the last byte waits for the peer's answer: not what is called a round trip.
            Naming::Otel if record.is_application_limited => {}
            Naming::Otel => self.observe(FamilyId::Rtt, &record.flow, KeyInputs::default(), rtt),
        }
        if record.min_rtt_us > 0 {
            let min_rtt = self.catalog.duration(FamilyId::MinRtt, record.min_rtt_us);
            self.observe(FamilyId::MinRtt, &record.flow, KeyInputs::default(), min_rtt);
        }
    }

    fn fold_segments(&mut self, record: &TcpRecord) {
        let both = [
            (Direction::Outbound, record.sent_segments),
            (Direction::Inbound, record.received_segments),
        ];
        for (direction, segments) in both.into_iter().filter(|(_, segments)| *segments != 0) {
            self.add(FamilyId::Segments, &record.flow, towards(direction), segments);
        }
    }

    fn fold_connection(&mut self, receiver: u16, record: &TcpRecord) {
        let events = record.events;
        if events == Events::NONE {
            return;
        }
        let reported = [
            (Events::OPENED, ConnectionEvent::Opened),
            (Events::CLOSED, ConnectionEvent::Closed),
            (Events::FAILED, ConnectionEvent::Failed),
            (Events::RESET, ConnectionEvent::Reset(record.reset_by)),
        ];
        let reported = reported.into_iter().filter(|(bit, _)| events.contains(*bit));
        let broken = record.is_broken().then_some(ConnectionEvent::Broken);
        for event in reported.map(|(_, event)| event).chain(broken) {
            let inputs = KeyInputs {
                cause: Some(EventLabel::Event(event)),
                ..KeyInputs::default()
            };
            self.add(FamilyId::Connections, &record.flow, inputs, 1);
        }
        self.fold_open(receiver, record);
        if events.contains(Events::CLOSED) && record.age_us > 0 {
            let seconds = record.age_us as f64 / 1e6;
            self.observe(
                FamilyId::ConnectionDuration,
                &record.flow,
                KeyInputs::default(),
                seconds,
            );
        }
        if events.contains(Events::FAILED) {
            let inputs = KeyInputs {
                cause: Some(EventLabel::Reason(FailureReason::of_tcp(record))),
                ..KeyInputs::default()
            };
            self.add(FamilyId::ConnectFailures, &record.flow, inputs, 1);
        }
        if events.contains(Events::OPENED) && record.flow.role == Role::Client && record.handshake_us > 0 {
            let seconds = f64::from(record.handshake_us) / 1e6;
            self.observe(
                FamilyId::ConnectDuration,
                &record.flow,
                KeyInputs::default(),
                seconds,
            );
        }
    }

    /// The bytes of a connection, once it closes.
    fn fold_size(&mut self, receiver: u16, record: &TcpRecord) {
        let is = |event| record.events.contains(event);
        let moved = [record.sent_bytes, record.received_bytes];
        let cookie = record.flow.cookie;
        // Without a cookie, or from a receiver that has been replaced, records can't be joined.
        let is_followed = receiver != FlowBatch::DETACHED && cookie != 0;
        if !is(Events::CLOSED) {
            if is_followed && moved != [0, 0] {
                self.sizes.add(receiver, cookie, moved);
            }
            return;
        }
        let is_whole = is(Events::OPENED);
        let size = if is_followed {
            self.sizes.close(receiver, cookie, moved, is_whole)
        } else {
            is_whole.then_some(moved)
        };
        let Some(size) = size else {
            self.telemetry.unsized_connection();
            return;
        };
        for (direction, bytes) in [Direction::Outbound, Direction::Inbound].into_iter().zip(size) {
            let bytes = bytes.max(0) as f64;
            self.observe(FamilyId::ConnectionSize, &record.flow, towards(direction), bytes);
        }
    }

    /// Whether the connection is open: in the gauge, and in the table that says which series of it counts the connection.
    fn fold_open(&mut self, receiver: u16, record: &TcpRecord) {
        let is = |event| record.events.contains(event);
        let (began, closed) = (is(Events::OPENED) || is(Events::ADOPTED), is(Events::CLOSED));
        if receiver == FlowBatch::DETACHED || !(began || closed || is(Events::OPEN)) {
            return;
        }
        if record.flow.cookie == 0 {
            // Connections can't be distinguished here, so only their number is known.
            let change = i64::from(began) - i64::from(closed);
            if change != 0 {
                self.add(
                    FamilyId::ConnectionsActive,
                    &record.flow,
                    KeyInputs::default(),
                    change,
                );
            }
            return;
        }
        if closed {
            let slot = self.connections.remove(receiver, record.flow.cookie);
            if let Some(slot) = slot.or_else(|| self.remove_untracked(receiver, record)) {
                self.release(slot, 1);
            }
            return;
        }
        let Some(key) = self
            .catalog
            .key(FamilyId::ConnectionsActive, &record.flow, KeyInputs::default())
        else {
            return;
        };
        let hashed = (self.sums.hash(&key), key);
        let slot = self.sums.slot_of(hashed, self.opened, &mut self.catalog);
        match self.connections.place(receiver, record.flow.cookie, slot) {
            Placed::Already => return,
            Placed::Added => {}
            Placed::Untracked => self.telemetry.untracked(),
            Placed::MovedFrom(before) => self.release(before, 1),
        }
        if let Some(gauge) = self.sums.value_mut(slot) {
            gauge.hold(1);
        }
    }

    /// The slot of `record`'s labels, if it counts a connection that the table had no room for.
    fn remove_untracked(&mut self, receiver: u16, record: &TcpRecord) -> Option<u32> {
        if !self.connections.has_untracked(receiver) {
            return None;
        }
        let key = self
            .catalog
            .key(FamilyId::ConnectionsActive, &record.flow, KeyInputs::default())?;
        let slot = self.sums.find((self.sums.hash(&key), key))?;
        self.connections.remove_untracked(receiver, slot).then_some(slot)
    }

    /// Counts the changes that the records would have made, and drops them. Connection events are
    /// kept: they take no memory, and a gauge that missed an end would stay wrong.
    pub(super) fn shed_tcp(&mut self, receiver: u16, records: &[TcpRecord]) {
        let mut bytes = 0;
        let is_sized = self.catalog.is_enabled(FamilyId::ConnectionSize);
        for record in records {
            if !self.hops.drops(record) {
                self.fold_connection(receiver, record);
                if is_sized {
                    self.sizes.forget(receiver, record.flow.cookie);
                    if record.events.contains(Events::CLOSED) {
                        self.telemetry.unsized_connection();
                    }
                }
            }
            bytes += moved(record)
                .map(|(_, bytes)| bytes.max(0).unsigned_abs())
                .sum::<u64>();
        }
        self.shed.dropped(records.len() as u64, bytes, MEMORY_LIMIT);
    }
}

/// The directions in which bytes moved, and how many. A difference can be negative (see [`TcpRecord`]).
fn moved(record: &TcpRecord) -> impl Iterator<Item = (Direction, i64)> {
    let both = [
        (Direction::Outbound, record.sent_bytes),
        (Direction::Inbound, record.received_bytes),
    ];
    both.into_iter().filter(|(_, bytes)| *bytes != 0)
}
