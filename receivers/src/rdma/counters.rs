//! Meanings of the counters of RDMA devices, by their names.
//!
//! The kernel has no list of them: `counters/` has those of the InfiniBand specification (`drivers/infiniband/core/sysfs.c`),
//! `hw_counters/` those of the driver. Names are those of mlx5 (`counters.c`), `bnxt_re` (`hw_counters.c`), irdma (`verbs.c`), efa
//! (`efa_verbs.c`), erdma (`erdma_verbs.c`) and rxe (`rxe_hw_counters.c`) in `drivers/infiniband`. Of others what the name ends with
//! decides; what is left is shown as it is.

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

/// The increase of a counter, and whether it was reset since.
pub(super) const fn increase(last: u64, now: u64, has_32_bits: bool) -> (u64, bool) {
    if now >= last {
        return (now - last, false);
    }
    let wrapped = (1_u64 << 32).saturating_sub(last) + now;
    // A wrap in one interval is nearer than a counter that fell from its upper half: half of its range does not go by so soon.
    if has_32_bits && last < 1 << 32 && wrapped < 1 << 31 {
        (wrapped, false)
    } else {
        (now, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_falls_has_wrapped_or_was_reset() {
        let top = (1_u64 << 32) - 10;
        assert_eq!(increase(5, 5, false), (0, false));
        assert_eq!(increase(5, 12, true), (7, false));
        assert_eq!(increase(top, 4, true), (14, false));
        // Of 64 bits there is no wrap.
        assert_eq!(increase(top, 4, false), (4, true));
        // From far below the top it was reset.
        assert_eq!(increase(1_000, 4, true), (4, true));
        assert_eq!(increase(u64::MAX, 4, true), (4, true));
        assert_eq!(increase(9, 0, true), (0, true));
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
