//! Messages about configs, with the real components: configs as users of other programs write them, the table of their spellings, and
//! words for every kind of mistake.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use flowtap_config::aliases::{self, Alias, Meant};
use flowtap_config::{ConfigErrors, Layers, load, schema};
use serde_json::Value;

use crate::daemon::read;

fn read_config(file: &Path, set: &[String]) -> Result<Vec<String>, ConfigErrors> {
    let layers = Layers {
        files: vec![file.to_owned()],
        env: Vec::new(),
        set: set.to_vec(),
    };
    let config = load(&layers, &flowtap::components::registry())?;
    let unused = config.unused_processors();
    let warnings = config.warnings.iter().chain(&unused);
    Ok(warnings.map(ToString::to_string).collect())
}

/// Configs of users as they are written first; their names from the root of the repository, so that messages have no others.
fn users() -> Vec<PathBuf> {
    let folder = Path::new("tests/configs/users");
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            !name.contains(".fixed.") && path.extension().is_none_or(|extension| extension != "txt")
        })
        .collect();
    files.sort();
    files
}

/// The same as corrected by the messages alone.
fn fixed(path: &Path) -> PathBuf {
    let ending = path.extension().unwrap().to_string_lossy().into_owned();
    path.with_extension(format!("fixed.{ending}"))
}

#[test]
fn a_config_of_a_user_is_valid_at_once_or_after_one_round() {
    assert_eq!(
        std::env::current_dir().unwrap(),
        Path::new(env!("CARGO_MANIFEST_DIR"))
    );
    assert!(users().len() >= 12, "{:?}", users());
    for path in users() {
        let first = read_config(&path, &[]);
        let Err(errors) = first else {
            assert!(!fixed(&path).exists(), "{} is valid", path.display());
            assert_eq!(first.unwrap(), [""; 0], "{}", path.display());
            continue;
        };
        // One message per mistake, with its place; those that don't say what to write are a list of what is possible.
        for error in &errors.0 {
            assert!(
                error.origin.as_ref().is_some_and(|origin| origin.place.is_some()),
                "{error}"
            );
            let says = error.help.is_some()
                || error.message.contains("expected")
                || error.message.contains("must be set");
            assert!(says, "{error}");
        }
        let golden = path.with_extension("txt");
        let text = errors.to_string() + "\n";
        if std::env::var_os("FLOWTAP_UPDATE_REFERENCES").is_some() {
            fs::write(&golden, &text).unwrap();
        }
        assert_eq!(read(&golden), text, "{}", golden.display());
        let again = read_config(&fixed(&path), &[]).map_err(|errors| errors.to_string());
        assert_eq!(again, Ok(Vec::new()), "{}", path.display());
    }
}

/// The part of `schema` at `path`; `NAME` is any name, and any entry of a list.
fn at<'s>(schema: &'s Value, node: &'s Value, path: &[&str]) -> Option<&'s Value> {
    let node = match node.get("$ref").and_then(Value::as_str) {
        Some(reference) => &schema["$defs"][reference.rsplit('/').next()?],
        None => node,
    };
    let Some((name, rest)) = path.split_first() else {
        return Some(node);
    };
    let here = [node.get("properties").and_then(|properties| properties.get(name))];
    let any = ["additionalProperties", "items"]
        .into_iter()
        .filter_map(|key| node.get(key));
    let any = any.filter(|any| any.is_object() && *name == "NAME");
    let choices = node.get("anyOf").and_then(Value::as_array).into_iter().flatten();
    here.into_iter()
        .flatten()
        .chain(any)
        .find_map(|next| at(schema, next, rest))
        .or_else(|| choices.into_iter().find_map(|choice| at(schema, choice, path)))
}

