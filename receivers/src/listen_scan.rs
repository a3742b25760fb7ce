//! Listening TCP ports of one network namespace.
//!
//! In: a proc root, `/proc` or where the host's is mounted. Out: a [`ListenChange::Rescanned`]. With `/proc` it is the
//! namespace that flowtap runs in; with any other root that of the host's process 1.
//!
//! Over netlink where that is flowtap's own namespace, in O(listeners); else, or where that is
//! refused, from `net/tcp` and `net/tcp6`. These have listeners first, but a read fills a whole
//! buffer of text, so the kernel walks the table of all connections, of every namespace: 200 ms
//! each with many in `TIME_WAIT`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use flowtap_pipeline::ListenChange;

use crate::sock_diag::Dumper;

/// `TCP_LISTEN` as `net/tcp` writes it.
const LISTEN: &str = "0A";

/// Reads the listening ports, IPv4 and IPv6, each once, in order.
///
/// # Errors
/// [`io::Error`] with the path that could not be read, or whose line could not be parsed. A kernel
/// without IPv6 has no `net/tcp6`, which is not an error.
pub fn scan(proc_root: &Path) -> io::Result<ListenChange> {
    let process = process_dir(proc_root);
    let netns = namespace(&process)?;
    let own = Path::new("/proc/self/ns/net").metadata();
    let own = own.is_ok_and(|own| own.ino() == netns).then(ports_via_netlink);
    let mut ports = match own {
        Some(Ok(ports)) => ports,
        Some(Err(_)) | None => read(&process)?,
    };
    ports.sort_unstable();
    ports.dedup();
    let netns =
        u32::try_from(netns).map_err(|_| io::Error::other("a namespace's inode number has 32 bits"))?;
    Ok(ListenChange::Rescanned { netns, ports })
}

/// The process whose network namespace is looked at: `self`, which may not exist in a proc file system that is not ours; there,
/// process 1.
pub fn process_dir(proc_root: &Path) -> PathBuf {
    proc_root.join(if proc_root == Path::new("/proc") {
        "self"
    } else {
        "1"
    })
}

/// Namespaces of processes as they were last seen.
static SEEN: Mutex<BTreeMap<PathBuf, u64>> = Mutex::new(BTreeMap::new());

/// The inode number of the network namespace of `process`, a folder of a proc file system. A sandbox (Landlock) hides the namespaces
/// of processes outside of it, so one that was seen before it was entered is taken from then: a process does not change its own.
///
/// # Errors
/// [`io::Error`] with the path.
pub(crate) fn namespace(process: &Path) -> io::Result<u64> {
    let path = process.join("ns/net");
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    match path.metadata() {
        Ok(metadata) => {
            seen.insert(process.to_owned(), metadata.ino());
            Ok(metadata.ino())
        }
        Err(error) => match seen.get(process) {
            Some(inode) if error.kind() == io::ErrorKind::PermissionDenied => Ok(*inode),
            _ => Err(named(&path, &error)),
        },
    }
}

/// Looks the namespace up that receivers with this `proc_root` need, before a sandbox hides it.
pub fn remember_namespace(proc_root: &Path) {
    // The callers that need it report the error.
    let _ = namespace(&process_dir(proc_root));
}

fn ports_via_netlink() -> io::Result<Vec<u16>> {
    Dumper::open()?.listening()
}

fn read(process: &Path) -> io::Result<Vec<u16>> {
    let mut ports = Vec::new();
    read_ports(&process.join("net/tcp"), &mut ports)?;
    match read_ports(&process.join("net/tcp6"), &mut ports) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        result => result?,
    }
    Ok(ports)
}

fn read_ports(path: &Path, ports: &mut Vec<u16>) -> io::Result<()> {
    let file = File::open(path).map_err(|error| named(path, &error))?;
    for line in BufReader::new(file).lines().skip(1) {
        let line = line.map_err(|error| named(path, &error))?;
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (local, state) = (fields.next(), fields.nth(1));
        // Listeners come first (net/ipv4/tcp_ipv4.c, tcp_seq_start): no need to read a hundred thousand connections.
        if state.is_some_and(|state| state != LISTEN) {
            break;
        }
        let port = local.and_then(|local| local.rsplit_once(':'));
        match port.map(|(_, port)| u16::from_str_radix(port, 16)) {
            Some(Ok(port)) => ports.push(port),
            _ => {
                return Err(named(
                    path,
                    &io::Error::other(format!("can't read the line `{}`", line.trim())),
                ));
            }
        }
    }
    Ok(())
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::net::TcpListener;

    const HEADER: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n";

    fn proc_with(tcp: &str, tcp6: Option<&str>) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let net = root.path().join("1/net");
        fs::create_dir_all(&net).unwrap();
        fs::create_dir_all(root.path().join("1/ns")).unwrap();
        fs::write(root.path().join("1/ns/net"), "").unwrap();
        fs::write(net.join("tcp"), format!("{HEADER}{tcp}")).unwrap();
        if let Some(tcp6) = tcp6 {
            fs::write(net.join("tcp6"), format!("{HEADER}{tcp6}")).unwrap();
        }
        root
    }

    fn ports(root: &Path) -> Vec<u16> {
        match scan(root) {
            Ok(ListenChange::Rescanned { ports, .. }) => ports,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_listening_socket_of_this_process_is_found_under_proc() {
        let v4 = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = v4.local_addr().unwrap().port();
        assert!(ports(Path::new("/proc")).contains(&port));
        drop(v4);
        assert!(!ports(Path::new("/proc")).contains(&port));
    }

    #[test]
    fn netlink_and_the_files_have_the_same_ports() {
        let [v4, v6] = ["127.0.0.1:0", "[::1]:0"].map(|address| TcpListener::bind(address).unwrap());
        let reported = [ports_via_netlink(), read(Path::new("/proc/self"))].map(Result::unwrap);
        for listener in [v4, v6] {
            let port = listener.local_addr().unwrap().port();
            assert!(reported.iter().all(|ports| ports.contains(&port)), "{reported:?}");
        }
    }

    #[test]
    fn ports_of_both_families_are_merged_and_connections_are_left_out() {
        let root = proc_with(
            "   0: 0100007F:1F90 00000000:0000 0A 0:0 00:0 0 0 0 1\n\
             \x20  1: 00000000:0016 00000000:0000 0A 0:0 00:0 0 0 0 2\n\
             \x20  2: 0100007F:C350 0100007F:1F90 01 0:0 00:0 0 0 0 3\n",
            Some(
                "   0: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 0:0\n",
            ),
        );
        assert_eq!(ports(root.path()), [22, 8080]);
    }

    #[test]
    fn a_kernel_without_ipv6_is_no_error() {
        let root = proc_with("   0: 0100007F:0050 00000000:0000 0A 0:0\n", None);
        assert_eq!(ports(root.path()), [80]);
    }

    #[test]
    fn a_line_that_is_not_understood_is_named_with_its_file() {
        let root = proc_with("   0: nonsense\n", None);
        let error = scan(root.path()).unwrap_err().to_string();
        assert!(error.contains("net/tcp") && error.contains("nonsense"), "{error}");
    }
}
