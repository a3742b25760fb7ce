//! Tests of the mirror: its layout, against the objects' BTF, and its readers.

use super::*;
use std::process::Command;

use super::cgroups::{CGROUP_CREATED, CGROUP_REMOVED, CgroupHead};
use super::drops::DropSlot;
use super::inspect::FirstBytesHead;
use crate::object::Compressed;

/// Name in C, offset and size of each field, in order.
macro_rules! layout {
    ($type:ty: $($field:ident $(as $c:literal)?),+ $(,)?) => {
        vec![$({
            let zero: $type = Zeroable::zeroed();
            let name = [$($c,)? stringify!($field)][0];
            (name.to_owned(), offset_of!($type, $field), size_of_val(&zero.$field))
        }),+]
    };
}

/// The types that an object's BTF describes; `None` without bpftool.
fn types_of(object: Compressed) -> Option<Vec<serde_json::Value>> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), object.unpack().unwrap().bytes()).unwrap();
    let dump = Command::new("bpftool")
        .args(["-j", "btf", "dump", "file"])
        .arg(file.path())
        .output();
    let dump = match dump {
        Ok(dump) => dump,
        Err(error) if std::env::var_os("FLOWTAP_TEST_REQUIRE_ALL").is_none() => {
            eprintln!("SKIPPED: bpftool can't be run ({error}); the layout is not compared with BTF");
            return None;
        }
        Err(error) => panic!("bpftool can't be run: {error}"),
    };
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    let btf: serde_json::Value = serde_json::from_slice(&dump.stdout).unwrap();
    Some(btf["types"].as_array().unwrap().clone())
}

#[test]
fn every_field_stands_where_the_objects_btf_has_it() {
    // Of mode `events` with a separate table, which has most of them, then of mode `sockets`.
    let Some(mut types) = types_of(crate::events::OBJECT) else {
        return;
    };
    for object in [
        crate::sockets::OBJECT,
        crate::drops::OBJECT,
        crate::listeners::OBJECT,
    ] {
        types.extend(types_of(object).unwrap_or_default());
    }
    let expected = [
        (
            "tuple",
            layout!(Tuple: local_addr, remote_addr, local_port, remote_port, family, pad),
            size_of::<Tuple>(),
        ),
        (
            "flow_event",
            layout!(FlowEvent: kind as "type", netns, cookie, tuple, sent, received, sent_segments,
                received_segments, retransmits, rtt_us, min_rtt_us, cwnd, handshake_us, pid, age_us, cgroup_id,
                comm, role, state, events, role_source, failure, elapsed, busy, rwnd_limited, sndbuf_limited, rto_ms,
                out_of_order, lost, ecn_ce, unsent, unacked, unread, limits, syn_retransmits, reset_by, route),
            size_of::<FlowEvent>(),
        ),
        (
            "translation_event",
            layout!(TranslationEvent: kind as "type", pad, cookie, sent),
            size_of::<TranslationEvent>(),
        ),
        (
            "listen_event",
            layout!(ListenEvent: kind as "type", netns, cookie, port, pad, drops),
            size_of::<ListenEvent>(),
        ),
        (
            "listener_event",
            layout!(ListenerEvent: cookie, cgroup_id, netns, pid, comm, backlog, limit, drops, wait_us, local_addr,
                port, family, pad),
            size_of::<ListenerEvent>(),
        ),
        (
            "drop_reason",
            layout!(DropReason: reason, netns),
            size_of::<DropReason>(),
        ),
        (
            "drop_flow",
            layout!(DropFlow: reason, local_addr, remote_addr, local_port, remote_port, family, protocol, received),
            size_of::<DropFlow>(),
        ),
        (
            "drop_count",
            layout!(DropCount: packets, bytes),
            size_of::<DropCount>(),
        ),
        (
            "drop_slot",
            layout!(DropSlot: count, reason),
            size_of::<DropSlot>(),
        ),
        ("drop_slots", layout!(DropSlots: slots), size_of::<DropSlots>()),
        (
            "drops_state",
            layout!(DropsState: active, with_flows, refused),
            size_of::<DropsState>(),
        ),
        (
            "totals",
            layout!(Totals: sent, received, sent_segments, received_segments, retransmits, out_of_order, lost, ecn_ce,
                clock, busy, rwnd_limited, sndbuf_limited, rto_ms, chrono),
            size_of::<Totals>(),
        ),
        (
            "socket_state",
            layout!(SocketState: marks, role, owner, segment_tick, reported, since_ns, cgroup_id, netns, handshake_us, pid, comm,
                scanned, syn_retransmits, pad),
            size_of::<SocketState>(),
        ),
        (
            "tracked_socket",
            layout!(TrackedSocket: state, tuple, cookie, reported_ns),
            size_of::<TrackedSocket>(),
        ),
        (
            "control",
            layout!(Control: generation, sole, table_limit),
            size_of::<Control>(),
        ),
        (
            "losses",
            layout!(Losses: flows, sent, received, listeners, untracked, segments, scan_writes, redirected, owners,
                openings, missed_closes),
            size_of::<Losses>(),
        ),
    ];
    compare(&types, expected);
}

