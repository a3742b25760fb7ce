//! The section `service`: its settings, and the pipelines as they are written.

use std::collections::BTreeMap;

use figment::value::Value;
use flowtap_pipeline::PipelineId;
use schemars::JsonSchema;

use super::pipelines::{RawPipeline, pipeline_id_hint};
use super::{Checker, not_a_mapping, path};
use crate::lenient::fill_in;
use crate::service::ServiceConfig;

impl Checker<'_> {
    pub(super) fn service(&mut self) -> (Option<ServiceConfig>, BTreeMap<PipelineId, RawPipeline>) {
        let at = path(&["service"]);
        let mut values = self.section(&at);
        values.remove("pipelines");
        let schema = ServiceConfig::json_schema(&mut self.generator).to_value();
        let outcome = self.read(
            &at,
            &["service"],
            Value::from(values),
            &schema,
            Value::deserialize,
        );
        let service = self.report_outcome(&at, outcome, ServiceConfig::validate);

        let at = path(&["service", "pipelines"]);
        let mut pipelines = BTreeMap::new();
        for (name, mut value) in self.section(&at) {
            let at = [&at[..], std::slice::from_ref(&name)].concat();
            fill_in(&mut value);
            if value.as_dict().is_none() {
                let help = "write `receivers`, `processors` and `exporters`, a list each".to_owned();
                self.report(&at, not_a_mapping(&value), Some(help));
                continue;
            }
            let schema = RawPipeline::json_schema(&mut self.generator).to_value();
            let known = ["service", "pipelines", &name];
            let outcome = self.read(&at, &known, value, &schema, Value::deserialize::<RawPipeline>);
            let written = self.report_outcome(&at, outcome, |_| Vec::new());
            match name.parse::<PipelineId>() {
                Ok(id) => {
                    written.map(|written| pipelines.insert(id, written));
                }
                Err(error) => {
                    let help = pipeline_id_hint(&name);
                    self.report(&at, error.to_string(), Some(help));
                }
            }
        }
        if pipelines.is_empty() && self.diagnostics.is_empty() {
            self.report(
                &at,
                "no pipeline is defined",
                Some("define one, or leave the section out".to_owned()),
            );
        }
        (service, pipelines)
    }
}
