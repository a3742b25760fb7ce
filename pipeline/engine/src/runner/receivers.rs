//! Receivers of a runner: each has a separate thread.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, PoisonError};
use std::thread;

use arc_swap::ArcSwap;
use flowtap_pipeline::{ComponentId, ComponentKind, Inheritance, Receiver, State};
use futures::FutureExt;
use opentelemetry::KeyValue;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::Runner;
use super::error::{RunError, panic_message};
use super::graph::ReceiverNode;
use super::running::{ReceiverEnd, RunningReceiver};
use crate::chain::SharedChain;
use crate::pulse::Pulse;
use crate::sink::{ChainSet, ChainSink};
use crate::telemetry::{ReceiverTelemetry, observe_scans};

impl Runner {
    fn inheritances(&mut self) -> &mut BTreeMap<ComponentId, Inheritance> {
        self.inheritances
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn apply_receivers(&mut self, nodes: Vec<ReceiverNode>) -> Result<(), RunError> {
        let leaving: Vec<_> = self
            .receivers
            .iter()
            .filter(|(id, running)| {
                let same = |node: &ReceiverNode| node.id == **id && node.fingerprint == running.fingerprint;
                !nodes.iter().any(same)
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in leaving {
            let is_replaced = nodes.iter().any(|node| node.id == id);
            let Some(receiver) = self.receivers.get_mut(&id) else {
                continue;
            };
            self.status
                .set(ComponentKind::Receiver, &id, State::Stopping, None);
            receiver.stop.cancel();
            // In the map until it has ended, so that stopping waits for it if this future is dropped. One that waits for an
            // exporter gets the second half of the time without.
            let waited = self.deadline;
            let ended = match tokio::time::timeout(waited / 2, receiver.end(&id)).await {
                Ok(ended) => Ok(ended),
                Err(_elapsed) => {
                    for exporter in self.exporters.values() {
                        exporter.handle.queue.relieve(true);
                    }
                    tokio::time::timeout(waited / 2, receiver.end(&id)).await
                }
            };
            self.receivers.remove(&id);
            self.status.remove(ComponentKind::Receiver, &id);
            let stuck = |_| {
                Err(RunError::Stuck {
                    id: id.clone(),
                    waited,
                })
            };
            let inheritance = ended.unwrap_or_else(stuck)?;
            if let Some(inheritance) = inheritance.filter(|_| is_replaced) {
                self.inheritances().insert(id, inheritance);
            }
        }
        for node in nodes {
            let fed = self.chains_of(&node.id);
            match self.receivers.get(&node.id) {
                Some(running) => running.chains.store(Arc::new(fed)),
                None => self.start_receiver(node, fed).await?,
            }
        }
        // Only a start that failed leaves any, and then the graph before takes it over again.
        self.inheritances().clear();
        Ok(())
    }

    /// Counts and logs connections that a receiver has left open, and with which no other continues.
    pub(super) fn count_detached(&self, receiver: &ComponentId, connections: u64) {
        self.detached
            .add(connections, &[KeyValue::new("receiver", receiver.to_string())]);
        if connections > 0 {
            tracing::warn!(
                %receiver, connections,
                "a receiver has ended, and no other continues with its open connections: bytes that they move until another \
                 receiver adopts them are not counted; hint: change to another receiver while few connections are open; other \
                 settings of the same receiver change without a loss"
            );
        }
    }

    async fn start_receiver(&mut self, node: ReceiverNode, fed: Vec<SharedChain>) -> Result<(), RunError> {
        let ReceiverNode {
            id,
            fingerprint,
            mut receiver,
        } = node;
        self.status
            .set(ComponentKind::Receiver, &id, State::Starting, None);
        let inheritance = self.inheritances().remove(&id);
        let continues = inheritance.is_some_and(|inheritance| receiver.take_over(inheritance).is_ok());
        if !continues {
            for chain in &fed {
                let receiver = id.clone();
                let left = self
                    .on_chain(chain, move |chain| chain.reset_watermark(&receiver))
                    .await;
                self.count_detached(&id, left);
            }
        }
        let chains: ChainSet = Arc::new(ArcSwap::from_pointee(fed));
        let telemetry = ReceiverTelemetry::new(&self.meter, &id);
        let pulse = Arc::new(Pulse::default());
        observe_scans(&self.meter, &id, &pulse);
        let sink = ChainSink::new(id.clone(), Arc::clone(&chains), telemetry, Arc::clone(&pulse));
        let stop = CancellationToken::new();
        // If this future is dropped while the receiver attaches, the receiver ends as soon as it has.
        let guard = stop.clone().drop_guard();
        match start_receiver(&id, receiver, sink, stop.clone()).await {
            Ok(ends) => {
                guard.disarm();
                self.status.set(ComponentKind::Receiver, &id, State::Ok, None);
                self.status.watch(&id, pulse);
                let running = RunningReceiver {
                    fingerprint,
                    chains,
                    stop,
                    ends,
                };
                self.receivers.insert(id, running);
                Ok(())
            }
            Err((error, inheritance)) => {
                if let Some(inheritance) = inheritance {
                    self.inheritances().insert(id, inheritance);
                }
                Err(self.failed(ComponentKind::Receiver, error))
            }
        }
    }
}

/// Result of a start; an error includes the state that the receiver had taken over.
type Started = Result<(), (RunError, Option<Inheritance>)>;

/// Runs a receiver to its end, on this thread.
fn run_receiver(
    id: ComponentId,
    mut receiver: Box<dyn Receiver>,
    mut sink: ChainSink,
    stop: CancellationToken,
    started: oneshot::Sender<Started>,
    ended: oneshot::Sender<ReceiverEnd>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(source) => {
            let error = RunError::Thread { id, source };
            let _ = started.send(Err((error, receiver.hand_over())));
            return;
        }
    };
    let receive = async {
        if let Err(source) = receiver.start() {
            let error = RunError::Start {
                id: id.clone(),
                source,
            };
            let _ = started.send(Err((error, receiver.hand_over())));
            return Ok(None);
        }
        // The run may have been given up meanwhile; then `stop` is also cancelled.
        let _ = started.send(Ok(()));
        let ran = receiver.run(&mut sink, stop).await;
        ran.map(|()| receiver.hand_over())
            .map_err(|source| RunError::Failed {
                id: id.clone(),
                source,
            })
    };
    let outcome = runtime.block_on(AssertUnwindSafe(receive).catch_unwind());
    let outcome = outcome.unwrap_or_else(|panic| {
        Err(RunError::Panicked {
            id,
            message: panic_message(&*panic),
        })
    });
    let _ = ended.send(outcome);
}

/// Starts a receiver on its own thread and waits until it is attached. Returns a handle to its end;
/// an error includes the state that the receiver had taken over.
async fn start_receiver(
    id: &ComponentId,
    receiver: Box<dyn Receiver>,
    sink: ChainSink,
    stop: CancellationToken,
) -> Result<oneshot::Receiver<ReceiverEnd>, (RunError, Option<Inheritance>)> {
    let (started, starts) = oneshot::channel();
    let (ended, ends) = oneshot::channel();
    let thread_id = id.clone();
    let work = move || run_receiver(thread_id, receiver, sink, stop, started, ended);
    // The kernel keeps 15 bytes of a thread's name.
    let name = format!("recv-{id}").chars().take(15).collect();
    if let Err(source) = thread::Builder::new().name(name).spawn(work) {
        let error = RunError::Thread {
            id: id.clone(),
            source,
        };
        return Err((error, None));
    }
    let dropped = |id: &ComponentId| RunError::Panicked {
        id: id.clone(),
        message: "in its start".to_owned(),
    };
    match starts.await {
        Ok(Ok(())) => Ok(ends),
        Ok(Err(error)) => Err(error),
        // The panic was in `start`: its text comes by the other channel.
        Err(_) => {
            let error = ends.await.ok().and_then(Result::err);
            Err((error.unwrap_or_else(|| dropped(id)), None))
        }
    }
}