#[test]
fn every_field_of_udp_stands_where_the_objects_btf_has_it() {
    use crate::udp::abi::{UdpFlow, UdpKey, UdpSeen, UdpTotals};
    let Some(types) = types_of(crate::udp::OBJECT) else {
        return;
    };
    let expected = [
        (
            "udp_key",
            layout!(UdpKey: socket, remote_addr, local_port, remote_port, family, protocol, pad),
            size_of::<UdpKey>(),
        ),
        (
            "udp_totals",
            layout!(UdpTotals: sent, received, sent_datagrams, received_datagrams, dropped, errors),
            size_of::<UdpTotals>(),
        ),
        (
            "udp_flow",
            layout!(UdpFlow: totals, key, cookie, since_ns, last_ns, cgroup_id, netns, pid, marks, error, has_more, error_queue,
                local_addr, comm),
            size_of::<UdpFlow>(),
        ),
        (
            "udp_seen",
            layout!(UdpSeen: seen, overflow, closed_lost, dns_lost, dns_unread, unparsed),
            size_of::<UdpSeen>(),
        ),
    ];
    compare(&types, expected);
}

#[test]
fn a_dns_record_is_read_as_the_objects_btf_has_it() {
    use crate::udp::abi::DnsHead;
    let Some(types) = types_of(crate::udp::OBJECT) else {
        return;
    };
    let mut fields = layout!(DnsHead: time_ns, socket, cgroup_id, netns, pid, local_addr, remote_addr, local_port, remote_port,
        family, direction, flags, payload_bytes, captured_bytes, comm);
    fields.push(("payload".to_owned(), size_of::<DnsHead>(), 512));
    compare(&types, [("dns_event", fields, size_of::<DnsHead>() + 512)]);
}

/// Name, offset and size of each field.
type Fields = Vec<(String, usize, usize)>;

