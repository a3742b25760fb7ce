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

use flowtap_pipeline::futures::FutureExt;
use flowtap_pipeline::futures::future::BoxFuture;
use flowtap_pipeline::{
    BuildContext, BuildError, ComponentConfig, Contract, ExportService, Exported, Exporter, ExporterConfig,
    Factory, FamilyKind, Points, Snapshot, Stability, StageError, Violation, export_with,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    fn validate(&self) -> Vec<Violation> {
        let mut faults = Vec::new();
        if !self.path.is_absolute() || self.path.file_name().is_none() {
            faults.push(Violation::new("path", "must be the absolute path of a file"));
        }
        faults
    }

    fn contract(&self) -> Contract {
        Contract::default()
            .writes(self.path.parent())
            .owns("path", &self.path)
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
            // The sandbox creates the folders of the contract; without it nothing else does.
            let created = self.path.parent().map_or(Ok(()), std::fs::create_dir_all);
            let opened = created.and_then(|()| OpenOptions::new().create(true).append(true).open(&self.path));
            let mut file = opened
                .map_err(|error| StageError::Other(format!("{}: {error}", self.path.display()).into()))?;
            Ok(export_with(move |snapshot: Arc<Snapshot>| {
                let written = file.write_all(line(&snapshot).as_bytes());
                let exported = Exported {
                    sent: snapshot.points() as u64,
                    failed: 0,
                };
                async move { Ok(written.map(|()| exported)?) }
            }))
        }
        .boxed()
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

#[cfg(test)]
mod tests {
    use super::*;
    use flowtap_pipeline::catalog::FamilyId;
    use flowtap_pipeline::testing::{ExporterTest, counters};

    #[test]
    fn each_window_appends_the_sums_of_its_counters() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("totals.txt");
        let mut totals = ExporterTest::start(FACTORY, &format!("path: {}", path.display()));
        let family = &FamilyId::Egress.definition().family;
        let snapshot = |seconds, bytes| {
            let peers = [([("raddr", "192.0.2.7")], bytes), ([("raddr", "192.0.2.8")], 1)];
            counters(family, seconds, peers)
        };
        assert_eq!(totals.export(snapshot(5, 80)).unwrap().sent, 2);
        totals.export(snapshot(10, 100)).unwrap();
        totals.stop();
        let lines = std::fs::read_to_string(path).unwrap();
        assert_eq!(
            lines,
            "5.000000000 network_tcp_flow_egress=81\n10.000000000 network_tcp_flow_egress=101\n"
        );
    }
}
