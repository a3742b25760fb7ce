//! The receiver on recorded trees of sysfs.
//!
//! The trees in `tests/rdma` hold the names of counters that the kernel's sources have for three drivers; each says which files. Their
//! values are made up, and different ones, so that none passes for another.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use flowtap_pipeline::catalog::{FamilyId, Label};
use flowtap_pipeline::{BuildContext, ComponentConfig, ReadingRecord, ReadingValue};

use super::config::Config;
use super::looks::Looks;
use super::pairs::Pairs;
use super::queue_pairs::QueuePair;
use super::telemetry::Telemetry;

const MLX5: &str = include_str!("../../../tests/rdma/mlx5.tree");
const BNXT_RE: &str = include_str!("../../../tests/rdma/bnxt_re.tree");
const IRDMA: &str = include_str!("../../../tests/rdma/irdma.tree");

fn telemetry() -> Telemetry {
    Telemetry::new(&BuildContext::new("rdma".parse().unwrap()))
}

/// A separate sysfs.
struct Sysfs {
    root: tempfile::TempDir,
}

impl Sysfs {
    /// With the devices of `trees`: lines `path: text`, and `path -> target` of links.
    fn new(trees: &[&str]) -> Self {
        let sysfs = Self {
            root: tempfile::tempdir().unwrap(),
        };
        for line in trees.iter().flat_map(|tree| tree.lines()) {
            if line.starts_with('#') {
                continue;
            }
            if let Some((path, target)) = line.split_once(" -> ") {
                let path = sysfs.path(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::os::unix::fs::symlink(target, path).unwrap();
            } else {
                let (path, text) = line.split_once(": ").unwrap();
                sysfs.set(path, text);
            }
        }
        sysfs
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn set(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }

    /// Adds to the number in a file.
    fn add(&self, path: &str, count: u64) {
        let before: u64 = fs::read_to_string(self.path(path))
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        self.set(path, &(before + count).to_string());
    }

    fn reader(&self, config: &Config) -> Looks {
        let config = Config {
            sysfs_root: self.root.path().to_owned(),
            queue_pairs: false,
            ..config.clone()
        };
        Looks::new(&config, telemetry())
    }
}

/// Increases by family and labels, those of 0 left out, and levels.
fn shown(readings: &[ReadingRecord]) -> BTreeMap<String, u64> {
    let mut shown = BTreeMap::new();
    for reading in readings {
        let labels: Vec<_> = reading.labels.iter().map(|(_, value)| value).collect();
        let name = reading.family.strip_prefix("network_rdma_").unwrap();
        let series = format!("{name} {}", labels.join(" "));
        match reading.value {
            ReadingValue::Increase(0) => {}
            ReadingValue::Increase(value) => *shown.entry(series).or_default() += value,
            ReadingValue::Level(value) => *shown.entry(format!("{series} is")).or_default() += value,
            ReadingValue::Ended => *shown.entry(format!("{series} ended")).or_default() += 1,
        }
    }
    shown
}

/// The same without levels.
fn increases(readings: &[ReadingRecord]) -> BTreeMap<String, u64> {
    let mut increases = shown(readings);
    increases.retain(|series, _| !series.ends_with(" is"));
    increases
}

fn map<const N: usize>(pairs: [(&str, u64); N]) -> BTreeMap<String, u64> {
    let pairs = pairs.into_iter();
    pairs.map(|(series, value)| (series.to_owned(), value)).collect()
}

/// Names of the counters in each family, from the first look at a tree, which opens every series.
fn names(tree: &str) -> BTreeMap<String, Vec<String>> {
    let mut names = BTreeMap::<String, Vec<String>>::new();
    for reading in Sysfs::new(&[tree]).reader(&Config::default()).look() {
        let name = match reading.value {
            ReadingValue::Increase(0) => reading
                .labels
                .get(Label::Counter)
                .or(reading.labels.get(Label::Direction)),
            _ => None,
        };
        let family = reading.family.strip_prefix("network_rdma_").unwrap().to_owned();
        names.entry(family).or_default().extend(name.map(str::to_owned));
    }
    names
}

const PORT: &str = "class/infiniband/mlx5_0/ports/1";

#[test]
fn every_counter_of_mlx5_is_in_the_family_of_its_meaning() {
    let names = names(MLX5);
    assert_eq!(names["bytes"], ["receive", "transmit"]);
    assert_eq!(names["packets"], ["receive", "transmit"]);
    assert_eq!(
        names["retries"].join(" "),
        "duplicate_request implied_nak_seq_err local_ack_timeout_err out_of_sequence packet_seq_err rnr_nak_retry_err \
         roce_adp_retrans roce_adp_retrans_to"
    );
    assert_eq!(
        names["congestion"].join(" "),
        "port_xmit_wait np_cnp_sent np_ecn_marked_roce_packets roce_slow_restart roce_slow_restart_cnps roce_slow_restart_trans \
         rp_cnp_handled rp_cnp_ignored"
    );
    assert_eq!(
        names["errors"].join(" "),
        "VL15_dropped excessive_buffer_overrun_errors link_downed link_error_recovery local_link_integrity_errors \
         port_rcv_constraint_errors port_rcv_errors port_rcv_remote_physical_errors port_rcv_switch_relay_errors \
         port_xmit_constraint_errors port_xmit_discards symbol_error out_of_buffer req_cqe_error req_cqe_flush_error \
         req_remote_access_errors req_remote_invalid_request req_rnr_retries_exceeded req_transport_retries_exceeded \
         resp_cqe_error resp_cqe_flush_error resp_local_length_error resp_remote_access_errors rx_icrc_encapsulated"
    );
    assert_eq!(
        names["counters"].join(" "),
        "multicast_rcv_packets multicast_xmit_packets unicast_rcv_packets unicast_xmit_packets rx_atomic_requests rx_dct_connect \
         rx_read_requests rx_write_requests"
    );
}

#[test]
fn every_counter_of_bnxt_re_is_in_the_family_of_its_meaning_and_its_objects_are_in_none() {
    let names = names(BNXT_RE);
    assert_eq!(names["bytes"], ["receive", "transmit"]);
    assert_eq!(names["packets"], ["receive", "transmit"]);
    assert_eq!(
        names["retries"].join(" "),
        "dup_req oos_drop_count rnr_naks_rcvd seq_err_naks_rcvd to_retransmits"
    );
    assert_eq!(names.get("congestion"), None);
    assert_eq!(
        names["counters"].join(" "),
        "rx_atomic_req rx_read_req rx_read_resp rx_roce_good_bytes rx_roce_good_pkts rx_send_req rx_write_req tx_atomic_req \
         tx_read_req tx_read_resp tx_send_req tx_write_req"
    );
    // Of the files 7 are numbers of objects, and one is a setting.
    let all: usize = names.values().map(Vec::len).sum();
    assert_eq!(all, BNXT_RE.matches("/hw_counters/").count() - 7 - 1);
    assert!(names["errors"].iter().all(|name| !name.starts_with("active_")));
}

#[test]
fn counters_of_irdma_by_ip_version_add_up_and_names_with_spaces_are_read() {
    let folder = "class/infiniband/rocep177s0f0/ports/1/hw_counters";
    let sysfs = Sysfs::new(&[IRDMA]);
    let mut reader = sysfs.reader(&Config::default());
    reader.look();
    for (name, count) in [
        ("ip4InOctets", 1_000),
        ("ip6InOctets", 30),
        ("ip4OutOctets", 7),
        ("ip6OutPkts", 2),
        ("tcpRetransSegs", 3),
        ("RNR sent", 4),
        ("cnpHandled", 5),
        ("ip4InDiscards", 6),
        ("iwInRdmaWrites", 8),
    ] {
        sysfs.add(&format!("{folder}/{name}"), count);
    }
    assert_eq!(
        shown(&reader.look()),
        map([
            ("bytes receive rocep177s0f0 1", 1_030),
            ("bytes transmit rocep177s0f0 1", 7),
            ("packets transmit rocep177s0f0 1", 2),
            ("retries rocep177s0f0 1 tcpRetransSegs", 3),
            ("retries rocep177s0f0 1 RNR sent", 4),
            ("congestion rocep177s0f0 1 cnpHandled", 5),
            ("errors rocep177s0f0 1 ip4InDiscards", 6),
            ("counters rocep177s0f0 1 iwInRdmaWrites", 8),
            ("link_up rocep177s0f0 1 is", 0),
            ("link_rate rocep177s0f0 1 is", 12_500_000_000),
        ])
    );
}

#[test]
fn data_of_the_standard_counters_is_in_words_of_four_bytes() {
    let sysfs = Sysfs::new(&[MLX5]);
    let mut reader = sysfs.reader(&Config::default());
    let first = reader.look();
    assert_eq!(
        increases(&first),
        map([]),
        "what was counted before is not counted"
    );
    sysfs.add(&format!("{PORT}/counters/port_rcv_data"), 100);
    sysfs.add(&format!("{PORT}/counters/port_xmit_data"), 25);
    sysfs.add(&format!("{PORT}/counters/port_rcv_packets"), 3);
    assert_eq!(
        increases(&reader.look()),
        map([
            ("bytes receive mlx5_0 1", 400),
            ("bytes transmit mlx5_0 1", 100),
            ("packets receive mlx5_0 1", 3),
        ])
    );
    assert_eq!(increases(&reader.look()), map([]));
}

#[test]
fn bytes_are_counted_once_where_a_port_has_them_in_both_folders() {
    let sysfs = Sysfs::new(&[MLX5]);
    let hardware = format!("{PORT}/hw_counters/rdma_rx_bytes");
    sysfs.set(&hardware, "5");
    let mut reader = sysfs.reader(&Config::default());
    reader.look();
    sysfs.add(&hardware, 40);
    sysfs.add(&format!("{PORT}/counters/port_rcv_data"), 10);
    let expected = map([
        ("bytes receive mlx5_0 1", 40),
        ("counters mlx5_0 1 rdma_rx_bytes", 40),
    ]);
    assert_eq!(increases(&reader.look()), expected);
    // Also while the standard one can't be read.
    sysfs.set(&format!("{PORT}/counters/port_rcv_data"), "N/A (no PMA)");
    sysfs.add(&hardware, 40);
    let expected = map([("counters mlx5_0 1 rdma_rx_bytes", 40)]);
    assert_eq!(increases(&reader.look()), expected);
}

#[test]
fn a_counter_that_both_folders_have_is_counted_once() {
    let sysfs = Sysfs::new(&[MLX5]);
    sysfs.set(&format!("{PORT}/hw_counters/link_downed"), "5");
    let mut reader = sysfs.reader(&Config::default());
    reader.look();
    for folder in ["counters", "hw_counters"] {
        sysfs.add(&format!("{PORT}/{folder}/link_downed"), 3);
    }
    let expected = map([("errors mlx5_0 1 link_downed", 3)]);
    assert_eq!(increases(&reader.look()), expected);
}

#[test]
fn a_broken_file_ends_nothing_and_counts_on_from_its_last_value() {
    let sysfs = Sysfs::new(&[MLX5, BNXT_RE]);
    let mut reader = sysfs.reader(&Config::default());
    reader.look();
    let broken = format!("{PORT}/counters/symbol_error");
    let before = fs::read_to_string(sysfs.path(&broken)).unwrap();
    let before: u64 = before.trim().parse().unwrap();
    let folder = format!("{PORT}/counters/port_rcv_errors");
    for text in [
        "N/A (no PMA)",
        "",
        "-1",
        "99999999999999999999",
        "18446744073709551615",
        "0x10",
    ] {
        sysfs.set(&broken, text);
        // A folder in its place returns an error at every read, also to root.
        fs::remove_file(sysfs.path(&folder)).unwrap();
        fs::create_dir(sysfs.path(&folder)).unwrap();
        sysfs.set(&format!("{PORT}/state"), "?");
        sysfs.add(&format!("{PORT}/counters/link_downed"), 1);
        sysfs.add("class/infiniband/bnxt_re0/ports/1/hw_counters/rx_bytes", 9);
        let readings = reader.look();
        let expected = map([
            ("errors mlx5_0 1 link_downed", 1),
            ("bytes receive bnxt_re0 1", 9),
        ]);
        assert_eq!(
            increases(&readings),
            expected,
            "{text}: a level of a broken file does not end"
        );
        fs::remove_dir(sysfs.path(&folder)).unwrap();
        sysfs.set(&folder, "1");
    }
    sysfs.set(&broken, &(before + 12).to_string());
    let expected = map([("errors mlx5_0 1 symbol_error", 12)]);
    let mut increased = increases(&reader.look());
    increased.remove("errors mlx5_0 1 port_rcv_errors");
    assert_eq!(increased, expected);
}

#[test]
fn a_reset_counts_what_came_after_it_and_a_wrap_of_32_bits_is_none() {
    let sysfs = Sysfs::new(&[MLX5]);
    let wraps = format!("{PORT}/hw_counters/out_of_sequence");
    let wide = format!("{PORT}/hw_counters/np_cnp_sent");
    for path in [&wraps, &wide] {
        sysfs.set(path, &(u32::MAX - 9).to_string());
    }
    let mut reader = sysfs.reader(&Config::default());
    reader.look();
    for path in [&wraps, &wide] {
        sysfs.set(path, "4");
    }
    sysfs.set(&format!("{PORT}/counters/port_rcv_data"), "3");
    assert_eq!(
        increases(&reader.look()),
        map([
            ("retries mlx5_0 1 out_of_sequence", 14),
            ("congestion mlx5_0 1 np_cnp_sent", 4),
            ("bytes receive mlx5_0 1", 12),
        ])
    );
}

#[test]
fn a_counter_goes_on_after_values_that_are_far_too_large() {
    let sysfs = Sysfs::new(&[MLX5]);
    let path = format!("{PORT}/counters/symbol_error");
    let series = "errors mlx5_0 1 symbol_error";
    // Also as the first reading: then it counts from the first value on.
    sysfs.set(&path, &u64::MAX.to_string());
    let mut reader = sysfs.reader(&Config::default());
    reader.look();
    sysfs.set(&path, "5000");
    assert_eq!(increases(&reader.look()), map([]));
    for broken in [u64::MAX, 1 << 63, 1 << 60] {
        sysfs.add(&path, 3);
        assert_eq!(increases(&reader.look()), map([(series, 3)]));
        let before = fs::read_to_string(sysfs.path(&path)).unwrap();
        sysfs.set(&path, &broken.to_string());
        assert_eq!(increases(&reader.look()), map([]), "{broken}");
        sysfs.set(&path, before.trim());
        sysfs.add(&path, 7);
        assert_eq!(increases(&reader.look()), map([(series, 7)]), "{broken}");
    }
}

#[test]
fn devices_come_and_go() {
    let sysfs = Sysfs::new(&[MLX5]);
    let mut reader = sysfs.reader(&Config::default());
    reader.look();
    let bytes = format!("{PORT}/counters/port_rcv_data");
    let (device, away) = (sysfs.path("class/infiniband/mlx5_0"), sysfs.path("away"));
    // Its driver is loaded again: the hardware has counted on.
    fs::rename(&device, &away).unwrap();
    assert_eq!(
        shown(&reader.look()),
        map([("link_up mlx5_0 1 ended", 1), ("link_rate mlx5_0 1 ended", 1)])
    );
    assert_eq!(shown(&reader.look()), map([]));
    fs::rename(&away, &device).unwrap();
    sysfs.add(&bytes, 5);
    let back = shown(&reader.look());
    assert_eq!(back.get("bytes receive mlx5_0 1"), Some(&20));
    assert_eq!(back.get("link_up mlx5_0 1 is"), Some(&1));
    // Another device of the same name counts from its first reading on.
    sysfs.set("class/infiniband/mlx5_0/node_guid", "0c42:a103:0099:9999");
    sysfs.add(&bytes, 1_000);
    assert_eq!(increases(&reader.look()), map([]));
    sysfs.add(&bytes, 1);
    assert_eq!(increases(&reader.look()), map([("bytes receive mlx5_0 1", 4)]));
}

#[test]
fn a_machine_without_rdma_has_no_readings() {
    let sysfs = Sysfs::new(&[]);
    assert_eq!(sysfs.reader(&Config::default()).look(), []);
}

#[test]
fn only_devices_that_the_config_names_are_read() {
    let sysfs = Sysfs::new(&[MLX5, BNXT_RE, IRDMA]);
    let devices = |devices: &[&str]| Config {
        devices: devices.iter().map(|&device| device.to_owned()).collect(),
        ..Config::default()
    };
    let mut reader = sysfs.reader(&devices(&["mlx5_*", "bnxt_re0"]));
    let of = |readings: &[ReadingRecord]| {
        let names = readings
            .iter()
            .filter_map(|reading| reading.labels.get(Label::Device));
        let mut names: Vec<_> = names.map(str::to_owned).collect();
        names.dedup();
        names
    };
    assert_eq!(of(&reader.look()), ["bnxt_re0", "mlx5_0"]);
    // A reload that leaves one out ends its levels, and the others count on.
    let config = Config {
        sysfs_root: sysfs.root.path().to_owned(),
        queue_pairs: false,
        ..devices(&["bnxt*"])
    };
    let mut reader = reader.with_config(&config, telemetry()).unwrap();
    sysfs.add("class/infiniband/bnxt_re0/ports/1/hw_counters/rx_bytes", 9);
    let readings = shown(&reader.look());
    assert_eq!(readings["bytes receive bnxt_re0 1"], 9);
    assert_eq!(readings["link_up mlx5_0 1 ended"], 1);
    let elsewhere = Config {
        sysfs_root: "/elsewhere".into(),
        ..config
    };
    assert!(reader.with_config(&elsewhere, telemetry()).is_err());
}

#[test]
fn queue_pairs_are_counted_by_process_and_those_beyond_the_limit_together() {
    let pair = |pid: u32, state: u8| QueuePair {
        device: "mlx5_0".to_owned(),
        port: 1,
        qp_type: 2,
        state,
        pid,
        comm: "nccl\u{1b}".to_owned(),
    };
    let (mut reader, telemetry) = (Pairs::default(), telemetry());
    let mut look = |pairs: std::io::Result<Vec<QueuePair>>| {
        let mut readings = Vec::new();
        reader.read("mlx5_0", pairs, &telemetry, &mut readings);
        readings
    };
    assert_eq!(
        shown(&look(Ok(vec![pair(7, 3), pair(7, 3), pair(8, 6)]))),
        map([
            (r"queue_pairs 7 nccl\x1b mlx5_0 1 RC RTS is", 2),
            (r"queue_pairs 8 nccl\x1b mlx5_0 1 RC ERR is", 1),
        ])
    );
    // A dump that fails changes nothing.
    assert_eq!(shown(&look(Err(std::io::Error::other("busy")))), map([]));
    assert_eq!(
        shown(&look(Ok(vec![pair(7, 3)]))),
        map([
            (r"queue_pairs 7 nccl\x1b mlx5_0 1 RC RTS is", 1),
            (r"queue_pairs 8 nccl\x1b mlx5_0 1 RC ERR ended", 1),
        ])
    );
    let many = (1..=5_000).map(|pid| pair(pid, 3)).collect();
    let readings = look(Ok(many));
    let levels = readings.iter().filter_map(|reading| match reading.value {
        ReadingValue::Level(level) => Some(level),
        _ => None,
    });
    assert_eq!(levels.clone().sum::<u64>(), 5_000);
    assert_eq!(levels.max(), Some(5_000 - 4_096));
}

#[test]
fn a_device_that_hangs_delays_no_other_and_continues_when_it_answers() {
    let sysfs = Sysfs::new(&[MLX5, IRDMA]);
    let mut looks = sysfs.reader(&Config::default());
    looks.look();
    let irdma = "class/infiniband/rocep177s0f0/ports/1";
    let (octets, broken) = (
        format!("{irdma}/hw_counters/ip4InOctets"),
        format!("{PORT}/counters/symbol_error"),
    );
    // A pipe that nobody writes to: opening it takes for ever, as a read does where a driver hangs.
    let number = fs::read_to_string(sysfs.path(&broken)).unwrap();
    let pipe = sysfs.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::remove_file(sysfs.path(&broken)).unwrap();
    fs::hard_link(&pipe, sysfs.path(&broken)).unwrap();
    looks.next_round();
    while looks.waiting().as_deref() != Some("mlx5_0") {
        looks.wait(std::time::Duration::from_millis(10));
    }
    looks.sorted();
    for round in 1..=4 {
        sysfs.add(&octets, 10);
        sysfs.set(&format!("{irdma}/state"), ["1: DOWN", "4: ACTIVE"][round % 2]);
        let readings = shown(&looks.look());
        assert_eq!(readings["bytes receive rocep177s0f0 1"], 10);
        assert_eq!(readings["link_up rocep177s0f0 1 is"], u64::from(round % 2 == 1));
        assert!(
            readings.keys().all(|series| !series.contains("mlx5_0")),
            "{readings:?}"
        );
        let late = looks.late().unwrap();
        assert!(
            late.contains("mlx5_0") && !late.contains("rocep177s0f0"),
            "{late}"
        );
    }
    // Another receiver takes it over, and does not look again at what hangs.
    let config = Config {
        sysfs_root: sysfs.root.path().to_owned(),
        queue_pairs: false,
        ..Config::default()
    };
    let mut looks = looks.with_config(&config, telemetry()).unwrap();
    assert_eq!(looks.waiting().as_deref(), Some("mlx5_0"));
    looks.look();
    assert_eq!(looks.waiting().as_deref(), Some("mlx5_0"));
    // It answers: nothing of what it counted meanwhile is missing.
    fs::remove_file(sysfs.path(&broken)).unwrap();
    sysfs.set(&broken, number.trim());
    sysfs.add(&format!("{PORT}/counters/port_rcv_data"), 5);
    fs::write(&pipe, &number).unwrap();
    let mut bytes = 0;
    while looks.waiting().is_some() || bytes == 0 {
        bytes += increases(&looks.look())
            .get("bytes receive mlx5_0 1")
            .unwrap_or(&0);
    }
    assert_eq!(bytes, 20);
    assert_eq!(looks.late(), None);
}

#[test]
fn a_config_that_can_read_nothing_is_refused() {
    let faults = |config: Config| {
        let faults = config.validate().into_iter();
        faults.map(|fault| fault.path.join(".")).collect::<Vec<_>>()
    };
    assert_eq!(faults(Config::default()), Vec::<String>::new());
    let config = Config {
        interval: std::time::Duration::from_millis(9),
        devices: vec!["mlx5_*".to_owned(), String::new(), "../etc".to_owned()],
        ..Config::default()
    };
    assert_eq!(faults(config), ["interval", "devices.1", "devices.2"]);
    let config = Config {
        devices: Vec::new(),
        ..Config::default()
    };
    assert_eq!(faults(config), ["devices"]);
    assert_eq!(Config::default().contract().reads, [Path::new("/sys")]);
    assert!(FamilyId::RdmaBytes.takes_readings());
}
