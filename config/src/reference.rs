//! The config reference, `docs/config.md`, from the JSON Schema and the contracts of the component types.
//!
//! In: the same schema that editors get, whose descriptions are the doc comments of the config structs and whose defaults are
//! those of `Default`; the default config of each type, for its contract and for the keys that have to be given. Out: a page.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use flowtap_pipeline::{ComponentConfig, ComponentKind, Contract, Factory, Registry, Signal};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value};

use crate::service::ServiceConfig;

/// The page with the component types of `registry`, after `head`.
pub fn page(registry: &Registry, head: &str) -> String {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut generator = settings.into_generator();
    let mut text = head.to_owned();
    section(
        &mut text,
        ComponentKind::Receiver,
        registry.receivers(),
        &mut generator,
    );
    section(
        &mut text,
        ComponentKind::Processor,
        registry.processors(),
        &mut generator,
    );
    section(
        &mut text,
        ComponentKind::Exporter,
        registry.exporters(),
        &mut generator,
    );
    section(
        &mut text,
        ComponentKind::Extension,
        registry.extensions(),
        &mut generator,
    );
    text.push_str("\n## Service\n");
    table(
        &mut text,
        &ServiceConfig::json_schema(&mut generator).to_value(),
        &[],
    );
    text.push_str(
        "\n`service.pipelines.<id>` has the lists `receivers`, `processors` and `exporters`: ids, each defined in its section. The id of\n\
         a pipeline states its output: `metrics` or `metrics/name` series, `logs` or `logs/name` log records. The last\n\
         processor aggregates records into that (`window` into series, `connections` into log records), and no other one does.\n",
    );
    text
}

fn section<C: ComponentConfig + ?Sized>(
    text: &mut String,
    kind: ComponentKind,
    types: &BTreeMap<&'static str, Factory<C>>,
    generator: &mut SchemaGenerator,
) {
    // Writing to a String does not fail.
    let _ = writeln!(text, "\n## {}", capitalized(kind.section()));
    for factory in types.values() {
        let default = factory.default();
        let _ = writeln!(
            text,
            "\n### `{}`\n\n{}\n\n{}",
            factory.type_name,
            sentence(factory.summary),
            declared(&default.contract(), factory)
        );
        // The faults of a config without any setting are the keys that must be set.
        let required: Vec<_> = default.validate().into_iter().map(|fault| fault.path).collect();
        table(text, &(factory.schema)(generator).to_value(), &required);
    }
}

/// The parts of a contract that hold whatever the config.
fn declared<C: ?Sized>(contract: &Contract, factory: &Factory<C>) -> String {
    let mut text = format!("Stability: {}.", factory.stability);
    let mut add = |what: &str, parts: Vec<String>| {
        if !parts.is_empty() {
            let _ = write!(text, " {what} {}.", parts.join(", "));
        }
    };
    add(
        "Reports",
        contract.covers.iter().map(ToString::to_string).collect(),
    );
    let signals = |of: &BTreeSet<Signal>| of.iter().map(ToString::to_string).collect();
    add("Takes", signals(&contract.takes));
    add("Gives", signals(&contract.gives));
    add(
        "Needs",
        contract.needs.iter().map(|need| need.field.to_string()).collect(),
    );
    add("Fills", contract.fills.iter().map(ToString::to_string).collect());
    let fields = contract.uses.iter().map(ToString::to_string);
    let state = contract.depends_on.iter().map(ToString::to_string);
    add("Uses", fields.chain(state).collect());
    text
}

/// A row of the table.
struct Row {
    key: String,
    default: String,
    description: String,
}

fn table(text: &mut String, schema: &Value, required: &[Vec<String>]) {
    let mut rows = Vec::new();
    add_rows(&mut rows, schema, "", None, required);
    if rows.is_empty() {
        text.push_str("\nIt has no keys.\n");
        return;
    }
    text.push_str("\n| key | default | description |\n|---|---|---|\n");
    for Row {
        key,
        default,
        description,
    } in rows
    {
        let _ = writeln!(text, "| `{key}` | {} | {} |", cell(&default), cell(&description));
    }
}

