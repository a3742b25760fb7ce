//! A custom distribution: flowtap with one more exporter, `totals`, which appends a line per window to a file.
//!
//! In: snapshots. Out: the end of the window, then what each counter has come to over all its series, as
//! `1767225600.000000000 network_tcp_flow_egress=81 network_tcp_flow_ingress=3000286`.
//!
//! `docs/extending.md` goes through it.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use flowtap_pipeline::{
    BuildContext, BuildError, ComponentConfig, Contract, ExportService, Exported, Exporter, ExporterConfig,
    Factory, FamilyKind, Fault, Points, Snapshot, Stability, StageError,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tower::util::BoxService;
use tower::{BoxError, service_fn};

fn main() -> ExitCode {
    flowtap::main(&flowtap::components::registry().exporter(FACTORY))
}

/// The exporter type `totals`.
const FACTORY: Factory<dyn ExporterConfig> = Factory::of::<Config>(
    "totals",
    "appends what each window's counters have come to to a file",
    Stability::Alpha,
);

/// Settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// The file, created with its folder if it is missing. An absolute path.
    path: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            path: PathBuf::from("/var/lib/flowtap/totals.txt"),
        }
    }
}

impl ComponentConfig for Config {
    fn validate(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if !self.path.is_absolute() || self.path.file_name().is_none() {
            faults.push(Fault::new("path", "must be the absolute path of a file"));
        }
        faults
    }

    fn contract(&self) -> Contract {
        Contract::default().writes(self.path.parent())
    }
}

impl ExporterConfig for Config {
    fn build(&self, _: &BuildContext) -> Result<Box<dyn Exporter>, BuildError> {
        Ok(Box::new(Totals {
            path: self.path.clone(),
        }))
    }
}

/// The exporter.
#[derive(Debug)]
struct Totals {
    path: PathBuf,
}

impl Exporter for Totals {
    fn start(&mut self) -> BoxFuture<'_, Result<ExportService, StageError>> {
        async move {
            let opened = OpenOptions::new().create(true).append(true).open(&self.path);
            let mut file = opened
                .map_err(|error| StageError::Other(format!("{}: {error}", self.path.display()).into()))?;
            let service = service_fn(move |snapshot: Arc<Snapshot>| {
                let written = file.write_all(line(&snapshot).as_bytes());
                let exported = Exported {
                    sent: snapshot.points() as u64,
                    failed: 0,
                };
                async move { written.map(|()| exported).map_err(BoxError::from) }
            });
            Ok(BoxService::new(service))
        }
        .boxed()
    }

    fn stop(&mut self) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }
}

fn line(snapshot: &Snapshot) -> String {
    let mut line = snapshot.at.to_string();
    for family in &snapshot.families {
        if let (FamilyKind::Counter, Points::Sums(points)) = (family.family.kind, &family.points) {
            let total: u64 = points.iter().map(|point| point.total).sum();
            // Writing to a String does not fail.
            let _ = write!(line, " {}={total}", family.family.name);
        }
    }
    line.push('\n');
    line
}
