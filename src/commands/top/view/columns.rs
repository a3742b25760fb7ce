//! The columns: which there are in a width, and how they share it.

use flowtap_extensions::live::{Flow, Sort};
use flowtap_extensions::short::{short_bytes, short_count, short_time};
use flowtap_extensions::verdict::Cause;

use super::text::{USUAL, per_second, short_cause, short_class, shown_cause};
use crate::commands::top::state::State;

/// From this width on there is room for failed connects and whole names of causes.
const WIDE: u16 = 100;

/// From this width on there is also room for classes and totals.
const WIDER: u16 = 120;

/// From this width on there is also room for the application protocol.
const WITH_PROTOCOL: u16 = 140;

/// From this width on there is also room for the cause in words.
const WIDEST: u16 = 160;

/// From this width on there is also room for the server's name, the end behind the peer's address, and the hop.
const WITH_DETAILS: u16 = 200;

/// The most columns that a peer fills: an IPv6 address, or an IPv4 address with a name. A wider terminal has words for the rest.
const PEER_WIDTH: u16 = 48;

/// A column: its title, the order that it shows, its width, whether it is a number, its text.
pub(super) struct Column {
    pub(super) title: &'static str,
    /// `None`: no order is by it.
    pub(super) sort: Option<Sort>,
    pub(super) width: u16,
    pub(super) number: bool,
    pub(super) text: fn(&Flow) -> String,
}

/// The peer's column, which has the room that is left, up to [`PEER_WIDTH`].
const PEER: usize = 0;

pub(super) fn columns(state: &State, width: u16) -> Vec<Column> {
    let mut columns = ends(state, width);
    columns.extend(detail_columns(state, width));
    columns.extend(bytes(width));
    columns.extend(quality(width));
    columns.extend(causes(width));
    share_out(&mut columns, width);
    columns
}

/// A column that shows the order `sort`.
fn column(title: &'static str, sort: Sort, width: u16, number: bool, text: fn(&Flow) -> String) -> Column {
    Column {
        title,
        sort: Some(sort),
        width,
        number,
        text,
    }
}

/// The peer, and the process on this side.
fn ends(state: &State, width: u16) -> Vec<Column> {
    let (is_usual, is_wider) = (width >= USUAL, width >= WIDER);
    let peer = if is_wider {
        named_peer
    } else {
        |flow: &Flow| flow.peer().to_owned()
    };
    let mut columns = vec![
        column("PEER", Sort::Peer, 0, false, peer),
        column("PORT", Sort::Port, 5, true, |flow| flow.port().to_owned()),
    ];
    if is_usual {
        columns.push(column("ROLE", Sort::Role, 7, false, |flow| {
            flow.role.clone().unwrap_or_default()
        }));
    }
    if is_wider {
        columns.push(column("CLASS", Sort::Class, 9, false, |flow| {
            short_class(flow.class()).to_owned()
        }));
    }
    // A daemon's config need not have processes among its labels.
    if is_usual && state.flows.flows.iter().any(|flow| !flow.process().is_empty()) {
        let room = if is_wider {
            (12 + (width - WIDER) / 2).min(22)
        } else {
            10
        };
        columns.push(column("PROCESS", Sort::Process, room, false, Flow::process));
    }
    columns
}

/// Bytes in both directions.
fn bytes(width: u16) -> Vec<Column> {
    let mut columns = vec![
        column("OUT/s", Sort::Outbound, 7, true, |flow| per_second(flow.outbound)),
        column("IN/s", Sort::Inbound, 7, true, |flow| {
            match (flow.inbound, flow.undirected) {
                // A window without directions: both, by a mark.
                (None, Some(both)) => format!("={}", short_bytes(both.per_second)),
                (inbound, _) => per_second(inbound),
            }
        }),
    ];
    if width >= WIDER {
        columns.push(column("TOTAL", Sort::Total, 7, true, |flow| {
            short_bytes(flow.total() as f64)
        }));
    }
    columns
}

