//! `flowtap graph`: draws the wiring of the pipelines.
//!
//! Receivers and exporters stand once, as pipelines share them; each pipeline is a box with its processors in their order.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use flowtap_config::PipelineConfig;
use flowtap_pipeline::plain_text::is_hostile;
use flowtap_pipeline::{ComponentId, PipelineId};

use crate::cli::GraphFormat;

/// A node: its name in the drawing's language, and what is written in it.
type Node = (String, String);

/// The graph to draw.
#[derive(Default)]
struct Drawing {
    receivers: Vec<Node>,
    exporters: Vec<Node>,
    /// Name, and the processors.
    pipelines: Vec<(String, Vec<Node>)>,
    edges: Vec<(String, String)>,
}

/// `pipelines` in the language of `format`.
pub(crate) fn draw(pipelines: &BTreeMap<PipelineId, PipelineConfig>, format: GraphFormat) -> String {
    let drawing = lay_out(pipelines);
    match format {
        GraphFormat::Mermaid => mermaid(&drawing),
        GraphFormat::Dot => dot(&drawing),
    }
}

fn lay_out(pipelines: &BTreeMap<PipelineId, PipelineConfig>) -> Drawing {
    let used = |list: fn(&PipelineConfig) -> &Vec<ComponentId>| {
        pipelines.values().flat_map(list).collect::<BTreeSet<_>>()
    };
    let (receivers, exporters) = (used(|p| &p.receivers), used(|p| &p.exporters));
    // Ids may hold what a language has other uses for, so nodes have numbers for names.
    let index = |ids: &BTreeSet<&ComponentId>, prefix: &str| -> BTreeMap<ComponentId, String> {
        let numbered = ids.iter().enumerate();
        numbered
            .map(|(index, id)| ((*id).clone(), format!("{prefix}{index}")))
            .collect()
    };
    let (receivers, exporters) = (index(&receivers, "receiver"), index(&exporters, "exporter"));
    let mut drawing = Drawing::default();
    for (index, (name, pipeline)) in pipelines.iter().enumerate() {
        let processors: Vec<Node> = pipeline
            .processors
            .iter()
            .enumerate()
            .map(|(place, id)| (format!("processor{index}_{place}"), id.to_string()))
            .collect();
        let path = processors
            .windows(2)
            .map(|pair| (pair[0].0.clone(), pair[1].0.clone()));
        let into = pipeline
            .receivers
            .iter()
            .filter_map(|id| Some((receivers.get(id)?.clone(), processors.first()?.0.clone())));
        let out = pipeline
            .exporters
            .iter()
            .filter_map(|id| Some((processors.last()?.0.clone(), exporters.get(id)?.clone())));
        drawing.edges.extend(into.chain(path).chain(out));
        drawing.pipelines.push((name.to_string(), processors));
    }
    let nodes = |named: BTreeMap<ComponentId, String>| {
        let nodes = named.into_iter().map(|(id, name)| (name, id.to_string()));
        nodes.collect()
    };
    drawing.receivers = nodes(receivers);
    drawing.exporters = nodes(exporters);
    drawing
}

fn mermaid(drawing: &Drawing) -> String {
    // Mermaid has entities for what would end a text (https://mermaid.js.org/syntax/flowchart.html).
    let quoted = |text: &str| {
        let mut quoted = String::from("\"");
        for c in text.chars() {
            match c {
                '"' | '#' | '<' | '>' | '&' | '`' => {
                    let _ = write!(quoted, "#{};", u32::from(c));
                }
                c if is_hostile(c) => quoted.push(' '),
                c => quoted.push(c),
            }
        }
        quoted + "\""
    };
    let mut text = String::from("flowchart LR\n");
    // Writing to a String does not fail.
    for (name, label) in &drawing.receivers {
        let _ = writeln!(text, "    {name}([{}])", quoted(label));
    }
    for (index, (pipeline, processors)) in drawing.pipelines.iter().enumerate() {
        let _ = writeln!(text, "    subgraph pipeline{index} [{}]", quoted(pipeline));
        for (name, label) in processors {
            let _ = writeln!(text, "        {name}[{}]", quoted(label));
        }
        text.push_str("    end\n");
    }
    for (name, label) in &drawing.exporters {
        let _ = writeln!(text, "    {name}([{}])", quoted(label));
    }
    for (from, to) in &drawing.edges {
        let _ = writeln!(text, "    {from} --> {to}");
    }
    text
}

