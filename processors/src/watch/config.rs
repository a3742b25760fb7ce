//! Config of the processor `watch`.

use std::fmt;
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flowtap_pipeline::schema::DurationText;
use flowtap_pipeline::{ComponentConfig, Contract, PipelineId, RecordField, Signal, Violation};
use schemars::JsonSchema;
use serde::de::{self, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::bounds;
use super::paths::folder_of;
use super::state::{is_of_another, target};

/// Settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Learning period, in which nothing is reported. Counted over restarts if there is a `state_file`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub learn: Duration,
    /// Length of the periods that are compared. At least 1s.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub interval: Duration,
    /// Minimum time between findings of the same kind about the same ends.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub repeat: Duration,
    /// Time after which a contact that is no longer seen is forgotten. At least `learn` and `interval`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub forget: Duration,
    /// Maximum number of contacts that are remembered: a subject, the other end, a port. At most 1,000 bytes each. Those
    /// beyond are counted, and nothing is found about them.
    pub max_contacts: NonZeroUsize,
    /// Maximum number of subjects that are remembered: workloads, containers, processes. Traffic of further ones is that of a
    /// subject `other`, and counted.
    pub max_subjects: NonZeroUsize,
    /// File in which what was learned survives a restart. null: it is learned anew.
    pub state_file: Option<PathBuf>,
    /// Pipeline whose state in `state_file` is used at the start if it has learned for longer and this one for less than `learn`: the
    /// name before a rename, or the pipeline that `watch` was in. null: none.
    pub state_of: Option<String>,
    /// Destinations that a workload has not talked to before.
    pub first_contact: FirstContact,
    /// Workloads that try many destinations or ports.
    pub fan_out: FanOut,
    /// Destinations to which connects begin to fail.
    pub failure_surge: FailureSurge,
    /// Traffic far beyond the usual.
    pub volume_surge: VolumeSurge,
    /// Small traffic at regular intervals.
    pub beacon: Beacon,
    /// Peers on the black list, and peers that are not on the white one.
    pub lists: Lists,
}

/// Destinations that a workload has not talked to before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FirstContact {
    /// Whether they are reported.
    pub enabled: bool,
    /// Prefix length by which IPv4 addresses without a name count as one destination.
    #[serde(deserialize_with = "prefix::<32, _>")]
    #[schemars(range(max = 32))]
    pub ipv4_prefix: u8,
    /// The same of IPv6.
    #[serde(deserialize_with = "prefix::<128, _>")]
    #[schemars(range(max = 128))]
    pub ipv6_prefix: u8,
}

/// Workloads that try many destinations or ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FanOut {
    /// Whether they are reported.
    pub enabled: bool,
    /// Addresses in one interval from which on it may be a scan, of the 8,192 that are counted. Four times the usual number and twice the
    /// largest usual one are needed as well.
    pub destinations: NonZeroUsize,
    /// The same of ports of one address, of which 8,193 are counted.
    pub ports: NonZeroUsize,
}

/// Destinations to which connects begin to fail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FailureSurge {
    /// Whether they are reported.
    pub enabled: bool,
    /// Minimum number of failed connects in one interval.
    pub failures: NonZeroUsize,
    /// Minimum share of connects that failed; the usual share is at most a fifth of that.
    pub ratio: f64,
}

/// Traffic far beyond the usual.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VolumeSurge {
    /// Whether it is reported.
    pub enabled: bool,
    /// Minimum number of bytes in one interval.
    #[serde(with = "flowtap_pipeline::size")]
    #[schemars(with = "flowtap_pipeline::schema::SizeText")]
    pub bytes: u64,
    /// Minimum robust z-score of the logarithm: deviations (1.4826 times the median absolute one) above the median.
    pub score: f64,
}

/// Small traffic at regular intervals.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Beacon {
    /// Whether it is reported.
    pub enabled: bool,
    /// Maximum coefficient of variation of the pauses.
    pub variation: f64,
    /// Maximum number of bytes each time.
    #[serde(with = "flowtap_pipeline::size")]
    #[schemars(with = "flowtap_pipeline::schema::SizeText")]
    pub bytes: u64,
}

