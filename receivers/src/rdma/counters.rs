//! Meanings of the counters of RDMA devices, by their names.
//!
//! The kernel has no list of them: `counters/` has those of the InfiniBand specification (`drivers/infiniband/core/sysfs.c`),
//! `hw_counters/` those of the driver. Names are those of mlx5 (`counters.c`), `bnxt_re` (`hw_counters.c`), irdma (`verbs.c`), efa
//! (`efa_verbs.c`), erdma (`erdma_verbs.c`) and rxe (`rxe_hw_counters.c`) in `drivers/infiniband`. Of others what the name ends with
//! decides; what is left is shown as it is.

use std::time::{Duration, Instant};

use flowtap_pipeline::catalog::FamilyId;

/// Direction of what is counted, in the words of readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Transmit,
    Receive,
}

impl Direction {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Transmit => "transmit",
            Self::Receive => "receive",
        }
    }
}

/// The folder that a counter is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Folder {
    /// `counters`, of a port.
    Standard,
    /// `hw_counters`, of a port or a device.
    Hardware,
}

impl Folder {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Standard => "counters",
            Self::Hardware => "hw_counters",
        }
    }
}

/// The meaning of a counter. Each is in one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Units of this many bytes.
    Bytes(Direction, u64),
    Packets(Direction),
    Retries,
    Congestion,
    Errors,
    Other,
    /// Not a counter: a setting, or a number of objects.
    NotACounter,
}

impl Meaning {
    /// The family that it is counted in.
    pub(super) const fn family(self) -> Option<FamilyId> {
        match self {
            Self::Bytes(..) => Some(FamilyId::RdmaBytes),
            Self::Packets(_) => Some(FamilyId::RdmaPackets),
            Self::Retries => Some(FamilyId::RdmaRetries),
            Self::Congestion => Some(FamilyId::RdmaCongestion),
            Self::Errors => Some(FamilyId::RdmaErrors),
            Self::Other => Some(FamilyId::RdmaCounters),
            Self::NotACounter => None,
        }
    }

    /// The direction of bytes and packets.
    pub(super) const fn direction(self) -> Option<Direction> {
        match self {
            Self::Bytes(direction, _) | Self::Packets(direction) => Some(direction),
            _ => None,
        }
    }

    /// Bytes per unit; 1 of what is not bytes.
    pub(super) const fn scale(self) -> u64 {
        match self {
            Self::Bytes(_, scale) => scale,
            _ => 1,
        }
    }
}

/// Octets in the unit of `port_rcv_data` and `port_xmit_data` (`PortXmitData`, InfiniBand Architecture Specification, `PortCounters`).
const WORD: u64 = 4;

/// Returns the meaning of the counter `name`.
pub(super) fn meaning(folder: Folder, name: &str) -> Meaning {
    match folder {
        Folder::Standard => standard(name),
        // Of a device as a whole mlx5 has the same with a prefix.
        Folder::Hardware => hardware(name.strip_prefix("vport_").unwrap_or(name)),
    }
}

fn standard(name: &str) -> Meaning {
    match name {
        "port_xmit_data" => Meaning::Bytes(Direction::Transmit, WORD),
        "port_rcv_data" => Meaning::Bytes(Direction::Receive, WORD),
        "port_xmit_packets" => Meaning::Packets(Direction::Transmit),
        "port_rcv_packets" => Meaning::Packets(Direction::Receive),
        "port_xmit_wait" => Meaning::Congestion,
        "link_error_recovery" | "link_downed" | "port_xmit_discards" | "VL15_dropped" => Meaning::Errors,
        _ => by_ending(name),
    }
}

