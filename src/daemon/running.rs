//! The running graph and services, and how a new config takes the place of the one before.

use flowtap_config::{Config, ServiceConfig};
use flowtap_engine::runner::{Graph, Runner};
use flowtap_extensions::admin::ReloadRecorder;
use flowtap_extensions::admin::status_page::Pipelines;
use flowtap_extensions::live::tap::Tap;
use flowtap_extensions::systemd;
use opentelemetry::metrics::Meter;
use tokio_util::sync::CancellationToken;

use super::graph::{self, Environment};
use super::reload::{Load, ReloadTrigger};
use super::sandbox::Limits;
use super::services::{ReloadError, Services};
use crate::exit::ExitError;

/// Parts with which the graph of every config is built, and which the services show.
pub(super) struct Parts {
    pub(super) environment: Environment,
    pub(super) meter: Meter,
    pub(super) strict: bool,
    /// Where the live view looks, if anybody can ask for it.
    pub(super) tap: Option<Tap>,
    pub(super) pipelines: Pipelines,
    pub(super) reloads: ReloadRecorder,
}

impl Parts {
    /// The graph of `config`.
    ///
    /// # Errors
    /// A component that can't be built on this machine.
    pub(super) fn build(&self, config: &Config) -> Result<Graph, ExitError> {
        graph::check_memory(config)?;
        let mut graph =
            graph::build(config, &self.meter, &self.environment, self.strict).map_err(|error| {
                // The config is right, and a later start may succeed.
                if error.is_temporary {
                    return error.into();
                }
                ExitError::config(&config.build_error(&error))
            })?;
        if let Some(tap) = &self.tap {
            graph::attach_tap(&mut graph, tap);
        }
        Ok(graph)
    }

    /// Shows the pipelines of `config`, which is at work, on the page and in the live view.
    pub(super) fn show(&self, config: &Config) {
        self.pipelines.set(config);
        if let Some(tap) = &self.tap {
            tap.set_pipelines(graph::tapped_pipelines(config));
        }
    }
}

/// The running graph and services, and the config that they were built from.
pub(super) struct Running {
    pub(super) runner: Runner,
    pub(super) services: Services,
    pub(super) config: Config,
    pub(super) parts: Parts,
    /// The sandbox, as far as it limits later configs.
    pub(super) limits: Limits,
}

impl Running {
    /// Reloads the config whenever it is to be, until `stop` or until a component ends the run.
    pub(super) async fn follow(
        &mut self,
        stop: &CancellationToken,
        reload_trigger: &mut ReloadTrigger,
        load: Load<'_>,
    ) -> Result<(), ExitError> {
        loop {
            let why = tokio::select! {
                () = stop.cancelled() => break Ok(()),
                ended = self.runner.ended() => break ended.map_err(ExitError::from),
                why = reload_trigger.next() => why,
            };
            tracing::info!(why, "reloading the config");
            systemd::reloading();
            // A signal must not wait for exporters that drain: dropped, the reload leaves the rest to `stop`.
            let Some(reloaded) = stop.run_until_cancelled(self.reload(load)).await else {
                break Ok(());
            };
            match reloaded {
                Ok(()) => {
                    reload_trigger.watch(self.config.files.clone());
                    self.parts.reloads.applied();
                    tracing::info!("the new config is in use");
                }
                Err(ReloadError::Kept(why)) => {
                    self.parts.reloads.refused(&why.to_string());
                    tracing::error!(
                        report = %why,
                        "the new config is refused, the old one stays; \
                    hint: check it with `flowtap validate --config FILE`"
                    );
                }
                Err(ReloadError::Lost(why)) => break Err(why),
            }
            systemd::ready();
        }
    }

    /// Takes on the config as `load` has it now: services and components whose config is the same live on. One that is wrong
    /// changes nothing; if its services or components don't start, the one before is restored.
    async fn reload(&mut self, load: Load<'_>) -> Result<(), ReloadError> {
        let config = load().map_err(ReloadError::Kept)?;
        let checked = self.limits.check(&config);
        checked.map_err(|error| ReloadError::Kept(ExitError::config(&error)))?;
        let graph = self.parts.build(&config).map_err(ReloadError::Kept)?;
        self.services.reload(&config, &self.config).await?;
        if let Err(error) = self.runner.apply(graph).await {
            tracing::warn!(%error, "rolling back to the previous config; \
                hint: fix the component that the error names, then reload");
            let back = self.services.reload(&self.config, &config).await;
            back.map_err(|error| match error {
                ReloadError::Kept(why) | ReloadError::Lost(why) => ReloadError::Lost(why),
            })?;
            let before = self.parts.build(&self.config).map_err(ReloadError::Lost)?;
            // The previous graph can run again, unless the machine has changed meanwhile.
            self.runner
                .apply(before)
                .await
                .map_err(|error| ReloadError::Lost(error.into()))?;
            return Err(ReloadError::Kept(error.into()));
        }
        let waiting = self.fixed(&config).changed_keys(&self.fixed(&self.config));
        if !waiting.is_empty() {
            tracing::warn!(
                keys = waiting.join(", "),
                "changes of these keys take effect only at the next start; hint: restart flowtap for these"
            );
        }
        self.parts.show(&config);
        self.config = config;
        Ok(())
    }

    /// The settings of the daemon that last until it stops: the others are those of the config at work.
    fn fixed(&self, config: &Config) -> ServiceConfig {
        let now = &self.config.service;
        let mut service = config.service.clone();
        service.extensions.clone_from(&now.extensions);
        service.memory_limiter.clone_from(&now.memory_limiter);
        service.telemetry.logs.level.clone_from(&now.telemetry.logs.level);
        let (metrics, before) = (&mut service.telemetry.metrics, &now.telemetry.metrics);
        metrics.endpoint = before.endpoint;
        metrics.allowed_hosts.clone_from(&before.allowed_hosts);
        if !before.exporters.is_empty() {
            metrics.exporters.clone_from(&before.exporters);
        }
        // With the first listener begins what it shows.
        if self.parts.tap.is_some() {
            service.admin.clone_from(&now.admin);
        } else {
            service.admin.allowed_hosts.clone_from(&now.admin.allowed_hosts);
        }
        service
    }
}