fn dot(drawing: &Drawing) -> String {
    // A backslash begins an escape in a label, a quotation mark ends it (https://graphviz.org/doc/info/lang.html).
    let quoted = |text: &str| {
        let text = text.replace('\\', "\\\\").replace('"', "\\\"");
        format!("\"{}\"", text.replace(is_hostile, " "))
    };
    let mut text = String::from("digraph flowtap {\n    rankdir=LR;\n    node [shape=box];\n");
    for (name, label) in &drawing.receivers {
        let _ = writeln!(text, "    {name} [label={}, style=rounded];", quoted(label));
    }
    for (index, (pipeline, processors)) in drawing.pipelines.iter().enumerate() {
        let _ = writeln!(
            text,
            "    subgraph cluster_{index} {{\n        label={};",
            quoted(pipeline)
        );
        for (name, label) in processors {
            let _ = writeln!(text, "        {name} [label={}];", quoted(label));
        }
        text.push_str("    }\n");
    }
    for (name, label) in &drawing.exporters {
        let _ = writeln!(text, "    {name} [label={}, style=rounded];", quoted(label));
    }
    for (from, to) in &drawing.edges {
        let _ = writeln!(text, "    {from} -> {to};");
    }
    text.push_str("}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipelines() -> BTreeMap<PipelineId, PipelineConfig> {
        let ids = |ids: &[&str]| ids.iter().map(|id| id.parse().unwrap()).collect();
        let pipeline = |exporters| PipelineConfig {
            receivers: ids(&["ebpf"]),
            processors: ids(&["direction", "window"]),
            exporters: ids(exporters),
        };
        BTreeMap::from([
            (
                "metrics".parse().unwrap(),
                pipeline(&["prometheus", "otlp/\"b\\"]),
            ),
            ("metrics/\"b\"#c".parse().unwrap(), pipeline(&["otlp/\"b\\"])),
        ])
    }

    /// Every edge as `label -> label`.
    fn edges(drawing: &Drawing) -> Vec<String> {
        let processors = drawing.pipelines.iter().flat_map(|(_, processors)| processors);
        let nodes: BTreeMap<_, _> = drawing
            .receivers
            .iter()
            .chain(processors)
            .chain(&drawing.exporters)
            .cloned()
            .collect();
        let edges = drawing.edges.iter();
        edges
            .map(|(from, to)| format!("{} -> {}", nodes[from], nodes[to]))
            .collect()
    }

    #[test]
    fn records_go_from_receivers_through_each_pipelines_processors_to_its_exporters() {
        let drawing = lay_out(&pipelines());
        assert_eq!(
            edges(&drawing),
            [
                "ebpf -> direction",
                "direction -> window",
                "window -> prometheus",
                "window -> otlp/\"b\\",
                "ebpf -> direction",
                "direction -> window",
                "window -> otlp/\"b\\",
            ]
        );
        assert_eq!(drawing.receivers.len(), 1);
    }

    #[test]
    fn names_cant_break_out_of_their_labels() {
        let drawn = draw(&pipelines(), GraphFormat::Mermaid);
        assert!(drawn.starts_with("flowchart LR\n"), "{drawn}");
        assert!(drawn.contains("[\"metrics/#34;b#34;#35;c\"]"), "{drawn}");
        let drawn = draw(&pipelines(), GraphFormat::Dot);
        assert!(drawn.contains(r##"label="metrics/\"b\"#c";"##), "{drawn}");
        assert!(
            drawn.contains(r#"[label="otlp/\"b\\", style=rounded];"#),
            "{drawn}"
        );
        assert_eq!(drawn.matches('{').count(), drawn.matches('}').count());
    }
}