fn hardware(name: &str) -> Meaning {
    match name {
        "lifespan" => Meaning::NotACounter,
        "tx_bytes" | "sent_bytes" | "ip4OutOctets" | "ip6OutOctets" | "rdma_tx_bytes" | "hw_tx_bytes_cnt" => {
            Meaning::Bytes(Direction::Transmit, 1)
        }
        "rx_bytes" | "rcvd_bytes" | "ip4InOctets" | "ip6InOctets" | "rdma_rx_bytes" | "hw_rx_bytes_cnt" => {
            Meaning::Bytes(Direction::Receive, 1)
        }
        "tx_pkts" | "sent_pkts" | "ip4OutPkts" | "ip6OutPkts" | "rdma_tx_packets" | "hw_tx_packets_cnt" => {
            Meaning::Packets(Direction::Transmit)
        }
        "rx_pkts" | "rcvd_pkts" | "ip4InPkts" | "ip6InPkts" | "rdma_rx_packets" | "hw_rx_packets_cnt" => {
            Meaning::Packets(Direction::Receive)
        }
        // mlx5
        "duplicate_request" | "rnr_nak_retry_err" | "packet_seq_err" | "implied_nak_seq_err"
        | "local_ack_timeout_err" | "out_of_sequence" | "roce_adp_retrans" | "roce_adp_retrans_to"
        // bnxt_re
        | "to_retransmits" | "seq_err_naks_rcvd" | "rnr_naks_rcvd" | "dup_req" | "oos_drop_count"
        // irdma
        | "tcpRetransSegs" | "RetransSegs" | "RNR sent" | "RNR received" | "Nak Sequence Error"
        | "Nak Sequence Error Implied" | "RTO" | "Rcvd Out of order packets"
        // rxe
        | "out_of_seq_request" | "rcvd_rnr_err" | "send_rnr_err" | "rcvd_seq_err" | "completer_retry_err"
        // efa
        | "retrans_pkts" | "retrans_timeout_events" => Meaning::Retries,
        // mlx5
        "rp_cnp_handled" | "rp_cnp_ignored" | "np_cnp_sent" | "np_ecn_marked_roce_packets"
        | "roce_slow_restart" | "roce_slow_restart_cnps" | "roce_slow_restart_trans" | "cc_rx_ce_pkts"
        | "cc_rx_cnp_pkts" | "cc_tx_cnp_pkts"
        // bnxt_re
        | "rx_cnp_pkts" | "tx_cnp_pkts" | "rx_ecn_marked_pkts" | "pacing_reschedule" | "pacing_complete"
        | "pacing_alerts"
        // irdma
        | "cnpHandled" | "cnpIgnored" | "cnpSent" | "RxECNMrkd" => Meaning::Congestion,
        // mlx5
        "out_of_buffer" | "rx_icrc_encapsulated" | "req_transport_retries_exceeded" | "req_rnr_retries_exceeded"
        | "req_remote_invalid_request"
        // bnxt_re
        | "rx_out_of_buffer" | "rx_roce_discards" | "tx_roce_discards" | "max_retry_exceeded" | "missing_resp"
        // irdma
        | "ip4InDiscards" | "ip6InDiscards" | "ip4InTruncatedPkts" | "ip6InTruncatedPkts" | "ip4OutNoRoutes"
        | "ip6OutNoRoutes"
        // rxe
        | "link_downed"
        // efa
        | "rx_drops" | "impaired_remote_conn_events" | "unresponsive_remote_events" => Meaning::Errors,
        // bnxt_re: responder errors.
        _ if name.starts_with("res_") => Meaning::Errors,
        // bnxt_re: objects that exist now, and the most that existed.
        _ if name.starts_with("active_") || name.starts_with("watermark_") => Meaning::NotACounter,
        _ => by_ending(name),
    }
}

fn by_ending(name: &str) -> Meaning {
    let is_error = ["_err", "_error", "_errors", "_errs", "Errors", " errors"];
    if is_error.iter().any(|ending| name.ends_with(ending)) {
        Meaning::Errors
    } else {
        Meaning::Other
    }
}

