//! From evidence to a verdict.

use serde::{Deserialize, Serialize};

use super::cause::Cause;
use super::evidence::{Answers, Evidence, Listening, Shares};
use crate::short::{counted, short_bytes};

/// The least share of the time that makes something a cause.
pub const NOTICEABLE: f64 = 0.05;

/// Seconds of connections below which their clocks, which count in some milliseconds, say nothing.
const BRIEF: f64 = 0.1;

/// The least ratio of retransmitted segments that is called loss.
const LOSSY: f64 = 0.002;

/// The least share of the time with something to send in which nothing got through, or which passed in retransmission time-outs, that
/// makes it the cause.
const SILENT: f64 = 0.5;

/// Retransmissions per second of time-outs above which something gets through, also where no byte is acknowledged in order. The time lasts
/// until all is acknowledged that was in flight; where nothing is, each retransmission waits for a time-out of its own, the first for
/// 200 ms, the next for twice as long.
const REPAIRS: f64 = 10.0;

/// Unread bytes from which on a process does not keep up.
const UNREAD: u64 = 64 * 1024;

/// Received bytes per sent byte from which on the peer is the side that sends.
const MOSTLY_RECEIVED: u64 = 4;

/// The answer, and what it rests on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The cause that limits the traffic.
    pub cause: Cause,
    /// The same as a sentence.
    pub sentence: String,
    /// The measurements that speak for it, and those that qualify it, a sentence each.
    pub evidence: Vec<String>,
}

/// Says what limits the traffic that was measured. The rules are those of the [module](super).
pub fn judge(evidence: &Evidence) -> Verdict {
    let (cause, sentence) = cause_of(evidence);
    Verdict {
        cause,
        sentence,
        evidence: findings(evidence),
    }
}

fn cause_of(evidence: &Evidence) -> (Cause, String) {
    let failed = evidence.failed;
    // A full queue is why some of them had no answer, where both ends are on this machine.
    let explained = if evidence.listening.drops > 0 {
        evidence.dropped_connects
    } else {
        0
    };
    if (failed.total() + evidence.waiting).saturating_sub(explained) > evidence.opened {
        return connects(evidence, explained);
    }
    if evidence.listening.drops > 0 {
        return (Cause::AcceptQueue, accept_queue(&evidence.listening));
    }
    let total = evidence.shares.total();
    if total < BRIEF {
        let sentence = if evidence.opened == 0 && total <= 0.0 {
            "no connection was open in this period".to_owned()
        } else {
            format!(
                "connections were open for only {:.0} ms in all; measure longer",
                total * 1e3
            )
        };
        return (Cause::Idle, sentence);
    }
    limiting(evidence, total)
        .or_else(|| {
            (evidence.unread >= UNREAD).then(|| {
                let sentence = format!(
                    "the process on this machine does not read: {} have arrived and wait",
                    bytes(evidence.unread)
                );
                (Cause::Reader, sentence)
            })
        })
        .unwrap_or_else(|| unlimited(evidence, total))
}

/// Names the socket that dropped the most.
fn accept_queue(listening: &Listening) -> String {
    let dropped = |drops| counted(drops, "connection was", "connections were");
    let Some(fullest) = listening.sockets.first() else {
        return format!(
            "the process that listens on this machine accepts too slowly: {} dropped because the queue was full ({})",
            dropped(listening.drops),
            queue(listening.backlog, listening.limit, false)
        );
    };
    let is_named = fullest.comm.is_some() || fullest.pid.is_some();
    let comma = if is_named { "," } else { "" };
    let accepts = if fullest.closed { "accepted" } else { "accepts" };
    let others = match listening.drops - fullest.drops.min(listening.drops) {
        0 => String::new(),
        others => format!("; other listening sockets dropped {others}"),
    };
    format!(
        "{fullest}{comma} {accepts} too slowly: {} dropped because its queue was full ({}){others}",
        dropped(fullest.drops),
        queue(fullest.backlog, fullest.limit, fullest.closed)
    )
}

