//! The JSON Schema of a config (draft 2020-12), so that editors complete keys and mark mistakes.
//!
//! Derived from the same structs that a config is read into: descriptions from their doc comments, defaults from `Default`.
//! It says less than the checks: what goes beyond the form of a value is for `flowtap validate`. A file may be one layer of
//! several, so nothing that another could give is required.

use std::collections::BTreeMap;

use flowtap_pipeline::{ComponentKind, Factory, Registry};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::service::ServiceConfig;

/// Pattern of a substitution, allowed in place of any scalar.
const SUBSTITUTION: &str = r"\$\{(env|file):[^}]+\}";

/// Pattern of a pipeline's id.
const PIPELINE_ID: &str = r"^(metrics|logs)(/[^/\s]+)?$";

/// The part of an id that follows the component's type.
const NAME: &str = r"/[^/\s]+";

/// The schema with the component types of `registry`, as text.
pub fn text(registry: &Registry) -> String {
    // Keys are text and numbers finite, so nothing can fail.
    let mut text = serde_json::to_string_pretty(&schema(registry)).unwrap_or_default();
    text.push('\n');
    text
}

/// The schema with the component types of `registry`.
pub fn schema(registry: &Registry) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut generator = settings.into_generator();
    let mut definitions = Map::new();
    let mut pipeline = Map::new();
    let mut properties = Map::new();
    let mut add = |kind: ComponentKind, components: Vec<Component>, description: &str| {
        properties.insert(
            kind.section().to_owned(),
            section(kind, &components, description, &mut definitions),
        );
        pipeline.insert(kind.section().to_owned(), references(kind, &components));
    };
    add(
        ComponentKind::Receiver,
        components(registry.receivers(), &mut generator),
        "Sources of records. Ids are a type, or a type and a name: `type/name`.",
    );
    add(
        ComponentKind::Processor,
        components(registry.processors(), &mut generator),
        "Processing of records. Each pipeline has its own instances of those that it lists.",
    );
    add(
        ComponentKind::Exporter,
        components(registry.exporters(), &mut generator),
        "Destinations of snapshots.",
    );
    let extensions = components(registry.extensions(), &mut generator);
    properties.insert(
        ComponentKind::Extension.section().to_owned(),
        section(
            ComponentKind::Extension,
            &extensions,
            "Components beside the pipelines. Each runs if `service.extensions` lists it.",
            &mut definitions,
        ),
    );
    let listed = references(ComponentKind::Extension, &extensions);
    properties.insert("service".to_owned(), service(&pipeline, listed, &mut generator));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "flowtap",
        "description": "The config of flowtap. Omitted keys have their defaults; `flowtap validate` checks the rest.",
        "type": ["object", "null"],
        "additionalProperties": false,
        "properties": properties,
        "$defs": definitions,
    })
}

/// A component type: its name, what it is, its config.
struct Component {
    type_name: &'static str,
    summary: &'static str,
    config: Value,
}

fn components<C: ?Sized>(
    types: &BTreeMap<&'static str, Factory<C>>,
    generator: &mut SchemaGenerator,
) -> Vec<Component> {
    types
        .values()
        .map(|factory| Component {
            type_name: factory.type_name,
            summary: factory.summary,
            config: settle((factory.schema)(generator)),
        })
        .collect()
}

/// Components by id: the bare type among the properties, which editors complete, and those with a name by pattern.
fn section(
    kind: ComponentKind,
    components: &[Component],
    description: &str,
    definitions: &mut Map<String, Value>,
) -> Value {
    let (mut bare, mut named) = (Map::new(), Map::new());
    for component in components {
        let name = format!("{kind}-{}", component.type_name);
        let reference = json!({ "$ref": format!("#/$defs/{name}"), "description": component.summary });
        bare.insert(component.type_name.to_owned(), reference.clone());
        named.insert(format!("^{}{NAME}$", component.type_name), reference);
        let mut config = component.config.clone();
        // A component without a value has all its defaults.
        set(&mut config, "type", json!(["object", "null"]));
        set(&mut config, "description", json!(component.summary));
        definitions.insert(name, config);
    }
    json!({
        "description": description,
        "type": ["object", "null"],
        "additionalProperties": false,
        "properties": bare,
        "patternProperties": named,
    })
}

