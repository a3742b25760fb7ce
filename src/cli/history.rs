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
    /// Records of this exporter `file` of the config; may be given again
    #[arg(long, value_name = "NAME", conflicts_with = "path")]
    pub(crate) exporter: Vec<String>,
    /// Records that this pipeline wrote, such as logs/all
    #[arg(long, value_name = "NAME")]
    pub(crate) pipeline: Option<String>,
    /// Records that end at this time or later: 10:00 (the most recent one, UTC), 2026-01-02T10:00:00Z, 2026-01-02, or 2h (ago)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) from: Option<Moment>,
    /// Records that end before this time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) to: Option<Moment>,
    /// Connections and UDP flows with this address, or one of this range
    #[arg(long, value_name = "ADDRESS[/BITS]", value_parser = network)]
    pub(crate) peer: Option<Network>,
    /// Connections that failed, and UDP flows with an error
    #[arg(long)]
    pub(crate) failed: bool,
    /// Grouping, a line each; `record` with --peer or --failed, else `peer`
    #[arg(long, value_enum)]
    pub(crate) by: Option<By>,
    /// The order, the largest or latest first
    #[arg(long, value_enum, default_value_t)]
    pub(crate) sort: SortBy,
    /// Maximum number of lines
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
    /// The port of the end that accepted the connection; 443/udp of UDP flows
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

/// A time as it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    At(Timestamp),
    /// A time of day, in UTC: which day is decided with the other end of the range.
    Clock(Duration),
}

/// The times that are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) from: Option<Timestamp>,
    pub(crate) to: Option<Timestamp>,
}

impl Range {
    /// The range between two times as they are given. A time of day is the last one that was; but if the range would not end after its
    /// beginning then, the end is later today, or the beginning is on a day before.
    pub(crate) fn new(from: Option<Moment>, to: Option<Moment>, now: SystemTime) -> Self {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let today = Duration::from_secs(now.as_secs() / DAY.as_secs() * DAY.as_secs());
        let last = |moment| match moment {
            Moment::At(at) => Duration::from_nanos(at.as_nanos()),
            Moment::Clock(clock) if today + clock > now => (today + clock).saturating_sub(DAY),
            Moment::Clock(clock) => today + clock,
        };
        let (mut begin, mut end) = (from.map(last), to.map(last));
        if let (Some(first), Some(last)) = (begin, end)
            && first >= last
            && from != to
        {
            let is_clock = |moment| matches!(moment, Some(Moment::Clock(_)));
            if is_clock(to) && last + DAY > first && last + DAY < today + DAY {
                end = Some(last + DAY);
            } else if is_clock(from) {
                // On the day of the end, or the day before.
                let days = first.saturating_sub(last).as_secs() / DAY.as_secs() + 1;
                begin = u32::try_from(days)
                    .ok()
                    .map(|days| first.saturating_sub(DAY.saturating_mul(days)));
            }
        }
        let timestamp =
            |at: Duration| Timestamp::from_nanos(u64::try_from(at.as_nanos()).unwrap_or(u64::MAX));
        Self {
            from: begin.map(timestamp),
            to: end.map(timestamp),
        }
    }
}

fn moment(text: &str) -> Result<Moment, String> {
    moment_at(text, SystemTime::now())
}

fn moment_at(text: &str, now: SystemTime) -> Result<Moment, String> {
    if let Some(clock) = clock(text) {
        return Ok(Moment::Clock(clock));
    }
    let time = if let Some(time) = date(text)? {
        time
    } else {
        let ago = humantime::parse_duration(text).map_err(|_| {
            "expected a time of day (10:00, UTC), a date (2026-01-02), both (2026-01-02T10:00:00Z), or how long ago (2h)"
        })?;
        now.checked_sub(ago).ok_or(OUT_OF_RANGE)?
    };
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_err(|_| OUT_OF_RANGE)?;
    let nanos = u64::try_from(since.as_nanos()).map_err(|_| OUT_OF_RANGE)?;
    Ok(Moment::At(Timestamp::from_nanos(nanos)))
}

/// Times are nanoseconds since 1970 in 64 bits.
const OUT_OF_RANGE: &str = "is out of range: expected a time from 1970 to 2554";

const DAY: Duration = Duration::from_secs(86_400);

/// `10:00` or `10:00:30`, as the time since midnight.
fn clock(text: &str) -> Option<Duration> {
    let mut parts = text.split(':').map(|part| {
        let digits = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| part.parse::<u64>().ok()).flatten()
    });
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next().unwrap_or(Some(0))?);
    if parts.next().is_some() || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    Some(Duration::from_secs((hour * 60 + minute) * 60 + second))
}