/// Peers on the black list, and peers that are not on the white one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Lists {
    /// Whether traffic with peers on the black list is reported. Also while it learns.
    pub black_list: bool,
    /// Whether traffic to external peers that are not on the white list is reported. Also while it learns.
    pub not_on_white_list: bool,
}

/// Reads a prefix length of at most `MAX`, so that a message has this limit and not that of 8 bits.
fn prefix<'de, const MAX: u8, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    struct Length<const MAX: u8>;

    impl<const MAX: u8> Visitor<'_> for Length<MAX> {
        type Value = u8;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a whole number from 0 to {MAX}")
        }

        fn visit_u64<E: de::Error>(self, length: u64) -> Result<u8, E> {
            match u8::try_from(length) {
                Ok(length) if length <= MAX => Ok(length),
                _ => Err(E::invalid_value(Unexpected::Unsigned(length), &self)),
            }
        }

        fn visit_i64<E: de::Error>(self, length: i64) -> Result<u8, E> {
            match u64::try_from(length) {
                Ok(length) => self.visit_u64(length),
                Err(_) => Err(E::invalid_value(Unexpected::Signed(length), &self)),
            }
        }
    }

    deserializer.deserialize_u8(Length::<MAX>)
}

const fn count(count: usize) -> NonZeroUsize {
    match NonZeroUsize::new(count) {
        Some(count) => count,
        None => NonZeroUsize::MIN,
    }
}

const DAY: u64 = 24 * 60 * 60;

impl Default for Config {
    fn default() -> Self {
        Self {
            learn: Duration::from_secs(DAY),
            interval: Duration::from_secs(60),
            repeat: Duration::from_secs(3600),
            forget: Duration::from_secs(14 * DAY),
            max_contacts: count(50_000),
            max_subjects: count(4096),
            state_file: None,
            state_of: None,
            first_contact: FirstContact::default(),
            fan_out: FanOut::default(),
            failure_surge: FailureSurge::default(),
            volume_surge: VolumeSurge::default(),
            beacon: Beacon::default(),
            lists: Lists::default(),
        }
    }
}

impl Default for FirstContact {
    fn default() -> Self {
        Self {
            enabled: true,
            ipv4_prefix: 24,
            ipv6_prefix: 48,
        }
    }
}

impl Default for FanOut {
    fn default() -> Self {
        Self {
            enabled: true,
            destinations: count(50),
            ports: count(20),
        }
    }
}

impl Default for FailureSurge {
    fn default() -> Self {
        Self {
            enabled: true,
            failures: count(20),
            ratio: 0.5,
        }
    }
}

impl Default for VolumeSurge {
    fn default() -> Self {
        Self {
            enabled: true,
            bytes: 10 << 20,
            score: 6.0,
        }
    }
}

impl Default for Beacon {
    fn default() -> Self {
        Self {
            enabled: true,
            variation: 0.1,
            bytes: 64 << 10,
        }
    }
}

impl Default for Lists {
    fn default() -> Self {
        Self {
            black_list: true,
            not_on_white_list: false,
        }
    }
}

