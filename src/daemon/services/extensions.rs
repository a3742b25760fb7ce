//! The extensions of the config, as one service.

use std::time::Instant;

use flowtap_config::Config;
use flowtap_engine::stages::fingerprint;
use flowtap_pipeline::futures::future::LocalBoxFuture;
use flowtap_pipeline::{ComponentId, ComponentKind, Extension, State};
use opentelemetry::metrics::Meter;

use super::Service;
use crate::daemon::graph::Environment;
use crate::exit::ExitError;

/// An extension at work, with its config as text: another text is another extension.
struct Running {
    id: ComponentId,
    fingerprint: String,
    extension: Box<dyn Extension>,
}

/// The extensions that `service.extensions` lists.
pub(in crate::daemon) struct Extensions {
    environment: Environment,
    meter: Meter,
    strict: bool,
    /// In the order in which they have started.
    running: Vec<Running>,
}

impl Extensions {
    /// None runs yet. `strict`: they fail instead of degrading.
    pub(in crate::daemon) fn new(environment: &Environment, meter: &Meter, strict: bool) -> Self {
        Self {
            environment: environment.clone(),
            meter: meter.clone(),
            strict,
            running: Vec::new(),
        }
    }

    /// Runs the extensions of `config`. Those with the same id and config run on.
    async fn apply(&mut self, config: &Config) -> Result<(), ExitError> {
        let mut new = Vec::new();
        for id in &config.extension_order {
            let Some(section) = config.extensions.get(id) else {
                continue;
            };
            let fingerprint = fingerprint(&**section);
            let is_same = |running: &&Running| running.id == *id && running.fingerprint == fingerprint;
            if self.running.iter().any(|running| is_same(&running)) {
                continue;
            }
            let context = self.environment.context(id, &self.meter, self.strict);
            let extension = section
                .build(&context)
                .map_err(|error| ExitError::config(&config.build_error(&error)))?;
            new.push(Running {
                id: id.clone(),
                fingerprint,
                extension,
            });
        }
        // A new one may want the port of one that leaves.
        let leaves = |running: &Running| {
            let is_listed = config.extension_order.contains(&running.id);
            !is_listed || new.iter().any(|new| new.id == running.id)
        };
        let leaving: Vec<_> = self.running.extract_if(.., |running| leaves(running)).collect();
        for running in leaving.into_iter().rev() {
            self.end(running).await;
        }
        let status = self.environment.status.clone();
        for mut new in new {
            status.set(ComponentKind::Extension, &new.id, State::Starting, None);
            if let Err(error) = new.extension.start().await {
                status.set(
                    ComponentKind::Extension,
                    &new.id,
                    State::PermanentError,
                    Some(error.to_string()),
                );
                return Err(error.into());
            }
            status.set(ComponentKind::Extension, &new.id, State::Ok, None);
            self.running.push(new);
        }
        // One of a config before, which did not start, is in none that is at work.
        status.retain(ComponentKind::Extension, |id| {
            self.running.iter().any(|running| running.id == *id)
        });
        Ok(())
    }

    async fn end(&self, mut running: Running) {
        running.extension.stop().await;
        let status = &self.environment.status;
        status.remove(ComponentKind::Extension, &running.id);
    }
}

impl Service for Extensions {
    fn start<'a>(&'a mut self, config: &'a Config) -> LocalBoxFuture<'a, Result<(), ExitError>> {
        Box::pin(self.apply(config))
    }

    fn reload<'a>(&'a mut self, config: &'a Config) -> LocalBoxFuture<'a, Result<(), ExitError>> {
        Box::pin(self.apply(config))
    }

    fn stop(&mut self, until: Instant) -> LocalBoxFuture<'_, ()> {
        Box::pin(async move {
            while let Some(running) = self.running.pop() {
                let id = running.id.clone();
                let ended = tokio::time::timeout_at(until.into(), self.end(running)).await;
                if ended.is_err() {
                    tracing::warn!(extension = %id, "an extension did not stop in time; \
                        hint: raise service.shutdown_timeout");
                }
            }
        })
    }
}