/// The queue of a listening socket: one that has been closed has none.
fn queue(backlog: u64, limit: u64, closed: bool) -> String {
    if closed {
        return "closed since".to_owned();
    }
    format!("{backlog} of {limit} wait")
}

/// Nothing limits what this side sends. Of what it receives only the side that sends has the clocks.
fn unlimited(evidence: &Evidence, total: f64) -> (Cause, String) {
    let (sent, received) = (evidence.sent_bytes, evidence.received_bytes);
    if received > 0 && received / MOSTLY_RECEIVED >= sent {
        let place = if evidence.received_here >= received {
            "at its end, which is on this machine: run `flowtap diagnose` for the process that sends"
        } else {
            "on its side: run `flowtap diagnose` there"
        };
        let sentence = format!(
            "the peer sends: {} received, {} sent; what limits it, the network or its process, is measured {place}",
            bytes(received),
            bytes(sent)
        );
        return (Cause::Inbound, sentence);
    }
    let share = percent(evidence.shares.application / total);
    let sentence = format!(
        "the process on this machine had nothing to send {share} of the time: nothing else limits it"
    );
    (Cause::Application, sentence)
}

/// `explained`: those without an answer that have another cause than the peer.
fn connects(evidence: &Evidence, explained: u64) -> (Cause, String) {
    let failed = evidence.failed;
    let unanswered = (failed.no_answer + evidence.waiting).saturating_sub(explained);
    let all = (failed.total() + evidence.waiting + evidence.opened).saturating_sub(explained);
    let reasons = [
        (unanswered, Cause::NoAnswer, "the peer does not answer"),
        (
            failed.refused,
            Cause::Refused,
            "the peer refuses connections: nothing listens on the port, or a firewall rejects them",
        ),
        (
            failed.unreachable,
            Cause::Unreachable,
            "the peer can't be reached: there is no route to it, or the next hop does not answer (`ip route get`, `ip neigh`)",
        ),
        (
            failed.no_local_port,
            Cause::NoLocalPort,
            "this machine has no local port left to connect from",
        ),
        (failed.other, Cause::ConnectFailed, "connections can't be opened"),
    ];
    // Of equal numbers the first.
    let (count, cause, sentence) = reasons
        .into_iter()
        .reduce(|most, next| if next.0 > most.0 { next } else { most })
        .unwrap_or_default();
    let of_all = |count: u64| format!("{count} of {}", counted(all, "connect", "connects"));
    let waiting = if cause == Cause::NoAnswer {
        evidence.waiting.min(unanswered)
    } else {
        0
    };
    let numbers = match (count - waiting, waiting) {
        (failed, 0) => format!("{} failed so", of_all(failed)),
        (0, 1) => format!("{} waits for an answer", of_all(1)),
        (0, waiting) => format!("{} wait for an answer", of_all(waiting)),
        (failed, 1) => format!("{} failed so, and 1 waits for an answer", of_all(failed)),
        (failed, waiting) => format!("{} failed so, and {waiting} wait for an answer", of_all(failed)),
    };
    (cause, format!("{sentence}: {numbers}"))
}

/// The largest share but the application's, if it is noticeable.
fn limiting(evidence: &Evidence, total: f64) -> Option<(Cause, String)> {
    let Shares {
        network,
        answer,
        receiver,
        buffer,
        ..
    } = evidence.shares;
    let largest = [
        (network, Cause::Network),
        (receiver, Cause::Receiver),
        (answer, Cause::Answer),
        (buffer, Cause::Buffer),
    ]
    .into_iter()
    .reduce(|most, next| if next.0 > most.0 { next } else { most })?;
    let share = largest.0 / total;
    if share < NOTICEABLE {
        return None;
    }
    // The kernel's clocks take these times for the receiver's where the peer's window was full before, and for the answer's where all
    // that the application had to send is in flight.
    stopped(evidence, SILENT * (network + answer + receiver + buffer), total)
        .or_else(|| Some(slowed(evidence, largest.1, &percent(share))))
}

