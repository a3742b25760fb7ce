//! From evidence to a verdict.

use serde::{Deserialize, Serialize};

use super::evidence::{Evidence, Shares};
use crate::short::{counted, short_bytes};

/// The least share of the time that makes something a cause.
pub const NOTICEABLE: f64 = 0.05;

/// Seconds of connections below which their clocks, which count in some milliseconds, say nothing.
const BRIEF: f64 = 0.1;

/// The least ratio of retransmitted segments that is called loss.
const LOSSY: f64 = 0.002;

/// The least share of the time in retransmission time-outs that means that nothing gets through.
const SILENT: f64 = 0.5;

/// Unread bytes from which on a process does not keep up.
const UNREAD: u64 = 64 * 1024;

/// Received bytes per sent byte from which on the peer is the side that sends.
const MOSTLY_RECEIVED: u64 = 4;

/// The cause that limits the traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// No connection was open, and none was tried.
    #[default]
    Idle,
    /// The peer refuses connections.
    Refused,
    /// The peer does not answer connects.
    NoAnswer,
    /// The peer can't be reached: no route, no answer to ARP or neighbour discovery, or a router says so.
    Unreachable,
    /// This machine has no local port left.
    NoLocalPort,
    /// Connects fail for another reason.
    ConnectFailed,
    /// The queue of a listening socket of this machine is full: its process accepts too slowly.
    AcceptQueue,
    /// Nothing that was sent is acknowledged.
    BlackHole,
    /// The network loses segments.
    Loss,
    /// The network's capacity: the congestion window, or a queue on the way.
    Network,
    /// The peer's answer: its process takes its time.
    Answer,
    /// The peer's process does not read fast enough: its receive window is full.
    Receiver,
    /// This side's send buffer is too small.
    Buffer,
    /// This side's process does not read what has arrived.
    Reader,
    /// The peer sends: only its side measures what limits it.
    Inbound,
    /// This side's process: it had nothing to send.
    Application,
}