/// Whether a counter of this name and driver has 32 bits, whose wrap is not a reset: the queue counters of mlx5
/// (`query_q_counter_out_bits` in `include/linux/mlx5/mlx5_ifc.h`). Its other counters have 64 bits, and those of the InfiniBand
/// specification stop at their largest value.
pub(super) fn has_32_bits(driver: &str, folder: Folder, name: &str) -> bool {
    let is_wide = |name: &str| {
        name.starts_with("rp_cnp_")
            || name.starts_with("np_")
            || name.starts_with("cc_")
            || name.starts_with("rdma_")
            || name == "rx_icrc_encapsulated"
    };
    driver == "mlx5_core" && folder == Folder::Hardware && !is_wide(name)
}

/// Returns whether a value can be the count of a device. A device that has left the bus returns all ones at each read, and none counts
/// to half of the range: bytes at 8.8 Tb/s take 97 days per 2^63.
pub(super) const fn is_count(value: u64) -> bool {
    value < 1 << 63
}

/// Units per second that no counter reaches: bytes of a port at 8.8 Tb/s.
const FASTEST: u64 = 1 << 40;

/// The most that a counter can have counted since a reading. The slack is for clocks and for drivers that refresh their values less often than they
/// are read.
fn most(elapsed: Duration) -> u64 {
    const SLACK_SECONDS: u64 = 2;
    FASTEST.saturating_mul(elapsed.as_secs().saturating_add(SLACK_SECONDS))
}

/// A value, and when it was read.
#[derive(Clone, Copy, Debug)]
struct Sample {
    value: u64,
    at: Instant,
}

impl Sample {
    /// The increase to a later value, if it is one that a counter can have made.
    fn increase_to(self, later: Self) -> Option<u64> {
        let increase = later.value.checked_sub(self.value)?;
        (increase <= most(later.at.saturating_duration_since(self.at))).then_some(increase)
    }
}

/// The difference that a reading makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Increase(u64),
    /// The counter began again; so much has come since.
    Reset(u64),
    /// Not a count of this counter: a broken value, or the first one of another count.
    Implausible,
}

/// A counter from one reading to the next.
#[derive(Debug)]
pub(super) struct Progress {
    last: Sample,
    /// The reading since, if it was implausible.
    doubtful: Option<Sample>,
    has_32_bits: bool,
}

impl Progress {
    pub(super) const fn new(value: u64, at: Instant, has_32_bits: bool) -> Self {
        Self {
            last: Sample { value, at },
            doubtful: None,
            has_32_bits,
        }
    }

    /// Takes a reading. A single value that is far above the others changes nothing: the next one is compared with the last that was
    /// plausible. Two that fit each other are another count, which goes on from the first of them.
    pub(super) fn step(&mut self, value: u64, at: Instant) -> Step {
        let now = Sample { value, at };
        let step = if let Some(increase) = self.last.increase_to(now) {
            Step::Increase(increase)
        } else if value < self.last.value {
            self.fallen_to(now)
        } else if let Some(since) = self.doubtful.and_then(|doubtful| doubtful.increase_to(now)) {
            Step::Reset(since)
        } else {
            self.doubtful = Some(now);
            return Step::Implausible;
        };
        (self.last, self.doubtful) = (now, None);
        step
    }

