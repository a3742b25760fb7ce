//! The services of the daemon: everything that runs beside the pipelines, as a list. They start in the order of the list, before
//! the pipelines, and stop after them, in the opposite order.
//!
//! # Layout
//!
//! | module | services |
//! |---|---|
//! | `watchers` | logs, the watchers of the node and the cluster, the memory limiter, systemd's watchdog, the push of own metrics |
//! | `listener` | the admin listener, and that of the daemon's own metrics |
//! | `extensions` | the extensions of the config |
//! | `name_files` | the watcher of files of name resolution that the sandbox closes |

mod extensions;
mod listener;
mod name_files;
mod watchers;

use std::time::Instant;

use flowtap_config::Config;
use flowtap_pipeline::futures::future::LocalBoxFuture;

pub(super) use self::extensions::Extensions;
pub(super) use self::listener::{Listener, Place};
pub(super) use self::name_files::NameFiles;
pub(super) use self::watchers::{ClusterWatch, Logs, MemoryLimiter, NodeWatch, OwnMetrics, Watchdog};
use crate::exit::ExitError;

/// A part of the daemon beside the pipelines.
pub(super) trait Service {
    /// Starts it; returns once it is at work.
    fn start<'a>(&'a mut self, config: &'a Config) -> LocalBoxFuture<'a, Result<(), ExitError>>;

    /// Takes on `config`. After an error it can be called with the config before, which restores what was.
    fn reload<'a>(&'a mut self, _config: &'a Config) -> LocalBoxFuture<'a, Result<(), ExitError>> {
        Box::pin(async { Ok(()) })
    }

    /// Ends it, by `until` if it waits for others.
    fn stop(&mut self, until: Instant) -> LocalBoxFuture<'_, ()>;
}

/// Why a new config is not at work.
#[derive(Debug)]
pub(super) enum ReloadError {
    /// The old one is.
    Kept(ExitError),
    /// Neither is: the old one could not be restored.
    Lost(ExitError),
}

/// The services, in the order in which they start.
#[derive(Default)]
pub(super) struct Services {
    list: Vec<Box<dyn Service>>,
    /// Number of those that have started.
    started: usize,
}

impl Services {
    /// These services; none has started.
    pub(super) fn new(list: Vec<Box<dyn Service>>) -> Self {
        Self { list, started: 0 }
    }

    /// Starts each in turn.
    ///
    /// # Errors
    /// The first that does not start. Those before it run; stop them.
    pub(super) async fn start(&mut self, config: &Config) -> Result<(), ExitError> {
        for service in &mut self.list {
            service.start(config).await?;
            self.started += 1;
        }
        Ok(())
    }

    /// Changes all of them from the config `before` to `config`, or none.
    ///
    /// # Errors
    /// The first that refuses it: all have the config `before` again, unless one can't go back.
    pub(super) async fn reload(&mut self, config: &Config, before: &Config) -> Result<(), ReloadError> {
        for place in 0..self.list.len() {
            if let Err(refused) = self.list[place].reload(config).await {
                for service in &mut self.list[..=place] {
                    service.reload(before).await.map_err(ReloadError::Lost)?;
                }
                return Err(ReloadError::Kept(refused));
            }
        }
        Ok(())
    }

    /// Stops those that have started, the last first.
    pub(super) async fn stop(&mut self, until: Instant) {
        for service in self.list[..self.started].iter_mut().rev() {
            service.stop(until).await;
        }
        self.started = 0;
    }
}

#[cfg(test)]
mod tests;
