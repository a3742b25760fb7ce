//! Variables that Kubernetes sets for a Service called `flowtap` in the same namespace, unless the pod has
//! `enableServiceLinks: false`. They begin like flowtap's own and mean nothing to it.

use std::net::IpAddr;

use crate::diagnostic::Diagnostic;

/// Whether `name` and `value` have the form of one (Kubernetes, "Accessing the Service": the variables of Docker links).
pub(crate) fn is_one(name: &str, value: &str) -> bool {
    let Some(name) = name.strip_prefix("FLOWTAP_").filter(|name| !name.contains("__")) else {
        return false;
    };
    // For a Service `flowtap-metrics` there is a word before.
    let name = format!("_{name}");
    let is_port = value.parse::<u16>().is_ok();
    let is_address = value.parse::<IpAddr>().is_ok();
    let is_protocol = |text: &str| matches!(text, "tcp" | "udp" | "sctp");
    let is_url = value
        .split_once("://")
        .is_some_and(|(scheme, _)| is_protocol(scheme));
    if name.ends_with("_SERVICE_HOST") {
        return is_address;
    }
    if let Some((_, port)) = name.rsplit_once("_SERVICE_PORT") {
        return is_port && (port.is_empty() || port.starts_with('_'));
    }
    if name.ends_with("_PORT") && is_url {
        return true;
    }
    let Some((_, rest)) = name.rsplit_once("_PORT_") else {
        return false;
    };
    let mut parts = rest.split('_');
    let number = parts.next().is_some_and(|number| number.parse::<u16>().is_ok());
    let protocol = parts
        .next()
        .is_some_and(|text| is_protocol(&text.to_ascii_lowercase()));
    number
        && protocol
        && match parts.next() {
            None => is_url,
            Some("PROTO") => is_protocol(value),
            Some("ADDR") => is_address,
            Some("PORT") => is_port,
            Some(_) => false,
        }
}

/// One warning for all of them.
pub(crate) fn warning(links: &[&(String, String)]) -> Option<Diagnostic> {
    let (first, _) = links.first()?;
    let others = match links.len() {
        1 => String::new(),
        count => format!(" and {} more", count - 1),
    };
    Some(Diagnostic {
        origin: None,
        key: String::new(),
        message: format!(
            "environment variable {first}{others}: ignored, as Kubernetes sets it for a Service of that name"
        ),
        help: Some("set `enableServiceLinks: false` in the pod's spec".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_a_service_are_distinguished_from_keys() {
        for (name, value) in [
            ("FLOWTAP_SERVICE_HOST", "10.96.0.5"),
            ("FLOWTAP_SERVICE_HOST", "fd00::5"),
            ("FLOWTAP_SERVICE_PORT", "9464"),
            ("FLOWTAP_SERVICE_PORT_METRICS", "9464"),
            ("FLOWTAP_PORT", "tcp://10.96.0.5:9464"),
            ("FLOWTAP_PORT_9464_TCP", "tcp://10.96.0.5:9464"),
            ("FLOWTAP_PORT_9464_TCP_PROTO", "tcp"),
            ("FLOWTAP_PORT_9464_TCP_PORT", "9464"),
            ("FLOWTAP_PORT_9464_TCP_ADDR", "10.96.0.5"),
            ("FLOWTAP_METRICS_SERVICE_PORT", "9464"),
            ("FLOWTAP_METRICS_PORT_9464_UDP", "udp://10.96.0.5:9464"),
        ] {
            assert!(is_one(name, value), "{name}={value}");
        }
        for (name, value) in [
            ("FLOWTAP_PORT", "9464"),
            ("FLOWTAP_SERVICE_HOST", "localhost"),
            ("FLOWTAP_SERVICE__SHUTDOWN_TIMEOUT", "9464"),
            ("FLOWTAP_EXPORTERS__X__SERVICE_PORT", "9464"),
            ("FLOWTAP_PORT_X_TCP", "tcp://10.96.0.5:9464"),
            ("OTHER_SERVICE_PORT", "9464"),
        ] {
            assert!(!is_one(name, value), "{name}={value}");
        }
    }
}
