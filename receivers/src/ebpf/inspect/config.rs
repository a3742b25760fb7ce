//! Config of the option `inspect`.

use flowtap_ebpf::InspectOptions;
use flowtap_pipeline::Violation;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::budget::Share;
use crate::dns::Names;

/// First bytes of TCP connections, and exchanges. Off unless something is asked for: then a program runs for each received segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct InspectConfig {
    /// Whether the application protocol of a connection is recognized, by the first bytes of both ends: label `protocol`.
    pub protocols: bool,
    /// Names that TLS clients ask for (SNI), in the label `server_name` and in flow logs, with the protocols that they offer (ALPN).
    pub server_names: Names,
    /// Names that can be values of the label `server_name`: from 1 to 100,000. Further ones are `other`.
    pub max_names: usize,
    /// Whether requests that were answered are counted, and the time of their answers is measured, by which end sends.
    pub exchanges: bool,
    /// Share of one CPU that this may take, from 0.1% to 100%. Where it would take more, it is at work for a part of the time, and
    /// the rest of the connections is not seen.
    pub budget: Share,
}

impl Default for InspectConfig {
    fn default() -> Self {
        Self {
            protocols: false,
            server_names: Names::None,
            max_names: 200,
            exchanges: false,
            budget: Share::DEFAULT,
        }
    }
}

impl InspectConfig {
    /// Whether first bytes are read.
    pub(super) fn reads_first_bytes(&self) -> bool {
        self.protocols || self.has_server_names()
    }

    /// Whether names of TLS servers leave the receiver.
    pub(in crate::ebpf) fn has_server_names(&self) -> bool {
        self.server_names != Names::None
    }

    /// Whether anything is asked for.
    pub(super) fn is_on(&self) -> bool {
        self.reads_first_bytes() || self.exchanges
    }

    /// Requests to the kernel side; with `translations` the addresses on the wire as well.
    pub(super) fn kernel(&self, translations: bool) -> InspectOptions {
        InspectOptions {
            first_bytes: self.reads_first_bytes(),
            exchanges: self.exchanges,
            translations,
        }
    }

    /// The violations, with paths below the key `inspect`.
    pub(in crate::ebpf) fn validate(&self) -> Vec<Violation> {
        let mut faults = Vec::new();
        if !(1..=100_000).contains(&self.max_names) {
            let message = format!("{} is not from 1 to 100000", self.max_names);
            faults.push(Violation::new("inspect.max_names", message));
        }
        faults.extend(self.server_names.violation("inspect.server_names"));
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_off_until_something_is_asked_for() {
        let config = InspectConfig::default();
        assert!(!config.is_on());
        assert_eq!(config.validate(), []);
        for on in [
            InspectConfig {
                protocols: true,
                ..InspectConfig::default()
            },
            InspectConfig {
                server_names: Names::Full,
                ..InspectConfig::default()
            },
            InspectConfig {
                exchanges: true,
                ..InspectConfig::default()
            },
        ] {
            assert!(on.is_on(), "{on:?}");
        }
    }
}
