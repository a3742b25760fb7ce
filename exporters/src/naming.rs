//! Full names of families: the namespace, an underscore, the family's own name.

use flowtap_pipeline::{Family, Fault};

/// The namespace of the Go exporter.
pub const DEFAULT_NAMESPACE: &str = "primus_lens";

/// The full name of `family`; its own if `namespace` is empty.
pub fn full_name(namespace: &str, family: &Family) -> String {
    if namespace.is_empty() {
        family.name.to_owned()
    } else {
        format!("{namespace}_{}", family.name)
    }
}

/// What is wrong with `namespace` as the beginning of a metric's name (Prometheus data model, "Metric names").
pub fn validate(namespace: &str) -> Option<Fault> {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
    let ok = namespace.is_empty()
        || namespace.starts_with(first) && namespace.chars().all(|c| first(c) || c.is_ascii_digit());
    (!ok).then(|| {
        let message = format!(
            "`{namespace}` can't begin a metric's name: letters, digits, `_` and `:`, no digit first"
        );
        Fault::new("namespace", message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_that_no_metric_can_have_is_refused() {
        for good in ["", "primus_lens", "a9", "_x:y"] {
            assert_eq!(validate(good), None, "{good:?}");
        }
        for bad in ["9a", "a-b", "a b", "ä"] {
            assert!(validate(bad).is_some(), "{bad:?}");
        }
    }
}