/// Round-trip time, retransmissions, failures.
fn quality(width: u16) -> Vec<Column> {
    let mut columns = vec![column("RTT", Sort::Rtt, 6, true, |flow| {
        flow.rtt_microseconds.map_or_else(String::new, short_time)
    })];
    if width >= USUAL {
        columns.push(column("RETR", Sort::Retransmits, 5, true, |flow| {
            // Never the total beside it: that is of another period.
            let recent = flow.recent.as_ref();
            recent.map_or_else(String::new, |recent| short_count(recent.retransmits))
        }));
    }
    if width >= WIDE {
        let failed = |flow: &Flow| {
            let failed = flow.recent.as_ref().map(|recent| recent.failed);
            failed
                .filter(|count| *count > 0)
                .map_or_else(String::new, short_count)
        };
        columns.push(Column {
            sort: None,
            ..column("FAIL", Sort::Cause, 4, true, failed)
        });
    }
    columns
}

/// The cause of what is slow.
fn causes(width: u16) -> Vec<Column> {
    let mut columns = vec![if width >= WIDE {
        column("WHY", Sort::Cause, 14, false, |flow| {
            shown_cause(flow).map_or("", Cause::name).to_owned()
        })
    } else {
        column("WHY", Sort::Cause, 10, false, |flow| {
            shown_cause(flow).map_or("", short_cause).to_owned()
        })
    }];
    if width >= WIDEST {
        let words = |flow: &Flow| {
            let recent = flow.recent.as_ref().filter(|_| shown_cause(flow).is_some());
            recent.map_or_else(String::new, |recent| recent.sentence.clone())
        };
        columns.push(Column {
            sort: None,
            ..column("IN WORDS", Sort::Cause, 0, false, words)
        });
    }
    columns
}

/// Columns of names and protocols, where there is room for them and a flow has any.
fn detail_columns(state: &State, width: u16) -> Vec<Column> {
    let has_any = |names: &[&str]| {
        let mut flows = state.flows.flows.iter();
        flows.any(|flow| names.iter().any(|name| !flow.detail(name).is_empty()))
    };
    let column = |title, width, text| Column {
        title,
        sort: None,
        width,
        number: false,
        text,
    };
    let mut columns = Vec::new();
    if width >= WITH_PROTOCOL && has_any(&["protocol"]) {
        columns.push(column("PROTOCOL", 10, |flow| flow.detail("protocol")));
    }
    if width >= WITH_DETAILS && has_any(&["server_name", "backend", "hop"]) {
        columns.push(column("DETAILS", 36, |flow| {
            let details = ["server_name", "backend", "hop"].map(|name| flow.detail(name));
            let known: Vec<_> = details.into_iter().filter(|text| !text.is_empty()).collect();
            known.join(" ")
        }));
    }
    columns
}

/// Gives the room that is left to the peer, and from [`WIDEST`] on the rest of it to the last column.
fn share_out(columns: &mut [Column], width: u16) {
    let gaps = u16::try_from(columns.len() - 1).unwrap_or(0);
    let taken: u16 = columns.iter().map(|column| column.width).sum::<u16>() + gaps;
    let left = width.saturating_sub(taken);
    if width < WIDEST {
        columns[PEER].width = left.max(8);
    } else if let Some(words) = columns.len().checked_sub(1) {
        columns[PEER].width = (left / 2).clamp(20, PEER_WIDTH);
        columns[words].width = left.saturating_sub(columns[PEER].width);
    }
}

/// The peer with its name, where labels have an address and a name.
fn named_peer(flow: &Flow) -> String {
    let names = ["peer_name", "peer_service", "peer_workload", "peer_pod"];
    let mut names = names.into_iter().map(|name| flow.detail(name));
    match names.find(|name| !name.is_empty() && *name != flow.peer()) {
        Some(name) => format!("{} {name}", flow.peer()),
        None => flow.peer().to_owned(),
    }
}
