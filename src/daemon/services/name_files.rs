//! Reports files of name resolution that the sandbox closes.
//!
//! Landlock opens files, not names: a file that is renamed over `/etc/hosts` is another file. The sandbox leaves `/etc` open where that
//! shows nothing secret; for the user root it does not, and names would be looked up without the new file, silently.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use flowtap_config::Config;
use flowtap_pipeline::futures::future::{LocalBoxFuture, ready};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::Service;
use crate::exit::ExitError;

const FILES: [&str; 3] = ["/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf"];

const INTERVAL: Duration = Duration::from_secs(5);

/// A file as it was looked at last.
struct Seen {
    path: &'static Path,
    /// Device and inode; `None` where there is no file.
    id: Option<[u64; 2]>,
}

impl Seen {
    fn new(path: &'static Path) -> Self {
        Self { path, id: id(path) }
    }

    /// Whether there is another file now, and it can't be read.
    fn is_newly_closed(&mut self) -> bool {
        let id = id(self.path);
        if std::mem::replace(&mut self.id, id) == id {
            return false;
        }
        // Status of files is not for Landlock to hide, contents are.
        File::open(self.path).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
    }
}

fn id(path: &Path) -> Option<[u64; 2]> {
    let metadata = fs::metadata(path).ok()?;
    Some([metadata.dev(), metadata.ino()])
}

/// The watcher of the files.
#[derive(Default)]
pub(in crate::daemon) struct NameFiles(CancellationToken);

impl Service for NameFiles {
    fn start<'a>(&'a mut self, _: &'a Config) -> LocalBoxFuture<'a, Result<(), ExitError>> {
        tokio::spawn(watch(self.0.clone()));
        Box::pin(ready(Ok(())))
    }

    fn stop(&mut self, _: Instant) -> LocalBoxFuture<'_, ()> {
        self.0.cancel();
        Box::pin(ready(()))
    }
}

async fn watch(stop: CancellationToken) {
    let mut files = FILES.map(|path| Seen::new(Path::new(path)));
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        for file in &mut files {
            if file.is_newly_closed() {
                tracing::warn!(
                    file = %file.path.display(),
                    "a file of name resolution was replaced, and the sandbox closes the new one: names are resolved without it; \
                     hint: restart flowtap; a user other than root (as in the systemd unit) reads the new file"
                );
            }
        }
    }
}