impl Cause {
    /// Its name, as in JSON and labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Refused => "refused",
            Self::NoAnswer => "no_answer",
            Self::Unreachable => "unreachable",
            Self::NoLocalPort => "no_local_port",
            Self::ConnectFailed => "connect_failed",
            Self::AcceptQueue => "accept_queue",
            Self::BlackHole => "black_hole",
            Self::Loss => "loss",
            Self::Network => "network",
            Self::Answer => "answer",
            Self::Receiver => "receiver",
            Self::Buffer => "buffer",
            Self::Reader => "reader",
            Self::Inbound => "inbound",
            Self::Application => "application",
        }
    }

    /// Whether this side measures no limit but its own process: nothing moves, or the peer sends.
    pub const fn is_unlimited(self) -> bool {
        matches!(self, Self::Idle | Self::Application | Self::Inbound)
    }

    /// Rank by severity: connections that can't be opened before slow ones, and those before idle ones.
    pub const fn severity(self) -> u8 {
        match self {
            Self::Idle => 0,
            Self::Application | Self::Inbound => 1,
            Self::Answer | Self::Reader | Self::Buffer => 2,
            Self::Receiver | Self::Network => 3,
            Self::Loss => 4,
            Self::BlackHole | Self::AcceptQueue => 5,
            Self::Refused | Self::NoAnswer | Self::Unreachable | Self::NoLocalPort | Self::ConnectFailed => 6,
        }
    }
}

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
    if failed.total() + evidence.waiting > evidence.opened {
        return connects(evidence);
    }
    let listening = evidence.listening;
    if listening.drops > 0 {
        let sentence = format!(
            "the process that listens on this machine accepts too slowly: {} dropped because the queue was full ({} of {} wait)",
            counted(listening.drops, "connection was", "connections were"),
            listening.backlog,
            listening.limit
        );
        return (Cause::AcceptQueue, sentence);
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

/// Nothing limits what this side sends. Of what it receives only the side that sends has the clocks.
fn unlimited(evidence: &Evidence, total: f64) -> (Cause, String) {
    let (sent, received) = (evidence.sent_bytes, evidence.received_bytes);
    if received > 0 && received / MOSTLY_RECEIVED >= sent {
        let sentence = format!(
            "the peer sends: {} received, {} sent; what limits it, the network or its process, is measured on its side: run \
             `flowtap diagnose` there",
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

fn connects(evidence: &Evidence) -> (Cause, String) {
    let failed = evidence.failed;
    let all = failed.total() + evidence.waiting + evidence.opened;
    let reasons = [
        (
            failed.no_answer + evidence.waiting,
            Cause::NoAnswer,
            "the peer does not answer",
        ),
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
    (
        cause,
        format!(
            "{sentence}: {count} of {}",
            counted(all, "connect failed so", "connects failed so")
        ),
    )
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
    // Of a peer that never opens its window further, the kernel takes the time for the receiver's.
    if evidence.rto >= SILENT * (network + answer + receiver + buffer) {
        let sentence = format!(
            "nothing gets through to the peer: {} of {} were spent in retransmission time-outs",
            seconds(evidence.rto),
            seconds(total)
        );
        return Some((Cause::BlackHole, sentence));
    }
    let share = percent(share);
    let (cause, sentence) = match largest.1 {
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
        _ => (
            Cause::Network,
            format!(
                "the network's capacity: sending waited for it {share} of the time, and hardly anything was lost"
            ),
        ),
    };
    Some((cause, sentence))
}

/// The numbers, the weightiest first.
fn findings(evidence: &Evidence) -> Vec<String> {
    let mut lines = Vec::new();
    let total = evidence.shares.total();
    if total > 0.0 {
        lines.push(shares_line(&evidence.shares, total));
    }
    if evidence.rto > 0.0 {
        lines.push(format!("{} in retransmission time-outs", seconds(evidence.rto)));
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
    let listening = evidence.listening;
    if listening.limit > 0 {
        lines.push(format!(
            "{} of at most {} connections wait to be accepted, the oldest for {}; {} dropped",
            listening.backlog,
            listening.limit,
            seconds(listening.oldest_wait),
            listening.drops
        ));
    }
    lines
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
mod tests {
    use super::super::evidence::{Connects, Listening};
    use super::*;

    /// Shares of ten seconds: network, answer, receiver, buffer; the rest is the application's.
    fn shares(network: f64, answer: f64, receiver: f64, buffer: f64) -> Evidence {
        let application = 1.0 - network - answer - receiver - buffer;
        Evidence {
            shares: Shares {
                network: network * 10.0,
                answer: answer * 10.0,
                receiver: receiver * 10.0,
                buffer: buffer * 10.0,
                application: application * 10.0,
            },
            sent_segments: 10_000,
            opened: 1,
            ..Evidence::default()
        }
    }

    /// The shares that were measured for links, readers and servers that were built to be slow.
    #[test]
    fn each_experiment_has_its_cause() {
        let lossy = |retransmits| Evidence {
            retransmits,
            ..shares(0.72, 0.18, 0.0, 0.0)
        };
        let black_hole = Evidence {
            rto: 9.6,
            retransmits: 7,
            sent_segments: 20,
            ..shares(1.0, 0.0, 0.0, 0.0)
        };
        let behind_a_window = Evidence {
            rto: 9.7,
            ..shares(0.0, 0.0, 1.0, 0.0)
        };
        let brief = Evidence {
            shares: Shares {
                network: 0.004,
                application: 0.004,
                ..Shares::default()
            },
            opened: 1,
            ..Evidence::default()
        };
        let unread = Evidence {
            unread: 4_000_000,
            ..shares(0.0, 0.0, 0.0, 0.0)
        };
        let cases = [
            ("a link of 20 Mbit/s", shares(1.0, 0.0, 0.0, 0.0), Cause::Network),
            (
                "the same, half the time idle",
                shares(0.7, 0.0, 0.0, 0.0),
                Cause::Network,
            ),
            (
                "the same, idle nearly always",
                shares(0.06, 0.0, 0.0, 0.0),
                Cause::Network,
            ),
            ("one segment of a hundred is dropped", lossy(100), Cause::Loss),
            ("a segment is dropped now and then", lossy(10), Cause::Network),
            ("a black hole", black_hole, Cause::BlackHole),
            (
                "the same, behind a small window",
                behind_a_window,
                Cause::BlackHole,
            ),
            (
                "a reader that takes 1 MB/s",
                shares(0.11, 0.0, 0.89, 0.0),
                Cause::Receiver,
            ),
            (
                "a reader that never reads",
                shares(0.01, 0.0, 0.99, 0.0),
                Cause::Receiver,
            ),
            (
                "a slow reader and a slow link",
                shares(0.17, 0.0, 0.83, 0.0),
                Cause::Receiver,
            ),
            (
                "a server that thinks for 5 ms",
                shares(0.0, 0.98, 0.0, 0.0),
                Cause::Answer,
            ),
            (
                "requests back to back",
                shares(0.06, 0.62, 0.0, 0.0),
                Cause::Answer,
            ),
            ("a small send buffer", shares(0.2, 0.0, 0.0, 0.7), Cause::Buffer),
            (
                "1 KB every 100 ms",
                shares(0.0, 0.0, 0.0, 0.0),
                Cause::Application,
            ),
            ("a process that does not read", unread, Cause::Reader),
            ("one request within a tick", brief, Cause::Idle),
            ("nothing", Evidence::default(), Cause::Idle),
        ];
        assert_causes(&cases);
    }

    #[test]
    fn what_is_received_decides_where_little_is_sent() {
        let download = Evidence {
            received_bytes: 1_500_000,
            ..shares(0.0, 0.01, 0.0, 0.0)
        };
        let slow_reader_of_a_download = Evidence {
            unread: 4_000_000,
            ..download
        };
        let exchange = Evidence {
            sent_bytes: 500_000,
            ..download
        };
        assert_causes(&[
            ("a download through a slow link", download, Cause::Inbound),
            (
                "a download that is not read",
                slow_reader_of_a_download,
                Cause::Reader,
            ),
            ("as much sent as received, rarely", exchange, Cause::Application),
        ]);
    }

    fn assert_causes(cases: &[(&str, Evidence, Cause)]) {
        for (experiment, evidence, cause) in cases {
            let verdict = judge(evidence);
            assert_eq!(verdict.cause, *cause, "{experiment}: {verdict:?}");
            assert!(!verdict.sentence.is_empty());
        }
    }

    #[test]
    fn a_download_is_measured_where_it_is_sent() {
        let download = Evidence {
            received_bytes: 1_500_000,
            ..shares(0.0, 0.0, 0.0, 0.0)
        };
        assert_eq!(
            judge(&download).sentence,
            "the peer sends: 1.50 MB received, 0 B sent; what limits it, the network or its process, is measured on its side: run \
             `flowtap diagnose` there"
        );
    }

    #[test]
    fn connects_that_fail_come_before_what_open_connections_show() {
        let with = |failed| Evidence {
            failed,
            ..shares(0.0, 0.0, 0.9, 0.0)
        };
        let refused = Connects {
            refused: 3,
            ..Connects::default()
        };
        let no_answer = Connects {
            no_answer: 4,
            ..refused
        };
        assert_eq!(judge(&with(refused)).cause, Cause::Refused);
        let verdict = judge(&with(no_answer));
        assert_eq!(verdict.cause, Cause::NoAnswer);
        assert_eq!(
            verdict.sentence,
            "the peer does not answer: 4 of 8 connects failed so"
        );
        // One failure of two connects is not what is wrong with the other.
        let one = Connects {
            refused: 1,
            ..Connects::default()
        };
        assert_eq!(judge(&with(one)).cause, Cause::Receiver);
    }

    #[test]
    fn a_full_accept_queue_is_said_with_its_numbers() {
        let evidence = Evidence {
            listening: Listening {
                backlog: 5,
                limit: 4,
                drops: 45,
                oldest_wait: 2.9,
            },
            ..Evidence::default()
        };
        let verdict = judge(&evidence);
        assert_eq!(verdict.cause, Cause::AcceptQueue);
        assert_eq!(
            verdict.sentence,
            "the process that listens on this machine accepts too slowly: 45 connections were dropped because the queue was full \
             (5 of 4 wait)"
        );
        assert_eq!(
            verdict.evidence,
            ["5 of at most 4 connections wait to be accepted, the oldest for 2.9 s; 45 dropped"]
        );
    }

    #[test]
    fn the_evidence_has_the_numbers_of_the_sentence() {
        let evidence = Evidence {
            sent_bytes: 12_000_000,
            retransmits: 120,
            min_rtt_us: 250,
            ..shares(0.11, 0.0, 0.89, 0.0)
        };
        let verdict = judge(&evidence);
        assert_eq!(
            verdict.sentence,
            "the peer does not read fast enough: its receive window was full 89 % of the time"
        );
        assert_eq!(
            verdict.evidence,
            [
                "of 10.0 s of connections: network 11 %, answer 0 %, receiver 89 %, buffer 0 %, application 0 %",
                "120 of 10000 segments retransmitted (1 %)",
                "smallest round-trip time 0.25 ms",
                "12.0 MB sent, 0 B received",
                "1 connection opened, 0 failed",
            ]
        );
    }
}
