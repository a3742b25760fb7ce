//! Labels, checked as the API server checks them (`ValidateLabels` of `k8s.io/apimachinery`).

use flowtap_model::cluster_objects::ObjectLabels;
use flowtap_model::plain_text::cut;

use super::decode::{Field, Report};
use super::names::{is_label_key, is_label_value};

pub(super) fn check_labels(labels: &Field<'_>, report: &mut Report) -> ObjectLabels {
    let pairs = labels.text_map(report);
    for (key, value) in &pairs {
        check_key("a label", &format!("{}.{key}", labels.key), key, report);
        check_value(&format!("{}.{key}", labels.key), value, report);
    }
    pairs.into_iter().collect()
}

pub(super) fn check_key(of: &str, field: &str, key: &str, report: &mut Report) {
    if !is_label_key(key) {
        report.add(
            field,
            format!("invalid key of {of} \"{}\": expected up to 63 letters, digits, `-`, `_` and `.`, with an optional prefix such as `example.com/`", cut(key)),
        );
    }
}

pub(super) fn check_value(field: &str, value: &str, report: &mut Report) {
    if !is_label_value(value) {
        report.add(
            field,
            format!("invalid value of a label \"{}\": expected up to 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends", cut(value)),
        );
    }
}
