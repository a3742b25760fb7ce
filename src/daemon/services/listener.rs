//! A listener of the daemon itself, at the address that the config sets.

use std::net::SocketAddr;
use std::time::Instant;

use axum::Router;
use flowtap_config::{Config, ServiceConfig};
use flowtap_extensions::admin::{self, Endpoint, Server};
use flowtap_pipeline::futures::future::LocalBoxFuture;
use opentelemetry::metrics::Meter;
use tokio_util::sync::CancellationToken;

use super::Service;
use crate::exit::ExitError;

/// Where it listens, and for which names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::daemon) struct Place {
    pub(in crate::daemon) address: SocketAddr,
    pub(in crate::daemon) hosts: Vec<String>,
}

/// A listener.
pub(in crate::daemon) struct Listener {
    /// Its section in the config, such as `service.admin`.
    pub(in crate::daemon) section: &'static str,
    /// Title for the log.
    pub(in crate::daemon) title: &'static str,
    /// Path of its page.
    pub(in crate::daemon) path: &'static str,
    /// Reads its place from the config; nothing if there is to be no listener.
    pub(in crate::daemon) place: fn(&ServiceConfig) -> Option<Place>,
    pub(in crate::daemon) routes: Router,
    pub(in crate::daemon) meter: Meter,
    pub(in crate::daemon) running: Option<Running>,
}

/// A listener at work.
pub(in crate::daemon) struct Running {
    place: Place,
    stop: CancellationToken,
    server: Server,
}

impl Running {
    async fn end(self) {
        self.stop.cancel();
        // A task that panicked has said so itself.
        let _ = self.server.await;
    }
}

impl Listener {
    async fn bind(&self, place: Place) -> Result<Running, ExitError> {
        let endpoint = Endpoint {
            section: self.section,
            title: self.title,
            path: self.path,
            address: place.address,
            allowed_hosts: &place.hosts,
        };
        let stop = CancellationToken::new();
        let server = admin::serve(endpoint, self.routes.clone(), &self.meter, stop.clone()).await?;
        Ok(Running { place, stop, server })
    }

    async fn apply(&mut self, config: &Config) -> Result<(), ExitError> {
        let wanted = (self.place)(&config.service);
        if self.running.as_ref().map(|running| &running.place) == wanted.as_ref() {
            return Ok(());
        }
        // The port is free only once the listener before has ended.
        let port = wanted.as_ref().map(|place| place.address.port());
        let is_in_the_way =
            |running: &mut Running| port.is_none_or(|port| running.place.address.port() == port);
        let before = self.running.take_if(is_in_the_way);
        if let Some(before) = before {
            before.end().await;
        }
        if let Some(place) = wanted {
            let running = self.bind(place).await?;
            if let Some(before) = self.running.replace(running) {
                before.end().await;
            }
        }
        Ok(())
    }
}

impl Service for Listener {
    fn start<'a>(&'a mut self, config: &'a Config) -> LocalBoxFuture<'a, Result<(), ExitError>> {
        Box::pin(self.apply(config))
    }

    fn reload<'a>(&'a mut self, config: &'a Config) -> LocalBoxFuture<'a, Result<(), ExitError>> {
        Box::pin(self.apply(config))
    }

    fn stop(&mut self, _: Instant) -> LocalBoxFuture<'_, ()> {
        Box::pin(async {
            if let Some(running) = self.running.take() {
                running.end().await;
            }
        })
    }
}
