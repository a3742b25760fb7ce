//! RDMA devices as sysfs shows them: their ports, links and counters.
//!
//! A file that can't be read ends nothing: the others are read. A file that is gone between the listing and the read belongs to a device that
//! has left, which is not a fault.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use flowtap_pipeline::plain;
use nix::errno::Errno;

use super::counters::{Folder, is_count};

/// Why a file has no value.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The system refused: the driver returned an error.
    #[error(transparent)]
    Unreadable(io::Error),
    /// The driver says that it has none: `N/A (no PMA)`.
    #[error("the driver does not have it")]
    NotAvailable,
    /// The text is not what it should be.
    #[error("`{}` is not a value", plain::plain(.0))]
    Malformed(String),
    /// A number that the counter can't have reached since it was read before.
    #[error("{0} is more than the counter can have counted since its last value")]
    Implausible(u64),
}

/// A file with a value, and its path.
#[derive(Debug)]
pub(super) struct Value<T> {
    pub(super) path: PathBuf,
    /// `None`: the file is not there.
    pub(super) value: Result<Option<T>, Fault>,
}

/// A counter.
#[derive(Debug)]
pub(super) struct RawCounter {
    pub(super) folder: Folder,
    pub(super) name: String,
    pub(super) file: Value<u64>,
}

/// A port, or the device as a whole.
#[derive(Debug)]
pub(super) struct Part {
    /// Number of the port; empty for the device.
    pub(super) port: String,
    /// 1 if the link is active, else 0. Of a port.
    pub(super) is_active: Option<Value<u64>>,
    /// Bytes per second. Of a port.
    pub(super) rate: Option<Value<u64>>,
    pub(super) counters: Vec<RawCounter>,
}

/// A device.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) origin: Origin,
    pub(super) parts: Vec<Part>,
}

impl Device {
    /// Values that can't be read, each with its path and the reason.
    pub(super) fn faults(&self) -> impl Iterator<Item = String> {
        let files = self.parts.iter().flat_map(|part| {
            let links = part.is_active.iter().chain(&part.rate);
            links.chain(part.counters.iter().map(|counter| &counter.file))
        });
        files.filter_map(|file| {
            let fault = file.value.as_ref().err()?;
            Some(format!("{}: {fault}", file.path.display()))
        })
    }
}

/// The device that values are of.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) name: String,
    /// Its GUID, which it keeps over a restart of its driver; empty if it can't be read.
    pub(super) guid: String,
    /// Driver of the device below it; empty for a device of software.
    pub(super) driver: String,
}

/// Where devices are, below the root of a sysfs.
pub(super) fn class_folder(sysfs_root: &Path) -> PathBuf {
    sysfs_root.join("class/infiniband")
}

/// Names of the devices, in order. None if the kernel has no RDMA.
///
/// # Errors
/// [`io::Error`] if the folder can't be listed.
pub(super) fn device_names(sysfs_root: &Path) -> io::Result<Vec<String>> {
    list(&class_folder(sysfs_root))
}

/// Reads a device.
///
/// # Errors
/// [`io::Error`] if its folders can't be listed.
pub(super) fn read_device(sysfs_root: &Path, name: &str) -> io::Result<Device> {
    let folder = class_folder(sysfs_root).join(name);
    let mut parts = Vec::new();
    let mut ports = list(&folder.join("ports"))?;
    ports.sort_by_key(|port| port.parse::<u32>().unwrap_or(u32::MAX));
    for port in ports {
        let folder = folder.join("ports").join(&port);
        let mut counters = read_counters(&folder, Folder::Standard)?;
        counters.extend(read_counters(&folder, Folder::Hardware)?);
        parts.push(Part {
            is_active: Some(read(folder.join("state"), parse_state)),
            rate: Some(read(folder.join("rate"), parse_rate)),
            counters,
            port,
        });
    }
    parts.push(Part {
        port: String::new(),
        is_active: None,
        rate: None,
        counters: read_counters(&folder, Folder::Hardware)?,
    });
    let text = |path: PathBuf| read_text(&path).unwrap_or_default();
    let driver = fs::read_link(folder.join("device/driver")).unwrap_or_default();
    let origin = Origin {
        name: name.to_owned(),
        guid: text(folder.join("node_guid")).trim().to_owned(),
        driver: driver
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default(),
    };
    Ok(Device { origin, parts })
}