/// Nothing gets through, or only after time-outs, for at least `least` seconds of `total`.
fn stopped(evidence: &Evidence, least: f64, total: f64) -> Option<(Cause, String)> {
    let of_total = |time| format!("{} of {}", seconds(time), seconds(total));
    if evidence.held_back >= least {
        let sentence = format!(
            "nothing leaves this machine: data waited to be sent for {}, and none was in flight; its own firewall, queueing discipline or \
             routes stop it (`nft list ruleset`, `iptables -nvL OUTPUT`, `tc -s qdisc`, `ip route get`)",
            of_total(evidence.held_back)
        );
        return Some((Cause::BlackHole, sentence));
    }
    let is_silent = evidence.retransmits as f64 <= REPAIRS * evidence.rto;
    if is_silent && evidence.unacknowledged >= least {
        let sentence = format!(
            "nothing gets through to the peer: {} were spent after a retransmission time-out, without an acknowledgement",
            of_total(evidence.unacknowledged)
        );
        return Some((Cause::BlackHole, sentence));
    }
    if evidence.rto >= least && evidence.retransmit_ratio() >= LOSSY {
        let sentence = format!(
            "the network loses segments: {} had to be retransmitted, and {} were spent after a retransmission time-out",
            percent(evidence.retransmit_ratio()),
            of_total(evidence.rto)
        );
        return Some((Cause::Loss, sentence));
    }
    None
}

/// The largest share decides: data gets through, at a rate that `limit` sets.
fn slowed(evidence: &Evidence, limit: Cause, share: &str) -> (Cause, String) {
    match limit {
        Cause::Network if evidence.retransmit_ratio() >= LOSSY => (
            Cause::Loss,
            format!(
                "the network loses segments: {} had to be retransmitted, and sending waited for the network {share} of the time",
                percent(evidence.retransmit_ratio())
            ),
        ),
        Cause::Receiver => (
            Cause::Receiver,
            format!("the peer does not read fast enough: its receive window was full {share} of the time"),
        ),
        Cause::Answer => (
            Cause::Answer,
            format!(
                "the peer takes its time to answer: everything was sent, and its answer was awaited {share} of the time"
            ),
        ),
        Cause::Buffer => (
            Cause::Buffer,
            format!(
                "the send buffer on this machine is too small: it was full {share} of the time; see net.ipv4.tcp_wmem and SO_SNDBUF"
            ),
        ),
        _ => {
            let losses = if evidence.rto >= NOTICEABLE * evidence.shares.total() {
                format!(
                    "{} were spent after a retransmission time-out",
                    seconds(evidence.rto)
                )
            } else {
                "hardly anything was lost".to_owned()
            };
            let sentence =
                format!("the network's capacity: sending waited for it {share} of the time, and {losses}");
            (Cause::Network, sentence)
        }
    }
}

/// The numbers, the weightiest first.
fn findings(evidence: &Evidence) -> Vec<String> {
    let mut lines = Vec::new();
    add_times(evidence, &mut lines);
    add_bytes(evidence, &mut lines);
    add_connections(evidence, &mut lines);
    add_listening(&evidence.listening, &mut lines);
    lines
}

/// Times of what was sent, and what was lost.
fn add_times(evidence: &Evidence, lines: &mut Vec<String>) {
    let total = evidence.shares.total();
    if total > 0.0 {
        lines.push(shares_line(&evidence.shares, total));
    }
    if evidence.rto > 0.0 {
        lines.push(format!(
            "{} from a retransmission time-out until all was acknowledged",
            seconds(evidence.rto)
        ));
    }
    if evidence.held_back > 0.0 {
        lines.push(format!(
            "{} in which data waited to be sent and none was in flight",
            seconds(evidence.held_back)
        ));
    }
    if evidence.sent_segments > 0 {
        lines.push(format!(
            "{} of {} segments retransmitted ({})",
            evidence.retransmits,
            evidence.sent_segments,
            percent(evidence.retransmit_ratio())
        ));
    }
    if evidence.min_rtt_us > 0 {
        lines.push(format!(
            "smallest round-trip time {} ms",
            f64::from(evidence.min_rtt_us) / 1000.0
        ));
    }
    if evidence.answers.count > 0 {
        lines.push(answers_line(evidence.answers));
    }
}

