//! Values read from files, which are reloaded when one of them changes.

use std::fmt::Display;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, SystemTime};

use flowtap_pipeline::Published;

/// Interval at which files are checked for changes.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// The value that `read` returns, now and whenever one of `paths` has changed. A file that has become wrong leaves what was read before, with a
/// warning; `what` says in the log what it is.
///
/// # Errors
/// That of `read` now.
pub(crate) fn follow<T, E>(
    paths: Vec<PathBuf>,
    what: &'static str,
    read: impl Fn() -> Result<T, E> + Send + 'static,
) -> Result<Arc<Published<T>>, E>
where
    T: Send + Sync + 'static,
    E: Display,
{
    // Before the files are read: a change in between is seen then.
    let stamps = stamps(&paths);
    let live = Published::new(read()?);
    if !paths.is_empty() {
        let followers = Arc::downgrade(&live);
        let watching = thread::Builder::new()
            .name("file-watch".to_owned())
            .spawn(move || watch(&paths, what, stamps, &followers, read));
        if let Err(error) = watching {
            tracing::warn!(%error, "changes of {what} will not be noticed; hint: reload with SIGHUP after they have changed");
        }
    }
    Ok(live)
}

/// Looks at the files until nobody follows what is in them any more.
fn watch<T, E: Display>(
    paths: &[PathBuf],
    what: &str,
    mut before: Vec<Stamp>,
    live: &Weak<Published<T>>,
    read: impl Fn() -> Result<T, E>,
) {
    loop {
        thread::sleep(LOOK_INTERVAL);
        let Some(live) = live.upgrade() else { return };
        let now = stamps(paths);
        if now == before {
            continue;
        }
        before = now;
        match read() {
            Ok(read) => {
                tracing::info!("{what} were reloaded");
                live.store(read);
            }
            Err(error) => {
                tracing::warn!(%error, "{what} are unchanged; hint: fix the file that the error names");
            }
        }
    }
}

/// Identity of a file's version; `None` if the file does not exist.
type Stamp = Option<(SystemTime, u64)>;

fn stamps(paths: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |path: &PathBuf| {
        let file = fs::metadata(path).ok()?;
        Some((file.modified().ok()?, file.len()))
    };
    paths.iter().map(stamp).collect()
}
