//! Tests of reading in spite of mistakes.

use super::*;
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Sample {
    size: u8,
    name: String,
    ports: Vec<u16>,
    auth: Option<Auth>,
    classes: Vec<Class>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read for its mistakes")]
struct Auth {
    username: String,
    password_from: PathBuf,
    address: std::net::IpAddr,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read for its mistakes")]
struct Class {
    name: String,
    sizes: Vec<u8>,
}

/// Both could be read as text.
struct Texts;

impl Source for Texts {
    fn others(&self, path: &[String], value: &Value) -> Vec<Value> {
        if (path == ["name"] || path == ["size"]) && !matches!(value, Value::Empty(..)) {
            vec![Value::from("7")]
        } else {
            Vec::new()
        }
    }
}

fn read_yaml(text: &str) -> (Option<Sample>, Vec<DecodeError>) {
    let value = crate::document::value_from_yaml(text).unwrap();
    let outcome = read(value, None, &Texts, Value::deserialize);
    (outcome.read, outcome.mistakes)
}

fn paths(mistakes: &[DecodeError]) -> Vec<String> {
    let mut paths: Vec<_> = mistakes.iter().map(|mistake| mistake.path.join(".")).collect();
    paths.sort();
    paths
}

#[test]
fn every_mistake_is_found_and_the_rest_is_read() {
    let (sample, mistakes) = read_yaml("{size: big, nme: x, ports: [1, a, 2, b, 3], name: y}");
    let sample = sample.unwrap();
    assert_eq!(
        (sample.size, &*sample.name, &*sample.ports),
        (0, "y", &[1, 2, 3][..])
    );
    assert_eq!(paths(&mistakes), ["nme", "ports.1", "ports.3", "size"]);
    let unknown = mistakes.iter().find(|mistake| mistake.path == ["nme"]).unwrap();
    assert_eq!(unknown.help.as_deref(), Some("did you mean `name`?"));
}

#[test]
fn a_missing_key_hides_no_other_mistake() {
    let (sample, mistakes) = read_yaml(
        "{auth: {username: [], colour: red}, classes: [{name: a}, {sizes: [x]}, 7], zone: 1, ports: [z]}",
    );
    assert!(sample.is_some());
    assert_eq!(
        paths(&mistakes),
        [
            "auth", // address
            "auth", // password_from
            "auth.colour",
            "auth.username",
            "classes.0", // sizes
            "classes.1", // name
            "classes.1.sizes.0",
            "classes.2",
            "ports.0",
            "zone",
        ]
    );
    let missing: Vec<_> = mistakes.iter().map(|mistake| &*mistake.message).collect();
    for name in ["address", "password_from", "sizes", "name"] {
        assert!(
            missing.contains(&&*format!("`{name}` must be set")),
            "{missing:?}"
        );
    }
}

#[test]
fn a_key_under_another_name_is_one_mistake() {
    let (_, mistakes) = read_yaml("{classes: [{nam: a, sizes: []}]}");
    assert_eq!(paths(&mistakes), ["classes.0.nam"]);
}

#[test]
fn what_is_below_a_key_under_another_name_is_read_as_what_is_meant() {
    let (sample, mistakes) = read_yaml("{clases: [{name: a, sizes: [x]}], port: [1, a], nmae: y}");
    let sample = sample.unwrap();
    assert_eq!((&*sample.name, &*sample.ports), ("y", &[1][..]));
    assert_eq!(
        paths(&mistakes),
        ["clases", "clases.0.sizes.0", "nmae", "port", "port.1"]
    );
    // One entry is to be changed, so it is one mistake.
    let (_, mistakes) = read_yaml("{sise: big}");
    assert_eq!(paths(&mistakes), ["sise"]);
    let help = mistakes[0].help.as_deref().unwrap();
    assert!(
        help.starts_with("did you mean `size`? expected a whole number"),
        "{help}"
    );
    // Both are there: the one with the right name counts.
    let (sample, mistakes) = read_yaml("{nmae: x, name: y}");
    assert_eq!(
        (sample.unwrap().name.as_str(), paths(&mistakes)),
        ("y", vec!["nmae".to_owned()])
    );
}

#[test]
fn an_entry_without_its_list_is_read_as_one() {
    let schema = serde_json::json!({"properties": {
        "ports": {"type": "array", "items": {"type": "integer"}},
        "classes": {"type": "array", "items": {"type": "object", "properties": {"name": {}, "sizes": {"type": "array"}}}},
    }});
    let read_yaml = |text: &str| {
        let value = crate::document::value_from_yaml(text).unwrap();
        let outcome = read(
            value,
            Some(Shape::new(&schema)),
            &Texts,
            Value::deserialize::<Sample>,
        );
        (outcome.read, paths(&outcome.mistakes))
    };
    let (sample, mistakes) = read_yaml("{ports: 7, classes: {name: a, sizes: [x]}}");
    let sample = sample.unwrap();
    assert_eq!((&*sample.ports, sample.classes.len()), (&[7][..], 1));
    assert_eq!(mistakes, ["classes", "classes.sizes.0", "ports"]);
    // Nothing of an entry is there, so it is not one.
    let (_, mistakes) = read_yaml("{classes: {shop: [1]}}");
    assert_eq!(mistakes, ["classes"]);
    let (_, mistakes) = read_yaml("{classes: shop, ports: http}");
    assert_eq!(mistakes, ["classes", "ports"]);
}

#[test]
fn a_key_without_a_value_has_its_default() {
    let (sample, mistakes) = read_yaml("{size: , ports: , classes: , auth: }");
    assert_eq!(mistakes, []);
    assert_eq!(sample.unwrap().ports, [0; 0]);
    let (_, mistakes) = read_yaml("{classes: [{name: , sizes: []}], ports: [null, 1]}");
    assert_eq!(paths(&mistakes), ["classes.0", "ports.0"]);
}

#[test]
fn what_was_text_before_its_substitution_is_text_where_that_is_wanted() {
    let (sample, mistakes) = read_yaml("{name: 7, size: 7}");
    let sample = sample.unwrap();
    assert_eq!((sample.name.as_str(), sample.size), ("7", 7));
    assert_eq!(mistakes, []);
    // Tried once, not for ever.
    let (_, mistakes) = read_yaml("{size: [7]}");
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
}

#[test]
fn what_is_no_mapping_can_not_be_read() {
    let (sample, mistakes) = read_yaml("text");
    assert!(sample.is_none());
    assert_eq!(mistakes.len(), 1);
}
