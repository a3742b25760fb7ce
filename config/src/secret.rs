//! Values that must not be shown: passwords, tokens, headers, and user names, passwords and queries of URLs.

use figment::value::{Dict, Value};

/// Printed in place of a secret.
const REDACTED: &str = "[redacted]";

/// The same within a URL, which may have no brackets there (RFC 3986, 3.2.1).
const REDACTED_USER: &str = "redacted";

/// Keys whose values are secrets, and sections of which every value may be one.
const KEYS: [&str; 5] = ["password", "token", "bearer_token", "api_key", "secret"];
const SECTIONS: [&str; 2] = ["credentials", "headers"];

/// Whether the value at `path` is a secret.
pub(crate) fn is_secret(path: &[String]) -> bool {
    path.iter()
        .any(|key| KEYS.contains(&key.as_str()) || SECTIONS.contains(&key.as_str()))
}

/// Whether `text`, as it stands in a file, may hold a secret.
pub(crate) fn may_hold_secret(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    KEYS.iter().chain(&SECTIONS).any(|key| lower.contains(key)) || without_credentials(text).is_some()
}

/// Puts something else in place of every secret.
pub(crate) fn redact(values: &mut Dict) {
    for (key, value) in values {
        if KEYS.contains(&key.as_str()) || SECTIONS.contains(&key.as_str()) {
            redact_all(value);
        } else {
            redact_value(value);
        }
    }
}

/// Whether `text`, the value at `path`, stands in place of a secret.
pub(crate) fn is_redacted(path: &[String], text: &str) -> bool {
    text == REDACTED && is_secret(path) || has_redacted_url(text)
}

/// Whether `text` has a URL as [`without_credentials`] leaves it.
fn has_redacted_url(text: &str) -> bool {
    let is_redacted = |pair: &str| {
        pair.split_once('=')
            .is_some_and(|(_, value)| value == REDACTED_USER)
    };
    text.split("://").skip(1).any(|url| {
        let query = url.split_once('?').map(|(_, query)| query);
        url.strip_prefix(REDACTED_USER)
            .is_some_and(|rest| rest.starts_with('@'))
            || query.is_some_and(|query| query.split('&').any(is_redacted))
    })
}

fn redact_value(value: &mut Value) {
    match value {
        Value::Dict(_, dict) => redact(dict),
        Value::Array(_, list) => list.iter_mut().for_each(redact_value),
        Value::String(_, text) => {
            if let Some(rest) = without_credentials(text) {
                *text = rest;
            }
        }
        _ => {}
    }
}

fn redact_all(value: &mut Value) {
    match value {
        Value::Dict(_, dict) => dict.values_mut().for_each(redact_all),
        Value::Array(_, list) => list.iter_mut().for_each(redact_all),
        // Nothing to hide, and nothing to ask for.
        Value::Empty(..) => {}
        Value::String(_, text) if text.is_empty() => {}
        value => *value = Value::from(REDACTED),
    }
}

/// `text` without the names and passwords of its URLs and without the values of their queries, where tokens are often put; `None` if it
/// has none.
pub(crate) fn without_credentials(text: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = text;
    let mut found = false;
    while let Some((before, after)) = rest.split_once("://") {
        out.push_str(before);
        out.push_str("://");
        let ends_url = |c: char| matches!(c, '"' | '\'' | '`') || c.is_whitespace();
        let (mut url, behind) = after.split_at(after.find(ends_url).unwrap_or(after.len()));
        rest = behind;
        let authority = url.find(['/', '?', '#']).unwrap_or(url.len());
        if let Some(at) = url[..authority].rfind('@') {
            out.push_str(REDACTED_USER);
            url = &url[at..];
            found = true;
        }
        let (path, query) = url
            .split_once('?')
            .map_or((url, None), |(path, query)| (path, Some(query)));
        out.push_str(path);
        for (index, pair) in query.into_iter().flat_map(|query| query.split('&')).enumerate() {
            out.push(if index == 0 { '?' } else { '&' });
            let (name, value) = pair
                .split_once('=')
                .map_or((pair, None), |(name, value)| (name, Some(value)));
            out.push_str(name);
            if let Some(value) = value {
                out.push('=');
                out.push_str(REDACTED_USER);
                found |= value != REDACTED_USER;
            }
        }
    }
    out.push_str(rest);
    found.then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_passwords_and_queries_of_urls_are_taken_out() {
        for (text, expected) in [
            ("http://me:hunter2@host:1/x@y", Some("http://redacted@host:1/x@y")),
            ("https://token@host", Some("https://redacted@host")),
            (
                "a http://x@y, http://z/ and http://p:q@w",
                Some("a http://redacted@y, http://z/ and http://redacted@w"),
            ),
            (
                "https://host/write?token=hunter2&a=b#c d?e=f",
                Some("https://host/write?token=redacted&a=redacted d?e=f"),
            ),
            ("http://host/a@b", None),
            ("http://host/a?token=redacted", None),
            ("me@host", None),
        ] {
            assert_eq!(without_credentials(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn secrets_are_found_however_deep() {
        let mut values = crate::lenient::into_dict(
            crate::document::value_from_yaml(
                "{a: [{password: hunter2}], basic_auth: {username: u, password: hunter2}, \
                 headers: {x: [hunter2], y: {z: hunter2}}, endpoint: 'http://u:hunter2@h', bearer_token: hunter2}",
            )
            .unwrap(),
        )
        .unwrap();
        redact(&mut values);
        let shown = format!("{values:?}");
        assert!(!shown.contains("hunter2") && shown.contains("\"u\""), "{shown}");
    }
}
