//! The table of sockets: compares a dump with the one before, and gives the records that follow.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use flowtap_pipeline::{
    Census, Events, Flow, FlowBatch, ListenChange, Queues, Role, RoleSource, TcpRecord, Timestamp,
};
use netlink_packet_sock_diag::constants::TCP_CLOSE;

use super::closes::Close;
use super::connecting::Connecting;
use super::counters::{Before, Clocks, Counters, Payload};
use super::dump::{Dump, Socket};
use super::roles::Roles;
use super::telemetry::LossReason;

/// The longest tick of the kernel's clock (`CONFIG_HZ=100`).
const TICK: Duration = Duration::from_millis(10);

/// Conditions under which a dump is compared.
pub(super) struct Look {
    pub(super) roles: Roles,
    pub(super) at: Timestamp,
    /// Whether a close is still to come for a socket that is not in the dump.
    pub(super) awaits_closes: bool,
    /// Whether every open connection must be reported.
    pub(super) census: bool,
}

/// Sockets by cookie, and the records that follow from changes to them.
#[derive(Debug)]
pub(super) struct Table {
    netns: u32,
    sockets: HashMap<u64, Known>,
    connecting: Connecting,
    /// Connections whose first dump was contradictory: the next one, or their close, decides their role.
    doubtful: HashSet<u64>,
    /// Of the last dump; `None` before the first.
    roles: Option<Roles>,
    /// A connection whose last sign of life was before this is older than flowtap.
    start: Instant,
    /// A socket that is not in the table and gave its last sign of life before this may have been in it.
    forgotten: Option<Instant>,
    /// Number of sockets of the table that were reported as closed, but have not been freed.
    pub(super) held: usize,
    /// Connections whose socket was found with another one: what they moved since the last look is not known.
    replaced: u64,
    pub(super) batch: FlowBatch,
}

/// A socket of the table.
#[derive(Clone, Debug)]
struct Known {
    socket: Socket,
    /// As reported.
    payload: Payload,
    since: Timestamp,
    role: Role,
    source: RoleSource,
    presence: Presence,
    /// As reported, and when that was; `None` before the first report, as a connection began at an unknown time.
    clocks: (Clocks, Option<Timestamp>),
}

/// Where a socket of the table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    /// In the last dump.
    Dumped,
    /// Not in the last dump. A dump is not atomic, and may have skipped it.
    Missing,
    /// Reported as closed. The kernel has not freed it, for its process holds it.
    Held,
}

impl Known {
    /// Whether `socket` still has this connection. A socket keeps its cookie when `connect(AF_UNSPEC)` takes its peer away and it
    /// connects again; its counters then begin anew.
    fn continues_as(&self, socket: &Socket) -> bool {
        let (before, now) = (&self.socket.counters, &socket.counters);
        let fell = |before: u32, now: u32| difference(now, before) < 0;
        self.socket.local == socket.local
            && self.socket.remote == socket.remote
            && !fell(before.segments_sent, now.segments_sent)
            && !fell(before.segments_received, now.segments_received)
    }
}

impl Table {
    pub(super) fn new(netns: u32, start: Instant) -> Self {
        Self {
            netns,
            sockets: HashMap::new(),
            connecting: Connecting::default(),
            doubtful: HashSet::new(),
            roles: None,
            start,
            forgotten: None,
            held: 0,
            replaced: 0,
            batch: FlowBatch::default(),
        }
    }

    /// Connections whose socket was found with another one, since the last call.
    pub(super) fn take_replaced(&mut self) -> u64 {
        std::mem::take(&mut self.replaced)
    }

    /// Whether a socket has gone since the last dump, and its close has not come.
    pub(super) fn awaits_closes(&self) -> bool {
        let mut known = self.sockets.values();
        known.any(|known| known.presence == Presence::Missing)
    }

