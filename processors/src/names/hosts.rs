//! The file `/etc/hosts` (hosts(5)), and a watch on it.

use std::collections::HashMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, SystemTime};

use flowtap_pipeline::{Published, files};

/// Interval at which the file is checked for changes.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Most lines with an address that are read: more is not a hosts file.
const MAX_HOSTS: usize = 1 << 16;

/// Maximum size of the file.
const MAX_BYTES: u64 = 64 << 20;

/// Longest name.
const MAX_NAME: usize = 253;

/// Names by address.
pub(super) type Hosts = HashMap<IpAddr, Arc<str>>;

/// The names of the file `path`, read again when it changes. A file that can't be read has none, with a warning.
pub(super) fn follow(path: &Path) -> Arc<Published<Hosts>> {
    let stamp = stamp(path);
    let live = Published::new(read(path));
    let (path, followers) = (path.to_owned(), Arc::downgrade(&live));
    let watching = thread::Builder::new()
        .name("hosts-file".to_owned())
        .spawn(move || watch(&path, stamp, &followers));
    if let Err(error) = watching {
        tracing::warn!(%error, "changes of the hosts file will not be noticed; hint: restart flowtap after they are made");
    }
    live
}

/// Looks at the file until nobody follows it any more.
fn watch(path: &Path, mut before: Option<Stamp>, live: &Weak<Published<Hosts>>) {
    loop {
        thread::sleep(LOOK_INTERVAL);
        let Some(live) = live.upgrade() else { return };
        let now = stamp(path);
        if now != before {
            before = now;
            live.store(read(path));
            tracing::info!(file = %path.display(), "the hosts file was read again");
        }
    }
}

/// Identity of the file's version.
type Stamp = (SystemTime, u64);

fn stamp(path: &Path) -> Option<Stamp> {
    let file = fs::metadata(path).ok()?;
    Some((file.modified().ok()?, file.len()))
}

fn read(path: &Path) -> Hosts {
    let text = files::read(path, MAX_BYTES).unwrap_or_else(|error| {
        tracing::warn!(file = %path.display(), %error, "the hosts file can't be read, so it names no address; \
                     hint: check `hosts_file`; in the sandbox a file that was replaced by rename needs a restart of flowtap");
        Vec::new()
    });
    // Bytes that are not UTF-8 make a name that is not valid, and leave the other lines.
    let (hosts, ignored) = parse(&String::from_utf8_lossy(&text));
    if ignored > 0 {
        tracing::warn!(
            file = %path.display(),
            lines = ignored,
            "lines of the hosts file are ignored: they have no address, no valid name, or there are more than 65536; hint: see hosts(5)"
        );
    }
    hosts
}

/// The first name of each address, as `getnameinfo` returns it, and the number of lines that were ignored.
fn parse(text: &str) -> (Hosts, u64) {
    let (mut hosts, mut ignored) = (Hosts::new(), 0);
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(addr) = words.next() else { continue };
        // An address can have a zone: fe80::1%eth0.
        let addr = addr.split('%').next().unwrap_or_default().parse::<IpAddr>();
        match (addr, words.next()) {
            (Ok(addr), Some(name)) if is_name(name) && hosts.len() < MAX_HOSTS => {
                let entry = hosts.entry(addr.to_canonical());
                entry.or_insert_with(|| name.to_ascii_lowercase().into());
            }
            _ => ignored += 1,
        }
    }
    (hosts, ignored)
}

/// Whether it can be a label: of letters, digits, hyphens, underscores and dots.
fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    name.len() <= MAX_NAME && name.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn the_first_name_of_each_address_counts_and_wrong_lines_are_counted() {
        let text = "# comment\n127.0.0.1 localhost loopback\n192.0.2.7\tDB.example db # alias\n192.0.2.7 later\n\
                    ::ffff:192.0.2.8 mapped\nfe80::1%eth0 router\nnonsense\n192.0.2.9\n192.0.2.10 a\u{1b}[2Jb\n";
        let (hosts, ignored) = parse(text);
        let of = |addr: &str| {
            hosts
                .get(&addr.parse::<IpAddr>().unwrap())
                .map(ToString::to_string)
        };
        assert_eq!(of("127.0.0.1").as_deref(), Some("localhost"));
        assert_eq!(of("192.0.2.7").as_deref(), Some("db.example"));
        assert_eq!(of("192.0.2.8").as_deref(), Some("mapped"));
        assert_eq!(of("fe80::1").as_deref(), Some("router"));
        assert_eq!((hosts.len(), ignored), (4, 3));
    }

    #[test]
    fn a_changed_file_is_read_again_and_a_missing_one_has_no_names() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "192.0.2.7 db\n").unwrap();
        let live = follow(file.path());
        assert_eq!(live.load().len(), 1);
        fs::write(file.path(), "192.0.2.7 db\n192.0.2.8 web\n").unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while live.load().len() != 2 {
            assert!(Instant::now() < deadline);
            thread::sleep(Duration::from_millis(50));
        }
        assert!(read(Path::new("/nowhere")).is_empty());
    }
}