/// The properties of an object, those of a nested one below it.
fn add_rows(
    rows: &mut Vec<Row>,
    schema: &Value,
    prefix: &str,
    defaults: Option<&Value>,
    required: &[Vec<String>],
) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
        return;
    };
    let listed = schema.get("required").and_then(Value::as_array);
    let must_be_given = |name: &str, key: &str| {
        let by_schema = listed.is_some_and(|listed| listed.iter().any(|listed| listed == name));
        by_schema || required.iter().any(|path| path.join(".") == key)
    };
    for (name, property) in properties {
        let key = format!("{prefix}{name}");
        let inner = not_null(property);
        let given = defaults.and_then(|defaults| defaults.get(name));
        let default = given.or_else(|| property.get("default"));
        let shown = if must_be_given(name, &key) {
            "required".to_owned()
        } else if inner.get("properties").is_some() && default.is_some_and(Value::is_object) {
            // Its keys have rows.
            String::new()
        } else {
            default.map_or_else(|| "unset".to_owned(), shown)
        };
        rows.push(Row {
            key: key.clone(),
            default: shown,
            description: description(property, inner),
        });
        let default = default.filter(|default| default.is_object());
        add_rows(rows, inner, &format!("{key}."), default, required);
        if let Some(items) = inner.get("items") {
            add_rows(rows, items, &format!("{key}[]."), None, required);
        }
        if let Some(entries) = inner.get("additionalProperties") {
            add_rows(rows, entries, &format!("{key}.<name>."), None, required);
        }
    }
}

/// The schema of an optional value without the null.
fn not_null(schema: &Value) -> &Value {
    let choices = schema.get("anyOf").and_then(Value::as_array);
    let is_null = |choice: &Value| choice.get("type").is_some_and(|of| of == "null");
    match choices.map(Vec::as_slice) {
        Some([inner, null]) if is_null(null) => inner,
        _ => schema,
    }
}

/// The description of a key, and of the values of an enumeration.
fn description(property: &Value, inner: &Value) -> String {
    let own = property.get("description").or_else(|| inner.get("description"));
    let mut text = own.and_then(Value::as_str).map(unwrapped).unwrap_or_default();
    let variants = inner.get("oneOf").and_then(Value::as_array).into_iter().flatten();
    let mut values = Vec::new();
    for variant in variants {
        let described = variant.get("description").and_then(Value::as_str);
        let described = described.map(unwrapped).unwrap_or_default();
        let described = described.trim_end_matches('.');
        for name in names(variant) {
            if described.is_empty() {
                values.push(format!("`{name}`"));
            } else {
                values.push(format!("`{name}`: {described}"));
            }
        }
    }
    values.extend(names(inner).map(|name| format!("`{name}`")));
    if !values.is_empty() {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&values.join("; "));
        text.push('.');
    }
    text
}

/// The values that a schema lists.
fn names(schema: &Value) -> impl Iterator<Item = &str> {
    let listed = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
    listed.chain(schema.get("const")).filter_map(Value::as_str)
}

fn shown(default: &Value) -> String {
    fn text(value: &Value) -> String {
        match value {
            Value::String(text) if text.is_empty() => "\"\"".to_owned(),
            Value::String(text) => text.clone(),
            Value::Array(list) => {
                let items: Vec<_> = list.iter().map(text).collect();
                format!("[{}]", items.join(", "))
            }
            Value::Object(map) => format!("{{{}}}", entries(map).join(", ")),
            other => other.to_string(),
        }
    }
    fn entries(map: &Map<String, Value>) -> Vec<String> {
        map.iter()
            .map(|(key, value)| format!("{key}: {}", text(value)))
            .collect()
    }
    match default {
        Value::Null => "unset".to_owned(),
        default => format!("`{}`", text(default)),
    }
}

fn unwrapped(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn sentence(text: &str) -> String {
    let end = if text.ends_with('.') { "" } else { "." };
    format!("{}{end}", capitalized(text))
}

fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(characters).collect()
}