fn add_bytes(evidence: &Evidence, lines: &mut Vec<String>) {
    if evidence.sent_bytes + evidence.received_bytes > 0 {
        lines.push(format!(
            "{} sent, {} received",
            bytes(evidence.sent_bytes),
            bytes(evidence.received_bytes)
        ));
    }
    if evidence.unsent > 0 {
        lines.push(format!("{} wait in the send queue", bytes(evidence.unsent)));
    }
    if evidence.unread > 0 {
        lines.push(format!(
            "{} have arrived and are not read",
            bytes(evidence.unread)
        ));
    }
}

fn add_connections(evidence: &Evidence, lines: &mut Vec<String>) {
    if evidence.opened + evidence.failed.total() > 0 {
        lines.push(format!(
            "{} opened, {} failed",
            counted(evidence.opened, "connection", "connections"),
            evidence.failed.total()
        ));
    }
    if evidence.waiting > 0 {
        lines.push(format!(
            "{} for an answer",
            counted(evidence.waiting, "connect still waits", "connects still wait")
        ));
    }
    if evidence.syn_retransmits > 0 {
        lines.push(format!(
            "{} retransmitted",
            counted(evidence.syn_retransmits, "SYN was", "SYNs were")
        ));
    }
    if evidence.reset_by_peer + evidence.reset_by_local > 0 {
        lines.push(format!(
            "{} reset by the peer, {} by this machine",
            counted(evidence.reset_by_peer, "connection", "connections"),
            evidence.reset_by_local
        ));
    }
}

/// Queues of sockets that listen.
fn add_listening(listening: &Listening, lines: &mut Vec<String>) {
    if listening.limit > 0 {
        lines.push(format!(
            "{} of at most {} connections wait to be accepted, the oldest for {}; {} dropped",
            listening.backlog,
            listening.limit,
            seconds(listening.oldest_wait),
            listening.drops
        ));
    }
    for socket in &listening.sockets {
        let queue = if socket.closed {
            "closed since".to_owned()
        } else {
            format!("{} of at most {} wait", socket.backlog, socket.limit)
        };
        lines.push(format!("{socket}: {} dropped, {queue}", socket.drops));
    }
}

fn answers_line(answers: Answers) -> String {
    let mean_ms = answers.seconds * 1e3 / answers.count as f64;
    let began = if answers.count == 1 {
        format!("1 answer began {mean_ms:.2} ms after its request")
    } else {
        format!(
            "{} answers began {mean_ms:.2} ms after their request on average",
            answers.count
        )
    };
    format!("{began}, the time in the network included")
}

fn shares_line(shares: &Shares, total: f64) -> String {
    let parts = [
        ("network", shares.network),
        ("answer", shares.answer),
        ("receiver", shares.receiver),
        ("buffer", shares.buffer),
        ("application", shares.application),
    ];
    let parts: Vec<_> = parts
        .into_iter()
        .map(|(name, time)| format!("{name} {}", percent(time / total)))
        .collect();
    format!("of {} of connections: {}", seconds(total), parts.join(", "))
}

fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent > 0.0 && percent < 1.0 {
        format!("{percent:.1} %")
    } else {
        format!("{percent:.0} %")
    }
}

fn seconds(seconds: f64) -> String {
    format!("{seconds:.1} s")
}

fn bytes(bytes: u64) -> String {
    short_bytes(bytes as f64)
}

#[cfg(test)]
mod tests;