fn read_counters(folder: &Path, kind: Folder) -> io::Result<Vec<RawCounter>> {
    let folder = folder.join(kind.name());
    let names = list(&folder)?;
    Ok(names
        .into_iter()
        .map(|name| RawCounter {
            folder: kind,
            file: read(folder.join(&name), |text| {
                text.parse().ok().filter(|value| is_count(*value))
            }),
            name,
        })
        .collect())
}

/// Names in a folder, in order; none if there is no such folder.
fn list(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        Err(error) => {
            return Err(io::Error::new(
                error.kind(),
                format!("{}: {error}", folder.display()),
            ));
        }
    };
    let mut names: Vec<_> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    Ok(names)
}

/// Bytes of a file that are read at most: the kernel has a page for each (`sysfs_emit()`), and values are shorter.
const MAX_FILE_BYTES: u64 = 4096;

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_FILE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

fn read<T>(path: PathBuf, parse: impl Fn(&str) -> Option<T>) -> Value<T> {
    let value = match read_text(&path) {
        Ok(text) => {
            // Of a longer one the end is missing, so it has no value.
            let is_whole = (text.len() as u64) < MAX_FILE_BYTES;
            let text = text.trim();
            match parse(text).filter(|_| is_whole) {
                Some(value) => Ok(Some(value)),
                None if text.starts_with("N/A") => Err(Fault::NotAvailable),
                None => Err(Fault::Malformed(text.chars().take(64).collect())),
            }
        }
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(Fault::Unreadable(error)),
    };
    Value { path, value }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ENODEV as i32)
}

/// From `4: ACTIVE` (`state_show()` in `drivers/infiniband/core/sysfs.c`).
fn parse_state(text: &str) -> Option<u64> {
    let (number, _) = text.split_once(':')?;
    Some(u64::from(number.parse::<u8>().ok()? == 4))
}

/// From `100 Gb/sec (4X EDR)`, in bytes per second. The kernel has one decimal.
fn parse_rate(text: &str) -> Option<u64> {
    let (number, _) = text.split_once(" Gb/sec")?;
    let (whole, tenths) = number.split_once('.').unwrap_or((number, "0"));
    let tenths = tenths.parse::<u64>().ok().filter(|tenths| *tenths < 10)?;
    let tenths = whole.parse::<u64>().ok()?.checked_mul(10)?.checked_add(tenths)?;
    tenths.checked_mul(100_000_000 / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_large_file_no_more_than_a_page_is_read_and_it_has_no_value() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("counter");
        let number = |text: &str| text.parse::<u64>().ok();
        // Sparse: read as a whole it would take 1 TiB.
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let value = read(path.clone(), number).value;
        assert!(
            matches!(&value, Err(Fault::Malformed(text)) if text.len() <= 64),
            "{value:?}"
        );
        fs::write(&path, format!("7{}", " ".repeat(5000))).unwrap();
        assert!(read(path.clone(), number).value.is_err());
        fs::write(&path, "7\n").unwrap();
        assert_eq!(read(path, number).value.unwrap(), Some(7));
    }

    #[test]
    fn states_and_rates_are_read_as_the_kernel_writes_them() {
        assert_eq!(parse_state("4: ACTIVE"), Some(1));
        assert_eq!(parse_state("1: DOWN"), Some(0));
        assert_eq!(parse_state("ACTIVE"), None);
        assert_eq!(parse_rate("100 Gb/sec (4X EDR)"), Some(12_500_000_000));
        assert_eq!(parse_rate("2.5 Gb/sec (1X SDR)"), Some(312_500_000));
        assert_eq!(parse_rate("10 Gb/sec (1X FDR10)"), Some(1_250_000_000));
        for broken in [
            "",
            "100",
            "x Gb/sec",
            "2.55 Gb/sec",
            "99999999999999999999 Gb/sec",
        ] {
            assert_eq!(parse_rate(broken), None, "{broken}");
        }
    }
}
