//! The lock on the machine: flowtap sees all of it, so a test that counts everything must be alone on it.
//!
//! The lock is a file, so it holds within a process and between processes: `cargo test` runs all tests in one, cargo-nextest each in its
//! own. A test that is killed gives it back. Two checkouts have two locks.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

/// The lock, held until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _machine: File,
}

/// Beside other tests that hold it so.
pub(crate) fn shared() -> Lock {
    enter(Path::new(env!("CARGO_TARGET_TMPDIR")), File::lock_shared)
}

/// Alone.
pub(crate) fn exclusive() -> Lock {
    enter(Path::new(env!("CARGO_TARGET_TMPDIR")), File::lock)
}

fn enter(folder: &Path, lock: fn(&File) -> io::Result<()>) -> Lock {
    let open = |name| {
        let file = File::options().create(true).append(true).open(folder.join(name));
        file.expect("a file of the lock")
    };
    // A waiting exclusive lock does not stop the kernel from granting shared ones. So each test passes a turnstile first, and one that
    // waits for the machine holds it: those after it wait as well.
    let turnstile = open("turnstile.lock");
    turnstile.lock().expect("the turnstile");
    let machine = open("machine.lock");
    lock(&machine).expect("the machine");
    Lock { _machine: machine }
}

/// Whether another process can have this lock now, by flock(1).
fn is_free(folder: &Path, file: &str, kind: &str) -> bool {
    let mut flock = Command::new("flock");
    let status = flock
        .args(["--nonblock", kind])
        .arg(folder.join(file))
        .arg("true");
    status.status().expect("flock").success()
}

#[test]
fn a_test_that_waits_to_be_alone_keeps_out_other_threads_and_processes_that_come_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let reader = enter(folder, File::lock_shared);
    assert!(is_free(folder, "machine.lock", "--shared"));
    assert!(!is_free(folder, "machine.lock", "--exclusive"));
    let (entered, order) = sync_channel(2);
    thread::scope(|scope| {
        let first = entered.clone();
        scope.spawn(move || {
            let lock = enter(folder, File::lock);
            first.send("alone").unwrap();
            drop(lock);
        });
        // From here on the exclusive one waits.
        while is_free(folder, "turnstile.lock", "--exclusive") {
            thread::sleep(Duration::from_millis(5));
        }
        scope.spawn(move || {
            let lock = enter(folder, File::lock_shared);
            entered.send("beside others").unwrap();
            drop(lock);
        });
        assert!(order.try_recv().is_err());
        drop(reader);
        assert_eq!(order.recv().unwrap(), "alone");
        assert_eq!(order.recv().unwrap(), "beside others");
    });
    assert!(is_free(folder, "machine.lock", "--exclusive"));
}
