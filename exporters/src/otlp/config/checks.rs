//! Checks of the config as the environment completes it.

use std::time::Duration;

use flowtap_pipeline::Violation;
use http::{HeaderName, HeaderValue};

use super::resolved::Resolved;
use super::{Config, Protocol};
use crate::push::proxy::Proxy;
use crate::push::secrets;

impl Config {
    /// Checks the addresses of peers, and that of a proxy.
    pub(super) fn validate_endpoints(&self, resolved: &Resolved, faults: &mut Vec<Violation>) {
        let of_http = [
            ("metrics_endpoint", &self.metrics_endpoint),
            ("logs_endpoint", &self.logs_endpoint),
        ];
        for (key, endpoint) in of_http {
            if endpoint.is_some() && resolved.protocol == Protocol::Grpc {
                let message = "is only for HTTP; hint: use `endpoint` with `protocol: grpc`";
                faults.push(Violation::new(key, message));
            }
        }
        if let Some(url) = &self.proxy_url
            && Proxy::parse(url).is_none()
        {
            let message =
                "invalid proxy: expected `http://host:port`, `https://host:port` or `socks5://host:port`";
            faults.push(Violation::new("proxy_url", message));
        }
        let blank = self
            .proxy_url
            .as_ref()
            .filter(|url| secrets::has_empty_password(url));
        faults.extend(blank.map(|_| Violation::new("proxy_url", secrets::EMPTY_PASSWORD)));
    }

    pub(super) fn validate_times(&self, resolved: &Resolved, faults: &mut Vec<Violation>) {
        if resolved.connect_timeout > resolved.timeout {
            faults.push(Violation::new(
                "connect_timeout",
                "must not be longer than `timeout`",
            ));
        }
        for (key, duration) in [
            ("interval", self.interval),
            ("timeout", resolved.timeout),
            ("connect_timeout", self.connect_timeout.unwrap_or(Duration::MAX)),
            ("keepalive.time", resolved.keepalive.0),
            ("keepalive.timeout", resolved.keepalive.1),
        ] {
            if duration.is_zero() {
                faults.push(Violation::new(key, "must be longer than 0s"));
            }
        }
    }
}

impl Resolved {
    pub(super) fn validate_headers(&self, faults: &mut Vec<Violation>) {
        for (name, value) in &self.headers {
            let valid = HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes()).is_ok()
                && HeaderValue::from_str(value).is_ok();
            let message = if valid {
                secrets::header_fault(name, value)
            } else {
                Some("is not a valid header: printable ASCII only")
            };
            faults.extend(message.map(|message| Violation {
                path: vec!["headers".to_owned(), name.clone()],
                message: message.to_owned(),
            }));
        }
    }
}
