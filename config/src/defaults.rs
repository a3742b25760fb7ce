//! The lowest layer: what runs when nothing is configured.

use figment::value::{Dict, Value};
use flowtap_pipeline::Registry;

/// The id of the default pipeline.
pub const PIPELINE: &str = "metrics";

/// Variables that make the `otlp` exporter join the default pipeline.
const OTLP_ENDPOINTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
];

/// The default pipeline as values: components without settings, and `service.pipelines.metrics`.
///
/// An exporter `otlp` is in it if the environment says where to push.
pub fn values(registry: &Registry, env: &[(String, String)]) -> Dict {
    let pushes = env
        .iter()
        .any(|(name, value)| OTLP_ENDPOINTS.contains(&name.as_str()) && !value.is_empty());
    let mut exporters = vec!["prometheus"];
    if pushes && registry.exporters().contains_key("otlp") {
        exporters.push("otlp");
    }
    let sections = [
        ("receivers", vec!["ebpf"]),
        ("processors", vec!["direction", "policy", "window"]),
        ("exporters", exporters),
    ];
    let mut values = Dict::new();
    let mut pipeline = Dict::new();
    for (section, ids) in sections {
        let components = ids.iter().map(|id| ((*id).to_owned(), Value::from(Dict::new())));
        values.insert(section.to_owned(), Value::from(components.collect::<Dict>()));
        pipeline.insert(section.to_owned(), Value::from(ids));
    }
    let pipelines = Dict::from([(PIPELINE.to_owned(), Value::from(pipeline))]);
    let service = Dict::from([("pipelines".to_owned(), Value::from(pipelines))]);
    values.insert("service".to_owned(), Value::from(service));
    values
}
