//! Details of a peer in its records: its name, the end behind its address, the protocol.

use std::sync::Arc;

use flowtap_pipeline::{AppProtocol, Endpoint, Flow, FlowKind, Hop, PeerName};

/// A value, of the newest record that has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newest<T> {
    /// The value.
    pub value: Option<T>,
    /// Whether other records have other values.
    pub is_shared: bool,
}

impl<T> Default for Newest<T> {
    fn default() -> Self {
        Self {
            value: None,
            is_shared: false,
        }
    }
}

impl<T: PartialEq> Newest<T> {
    fn update(&mut self, value: Option<T>) {
        if value.is_some() && value != self.value {
            self.is_shared |= self.value.is_some();
            self.value = value;
        }
    }
}

impl<T: PartialEq + Clone> Newest<T> {
    /// Adds the values of earlier records, or of another port.
    fn merge(&mut self, before: &Self) {
        let differ = self.value.is_some() && before.value.is_some() && self.value != before.value;
        self.is_shared |= before.is_shared || differ;
        if self.value.is_none() {
            self.value.clone_from(&before.value);
        }
    }
}

/// The details of a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Name of its address.
    pub peer_name: Newest<PeerName>,
    /// The end behind its address; without a port, 0, if that is a client's.
    pub backend: Newest<Endpoint>,
    /// The part in the way through a proxy.
    pub hop: Newest<Hop>,
    /// The application protocol.
    pub protocol: Newest<AppProtocol>,
    /// The name that the client of a TLS connection asks for.
    pub server_name: Newest<Arc<str>>,
}

impl Details {
    pub(super) fn update(&mut self, flow: &Flow) {
        self.peer_name.update(flow.peer_name.clone());
        let port = |end: Endpoint| match flow.kind {
            Some(FlowKind::Ingress) => 0,
            _ => end.port,
        };
        self.backend
            .update(flow.backend().map(|end| Endpoint::new(end.addr, port(end))));
        self.hop.update(flow.hop());
        if let Some(inspection) = &flow.inspection {
            self.protocol.update(inspection.protocol);
            // The whole name only if a host can be called so; the label is `invalid` then.
            let name = inspection.server_name_full.as_ref();
            self.server_name
                .update(name.or(inspection.server_name.as_ref()).cloned());
        }
    }

    pub(super) fn merge(&mut self, before: &Self) {
        self.peer_name.merge(&before.peer_name);
        self.backend.merge(&before.backend);
        self.hop.merge(&before.hop);
        self.protocol.merge(&before.protocol);
        self.server_name.merge(&before.server_name);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use flowtap_pipeline::{Inspection, NameSource, Translation};

    use super::*;

    fn flow(backend: u8, protocol: Option<AppProtocol>, server_name: Option<&str>) -> Flow {
        let end = |last, port| Endpoint::new(Ipv4Addr::new(10, 0, 0, last).into(), port);
        let (local, remote) = (end(1, 40_000), end(9, 443));
        let inspection = Inspection {
            protocol,
            server_name: server_name.map(|_| "invalid".into()),
            server_name_full: server_name.filter(|name| *name != "invalid").map(Into::into),
            alpn: None,
        };
        Flow {
            translation: Some(Arc::new(Translation {
                local,
                remote: end(backend, 8443),
            })),
            inspection: Some(Arc::new(inspection)),
            ..Flow::new(local, remote)
        }
    }

    #[test]
    fn the_newest_value_stands_and_others_are_marked() {
        let mut details = Details::default();
        details.update(&flow(7, Some(AppProtocol::Tls), Some("shop.example.com")));
        // A record without one leaves the value.
        details.update(&flow(7, None, None));
        assert_eq!(details.protocol.value, Some(AppProtocol::Tls));
        assert_eq!(details.server_name.value.as_deref(), Some("shop.example.com"));
        assert!(!details.backend.is_shared && !details.protocol.is_shared);
        details.update(&flow(8, Some(AppProtocol::Tls), Some("invalid")));
        assert_eq!(
            details.backend.value.map(|end| end.to_string()).as_deref(),
            Some("10.0.0.8:8443")
        );
        assert_eq!(details.server_name.value.as_deref(), Some("invalid"));
        assert!(details.backend.is_shared && details.server_name.is_shared && !details.protocol.is_shared);
    }

    #[test]
    fn earlier_values_fill_what_newer_records_lack() {
        let (mut newer, mut before) = (Details::default(), Details::default());
        newer.update(&flow(7, None, None));
        before.update(&Flow {
            peer_name: Some(PeerName {
                name: "db.test".into(),
                source: NameSource::Dns,
            }),
            ..flow(8, Some(AppProtocol::Redis), None)
        });
        newer.merge(&before);
        assert_eq!(
            newer.peer_name.value.as_ref().map(|peer| &*peer.name),
            Some("db.test")
        );
        assert_eq!(newer.protocol.value, Some(AppProtocol::Redis));
        assert_eq!(newer.backend.value.map(|end| end.port), Some(8443));
        assert!(newer.backend.is_shared && !newer.protocol.is_shared);
    }
}
