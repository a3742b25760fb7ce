//! The programs of mode `events`: on the maps of mode `sockets` wherever the kernel takes these, so that a reload can change from one
//! mode to the other without a gap; else with a separate table.

use std::collections::HashSet;
use std::io;

use flowtap_ebpf::{Event, Events, LoadError, Losses, ProgramMisses, Ring, RingWatch, Sockets};

/// Programs at work.
#[derive(Debug)]
pub(super) enum EventPrograms {
    /// Those of mode `sockets`, with a record per segment.
    Shared(Box<Sockets>),
    /// For kernels that do not take these.
    Own(Box<Events>),
}

/// Where a record comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// An event, by this ring.
    Event(Ring),
    /// A census: the connection is open, and nothing of it has changed.
    Census,
}

impl EventPrograms {
    pub(super) fn shared(sockets: Sockets) -> Self {
        Self::Shared(Box::new(sockets))
    }

    /// Shows what waits in the rings, segments before the connections that they are of.
    pub(super) fn drain(&mut self, each: impl FnMut(Event, Ring)) -> io::Result<u64> {
        match self {
            Self::Shared(sockets) => sockets.drain(each),
            Self::Own(events) => events.drain(each),
        }
    }

    /// Shows what waits in the rings, and every open connection.
    pub(super) fn census(&mut self, mut each: impl FnMut(Event, Origin)) -> io::Result<()> {
        match self {
            Self::Shared(sockets) => {
                let shown = sockets.scan_census(|event, ring| each(event, origin(&event, ring)));
                shown.map(drop)
            }
            Self::Own(events) => census_of_table(events, each),
        }
    }

    pub(super) fn watch(&self) -> io::Result<[RingWatch; 2]> {
        match self {
            Self::Shared(sockets) => sockets.watch(),
            Self::Own(events) => events.watch(),
        }
    }

    pub(super) fn losses(&self) -> Result<Losses, LoadError> {
        match self {
            Self::Shared(sockets) => sockets.losses(),
            Self::Own(events) => events.losses(),
        }
    }

    pub(super) fn program_misses(&self) -> io::Result<Vec<ProgramMisses>> {
        match self {
            Self::Shared(sockets) => sockets.program_misses(),
            Self::Own(events) => events.program_misses(),
        }
    }
}

/// Where a record of [`Sockets::scan_census`] comes from. The first record of a connection is an event, also if a census has
/// found it.
fn origin(event: &Event, ring: Ring) -> Origin {
    use flowtap_pipeline::Events;
    let Event::Flow(flow) = event else {
        return Origin::Event(ring);
    };
    let events = Events::from_bits(flow.events);
    let is_first = events.contains(Events::OPENED) || events.contains(Events::ADOPTED);
    if events.contains(Events::OPEN) && !is_first {
        Origin::Census
    } else {
        Origin::Event(ring)
    }
}

/// Reads the table of connections from user space. One that has closed by then may still stand there: its record is in the ring
/// before it leaves the table. So the ring is drained first, and what that shows closed is left out.
fn census_of_table(events: &mut Events, mut each: impl FnMut(Event, Origin)) -> io::Result<()> {
    let mut closed = HashSet::new();
    events.drain(|event, ring| {
        if let (Ring::Connections, Event::Flow(flow)) = (ring, &event) {
            // Another socket may have the cookie of one that has closed.
            if is_closed(flow.events) {
                closed.insert(flow.cookie);
            } else {
                closed.remove(&flow.cookie);
            }
        }
        each(event, Origin::Event(ring));
    })?;
    let shown = events.open_connections(|event| {
        if let Event::Flow(flow) = &event
            && !closed.contains(&flow.cookie)
        {
            each(event, Origin::Census);
        }
    });
    shown.map(drop)
}

const fn is_closed(events: u8) -> bool {
    flowtap_pipeline::Events::from_bits(events).contains(flowtap_pipeline::Events::CLOSED)
}