    fn fallen_to(&self, now: Sample) -> Step {
        let last = self.last.value;
        let wrapped = (1_u64 << 32).saturating_sub(last) + now.value;
        // A wrap in one interval is nearer than a counter that fell from its upper half: half of its range does not go by so soon.
        if self.has_32_bits && last < 1 << 32 && wrapped < 1 << 31 {
            return Step::Increase(wrapped);
        }
        // Its value has come since it was 0, unless that is more than the time allows.
        let zero = Sample {
            value: 0,
            ..self.last
        };
        Step::Reset(zero.increase_to(now).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of the readings after the first, one per second.
    fn steps(readings: &[u64], has_32_bits: bool) -> Vec<Step> {
        let mut at = Instant::now();
        let (first, rest) = readings.split_first().unwrap();
        let mut progress = Progress::new(*first, at, has_32_bits);
        let steps = rest.iter().map(|value| {
            at += Duration::from_secs(1);
            progress.step(*value, at)
        });
        steps.collect()
    }

    #[test]
    fn a_counter_that_falls_has_wrapped_or_was_reset() {
        let top = (1_u64 << 32) - 10;
        assert_eq!(steps(&[5, 5, 12], false), [Step::Increase(0), Step::Increase(7)]);
        assert_eq!(steps(&[top, 4], true), [Step::Increase(14)]);
        // Of 64 bits there is no wrap.
        assert_eq!(steps(&[top, 4], false), [Step::Reset(4)]);
        // From far below the top it was reset.
        assert_eq!(steps(&[1_000, 4], true), [Step::Reset(4)]);
        assert_eq!(steps(&[u64::MAX, 4], true), [Step::Reset(4)]);
        assert_eq!(steps(&[9, 0], true), [Step::Reset(0)]);
    }

    #[test]
    fn a_value_that_is_far_too_large_is_left_out_and_the_counter_goes_on() {
        let old = 5_u64 << 50;
        for broken in [1 << 60, u64::MAX] {
            assert_eq!(
                steps(&[old, old + 1, broken, old + 8, old + 9], false),
                [
                    Step::Increase(1),
                    Step::Implausible,
                    Step::Increase(7),
                    Step::Increase(1)
                ]
            );
        }
        // Two such values that have nothing to do with each other are not a count.
        assert_eq!(
            steps(&[7, 1 << 60, 1 << 55, 1 << 61, 9], false),
            [
                Step::Implausible,
                Step::Implausible,
                Step::Implausible,
                Step::Increase(2)
            ]
        );
    }

    #[test]
    fn a_count_that_began_elsewhere_goes_on_from_there() {
        let old = 5_u64 << 50;
        // A single 0 from a driver that starts: then the count of before is one from elsewhere.
        assert_eq!(
            steps(&[old, 0, old + 3, old + 5, old + 6], false),
            [
                Step::Reset(0),
                Step::Implausible,
                Step::Reset(2),
                Step::Increase(1)
            ]
        );
        // Down to more than the device can have counted since.
        assert_eq!(
            steps(&[2 * old, old, old + 4], false),
            [Step::Reset(0), Step::Increase(4)]
        );
    }

    #[test]
    fn a_device_that_was_away_for_long_may_have_counted_much() {
        let (start, hour) = (Instant::now(), Duration::from_secs(3600));
        let terabytes = 100_u64 << 40;
        let mut progress = Progress::new(1, start, false);
        assert_eq!(
            progress.step(1 + terabytes, start + hour),
            Step::Increase(terabytes)
        );
        assert_eq!(
            progress.step(1 + 2 * terabytes, start + hour + Duration::from_secs(1)),
            Step::Implausible
        );
    }

    #[test]
    fn only_queue_counters_of_mlx5_wrap() {
        assert!(has_32_bits("mlx5_core", Folder::Hardware, "out_of_sequence"));
        for (driver, folder, name) in [
            ("mlx5_core", Folder::Hardware, "np_cnp_sent"),
            ("mlx5_core", Folder::Standard, "port_rcv_data"),
            ("bnxt_en", Folder::Hardware, "to_retransmits"),
            ("", Folder::Hardware, "duplicate_request"),
        ] {
            assert!(!has_32_bits(driver, folder, name), "{driver} {name}");
        }
    }

    #[test]
    fn names_that_no_table_has_are_errors_by_their_ending_or_shown_as_they_are() {
        let hardware = |name| meaning(Folder::Hardware, name);
        assert_eq!(hardware("some_new_err"), Meaning::Errors);
        assert_eq!(hardware("some_new_thing"), Meaning::Other);
        assert_eq!(hardware("vport_out_of_sequence"), Meaning::Retries);
        assert_eq!(hardware("lifespan"), Meaning::NotACounter);
        assert_eq!(hardware("active_qps"), Meaning::NotACounter);
        assert_eq!(meaning(Folder::Standard, "symbol_error"), Meaning::Errors);
        assert_eq!(meaning(Folder::Standard, "unicast_rcv_packets"), Meaning::Other);
    }
}