/// A list of components: of a pipeline, or of the service.
fn references(kind: ComponentKind, components: &[Component]) -> Value {
    let types: Vec<_> = components.iter().map(|component| component.type_name).collect();
    let named = format!("^({}){NAME}$", types.join("|"));
    json!({
        "description": match kind {
            ComponentKind::Receiver => "Its sources of records.",
            ComponentKind::Processor => "Processing of its records, in this order; the last one aggregates them.",
            ComponentKind::Exporter => "Destinations of its series or log records.",
            ComponentKind::Extension => "Extensions that run, in the order in which they start.",
        },
        "type": "array",
        "minItems": usize::from(kind != ComponentKind::Extension),
        "uniqueItems": true,
        "items": { "type": "string", "anyOf": [
            { "enum": types },
            { "pattern": named },
            { "pattern": SUBSTITUTION },
        ] },
    })
}

fn service(pipeline: &Map<String, Value>, extensions: Value, generator: &mut SchemaGenerator) -> Value {
    let mut service = settle(ServiceConfig::json_schema(generator));
    let pipelines = json!({
        "description": "Pipelines by id: `metrics` or `metrics/name` for series, `logs` or `logs/name` for log records. If none is defined, the default pipeline `metrics` is used.",
        "type": "object",
        "propertyNames": { "pattern": PIPELINE_ID },
        "additionalProperties": {
            "type": "object",
            "additionalProperties": false,
            "properties": pipeline,
        },
    });
    if let Some(Value::Object(properties)) = service.get_mut("properties") {
        properties.insert("pipelines".to_owned(), pipelines);
        properties.insert("extensions".to_owned(), extensions);
    }
    service
}

/// Allows substitutions in a derived schema, and removes parts without meaning for a reader of a
/// config.
fn settle(schema: Schema) -> Value {
    let mut value = schema.to_value();
    for key in ["$schema", "title"] {
        if let Value::Object(schema) = &mut value {
            schema.remove(key);
        }
    }
    allow_substitution(&mut value);
    value
}

fn set(schema: &mut Value, key: &str, value: Value) {
    if let Value::Object(schema) = schema {
        schema.insert(key.to_owned(), value);
    }
}

/// Lets `${env:X}` and `${file:P}` stand for any scalar.
fn allow_substitution(schema: &mut Value) {
    let Value::Object(schema) = schema else { return };
    // Sizes of Rust's integers: the bounds say the same.
    schema.remove("format");
    for key in ["properties", "patternProperties"] {
        if let Some(Value::Object(below)) = schema.get_mut(key) {
            below.values_mut().for_each(allow_substitution);
        }
    }
    for key in ["items", "additionalProperties"] {
        schema.get_mut(key).into_iter().for_each(allow_substitution);
    }
    let text = json!({ "type": "string", "pattern": SUBSTITUTION });
    for key in ["oneOf", "anyOf"] {
        if let Some(Value::Array(choices)) = schema.get_mut(key) {
            if choices.iter().any(is_choice) {
                choices.retain(|choice| {
                    !is_choice(choice) || choice.get("const").is_some() || choice.get("enum").is_some()
                });
                choices.push(text.clone());
            } else {
                choices.iter_mut().for_each(allow_substitution);
            }
        }
    }
    if let Some(choices) = schema.remove("enum") {
        schema.remove("type");
        schema.insert("anyOf".to_owned(), json!([{ "enum": choices }, text]));
    }
    if let Some(Value::String(pattern)) = schema.get_mut("pattern") {
        *pattern = format!("{pattern}|{SUBSTITUTION}");
    }
    let types = match schema.get("type") {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(several)) => several
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
        _ => return,
    };
    let is = |name: &str| types.iter().any(|of| of == name);
    if !is("string") && (is("integer") || is("number") || is("boolean")) {
        let mut types = types.clone();
        types.push("string".to_owned());
        schema.insert("type".to_owned(), json!(types));
        schema.insert("pattern".to_owned(), json!(SUBSTITUTION));
    }
}

/// Whether this is one value of an enumeration.
fn is_choice(schema: &Value) -> bool {
    schema.get("const").is_some() || schema.get("enum").is_some()
}