    /// Compares a dump with the one before.
    pub(super) fn compare(&mut self, found: Dump, look: Look) {
        let Look {
            roles,
            at,
            awaits_closes,
            census,
        } = look;
        if census {
            self.batch.census = Census::WHOLE;
        }
        let first = self.roles.is_none();
        self.connecting
            .compare(self.netns, found.connecting, at, &mut self.batch.tcp);
        let mut gone = std::mem::replace(&mut self.sockets, HashMap::with_capacity(found.sockets.len()));
        let earlier_doubts = std::mem::take(&mut self.doubtful);
        for socket in found.sockets {
            let cookie = socket.cookie;
            let is_new = !first && !gone.contains_key(&cookie);
            // Without its close, what it moves until the next dump might never be seen.
            if is_new && awaits_closes && !earlier_doubts.contains(&cookie) && roles.contradict(&socket) {
                self.doubtful.insert(cookie);
                continue;
            }
            let known = match gone.remove(&cookie) {
                Some(earlier) if earlier.continues_as(&socket) => self.moved(&earlier, socket, census, at),
                mut earlier => {
                    // The same socket with another connection, whose predecessor ended unseen.
                    if let Some(earlier) = &mut earlier
                        && earlier.presence != Presence::Held
                    {
                        self.push_close(earlier, at);
                        self.replaced += 1;
                    }
                    self.appeared(socket, first, &roles, at)
                }
            };
            self.sockets.insert(cookie, known);
        }
        self.held = 0;
        for (cookie, mut known) in gone {
            if !awaits_closes || known.presence == Presence::Missing {
                self.push_close(&mut known, at);
            }
            if awaits_closes {
                if census && known.presence == Presence::Dumped {
                    let before = (known.socket.counters, known.payload);
                    self.push(&mut known, before, Events::OPEN, at);
                }
                known.presence = match known.presence {
                    Presence::Dumped => Presence::Missing,
                    Presence::Missing | Presence::Held => Presence::Held,
                };
                self.held += usize::from(known.presence == Presence::Held);
                self.sockets.insert(cookie, known);
            }
        }
        self.batch.listeners.push(ListenChange::Rescanned {
            netns: self.netns,
            ports: roles.listening.iter().copied().collect(),
        });
        for mut record in found.listeners {
            record.flow.netns = self.netns;
            record.adopted = first;
            self.batch.listening.push(record);
        }
        self.roles = Some(roles);
    }

    fn appeared(&mut self, socket: Socket, first: bool, roles: &Roles, at: Timestamp) -> Known {
        let (role, source) = roles.of(&socket);
        let mut known = Known {
            payload: socket.counters.payload(role),
            socket,
            since: at,
            role,
            source,
            presence: Presence::Dumped,
            clocks: (Clocks::default(), None),
        };
        if first {
            let counters = known.socket.counters;
            let payload = known.payload;
            known.clocks = (counters.clocks(), Some(at));
            self.push(&mut known, (counters, payload), Events::ADOPTED, at);
        } else {
            self.push(&mut known, Default::default(), Events::OPENED, at);
        }
        known
    }

    fn moved(&mut self, earlier: &Known, socket: Socket, census: bool, at: Timestamp) -> Known {
        let mut payload = socket.counters.payload(earlier.role);
        if socket.counters.in_flight > 0 {
            // Some bytes in flight may have been counted when that was visible.
            payload.sent = payload.sent.max(earlier.payload.sent);
        }
        let mut known = Known {
            socket,
            payload,
            presence: Presence::Dumped,
            ..*earlier
        };
        let before = earlier.socket.counters;
        let events = if census { Events::OPEN } else { Events::NONE };
        let now = known.socket.counters;
        // No byte moves while the peer does not read or answer, and none while this end reads what has come.
        let moved = payload != earlier.payload
            || now.segments() != before.segments()
            || now.clocks() != before.clocks()
            || now.queues() != before.queues();
        if moved || census {
            self.push(&mut known, (before, earlier.payload), events, at);
        }
        known
    }

    /// A socket has been freed. Returns why its last difference is not measured, if so.
    pub(super) fn close(&mut self, close: Close, at: Timestamp) -> Option<LossReason> {
        let cookie = close.socket.cookie;
        let Some(mut known) = self.sockets.remove(&cookie) else {
            return self.close_unknown(close, at);
        };
        let cleared = close.socket.is_cleared();
        if !cleared && !known.continues_as(&close.socket) {
            if known.presence == Presence::Held {
                self.held -= 1;
            } else {
                self.push_close(&mut known, at);
                self.replaced += 1;
            }
            return self.close_unknown(close, at);
        }
        let (before, payload) = (known.socket.counters, known.payload);
        let mut known = if cleared {
            known
        } else {
            let (role, counters) = (known.role, close.socket.counters);
            let before = Before {
                counters: &before,
                payload,
            };
            Known {
                payload: counters.at_close(role, Some(before), close.time_wait).0,
                socket: close.socket,
                ..known
            }
        };
        if known.presence == Presence::Held {
            self.held -= 1;
            if known.payload != payload || known.socket.counters.segments() != before.segments() {
                self.push(&mut known, (before, payload), Events::NONE, at);
            }
        } else {
            self.push(&mut known, (before, payload), Events::CLOSED, at);
        }
        cleared.then_some(LossReason::CountersCleared)
    }

