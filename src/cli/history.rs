//! The arguments of `history`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{Args, ValueEnum};
use flowtap_exporters::file::history::Network;
use flowtap_pipeline::Timestamp;
use ipnet::IpNet;

use super::sources::ConfigArgs;

/// Options of `history`.
#[derive(Args, Debug)]
pub(crate) struct HistoryArgs {
    /// Where the daemon's config comes from, to find the files of its exporters `file`
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The folder of the files, partitions included; may be given again. Without, those of the config
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) path: Vec<PathBuf>,
    /// Records that end at this time or later: 10:00 (the last one that was, UTC), 2026-01-02T10:00:00Z, 2026-01-02, or 2h (ago)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) from: Option<Timestamp>,
    /// Records that end before this time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) to: Option<Timestamp>,
    /// Connections with this address, or one of this range
    #[arg(long, value_name = "ADDRESS[/BITS]", value_parser = network)]
    pub(crate) peer: Option<Network>,
    /// Connections that failed
    #[arg(long)]
    pub(crate) failed: bool,
    /// Grouping, a line each; `record` with --peer or --failed, else `peer`
    #[arg(long, value_enum)]
    pub(crate) by: Option<By>,
    /// The order, the largest or latest first
    #[arg(long, value_enum, default_value_t)]
    pub(crate) sort: SortBy,
    /// Lines at most
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    pub(crate) limit: usize,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A grouping of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    /// The peer's address
    #[default]
    Peer,
    /// The name of the process on this node
    Process,
    /// Namespace and owner of the pod on this node
    Workload,
    /// The port of the end that accepted the connection
    Port,
    /// Nothing: each record is a line
    Record,
}

/// An order of lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum SortBy {
    /// Payload bytes in both directions
    #[default]
    Bytes,
    /// Payload bytes that this node sent
    Sent,
    /// Payload bytes that this node received
    Received,
    /// Retransmitted segments
    Retransmits,
    /// Failed connections
    Failed,
    /// Number of records
    Records,
    /// The time of the last record
    Time,
}

/// A moment, from now if that matters.
fn moment(text: &str) -> Result<Timestamp, String> {
    moment_at(text, SystemTime::now())
}

fn moment_at(text: &str, now: SystemTime) -> Result<Timestamp, String> {
    let since_epoch = |time: SystemTime| {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(Timestamp::from_nanos(u64::try_from(since.as_nanos()).ok()?))
    };
    let found = clock(text, now)
        .or_else(|| date(text))
        .or_else(|| now.checked_sub(humantime::parse_duration(text).ok()?));
    found.and_then(since_epoch).ok_or_else(|| {
        "expected a time of day (10:00, UTC), a date (2026-01-02), both (2026-01-02T10:00:00Z), or how long ago (2h)".to_owned()
    })
}

/// Seconds of a day.
const DAY: u64 = 86_400;

/// `10:00` or `10:00:30`: today, or yesterday if that is still to come.
fn clock(text: &str, now: SystemTime) -> Option<SystemTime> {
    let mut parts = text.split(':').map(|part| {
        let digits = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| part.parse::<u64>().ok()).flatten()
    });
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next().unwrap_or(Some(0))?);
    if parts.next().is_some() || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let today = now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs() / DAY * DAY;
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(today + (hour * 60 + minute) * 60 + second);
    if at > now {
        return at.checked_sub(Duration::from_secs(DAY));
    }
    Some(at)
}

fn date(text: &str) -> Option<SystemTime> {
    let full = match text.len() {
        10 => format!("{text}T00:00:00Z"),
        16 => format!("{text}:00Z"),
        _ => text.to_owned(),
    };
    humantime::parse_rfc3339_weak(&full).ok()
}

fn network(text: &str) -> Result<Network, String> {
    let found = match text.parse::<IpNet>() {
        Ok(range) => Network::new(range.addr(), range.prefix_len()),
        Err(_) => text
            .parse()
            .ok()
            .and_then(|address: IpAddr| Network::new(address, if address.is_ipv4() { 32 } else { 128 })),
    };
    found.ok_or_else(|| "expected an address such as 192.0.2.7, or a range such as 192.0.2.0/24".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_of_the_day_of_a_date_or_ago() {
        let now = humantime::parse_rfc3339("2026-01-02T12:00:00Z").unwrap();
        let shown = |text| {
            let at = moment_at(text, now).ok()?;
            let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(at.as_nanos());
            Some(humantime::format_rfc3339_seconds(at).to_string())
        };
        for (text, expected) in [
            ("10:00", "2026-01-02T10:00:00Z"),
            ("10:00:30", "2026-01-02T10:00:30Z"),
            ("12:00", "2026-01-02T12:00:00Z"),
            ("12:01", "2026-01-01T12:01:00Z"),
            ("2025-12-31", "2025-12-31T00:00:00Z"),
            ("2025-12-31 23:30", "2025-12-31T23:30:00Z"),
            ("2025-12-31T23:30:01Z", "2025-12-31T23:30:01Z"),
            ("2h", "2026-01-02T10:00:00Z"),
            ("90min", "2026-01-02T10:30:00Z"),
        ] {
            assert_eq!(shown(text).as_deref(), Some(expected), "{text}");
        }
        for bad in [
            "",
            "25:00",
            "10:60",
            "1:00",
            "10",
            "10:00:00:00",
            "yesterday",
            "2026-13-01",
            "-1h",
        ] {
            assert_eq!(shown(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_peer_is_an_address_or_a_range() {
        for good in ["192.0.2.7", "192.0.2.0/24", "2001:db8::1", "::/0"] {
            assert!(network(good).is_ok(), "{good}");
        }
        for bad in ["", "192.0.2", "192.0.2.0/33", "example.com"] {
            assert!(network(bad).is_err(), "{bad}");
        }
    }
}
