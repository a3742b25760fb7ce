//! Bytes of all connections by role, direction and class: a few series that exist from the start, at 0.
//!
//! A store takes an increase from what it has seen of a series, so it misses the bytes with which a peer's series begins; with peers that
//! come and go these are most of all. Here no series begins late. Bytes are added up in a table of counts and reach the series when the
//! window closes, so a record costs two additions and no look-up.

use flowtap_pipeline::{FlowKind, PeerClass, TcpRecord};

use super::key::{Cell, class_of, kind_of};
use super::packed::{Direction, NetworkType};

const FLOWS: [FlowKind; 2] = [FlowKind::Ingress, FlowKind::Egress];
const DIRECTIONS: [Direction; 2] = [Direction::Outbound, Direction::Inbound];
const NETWORK_TYPES: [NetworkType; 2] = [NetworkType::Ipv4, NetworkType::Ipv6];

/// Roles, directions and network types, each with each.
const PER_CLASS: usize = FLOWS.len() * DIRECTIONS.len() * NETWORK_TYPES.len();

/// Counts of the open window.
#[derive(Debug, Default)]
pub(super) struct Totals {
    /// By the number of the class, then by [`place`].
    bytes: Vec<[i64; PER_CLASS]>,
    /// Classes whose series exist.
    shown: usize,
}

impl Totals {
    /// Adds the bytes that `record` moved.
    #[inline]
    pub(super) fn add(&mut self, record: &TcpRecord) {
        let class = usize::from(class_of(&record.flow).index());
        if class >= self.bytes.len() {
            self.bytes.resize(class + 1, [0; PER_CLASS]);
        }
        let (flow, network_type) = (kind_of(&record.flow), NetworkType::of(record.flow.remote.addr));
        let moved = [record.sent_bytes, record.received_bytes];
        for (direction, bytes) in DIRECTIONS.into_iter().zip(moved) {
            let count = &mut self.bytes[class][place(flow, direction, network_type)];
            *count = count.saturating_add(bytes);
        }
    }

    /// Counts that are not 0, and all of classes that are new, whose series have to exist; and starts anew.
    pub(super) fn take(&mut self) -> Vec<(Cell, i64)> {
        let classes = PeerClass::known();
        self.bytes
            .resize(self.bytes.len().max(classes.len()), [0; PER_CLASS]);
        let mut taken = Vec::new();
        for (index, (class, counts)) in classes.iter().zip(&mut self.bytes).enumerate() {
            let is_new = index >= self.shown;
            for (cell, count) in cells(*class) {
                let bytes = std::mem::take(&mut counts[count]);
                if bytes != 0 || is_new {
                    taken.push((cell, bytes));
                }
            }
        }
        self.shown = classes.len();
        taken
    }
}

/// Every count of a class, with its place.
fn cells(class: PeerClass) -> impl Iterator<Item = (Cell, usize)> {
    FLOWS.into_iter().flat_map(move |flow| {
        DIRECTIONS.into_iter().flat_map(move |direction| {
            NETWORK_TYPES.into_iter().map(move |network_type| {
                let cell = Cell {
                    class,
                    flow,
                    direction,
                    network_type,
                };
                (cell, place(flow, direction, network_type))
            })
        })
    })
}

const fn place(flow: FlowKind, direction: Direction, network_type: NetworkType) -> usize {
    (flow as usize * DIRECTIONS.len() + direction as usize) * NETWORK_TYPES.len() + network_type as usize
}
