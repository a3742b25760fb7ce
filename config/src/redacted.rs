//! Secrets that a config lacks, as `flowtap print-config` has printed it: the text in their place would be sent as the password.

use figment::value::Value;

use crate::diagnostic::{Diagnostic, key_of};
use crate::layers::Merged;
use crate::secret;

/// Reports what stands in `merged` in place of a secret.
pub(crate) fn report(merged: &Merged, diagnostics: &mut Vec<Diagnostic>) {
    let mut found = Vec::new();
    for (key, value) in &merged.values {
        find(&mut vec![key.clone()], value, &mut found);
    }
    diagnostics.extend(found.into_iter().map(|path| Diagnostic {
        origin: merged.origin(&path),
        key: key_of(&path),
        message: "a secret is missing: `flowtap print-config` does not show it".to_owned(),
        help: Some("write where it is, such as `${file:/run/secrets/NAME}` or `${env:NAME}`".to_owned()),
    }));
}

fn find(path: &mut Vec<String>, value: &Value, found: &mut Vec<Vec<String>>) {
    let mut below = |key: String, value: &Value| {
        path.push(key);
        find(path, value, found);
        path.pop();
    };
    match value {
        Value::Dict(_, dict) => dict.iter().for_each(|(key, value)| below(key.clone(), value)),
        Value::Array(_, list) => {
            let entries = list.iter().enumerate();
            entries.for_each(|(index, value)| below(index.to_string(), value));
        }
        Value::String(_, text) if secret::is_redacted(path, text) => found.push(path.clone()),
        _ => {}
    }
}
