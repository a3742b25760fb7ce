//! The syntax of names and labels, as the API server checks it (`k8s.io/apimachinery/pkg/util/validation`).

/// A DNS subdomain of RFC 1123: labels of a-z, 0-9 and `-` that are joined by dots, 253 bytes at most.
pub(crate) fn is_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_dns_label)
}

/// A name of a namespace: a DNS label of RFC 1123, 63 bytes at most.
pub fn is_namespace(name: &str) -> bool {
    name.len() <= 63 && is_dns_label(name)
}

fn is_dns_label(label: &str) -> bool {
    !label.is_empty()
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// A label's key: a name, with an optional prefix such as `kubernetes.io/`.
pub(crate) fn is_label_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_qualified(name),
        None => is_qualified(key),
    }
}

/// A label's value, which may be empty.
pub(crate) fn is_label_value(value: &str) -> bool {
    value.is_empty() || is_qualified(value)
}

fn is_qualified(name: &str) -> bool {
    let is_end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    bytes.len() <= 63
        && is_end(bytes.first())
        && is_end(bytes.last())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_of_labels() {
        for key in ["app", "app.kubernetes.io/name", "A_b.c-9", "x", &"k".repeat(63)] {
            assert!(is_label_key(key), "{key}");
        }
        for key in [
            "",
            "-a",
            "a-",
            "a b",
            "/name",
            "a/b/c",
            "Example.com/name",
            "ä",
            &"k".repeat(64),
        ] {
            assert!(!is_label_key(key), "{key}");
        }
        for value in ["", "1", "v1.2_3-x"] {
            assert!(is_label_value(value), "{value}");
        }
        for value in [" ", "a b", "a/b", ".a", &"v".repeat(64)] {
            assert!(!is_label_value(value), "{value}");
        }
    }

    #[test]
    fn names_are_subdomains() {
        for name in ["web", "web-1.eu", "0"] {
            assert!(is_subdomain(name), "{name}");
        }
        for name in ["", "Web", "web_1", "-web", "a..b", &"n".repeat(254)] {
            assert!(!is_subdomain(name), "{name}");
            assert!(!is_namespace(name), "{name}");
        }
        assert!(is_namespace("shop-1") && !is_namespace("a.b") && !is_namespace(&"n".repeat(64)));
    }
}
