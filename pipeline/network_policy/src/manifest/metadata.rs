//! `metadata` of a policy, checked as the API server checks it (`ValidateObjectMeta` of `k8s.io/apimachinery`).
//!
//! None of it but the name, the namespace and the labels has an effect here, but the API server refuses a policy that has it wrong.

use flowtap_model::plain_text::cut;

use super::decode::{Field, Report};
use super::labels::{check_key, check_labels};
use super::names::is_subdomain;

/// The fields of `ObjectMeta`.
const METADATA: [&str; 15] = [
    "name",
    "generateName",
    "namespace",
    "labels",
    "annotations",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "ownerReferences",
    "finalizers",
    "managedFields",
    "selfLink",
];

/// Checks all of it but the name and the namespace.
pub(super) fn check(metadata: &Field<'_>, report: &mut Report) {
    if !metadata.check_keys(&METADATA, report) {
        return;
    }
    if let Some(labels) = metadata.get("labels") {
        check_labels(&labels, report);
    }
    if let Some(annotations) = metadata.get("annotations") {
        for (key, _) in annotations.text_map(report) {
            // The prefix of an annotation's key may have capital letters.
            check_key(
                "an annotation",
                &annotations.key,
                &key.to_ascii_lowercase(),
                report,
            );
        }
    }
    for name in ["generateName", "uid", "resourceVersion", "selfLink"] {
        if let Some(field) = metadata.get(name) {
            field.text(report);
        }
    }
    for name in ["generation", "deletionGracePeriodSeconds"] {
        if let Some(field) = metadata.get(name) {
            check_number(&field, report);
        }
    }
    for name in ["creationTimestamp", "deletionTimestamp"] {
        if let Some(field) = metadata.get(name) {
            check_time(&field, report);
        }
    }
    if let Some(finalizers) = metadata.get("finalizers") {
        for finalizer in finalizers.list(report) {
            if let Some(name) = finalizer.text(report) {
                check_key("a finalizer", &finalizer.key, name, report);
            }
        }
    }
    check_owners(metadata, report);
    if let Some(fields) = metadata.get("managedFields") {
        for entry in fields.list(report) {
            check_managed(&entry, report);
        }
    }
}

/// The name of a policy; one that the API server generates is shown as its prefix and `*`.
pub(super) fn name(metadata: Option<&Field<'_>>, report: &mut Report) -> Option<String> {
    let text = |key| metadata.and_then(|metadata| metadata.get(key));
    // The API does not distinguish an empty string from an absent one.
    let given = text("name").filter(|field| field.value != "");
    let prefix = text("generateName").filter(|field| field.value != "");
    let Some(field) = given.as_ref().or(prefix.as_ref()) else {
        report.add("metadata.name", "missing");
        return None;
    };
    let name = if given.is_some() {
        field.text(report)?
    } else {
        // One that is not a text has been reported.
        field.value.as_str()?
    };
    // A generated name goes on after its prefix.
    let checked = match name.strip_suffix('-') {
        Some(begin) if given.is_none() && !begin.is_empty() => format!("{begin}0"),
        _ => name.to_owned(),
    };
    if !is_subdomain(&checked) {
        report.add(
            &field.key,
            format!(
                "invalid name \"{}\": expected a-z, 0-9, `-` and `.`, with a letter or digit at both ends",
                cut(name)
            ),
        );
    }
    Some(if given.is_some() {
        name.to_owned()
    } else {
        format!("{name}*")
    })
}

fn check_number(field: &Field<'_>, report: &mut Report) {
    if !field.value.is_i64() {
        report.add(
            &field.key,
            format!("expected a whole number, found {}", field.found()),
        );
    }
}

fn check_time(field: &Field<'_>, report: &mut Report) {
    if field.text(report).is_some_and(|text| !is_time(text)) {
        report.add(
            &field.key,
            format!(
                "expected a time such as 2026-01-01T00:00:00Z, found {}",
                field.found()
            ),
        );
    }
}

/// A time of RFC 3339, with any offset.
fn is_time(text: &str) -> bool {
    let Some((moment, rest)) = text.split_at_checked("2026-01-01T00:00:00".len()) else {
        return false;
    };
    let after_digits = |text: &str| text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let zone = match rest.strip_prefix('.') {
        Some(fraction) if after_digits(fraction) < fraction.len() => {
            &fraction[fraction.len() - after_digits(fraction)..]
        }
        Some(_) => return false,
        None => rest,
    };
    let number = |text: &str, below: u8| {
        text.len() == 2
            && text.bytes().all(|b| b.is_ascii_digit())
            && text.parse().is_ok_and(|it: u8| it < below)
    };
    let is_offset = zone.strip_prefix(['+', '-']).is_some_and(|offset| {
        let parts = offset.split_once(':');
        parts.is_some_and(|(hours, minutes)| number(hours, 24) && number(minutes, 60))
    });
    (zone == "Z" || is_offset) && humantime::parse_rfc3339(&format!("{moment}Z")).is_ok()
}

fn check_owners(metadata: &Field<'_>, report: &mut Report) {
    let Some(owners) = metadata.get("ownerReferences") else {
        return;
    };
    let mut controllers = 0;
    for owner in owners.list(report) {
        const REQUIRED: [&str; 4] = ["apiVersion", "kind", "name", "uid"];
        const FLAGS: [&str; 2] = ["controller", "blockOwnerDeletion"];
        if !owner.check_keys(&[&REQUIRED[..], &FLAGS].concat(), report) {
            continue;
        }
        for name in REQUIRED {
            match owner.get(name) {
                Some(field) if field.value != "" => _ = field.text(report),
                _ => report.add(&format!("{}.{name}", owner.key), "missing"),
            }
        }
        for name in FLAGS {
            let Some(field) = owner.get(name) else { continue };
            if !field.value.is_boolean() {
                report.add(
                    &field.key,
                    format!("expected true or false, found {}", field.found()),
                );
            }
            controllers += u32::from(name == "controller" && field.value == true);
        }
    }
    if controllers > 1 {
        report.add(&owners.key, "more than one `controller`; expected one at most");
    }
}

/// An entry without anything resets what is managed.
fn check_managed(entry: &Field<'_>, report: &mut Report) {
    const TEXTS: [&str; 5] = ["manager", "operation", "apiVersion", "fieldsType", "subresource"];
    if !entry.check_keys(&[&TEXTS[..], &["time", "fieldsV1"]].concat(), report) {
        return;
    }
    for name in TEXTS {
        if let Some(field) = entry.get(name) {
            field.text(report);
        }
    }
    if let Some(time) = entry.get("time") {
        check_time(&time, report);
    }
}
