//! Labels of series by their names in the config.

use std::collections::{BTreeMap, HashMap};

use flowtap_pipeline::catalog::{FAMILIES, Label};
use flowtap_pipeline::{Family, Naming, Series};

/// Labels and their values.
pub(super) type Labels = BTreeMap<String, String>;

/// Labels' names in the config.
pub(super) struct Names {
    /// By OpenTelemetry's names.
    otel: HashMap<&'static str, &'static str>,
    /// By the names that a pipeline gives them, in either naming.
    renamed: HashMap<String, &'static str>,
}

impl Names {
    pub(super) fn new(renamed: &[(String, Label)]) -> Self {
        // By the Go exporter's naming a family can have each label that it can have by any.
        let possible = FAMILIES
            .iter()
            .flat_map(|definition| definition.possible(Naming::PrimusLens));
        let renamed = renamed.iter();
        let mut otel = HashMap::new();
        for label in possible {
            // Of TCP and of UDP the protocol is another label; families of TCP come first, and flows are of TCP.
            otel.entry(label.otel_name()).or_insert(label.name());
        }
        Self {
            otel,
            renamed: renamed
                .map(|(name, label)| (name.clone(), label.name()))
                .collect(),
        }
    }

    pub(super) fn labels(&self, family: &Family, series: &Series) -> Labels {
        let pairs = series.pairs();
        pairs
            .map(|pair| {
                let name = self.in_config(pair.name(), family.naming);
                (name.to_owned(), pair.value.text().into_owned())
            })
            .collect()
    }

    fn in_config<'a>(&'a self, name: &'a str, naming: Naming) -> &'a str {
        let renamed = self.renamed.get(name);
        let otel = || match naming {
            Naming::PrimusLens => None,
            Naming::Otel => self.otel.get(name),
        };
        renamed.or_else(otel).copied().unwrap_or(name)
    }
}
