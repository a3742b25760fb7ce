//! A spelling of another program, and what several of them share.

use std::fmt;

use figment::value::Value;

use crate::quote;

/// Replacement of a spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meant {
    /// A key of the same mapping.
    Key(&'static str),
    /// A key of the same mapping whose value has another form, and how to write it.
    Written(&'static str, &'static str),
    /// A key of the same mapping whose value is the number with this unit.
    Unit(&'static str, &'static str),
    /// A key elsewhere, from the top; `NAME` stands for any name.
    At(&'static str),
    /// No key; what to do instead.
    Note(&'static str),
}

use Meant::{At, Key, Note, Unit, Written};

/// A spelling of another program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The program.
    pub of: &'static str,
    /// The mapping that it is in: keys joined by dots, of components their types, `*` for any.
    pub at: &'static str,
    /// The key.
    pub name: &'static str,
    /// Its replacement.
    pub meant: Meant,
}

impl Alias {
    /// The advice where the key has the value `value`.
    pub(crate) fn hint(&self, value: Option<&Value>) -> String {
        let Self { of, name, .. } = self;
        match self.meant {
            Key(key) | At(key) if *of == OTHER => format!("did you mean `{key}`?"),
            Key(key) | At(key) => format!("did you mean `{key}`? {of} `{name}` is `{key}` here"),
            Unit(key, unit) => {
                let number = value.map(|value| quote::text(&quote::found(value)));
                let number = number.filter(|number| number.parse::<f64>().is_ok());
                format!("write `{key}: {}{unit}`", number.as_deref().unwrap_or("NUMBER"))
            }
            Note(note) | Written(_, note) => note.to_owned(),
        }
    }
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hint(None))
    }
}

pub(super) const COLLECTOR: &str = "The Collector's";
pub(super) const PROMETHEUS: &str = "Prometheus'";
pub(super) const VECTOR: &str = "Vector's";
pub(super) const OBI: &str = "OBI's";
/// More than one.
pub(super) const OTHER: &str = "";

pub(super) const SKIP_VERIFY: Meant =
    Note("certificates are always verified: name the authority of the peer's certificate in `ca_file`");
pub(super) const PASSWORD_FILE: Meant = Written(
    "password",
    "write `password: \"${file:/path}\"`: any value can come from a file",
);
pub(super) const TOKEN_FILE: Meant = Written(
    "bearer_token",
    "write `bearer_token: \"${file:/path}\"`: any value can come from a file",
);
pub(super) const BASIC_AUTH: Meant = Note(
    "not an extension here: write `basic_auth: {username: NAME, password: PASSWORD}` in `exporters.remote_write`, `headers: {authorization: \"Basic TEXT\"}` in `exporters.otlp`, and remove it here and in `service.extensions`",
);
pub(super) const BEARER_TOKEN: Meant = Note(
    "not an extension here: write `bearer_token: TOKEN` in `exporters.remote_write`, `headers: {authorization: \"Bearer TOKEN\"}` in `exporters.otlp`, and remove it here and in `service.extensions`",
);
pub(super) const AUTH: Meant = Written(
    "basic_auth",
    "write `basic_auth: {username: NAME, password: PASSWORD}`, or `bearer_token: TOKEN`, in the exporter itself",
);
pub(super) const OTLP_AUTH: Meant = Written("headers", "write `headers: {authorization: \"Bearer TOKEN\"}`");
pub(super) const EXCLUDE: Meant = At("processors.filter.exclude");
pub(super) const MATCHERS: Meant = Written(
    "exclude",
    "write what to drop as a list: `exclude: [{address: [127.0.0.0/8, \"::1\"]}]`, or what to keep: `include: [{server_port: [443]}]`",
);
pub(super) const CONDITION: Meant = Written(
    "include",
    "write what to keep as a list: `include: [{class: [externalHosts], role: [client]}]`; a class is known after the processor `policy`, a role after `direction`",
);
pub(super) const INTERFACES: Meant = Note(
    "flowtap counts in sockets, which belong to no interface; drop records by address, port or network namespace with the processor `filter`",
);
pub(super) const NO_SAMPLING: Meant = Note("nothing is sampled: totals are exact; remove it");
pub(super) const EXPONENTIAL: Meant = Written("buckets", "write `buckets: exponential`");
pub(super) const LABELS: Meant = At("processors.window.families.NAME.labels");
pub(super) const WIRED: Meant = Note(
    "name the components of a pipeline in `service.pipelines.NAME.receivers`, `.processors` and `.exporters`",
);
pub(super) const NO_BATCH: Meant = Note(
    "not needed: exporters send whole windows; `max_points_per_request` of `otlp` and `max_samples_per_send` of `remote_write` limit a request",
);
pub(super) const MEMORY_LIMITER: Meant = At("service.memory_limiter");
pub(super) const RESOURCE: Meant = At("service.telemetry.resource");
pub(super) const HTTP: Meant = Written("otlp", "use `otlp` with `protocol: http/protobuf`");
pub(super) const BUCKETS: Meant = At("processors.window.families.NAME.buckets");

pub(super) const fn alias(of: &'static str, at: &'static str, name: &'static str, meant: Meant) -> Alias {
    Alias { of, at, name, meant }
}
