//! The kernel's reports of sockets: datagrams over netlink, and `net/tcp` of a proc file system, which may be another machine's.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use flowtap_receivers::listen_scan;
use flowtap_receivers::sock_diag::sockets_in;
use libfuzzer_sys::fuzz_target;

/// A proc file system with a process 1.
fn root() -> Option<&'static PathBuf> {
    static ROOT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let make = || {
        let root = tempfile::tempdir().ok()?.keep();
        fs::create_dir_all(root.join("1/net")).ok()?;
        fs::create_dir_all(root.join("1/ns")).ok()?;
        fs::write(root.join("1/ns/net"), "").ok()?;
        Some(root)
    };
    ROOT.get_or_init(make).as_ref()
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else {
        return;
    };
    if kind % 2 == 0 {
        let _ = sockets_in(rest);
        return;
    }
    let Some(root) = root() else { return };
    if fs::write(root.join("1/net/tcp"), rest).is_ok()
        && let Err(error) = listen_scan::scan(root)
    {
        assert!(error.to_string().contains("net/tcp"), "{error} names no file");
    }
});
