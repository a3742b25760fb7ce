//! The exporter `ipfix`: sends flow records to a collector of IPFIX (RFC 7011), over UDP, TCP or TLS.
//!
//! In: batches of log records. Out: messages of templates, of flow records, and of the observation domain's options. The rules, in
//! order:
//!
//! 1. Each record of a connection or UDP flow is a flow record with both directions (a biflow, RFC 5103), or without `biflow` one for
//!    each direction that moved anything. Dropped packets are a flow record with counts of what was dropped. Other log records are left
//!    out and counted.
//! 2. A message has `max_message_bytes` at most, and both directions of a flow.
//! 3. A session starts with the templates, and numbers its records from 0. Over UDP the templates are repeated each
//!    `template_refresh`, before the message that is due then.
//! 4. Over UDP a session waits a moment after its templates: a host on which nothing listens answers, and flows are kept until
//!    something does. A later refusal ends the session: datagrams before it are lost, which is counted.
//! 5. Over TCP and TLS each message is preceded by a look whether the collector has closed the connection. Messages are kept until the
//!    collector's kernel has acknowledged them; those that it had not when the connection ended go first on the next one.
//! 6. A failed message is retried as `retry` has it, in a new session. An attempt that takes longer than `timeout` has failed.

mod acks;
mod address;
mod config;
mod elements;
mod factory;
mod flow;
mod link;
mod message;
mod session;
mod telemetry;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll};

use flowtap_pipeline::{
    BuildContext, ExportService, Exported, Exporter, LogBatch, Output, PipelineKind, StageError,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use tower::util::BoxService;
use tower::{BoxError, Service, ServiceExt};

pub use self::config::{Config, Protocol};
pub use self::factory::FACTORY;
use self::link::Target;
use self::message::Encoder;
use self::session::{Client, Domain};
use self::telemetry::Telemetry;
use crate::push::health::{Addresses, Health};
use crate::push::{self, Sender};

/// The exporter.
pub struct IpfixExporter {
    config: Config,
    context: BuildContext,
    client: Option<Client>,
}

impl IpfixExporter {
    /// An exporter that sends nothing yet.
    pub fn new(config: Config, context: &BuildContext) -> Self {
        Self {
            config,
            context: context.clone(),
            client: None,
        }
    }

    fn service(&mut self) -> Result<IpfixService, StageError> {
        let address = self.config.address();
        let target = Target {
            protocol: self.config.protocol,
            address: address.map_err(|error| StageError::Other(error.into()))?,
            tls: self.config.tls.clone(),
            timeout: self.config.timeout,
            connect_timeout: self.config.connect_timeout.unwrap_or(self.config.timeout / 2),
        };
        let domain = Domain {
            id: self.config.observation_domain(&self.context.resource),
            name: self.context.resource.node().to_owned(),
            biflow: self.config.biflow,
            refresh: self.config.template_refresh,
        };
        tracing::info!(
            exporter = %self.context.id,
            endpoint = self.config.shown(),
            observation_domain = domain.id,
            "sending flows over IPFIX"
        );
        let health = Health::new(&self.context, Addresses::one(&self.config.shown()));
        let telemetry = Telemetry::new(&self.context);
        let client = Client::new(target, domain, telemetry.clone());
        self.client = Some(client.clone());
        Ok(IpfixService {
            encoder: Arc::new(self.config.encoder()),
            sender: push::sender(
                client.clone(),
                &self.config.retry,
                self.config.timeout,
                health.clone(),
            ),
            client,
            health,
            telemetry,
        })
    }
}

impl Exporter for IpfixExporter {
    fn start(&mut self) -> BoxFuture<'_, Result<ExportService, StageError>> {
        async move { Ok(BoxService::new(self.service()?)) }.boxed()
    }

    fn unacknowledged(&self) -> Option<Arc<AtomicU64>> {
        self.client.as_ref().map(Client::unacknowledged)
    }

    fn stop(&mut self) -> BoxFuture<'_, ()> {
        async move {
            if let Some(client) = self.client.take() {
                client.close().await;
            }
        }
        .boxed()
    }
}

/// Encodes and sends message by message.
struct IpfixService {
    encoder: Arc<Encoder>,
    sender: Sender,
    client: Client,
    health: Health,
    telemetry: Telemetry,
}

impl Service<Output> for IpfixService {
    type Response = Exported;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Exported, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // Readiness is awaited message by message, below.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, output: Output) -> Self::Future {
        match output {
            Output::Logs(batch) => self.push(batch),
            // `validate` keeps them away.
            Output::Metrics(snapshot) => futures::future::ready(Ok(Exported {
                sent: 0,
                failed: snapshot.points() as u64,
            }))
            .boxed(),
        }
    }
}

impl IpfixService {
    fn push(&self, batch: Arc<LogBatch>) -> BoxFuture<'static, Result<Exported, BoxError>> {
        let (encoder, mut sender) = (Arc::clone(&self.encoder), self.sender.clone());
        let (client, health, telemetry) = (self.client.clone(), self.health.clone(), self.telemetry.clone());
        async move {
            let (mut exported, mut next) = (Exported::default(), 0);
            while let Some(part) = encoder.next_part(&batch, &mut next) {
                telemetry.left_out(&part);
                let Some(request) = part.request else {
                    continue;
                };
                let items = request.items;
                match sender.ready().await?.call(request).await {
                    Ok(part) => exported.sent += part.sent,
                    // The other messages may fare better.
                    Err(error) => {
                        exported.failed += items;
                        client.not_sent(items);
                        health.gave_up(&error, PipelineKind::Logs, items);
                    }
                }
            }
            Ok(exported)
        }
        .boxed()
    }
}

/// The messages that `batch` makes in one session, from its templates on: for tests with other decoders.
pub fn encoded(config: &Config, batch: &LogBatch) -> Vec<Vec<u8>> {
    let domain = 1;
    let mut messages = Vec::from(elements::template_messages(config.biflow));
    for templates in &mut messages {
        message::finish(templates, 0, 0, domain);
    }
    let (mut next, mut sequence) = (0, 0);
    let encoder = config.encoder();
    while let Some(part) = encoder.next_part(batch, &mut next) {
        let Some(request) = part.request else {
            continue;
        };
        let mut bytes = request.body.to_vec();
        let records = message::records(&bytes);
        message::finish(&mut bytes, 0, sequence, domain);
        sequence = sequence.wrapping_add(records);
        messages.push(bytes);
    }
    messages
}
