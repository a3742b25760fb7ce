//! Observed conversations: of recordings, or of this machine for a while.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flowtap_config::{Config, PipelineConfig};
use flowtap_network_policy::cluster::Cluster;
use flowtap_network_policy::conversation::Conversations;
use flowtap_network_policy::observed::Observed;
use flowtap_pipeline::{Aggregator, ClusterObjects, FlowBatch, Output, PipelineId, Snapshot, Timestamp};

use super::inputs::objects_of;
use crate::cli::policy::ObservedArgs;
use crate::commands::record;
use crate::commands::replay::Recording;
use crate::exit::{Code, ExitError};

/// Observed conversations, and the cluster around them.
pub(super) struct Observation {
    pub(super) conversations: Conversations,
    pub(super) cluster: Cluster,
    /// Records of flows beyond `--max-flows`.
    pub(super) left_out: u64,
    /// Records of UDP flows beyond `udp.max_flows` of the receiver.
    pub(super) unplaced: u64,
    /// Records of UDP whose peer the receiver's hooks do not show.
    pub(super) without_peer: u64,
    /// Whether UDP was seen.
    pub(super) has_udp: bool,
    /// A signal ended the measurement before its time.
    pub(super) interrupted: Option<Interrupted>,
}

/// The time of a measurement that a signal ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interrupted {
    pub(super) measured: Duration,
    pub(super) asked: Duration,
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { measured, asked } = self;
        write!(
            f,
            "measured {} s of {} s",
            measured.as_secs(),
            asked.as_secs_f64()
        )
    }
}

/// Observes.
///
/// # Errors
/// A recording or file that can't be read; what keeps a receiver from working.
pub(super) fn observe(args: &ObservedArgs, config: &Config) -> Result<Observation, ExitError> {
    let given = objects_of(&args.cluster)?;
    let mut views = Vec::new();
    let mut interrupted = None;
    if args.recordings.is_empty() {
        let folder = tempfile::tempdir().map_err(|error| ExitError::new(Code::Create, error))?;
        let file = folder.path().join("policy");
        let asked = args.duration;
        let measured = record::record(config, record::Target::File(&file), Some(asked))?;
        interrupted = measured.map(|measured| Interrupted { measured, asked });
        views.push(View::of(&file, args, config, &given)?);
    } else {
        for file in &args.recordings {
            views.push(View::of(file, args, config, &given)?);
        }
    }
    let mut all = ClusterObjects::default();
    let mut machines = Vec::new();
    for view in &mut views {
        all.merge(std::mem::take(&mut view.objects));
        machines.extend(&view.machine);
    }
    all.merge(given);
    // One machine's addresses that are not named by any object are of its node alone.
    let here = if views.len() == 1 { &*machines } else { &[] };
    let mut cluster = Cluster::new(all, here);
    for view in &mut views {
        view.observed.keep_pods(&mut cluster);
    }
    let mut conversations = Conversations::default();
    let (mut left_out, mut unplaced, mut without_peer, mut has_udp) = (0, 0, 0, false);
    for view in &views {
        conversations.add(&view.observed, &cluster, &view.machine, args.attempts);
        left_out += view.observed.left_out;
        unplaced += view.observed.unplaced;
        without_peer += view.observed.without_peer;
        has_udp |= view.observed.has_udp;
    }
    Ok(Observation {
        conversations,
        cluster,
        left_out,
        unplaced,
        without_peer,
        has_udp,
        interrupted,
    })
}

/// One recording.
struct View {
    observed: Observed,
    objects: ClusterObjects,
    machine: Vec<std::net::IpAddr>,
}

impl View {
    /// `given` are objects of files, which replace those of the recording.
    fn of(
        file: &Path,
        args: &ObservedArgs,
        config: &Config,
        given: &ClusterObjects,
    ) -> Result<Self, ExitError> {
        let (name, pipeline) = first_pipeline(config)?;
        let mut recording = Recording::open(file)?;
        let observed = Arc::new(Mutex::new(Observed::new(args.max_flows as usize)));
        let observer = Observer(Arc::clone(&observed));
        let stages = recording
            .stages(config, name, pipeline)?
            .with_window(Box::new(observer));
        let given_pods: HashSet<_> = given
            .pods
            .iter()
            .map(|pod| (pod.namespace.clone(), pod.name.clone()))
            .collect();
        let mut rest = Some(given.clone());
        recording.play_with_cluster(stages, |mut change| {
            // Objects of files are those of the first listing, and do not change.
            change.objects = change.objects.except(given);
            change.objects.merge(rest.take().unwrap_or_default());
            change.gone.retain(|name| !given_pods.contains(name));
            observed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .list(change);
        })?;
        let mut observed = observed.lock().unwrap_or_else(PoisonError::into_inner);
        observed.finish();
        let addresses = recording.node().addresses.iter();
        Ok(Self {
            machine: addresses
                .map(|address| address.network.addr().to_canonical())
                .collect(),
            observed: std::mem::replace(&mut observed, Observed::new(0)),
            objects: recording.into_objects(),
        })
    }
}

fn first_pipeline(config: &Config) -> Result<(&PipelineId, &PipelineConfig), ExitError> {
    let first = config.pipelines.iter().next();
    let first = first.ok_or_else(|| ExitError::new(Code::Config, "the config has no pipeline"))?;
    Ok((first.0, first.1))
}

/// The end of the path: keeps flows in place of series.
#[derive(Debug)]
struct Observer(Arc<Mutex<Observed>>);

impl Aggregator for Observer {
    fn begin(&mut self, at: Timestamp) {
        let mut observed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        observed.advance(at);
    }

    fn fold(&mut self, batch: &FlowBatch) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fold(batch);
    }

    fn advance(&mut self, to: Timestamp) -> Option<Output> {
        let mut observed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        observed.advance(to);
        None
    }

    fn finish(&mut self, at: Timestamp) -> Output {
        self.advance(at);
        Output::from(Snapshot::of_nothing(at))
    }
}