fn compare(types: &[serde_json::Value], expected: impl IntoIterator<Item = (&'static str, Fields, usize)>) {
    for (name, fields, size) in expected {
        let found = types.iter().find(|t| t["kind"] == "STRUCT" && t["name"] == name);
        let found = found.unwrap_or_else(|| panic!("no struct {name} in the object's BTF"));
        assert_eq!(found["size"], size, "size of {name}");
        let members: Vec<_> = found["members"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| {
                let offset = m["bits_offset"].as_u64().unwrap() / 8;
                (
                    m["name"].as_str().unwrap().to_owned(),
                    usize::try_from(offset).unwrap(),
                )
            })
            .collect();
        let mirrored: Vec<_> = fields
            .iter()
            .map(|(name, offset, _)| (name.clone(), *offset))
            .collect();
        assert_eq!(members, mirrored, "fields of {name}");
        let end = fields.last().map_or(0, |(_, offset, size)| offset + size);
        assert_eq!(end, size, "{name} has padding that no field names");
    }
}

#[test]
fn records_of_inspect_are_read_as_the_objects_btf_has_them() {
    let Some(types) = types_of(crate::inspect::OBJECT) else {
        return;
    };
    let expected = [
        (
            "inspect_control",
            layout!(InspectControl: epoch, wants),
            size_of::<InspectControl>(),
        ),
        (
            "exchange_event",
            layout!(ExchangeEvent: cookie, duration_us, role, turn, pad),
            size_of::<ExchangeEvent>(),
        ),
        (
            "first_bytes",
            layout!(FirstBytesHead: cookie, offset, skip, captured, direction, role, pad),
            size_of::<FirstBytesHead>(),
        ),
        (
            "inspect_seen",
            layout!(InspectSeen: runs, timed_runs, timed_ns, handed_over, exchanges, exchanges_lost, first_bytes_lost,
                untracked, unknown_roles, exchanges_untimed, exchanges_too_long, translations_lost),
            size_of::<InspectSeen>(),
        ),
        (
            "translation_event",
            layout!(TranslationEvent: kind as "type", pad, cookie, sent),
            size_of::<TranslationEvent>(),
        ),
    ];
    compare(&types, expected);
}

#[test]
fn first_bytes_are_those_after_the_header_and_a_record_that_is_cut_short_is_refused() {
    let head = FirstBytesHead {
        cookie: 7,
        offset: 1448,
        skip: 2,
        captured: 3,
        direction: 1,
        role: 1,
        pad: [0; 6],
    };
    let bytes = [bytemuck::bytes_of(&head), b"..abc...", &[0; 3]].concat();
    let first = FirstBytes::read(&bytes).unwrap();
    assert_eq!(
        (first.cookie, first.offset, first.is_sent, first.payload),
        (7, 1448, true, &b"abc"[..])
    );
    assert!(!format!("{first:?}").contains("97"), "payload in a log");
    assert!(FirstBytes::read(&bytes[..28]).is_none());
    assert!(FirstBytes::read(&bytes[..23]).is_none());
}

#[test]
fn a_cgroups_record_is_read_as_the_objects_btf_has_it() {
    let Some(types) = types_of(crate::cgroups::OBJECT) else {
        return;
    };
    let of_c = types
        .iter()
        .find(|t| t["kind"] == "STRUCT" && t["name"] == "cgroup_event");
    let members = of_c.unwrap()["members"].as_array().unwrap().clone();
    let members = members.iter().map(|m| {
        let offset = m["bits_offset"].as_u64().unwrap() / 8;
        (m["name"].as_str().unwrap().to_owned(), offset)
    });
    let offset = |offset: usize| u64::try_from(offset).unwrap();
    let expected = [
        ("id", offset(offset_of!(CgroupHead, id))),
        ("type", offset(offset_of!(CgroupHead, kind))),
        ("path_bytes", offset(offset_of!(CgroupHead, path_bytes))),
        ("path", offset(size_of::<CgroupHead>())),
    ];
    assert_eq!(
        members.collect::<Vec<_>>(),
        expected.map(|(name, offset)| (name.to_owned(), offset))
    );
}

#[test]
fn a_cgroups_record_has_as_much_path_as_it_says() {
    let record = |kind, path_bytes| {
        let head = CgroupHead {
            id: 7,
            kind,
            path_bytes,
        };
        [bytemuck::bytes_of(&head), b"/a/b\0"].concat()
    };
    let (created, removed) = (record(CGROUP_CREATED, 4), record(CGROUP_REMOVED, 0));
    let path = b"/a/b";
    assert_eq!(
        CgroupEvent::read(&created),
        Ok(CgroupEvent::Created { id: 7, path })
    );
    assert_eq!(CgroupEvent::read(&removed), Ok(CgroupEvent::Removed { id: 7 }));
    assert!(CgroupEvent::read(&record(CGROUP_CREATED, 6)).is_err());
    assert!(CgroupEvent::read(&record(3, 0)).is_err());
    assert!(CgroupEvent::read(&created[..15]).is_err());
}

#[test]
fn a_record_that_is_cut_short_or_unknown_is_refused() {
    let flow = FlowEvent {
        kind: EVENT_FLOW,
        ..Zeroable::zeroed()
    };
    let bytes = bytemuck::bytes_of(&flow);
    assert_eq!(Event::read(bytes), Ok((Event::Flow(flow), &[][..])));
    assert_eq!(
        Event::read(&bytes[..191]),
        Err(MalformedEvent {
            len: 191,
            kind: Some(EVENT_FLOW)
        })
    );
    assert_eq!(
        Event::read(&[9, 0, 0, 0]),
        Err(MalformedEvent {
            len: 4,
            kind: Some(9)
        })
    );
    assert_eq!(Event::read(&[1]), Err(MalformedEvent { len: 1, kind: None }));
}
