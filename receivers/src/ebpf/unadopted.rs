//! Connections that were open before flowtap and can't be adopted: those of other network namespaces that no process has a file
//! of, because it has closed them already (orphans) or has not accepted them yet.
//!
//! In: a proc root. Out: their number, from `net/tcp` and `net/tcp6` of a process in each namespace, where such a socket has the
//! inode number 0. A namespace is known by the inode number of its `net/tcp`: the sandbox hides `ns/net` of other processes. Of
//! namespaces without a process nothing is known.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// A file of the network namespace whose sockets are walked: flowtap's own.
const OWN: &str = "/proc/self/net/tcp";

/// The time that looking may take: the kernel walks its table of all connections for each namespace.
const BUDGET: Duration = Duration::from_secs(3);

/// States of `net/tcp` that are not of an open connection: `SYN_RECV` (a request), `TIME_WAIT`, `CLOSE`, `LISTEN`.
const NOT_OPEN: [&str; 4] = ["03", "06", "07", "0A"];

/// Result of a look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unadopted {
    /// Connections that can't be adopted.
    pub(super) connections: u64,
    /// Network namespaces that were looked at.
    pub(super) namespaces: u64,
    /// Network namespaces for which there was no time, or which could not be read.
    pub(super) not_examined: u64,
}

/// Looks at each network namespace but the one whose sockets are walked.
///
/// # Errors
/// [`io::Error`] if the proc root can't be read.
pub(super) fn count(proc_root: &Path) -> io::Result<Unadopted> {
    let deadline = Instant::now() + BUDGET;
    let mut seen = HashSet::new();
    seen.extend(fs::metadata(OWN).ok().map(|own| own.ino()));
    let mut found = Unadopted::default();
    for process in fs::read_dir(proc_root)? {
        let process = process?;
        let name = process.file_name();
        if !name.as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        let net = process.path().join("net");
        // A process that has ended meanwhile.
        let Ok(namespace) = net.join("tcp").metadata() else {
            continue;
        };
        if !seen.insert(namespace.ino()) {
            continue;
        }
        let counted = (Instant::now() < deadline).then(|| without_file(&net));
        match counted {
            Some(Ok(connections)) => {
                found.connections += connections;
                found.namespaces += 1;
            }
            Some(Err(_)) | None => found.not_examined += 1,
        }
    }
    Ok(found)
}

/// Number of open connections of the namespace that no process has a file of.
fn without_file(net: &Path) -> io::Result<u64> {
    let mut connections = 0;
    for name in ["tcp", "tcp6"] {
        let file = match File::open(net.join(name)) {
            // A kernel without IPv6.
            Err(error) if name == "tcp6" && error.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        for line in BufReader::new(file).lines().skip(1) {
            let line = line?;
            let mut fields = line.split_ascii_whitespace().skip(3);
            // sl local remote st queues timer retransmits uid timeout inode
            let (state, inode) = (fields.next(), fields.nth(5));
            let is_open = state.is_some_and(|state| !NOT_OPEN.contains(&state));
            connections += u64::from(is_open && inode == Some("0"));
        }
    }
    Ok(connections)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    #[test]
    fn open_connections_without_a_file_are_counted_in_each_other_namespace_once() {
        let root = tempfile::tempdir().unwrap();
        let line = |state: &str, inode: u32| {
            format!(
                "   0: 0100007F:1F90 0100007F:C350 {state} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1 0\n"
            )
        };
        let of = |lines: &[(&str, u32)]| {
            let lines: String = lines.iter().map(|(state, inode)| line(state, *inode)).collect();
            format!("{HEADER}{lines}")
        };
        for (process, text) in [
            ("1", of(&[("01", 5)])),
            // Established with a file; not accepted yet; an orphan; TIME_WAIT, a request and a listener.
            (
                "20",
                of(&[("01", 7), ("01", 0), ("04", 0), ("06", 0), ("03", 0), ("0A", 0)]),
            ),
        ] {
            let net = root.path().join(process).join("net");
            fs::create_dir_all(&net).unwrap();
            fs::write(net.join("tcp"), text).unwrap();
        }
        // Another process of the same namespace.
        let other = root.path().join("21/net");
        fs::create_dir_all(&other).unwrap();
        fs::hard_link(root.path().join("20/net/tcp"), other.join("tcp")).unwrap();
        let found = count(root.path()).unwrap();
        let expected = Unadopted {
            connections: 2,
            namespaces: 2,
            not_examined: 0,
        };
        assert_eq!(found, expected);
    }
}