/// `None` if it does not have the form of a date.
fn date(text: &str) -> Result<Option<SystemTime>, String> {
    let full = match text.len() {
        10 => format!("{text}T00:00:00Z"),
        16 => format!("{text}:00Z"),
        _ => text.to_owned(),
    };
    match humantime::parse_rfc3339_weak(&full) {
        Ok(time) => Ok(Some(time)),
        Err(humantime::TimestampError::OutOfRange) => Err(match full.get(..4).map(str::parse::<u32>) {
            Some(Ok(..1970)) => OUT_OF_RANGE.to_owned(),
            _ => "not a valid day or time; expected a month from 01 to 12, a day that the month has, and a time from 00:00:00 to 23:59:59"
                .to_owned(),
        }),
        Err(_) => Ok(None),
    }
}

fn network(text: &str) -> Result<Network, String> {
    const MAPPED: u8 = 96;
    let range = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| "expected an address such as 192.0.2.7, or a range such as 192.0.2.0/24")?;
    if range.addr() != range.network() {
        return Err(format!(
            "names a host, not a range; hint: write `{}` for the range, or `{}` for the host",
            range.trunc(),
            range.addr()
        ));
    }
    // Records have the IPv4 address of a connection over an IPv6 socket.
    let network = match range.addr().to_canonical() {
        address @ IpAddr::V4(_) if range.addr().is_ipv6() && range.prefix_len() >= MAPPED => {
            Network::new(address, range.prefix_len() - MAPPED)
        }
        _ => Network::new(range.addr(), range.prefix_len()),
    };
    network.ok_or_else(|| "has more bits than an address".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_of_the_day_of_a_date_or_ago() {
        let now = humantime::parse_rfc3339("2026-01-02T12:00:00Z").unwrap();
        let shown = |text| {
            let at = Range::new(Some(moment_at(text, now).ok()?), None, now).from?;
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
    fn times_of_day_are_of_the_days_that_make_a_range() {
        let range = |now: &str, from: &str, to: &str| {
            let now = humantime::parse_rfc3339(now).unwrap();
            let moment = |text| Some(moment_at(text, now).unwrap());
            let range = Range::new(moment(from), moment(to), now);
            let shown = |at: Option<Timestamp>| {
                let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(at.unwrap().as_nanos());
                humantime::format_rfc3339_seconds(at).to_string()[5..16].to_owned()
            };
            format!("{} {}", shown(range.from), shown(range.to))
        };
        let early = "2026-11-29T08:41:00Z";
        let noon = "2026-11-29T12:00:00Z";
        for (now, from, to, expected) in [
            (early, "08:00", "09:30", "11-29T08:00 11-29T09:30"),
            (early, "08:00", "08:30", "11-29T08:00 11-29T08:30"),
            (early, "09:00", "10:00", "11-28T09:00 11-28T10:00"),
            (early, "23:00", "01:00", "11-28T23:00 11-29T01:00"),
            (noon, "11:00", "10:00", "11-28T11:00 11-29T10:00"),
            (early, "1h", "09:30", "11-29T07:41 11-29T09:30"),
            (early, "2026-11-29", "09:30", "11-29T00:00 11-29T09:30"),
            (early, "2026-11-28", "09:30", "11-28T00:00 11-28T09:30"),
            (early, "08:00", "2026-11-20T09:00", "11-20T08:00 11-20T09:00"),
            (early, "22:00", "2026-11-20T09:00", "11-19T22:00 11-20T09:00"),
            (early, "08:00", "2026-11-20T08:00", "11-19T08:00 11-20T08:00"),
            // No reading makes sense of these: they are errors.
            (early, "08:00", "08:00", "11-29T08:00 11-29T08:00"),
            (noon, "2026-11-29T11:00", "10:00", "11-29T11:00 11-29T10:00"),
        ] {
            assert_eq!(range(now, from, to), expected, "{now} {from} {to}");
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
        assert_eq!(
            network("198.18.0.1/8").unwrap_err(),
            "names a host, not a range; hint: write `198.0.0.0/8` for the range, or `198.18.0.1` for the host"
        );
        for (mapped, expected) in [
            ("::ffff:198.18.0.5", "198.18.0.5"),
            ("::ffff:198.18.0.0/112", "198.18.0.0/16"),
        ] {
            assert_eq!(network(mapped), network(expected), "{mapped}");
        }
    }

    #[test]
    fn a_time_that_can_not_be_is_refused_with_the_reason() {
        let now = humantime::parse_rfc3339("2026-01-02T12:00:00Z").unwrap();
        for (text, reason) in [
            ("9999-12-31", "from 1970 to 2554"),
            ("1969-01-01", "from 1970 to 2554"),
            ("1000y", "from 1970 to 2554"),
            ("2026-02-30", "a day that the month has"),
            ("2026-13-01", "a month from 01 to 12"),
            ("2026-01-02T25:00:00Z", "not a valid day or time"),
            ("yesterday", "expected a time of day"),
        ] {
            let error = moment_at(text, now).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