/// Why a state file can most likely not be written. A missing folder is created; if the one that it would be in is missing as well, the
/// path is wrong more often than not.
fn unsaved(file: &Path) -> Option<String> {
    let folder = folder_of(file);
    match fs::metadata(folder) {
        Ok(found) if !found.is_dir() => Some(format!(
            "`{}` is not a folder, so that nothing that is learned can be saved; hint: /var/lib/flowtap/watch.state",
            folder.display()
        )),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Some(format!(
            "`{}` is not in a folder, so that nothing that is learned can be saved; hint: /var/lib/flowtap/watch.state",
            folder.display()
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !folder_of(folder).is_dir() => {
            Some(format!(
                "neither the folder `{}` nor the one that it would be in exists: if flowtap may not create them, nothing that is learned is \
             saved; hint: correct the path, or create the folder, for the user that flowtap runs as",
                folder.display()
            ))
        }
        // One that this user can't see may be open to the daemon's.
        _ => None,
    }
}

impl ComponentConfig for Config {
    fn validate(&self) -> Vec<Violation> {
        let mut faults = Vec::new();
        if self.interval < Duration::from_secs(1) {
            faults.push(Violation::new("interval", "must be at least 1s"));
        }
        if self.forget < self.learn {
            faults.push(Violation::new(
                "forget",
                "must be at least `learn`, or contacts would be forgotten while it learns",
            ));
        }
        if self.forget < self.interval {
            faults.push(Violation::new(
                "forget",
                "must be at least `interval`, or all contacts would be forgotten at the end of each",
            ));
        }
        if self.first_contact.ipv4_prefix > 32 {
            faults.push(Violation::new(
                "first_contact.ipv4_prefix",
                "must be from 0 to 32",
            ));
        }
        if self.first_contact.ipv6_prefix > 128 {
            faults.push(Violation::new(
                "first_contact.ipv6_prefix",
                "must be from 0 to 128",
            ));
        }
        if !(self.failure_surge.ratio > 0.0 && self.failure_surge.ratio <= 1.0) {
            faults.push(Violation::new(
                "failure_surge.ratio",
                "must be above 0 and at most 1",
            ));
        }
        if !(self.volume_surge.score > 0.0 && self.volume_surge.score.is_finite()) {
            faults.push(Violation::new(
                "volume_surge.score",
                "must be a finite number above 0",
            ));
        }
        if !(self.beacon.variation > 0.0 && self.beacon.variation <= 1.0) {
            faults.push(Violation::new(
                "beacon.variation",
                "must be above 0 and at most 1",
            ));
        }
        if self
            .state_file
            .as_deref()
            .is_some_and(|file| file.file_name().is_none())
        {
            faults.push(Violation::new(
                "state_file",
                "must be the path of a file; hint: /var/lib/flowtap/watch.state",
            ));
        }
        if self.state_file.as_deref().is_some_and(is_of_another) {
            faults.push(Violation::new(
                "state_file",
                "must not end with `.new`, `.corrupt` or `.lock`, as files do that are written beside a state file; hint: /var/lib/flowtap/watch.state",
            ));
        }
        if let Some(pipeline) = &self.state_of {
            if let Err(error) = pipeline.parse::<PipelineId>() {
                faults.push(Violation::new("state_of", error.to_string()));
            } else if self.state_file.is_none() {
                faults.push(Violation::new(
                    "state_of",
                    "needs `state_file`, in which that state is",
                ));
            }
        }
        faults
    }

    fn warnings(&self) -> Vec<Violation> {
        let forgets = self.state_file.is_none() && self.learn >= Duration::from_secs(3600);
        let message = "what is learned is lost when flowtap restarts; hint: set a file, such as /var/lib/flowtap/watch.state";
        let warning = |message: String| Violation::new("state_file", message);
        let forgets = forgets.then(|| warning(message.to_owned()));
        let unsaved = self.state_file.as_deref().and_then(unsaved).map(warning);
        let (scans, failures, volume) = (&self.fan_out, &self.failure_surge, &self.volume_surge);
        let beyond = [
            bounds::addresses(scans.destinations).filter(|_| scans.enabled),
            bounds::ports(scans.ports).filter(|_| scans.enabled),
            bounds::failures(failures.failures).filter(|_| failures.enabled),
            bounds::score(volume.score).filter(|_| volume.enabled),
        ];
        let beyond = beyond.into_iter().flatten();
        forgets.into_iter().chain(unsaved).chain(beyond).collect()
    }

    fn contract(&self) -> Contract {
        let contract = Contract::default()
            .gives([Signal::Findings])
            .needs(RecordField::Role)
            .needs(RecordField::Class)
            .needs(RecordField::Process)
            // Ends have their best names.
            .uses([
                RecordField::ClusterNames,
                RecordField::Container,
                // And countries.
                RecordField::PeerPlace,
            ]);
        let contract = match &self.state_file {
            Some(file) => contract.owns("state_file", target(file)),
            None => contract,
        };
        let Some(file) = self.state_file.as_deref() else {
            return contract;
        };
        // Of a link that of the file, which is written.
        let target = target(file);
        let folders = [folder_of(file), folder_of(&target)];
        let folders = if folders[0] == folders[1] {
            &folders[..1]
        } else {
            &folders[..]
        };
        contract.reads(folders).writes(folders)
    }
}
