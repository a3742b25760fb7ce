//! Full names of families, as OTLP and as Prometheus spell them.

use flowtap_pipeline::{Family, FamilyKind, Naming, Unit, Violation};

/// The namespace of the Go exporter.
pub const DEFAULT_NAMESPACE: &str = "primus_lens";

/// The full name of `family`: the namespace, an underscore, its own name. Names of OpenTelemetry's naming are full by
/// themselves.
pub fn full_name(namespace: &str, family: &Family) -> String {
    if namespace.is_empty() || family.naming == Naming::Otel {
        family.name.to_owned()
    } else {
        format!("{namespace}_{}", family.name)
    }
}

/// The same for Prometheus. Names of OpenTelemetry's naming change as its specification says
/// ("Prometheus and `OpenMetrics` Compatibility", "Metric Metadata"): underscores for dots,
/// followed by the unit and a counter's `total`.
pub fn prometheus_name(namespace: &str, family: &Family) -> String {
    if family.naming == Naming::PrimusLens {
        return full_name(namespace, family);
    }
    let mut name = family.name.replace('.', "_");
    name.push_str(match family.unit {
        Unit::Bytes => "_bytes",
        Unit::Seconds => "_seconds",
        Unit::BytesPerSecond => "_bytes_per_second",
        Unit::Ratio if family.kind == FamilyKind::Gauge => "_ratio",
        // An annotation such as {connection} is not a unit.
        _ => "",
    });
    if family.kind == FamilyKind::Counter {
        name.push_str("_total");
    }
    name
}

/// Name of the attribute that holds the pipeline's name, where several feed one exporter.
pub const fn pipeline_attribute(naming: Naming) -> &'static str {
    match naming {
        Naming::PrimusLens => "pipeline",
        Naming::Otel => "flowtap.pipeline",
    }
}

/// The same as a Prometheus label.
pub const fn pipeline_label(naming: Naming) -> &'static str {
    match naming {
        Naming::PrimusLens => "pipeline",
        Naming::Otel => "flowtap_pipeline",
    }
}

/// The reason why `namespace` is not a valid prefix of a metric's name (Prometheus data model,
/// "Metric names").
pub fn validate(namespace: &str) -> Option<Violation> {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
    let ok = namespace.is_empty()
        || namespace.starts_with(first) && namespace.chars().all(|c| first(c) || c.is_ascii_digit());
    (!ok).then(|| {
        let message = format!(
            "`{namespace}` can't begin a metric's name: letters, digits, `_` and `:`, no digit first"
        );
        Violation::new("namespace", message)
    })
}

/// The unit that a Prometheus name ends with, as `OpenMetrics` wants it, before `_total` if it has that.
pub(crate) fn unit_of(name: &str) -> Option<&'static str> {
    let name = name.strip_suffix("_total").unwrap_or(name);
    let ends_with = |unit: &&str| name.strip_suffix(*unit).is_some_and(|rest| rest.ends_with('_'));
    ["bytes", "seconds"].into_iter().find(ends_with)
}

/// Whether `name` can be a label's name (Prometheus data model, "Metric labels"). Those with two underscores in front are
/// Prometheus's own.
pub fn is_label(name: &str) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    name.starts_with(first) && name.chars().all(|c| first(c) || c.is_ascii_digit()) && !name.starts_with("__")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_opentelemetrys_naming_become_prometheus_names_by_its_rules() {
        let family = |name, unit, kind| Family {
            name,
            naming: Naming::Otel,
            help: "",
            unit,
            kind,
        };
        let counter = family("flowtap.tcp.io", Unit::Bytes, FamilyKind::Counter);
        assert_eq!(full_name("primus_lens", &counter), "flowtap.tcp.io");
        assert_eq!(
            prometheus_name("primus_lens", &counter),
            "flowtap_tcp_io_bytes_total"
        );
        let rate = family("flowtap.rdma.link.rate", Unit::BytesPerSecond, FamilyKind::Gauge);
        assert_eq!(
            prometheus_name("", &rate),
            "flowtap_rdma_link_rate_bytes_per_second"
        );
        let gauge = family(
            "flowtap.tcp.connection.active",
            Unit::Count("{connection}"),
            FamilyKind::Gauge,
        );
        assert_eq!(prometheus_name("", &gauge), "flowtap_tcp_connection_active");
    }

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