    /// A socket has been freed that was in no dump.
    fn close_unknown(&mut self, close: Close, at: Timestamp) -> Option<LossReason> {
        let (socket, last_active) = (close.socket, close.last_active);
        // Of a connection that was there before flowtap, or of a socket that has had none. The moment is known to a tick only: one
        // that began right after the start may seem older.
        if last_active + TICK < self.start {
            return None;
        }
        if socket.is_cleared() {
            return socket
                .counters
                .was_connected()
                .then_some(LossReason::CountersCleared);
        }
        if !socket.counters.was_established() {
            return None;
        }
        if self.forgotten.is_some_and(|forgotten| last_active < forgotten) {
            return Some(LossReason::Ambiguous);
        }
        let guess = self
            .roles
            .as_ref()
            .map_or((Role::Unknown, RoleSource::Assumed), |roles| {
                roles.by_port(&socket)
            });
        let (payload, shown) = socket.counters.at_close(guess.0, None, close.time_wait);
        let (role, source) = shown.map_or(guess, |role| (role, RoleSource::Counters));
        let mut known = Known {
            socket,
            payload,
            since: at,
            role,
            source,
            presence: Presence::Dumped,
            clocks: (Clocks::default(), None),
        };
        self.push(
            &mut known,
            Default::default(),
            Events::OPENED | Events::CLOSED,
            at,
        );
        None
    }

    /// Reports as closed what is in no dump any more, after closes were lost: theirs may not come.
    pub(super) fn forget(&mut self, at: Timestamp) {
        self.forgotten = Some(Instant::now());
        self.held = 0;
        let mut missing = Vec::new();
        self.sockets.retain(|_, known| match known.presence {
            Presence::Dumped => true,
            Presence::Missing => {
                missing.push(known.clone());
                false
            }
            Presence::Held => false,
        });
        for mut known in missing {
            self.push_close(&mut known, at);
        }
    }

    fn push_close(&mut self, known: &mut Known, at: Timestamp) {
        let counters = known.socket.counters;
        self.push(known, (counters, known.payload), Events::CLOSED, at);
    }

    fn push(&mut self, known: &mut Known, before: (Counters, Payload), events: Events, at: Timestamp) {
        let Known {
            socket,
            payload,
            since,
            role,
            source,
            clocks,
            ..
        } = known;
        let (now, (before, payload_before)) = (&socket.counters, before);
        let (clocks_before, reported) = *clocks;
        *clocks = (now.clocks(), Some(at));
        let elapsed_us =
            reported.map(|reported| i64::try_from(at.since(reported).as_micros()).unwrap_or(i64::MAX));
        let closes = events.contains(Events::CLOSED);
        let record = TcpRecord {
            sent_bytes: signed_difference(payload.sent, payload_before.sent),
            received_bytes: signed_difference(payload.received, payload_before.received),
            sent_segments: difference(now.segments_sent, before.segments_sent),
            received_segments: difference(now.segments_received, before.segments_received),
            retransmits: difference(now.retransmits, before.retransmits),
            rtt_us: now.rtt_us,
            min_rtt_us: now.min_rtt_us,
            cwnd: now.cwnd,
            time: now
                .clocks_since(&clocks_before, elapsed_us)
                .send_time(now.sender_state()),
            rto_us: difference(now.rto_ms, clocks_before.rto_ms) * 1000,
            queues: if closes { Queues::EMPTY } else { now.queues() },
            out_of_order: difference(now.out_of_order, before.out_of_order),
            ecn_ce: difference(now.ecn_ce, before.ecn_ce),
            is_application_limited: now.is_application_limited,
            state: if closes { TCP_CLOSE } else { now.state },
            events,
            age_us: u64::try_from(at.since(*since).as_micros()).unwrap_or(u64::MAX),
            ..TcpRecord::new(Flow {
                netns: self.netns,
                cookie: socket.cookie,
                role: *role,
                role_source: *source,
                ..Flow::new(socket.local, socket.remote)
            })
        };
        self.batch.tcp.push(record);
    }
}

const fn signed_difference(now: u64, before: u64) -> i64 {
    now.cast_signed().wrapping_sub(before.cast_signed())
}

/// The kernel's segment counters have 32 bits and wrap.
fn difference(now: u32, before: u32) -> i64 {
    i64::from(now.wrapping_sub(before).cast_signed())
}