/// Every mapping that an alias is in.
fn places(schema: &Value, alias: &Alias) -> Vec<Vec<String>> {
    let parts: Vec<&str> = alias.at.split('.').filter(|part| !part.is_empty()).collect();
    let mut places: Vec<Vec<String>> = vec![Vec::new()];
    for part in parts {
        places = places
            .iter()
            .flat_map(|above| {
                let above_parts: Vec<&str> = above.iter().map(String::as_str).collect();
                let names: Vec<String> = if part == "*" {
                    let node = at(schema, schema, &above_parts).unwrap();
                    let names = node["properties"]
                        .as_object()
                        .map(|map| map.keys().cloned().collect());
                    names.unwrap_or_else(|| vec!["NAME".to_owned()])
                } else {
                    vec![part.to_owned()]
                };
                names
                    .into_iter()
                    .map(|name| [&above[..], &[name]].concat())
                    .collect::<Vec<_>>()
            })
            .collect();
    }
    let exists = |place: &Vec<String>| {
        let parts: Vec<&str> = place.iter().map(String::as_str).collect();
        at(schema, schema, &parts).is_some()
    };
    places.into_iter().filter(exists).collect()
}

#[test]
fn every_alias_names_what_exists_and_is_itself_no_key() {
    let schema = schema::schema(&flowtap::components::registry());
    assert!(aliases::all().count() >= 25);
    let mut wrong = Vec::new();
    for alias in aliases::all() {
        let places = places(&schema, alias);
        let has = |place: &[String], name: &str| {
            let path: Vec<&str> = place.iter().map(String::as_str).chain([name]).collect();
            at(&schema, &schema, &path).is_some()
        };
        let taken = places.iter().any(|place| has(place, alias.name)) && !alias.at.contains('*');
        let meant = match alias.meant {
            Meant::Key(key) | Meant::Written(key, _) | Meant::Unit(key, _) => {
                places.iter().any(|place| has(place, key))
            }
            Meant::At(path) => at(&schema, &schema, &path.split('.').collect::<Vec<_>>()).is_some(),
            Meant::Note(_) => true,
        };
        if taken || !meant || places.is_empty() {
            wrong.push((alias.at, alias.name, alias.meant, places));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Every key of the schema, as `--set` has it.
fn keys(schema: &Value, node: &Value, above: &str, found: &mut BTreeSet<String>) {
    let node = match node.get("$ref").and_then(Value::as_str) {
        Some(reference) => &schema["$defs"][reference.rsplit('/').next().unwrap()],
        None => node,
    };
    for (name, property) in node["properties"].as_object().into_iter().flatten() {
        let key = if above.is_empty() {
            name.clone()
        } else {
            format!("{above}.{name}")
        };
        if !above.is_empty()
            && key != "service"
            && !key.starts_with("service.pipelines")
            && key.matches('.').count() > 1
        {
            found.insert(key.clone());
        }
        keys(schema, property, &key, found);
    }
    for choice in node["anyOf"].as_array().into_iter().flatten() {
        keys(schema, choice, above, found);
    }
}

#[test]
fn no_message_names_a_type_of_the_code() {
    const WORDS: [&str; 16] = [
        "struct ",
        "enum ",
        "u8",
        "u16",
        "u32",
        "u64",
        "usize",
        "i64",
        "f64",
        "sequence",
        "a map,",
        "string",
        "Option",
        "variant",
        "invalid type",
        "invalid value",
    ];
    let schema = schema::schema(&flowtap::components::registry());
    let mut keys_found = BTreeSet::new();
    keys(&schema, &schema, "", &mut keys_found);
    assert!(keys_found.len() > 100, "{keys_found:?}");
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    let mut messages = BTreeSet::new();
    for value in ["no-such-word", "-7", "1.5", "{zzz: 1}", "[[1]]", "true", "7"] {
        for key in &keys_found {
            let set = vec![format!("{key}={value}")];
            if let Err(errors) = read_config(file.path(), &set) {
                messages.extend(
                    errors
                        .0
                        .into_iter()
                        .map(|error| format!("{key}={value}: {}", error.message)),
                );
            }
        }
    }
    let told: Vec<_> = messages
        .iter()
        .filter(|message| WORDS.iter().any(|word| message.contains(word)))
        .collect();
    assert!(told.is_empty(), "{told:#?}");
    assert!(messages.len() > 200, "{}", messages.len());
}
