//! Addresses on the wire that the kernel side has found, until their connections close.
//!
//! In: a record per connection whose packets have other addresses than its socket, once. Out: those addresses for each record of
//! that connection. The rules:
//!
//! 1. A record that is marked as translated has them, whatever was reported of its cookie before.
//! 2. The close of a connection takes its entry out. The next census takes out entries whose close was lost.
//! 3. Beyond [`CAPACITY`] entries further connections have none, and are counted.

use std::collections::HashMap;
use std::sync::Arc;

use flowtap_ebpf::{FlowEvent, TranslationEvent};
use flowtap_pipeline::{Endpoint, Events, Translation};

use super::address::address;

/// The addresses that the kernel side has found.
pub(super) fn translation(event: &TranslationEvent) -> Translation {
    let sent = &event.sent;
    Translation {
        local: Endpoint::new(address(sent.family, sent.local_addr), sent.local_port),
        remote: Endpoint::new(address(sent.family, sent.remote_addr), sent.remote_port),
    }
}

/// Connections whose addresses on the wire are known at a time; some 150 bytes each.
const CAPACITY: usize = 1 << 17;

#[derive(Debug)]
struct Entry {
    translation: Arc<Translation>,
    /// The census that saw it last, or that came before it.
    census: u64,
}

/// The table, by cookie.
#[derive(Debug)]
pub(super) struct Translations {
    entries: HashMap<u64, Entry>,
    /// Number of the census that is under way, or was last.
    census: u64,
    capacity: usize,
    refused: u64,
}

impl Default for Translations {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            census: 0,
            capacity: CAPACITY,
            refused: 0,
        }
    }
}

impl Translations {
    /// Keeps what the kernel side has found.
    pub(super) fn insert(&mut self, event: &TranslationEvent) {
        if self.entries.len() >= self.capacity && !self.entries.contains_key(&event.cookie) {
            self.refused += 1;
            return;
        }
        let entry = Entry {
            translation: Arc::new(translation(event)),
            census: self.census,
        };
        self.entries.insert(event.cookie, entry);
    }

    /// The addresses of the connection that `flow` is a record of. After its last record they are forgotten.
    pub(super) fn of(&mut self, flow: &FlowEvent) -> Option<Arc<Translation>> {
        if !flow.is_translated() {
            return None;
        }
        if Events::from_bits(flow.events).contains(Events::CLOSED) {
            let entry = self.entries.remove(&flow.cookie);
            if self.entries.is_empty() {
                self.entries.shrink_to(1024);
            }
            return entry.map(|entry| entry.translation);
        }
        let entry = self.entries.get_mut(&flow.cookie)?;
        entry.census = self.census;
        Some(Arc::clone(&entry.translation))
    }

    /// A census begins: it reports every connection that is open.
    pub(super) const fn begin_census(&mut self) {
        self.census += 1;
    }

    /// The census has come to its end: what it has not reported is gone.
    pub(super) fn end_census(&mut self) {
        let census = self.census;
        self.entries.retain(|_, entry| entry.census == census);
    }

    /// Running total of connections for which there was no room.
    pub(super) const fn refused(&self) -> u64 {
        self.refused
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use flowtap_ebpf::Event;

    use super::*;

    fn event(cookie: u64, peer: u8) -> TranslationEvent {
        let mut bytes = [0_u8; 56];
        bytes[0] = 4;
        bytes[8..16].copy_from_slice(&cookie.to_ne_bytes());
        bytes[16..20].copy_from_slice(&[10, 0, 0, 1]);
        bytes[32..36].copy_from_slice(&[10, 0, 0, peer]);
        bytes[52..54].copy_from_slice(&2_u16.to_ne_bytes());
        match Event::read(&bytes) {
            Ok((Event::Translation(event), [])) => event,
            other => panic!("{other:?}"),
        }
    }

    /// A record of the connection, with these events.
    fn flow(cookie: u64, events: Events, translated: bool) -> FlowEvent {
        let mut bytes = [0_u8; 192];
        bytes[0] = 1;
        bytes[8..16].copy_from_slice(&cookie.to_ne_bytes());
        bytes[138] = events.bits();
        bytes[191] = u8::from(translated);
        match Event::read(&bytes) {
            Ok((Event::Flow(flow), [])) => flow,
            other => panic!("{other:?}"),
        }
    }

    fn peer(translations: &mut Translations, flow: &FlowEvent) -> Option<u8> {
        let found = translations.of(flow)?;
        let std::net::IpAddr::V4(addr) = found.remote.addr else {
            panic!("{found:?}");
        };
        assert_eq!(found.local.addr, Ipv4Addr::new(10, 0, 0, 1));
        Some(addr.octets()[3])
    }

    #[test]
    fn an_entry_is_of_its_connection_until_that_closes() {
        let mut translations = Translations::default();
        translations.insert(&event(7, 70));
        assert_eq!(peer(&mut translations, &flow(7, Events::NONE, true)), Some(70));
        assert_eq!(
            peer(&mut translations, &flow(7, Events::NONE, false)),
            None,
            "another connection"
        );
        assert_eq!(peer(&mut translations, &flow(8, Events::NONE, true)), None);
        assert_eq!(peer(&mut translations, &flow(7, Events::CLOSED, true)), Some(70));
        assert_eq!(peer(&mut translations, &flow(7, Events::NONE, true)), None);
    }

    #[test]
    fn a_census_takes_out_what_it_does_not_see() {
        let mut translations = Translations::default();
        translations.insert(&event(7, 70));
        translations.insert(&event(8, 80));
        translations.begin_census();
        translations.insert(&event(9, 90));
        assert_eq!(peer(&mut translations, &flow(7, Events::OPEN, true)), Some(70));
        translations.end_census();
        let known: Vec<_> = [7, 8, 9]
            .map(|cookie| peer(&mut translations, &flow(cookie, Events::NONE, true)))
            .into();
        assert_eq!(known, [Some(70), None, Some(90)]);
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let mut translations = Translations {
            capacity: 1,
            ..Translations::default()
        };
        translations.insert(&event(7, 70));
        translations.insert(&event(8, 80));
        translations.insert(&event(7, 71));
        assert_eq!(translations.refused(), 1);
        assert_eq!(peer(&mut translations, &flow(7, Events::NONE, true)), Some(71));
    }
}
