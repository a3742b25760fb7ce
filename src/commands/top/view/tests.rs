use std::collections::BTreeMap;
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::text::wrapped;
use super::*;
use crate::commands::top::state::{Event, Next};
use flowtap_extensions::admin::findings::{Answer, Finding};
use flowtap_extensions::live::{Bytes, Flows, OfRecords, Retransmits, Sort};
use flowtap_extensions::short::{short_bytes, short_count, short_time};
use flowtap_extensions::verdict::Cause;

fn flow(role: &str, labels: &[(&str, &str)], out: f64, back: f64) -> Flow {
    let bytes = |per_second: f64| {
        Some(Bytes {
            total: 5_000_000,
            per_second,
        })
    };
    Flow {
        metric: format!("network_tcp_flow_{role}"),
        role: Some(role.to_owned()),
        labels: labels
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
        outbound: bytes(out),
        inbound: bytes(back),
        ..Flow::default()
    }
}

fn flows() -> Flows {
    let mut first = flow(
        "egress",
        &[
            ("raddr", "10.77.0.2"),
            ("rport", "8000"),
            ("type", "internalHosts"),
            ("comm", "curl"),
            ("pid", "4711"),
        ],
        81.0,
        1_234_567.0,
    );
    first.rtt_microseconds = Some(12_345.0);
    first.retransmits = Some(Retransmits {
        total: 23,
        last_window: 1,
    });
    first.recent = Some(OfRecords {
        cause: Cause::Receiver,
        sentence: "the peer does not read fast enough: its receive window was full 89 % of the time"
            .to_owned(),
        retransmits: 4,
        failed: 0,
        ..OfRecords::default()
    });
    let second = flow(
        "ingress",
        &[
            ("raddr", "2001:db8:1234:5678::beef:1"),
            ("lport", "443"),
            ("type", "externalHosts"),
            ("comm", "nginx"),
        ],
        999_999.0,
        1.0,
    );
    let mut third = flow("egress", &[("type", "k8sSvc")], 0.0, 0.0);
    third.recent = Some(OfRecords {
        cause: Cause::NoLocalPort,
        failed: 7,
        ..OfRecords::default()
    });
    third.labels = BTreeMap::from([("peer_service".to_owned(), "shop/web".to_owned())]);
    Flows {
        pipeline: "metrics".to_owned(),
        pipelines: vec!["metrics".to_owned()],
        at: 10.0,
        window_seconds: 5.0,
        total: 3,
        outbound_bytes_per_second: 1_000_080.0,
        inbound_bytes_per_second: 1_234_568.0,
        flows: vec![first, second, third],
    }
}

fn state() -> State {
    let mut state = State::new("127.0.0.1:13134".to_owned(), Sort::Rate, Duration::from_secs(1));
    assert_eq!(state.apply(Event::Flows(flows())), Next::Draw);
    state
}

fn press(state: &mut State, code: KeyCode) -> Next {
    state.apply(Event::Key(KeyEvent::new(code, KeyModifiers::NONE)))
}

fn type_text(state: &mut State, text: &str) {
    for character in text.chars() {
        press(state, KeyCode::Char(character));
    }
}

/// Contents of a terminal of this size, without trailing blanks.
fn screen(state: &mut State, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(state, frame)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| {
        let cells = (0..width).map(|x| buffer[(x, y)].symbol());
        cells.collect::<String>().trim_end().to_owned()
    };
    (0..height).map(line).collect()
}

#[test]
fn at_eighty_columns_a_row_has_peer_port_role_process_rates_time_retransmits_and_cause() {
    let screen = screen(&mut state(), 80, 24);
    assert_eq!(
        screen[0],
        "flowtap top  127.0.0.1:13134  last 5.0s  out 1.00 MB/s  in 1.23 MB/s"
    );
    assert_eq!(screen[1], "1-3 of 3  by rate  every 1s");
    assert_eq!(
        screen[2..6],
        [
            "PEER             PORT ROLE    PROCESS     ▼OUT/s   ▼IN/s    RTT  RETR WHY",
            "10.77.0.2        8000 egress  curl/4711     81 B 1.23 MB 12.3ms     4 receiver",
            "2001:db~:beef:1   443 ingress nginx      1.00 MB     1 B",
            "shop/web              egress                 0 B     0 B            0 no_port",
        ]
    );
    assert_eq!(
        screen[21..],
        [
            "10.77.0.2 8000 egress curl/4711: receiver: the peer does not read fast enough:",
            "its receive window was full 89 % of the time",
            "s sort  r reverse  / filter  + - rate  w findings  p pause  h help  q quit",
        ]
    );
    assert!(
        screen.iter().all(|line| line.chars().count() <= 80),
        "{screen:#?}"
    );
}

#[test]
fn a_config_without_processes_leaves_their_room_to_the_peer() {
    let mut flows = flows();
    for flow in &mut flows.flows {
        flow.labels.remove("comm");
        flow.labels.remove("pid");
    }
    let mut state = state();
    state.apply(Event::Flows(flows));
    let screen = screen(&mut state, 80, 24);
    assert!(!screen[2].contains("PROCESS"), "{screen:#?}");
    assert!(
        screen[4].starts_with("2001:db8:1234:5678::beef:1  "),
        "{screen:#?}"
    );
}

#[test]
fn a_wide_terminal_has_totals_and_whole_names() {
    let screen = screen(&mut state(), 120, 24);
    assert!(screen[2].contains("TOTAL"), "{screen:#?}");
    assert!(screen[3].contains("10.0 MB"), "{screen:#?}");
    assert!(
        screen[2].contains("CLASS") && screen[5].ends_with("   7 no_local_port"),
        "{screen:#?}"
    );
    assert!(
        screen[4].starts_with("2001:db8:1234:5678::beef:1 "),
        "{screen:#?}"
    );
}

#[test]
fn a_terminal_too_small_for_anything_is_drawn_all_the_same() {
    let mut state = state();
    for (width, height) in [(1, 1), (20, 3), (79, 4), (80, 1), (300, 2)] {
        for mode in [Mode::Browse, Mode::Filter, Mode::Help, Mode::Findings] {
            state.mode = mode;
            screen(&mut state, width, height);
        }
    }
}

#[test]
fn at_sixty_columns_a_row_has_its_peer_rates_time_and_cause_and_the_line_below_the_rest() {
    let mut state = state();
    state.apply(Event::Findings(Answer {
        total: 2,
        ..Answer::default()
    }));
    let screen = screen(&mut state, 60, 24);
    assert_eq!(screen[0], "top  out 1.00 MB/s  in 1.23 MB/s  2 findings (w)");
    assert_eq!(
        screen[2..6],
        [
            "PEER                  PORT  ▼OUT/s   ▼IN/s    RTT WHY",
            "10.77.0.2             8000    81 B 1.23 MB 12.3ms receiver",
            "2001:db8:1~8::beef:1   443 1.00 MB     1 B",
            "shop/web                       0 B     0 B        no_port",
        ]
    );
    assert!(
        screen[21].starts_with("10.77.0.2 8000 egress curl/4711: receiver:"),
        "{screen:#?}"
    );
    assert!(
        screen.iter().all(|line| line.chars().count() <= 60),
        "{screen:#?}"
    );
}

#[test]
fn at_two_hundred_columns_a_peer_has_its_name_and_a_row_its_cause_in_words() {
    let mut flows = flows();
    flows.flows[0]
        .labels
        .insert("peer_name".to_owned(), "orders-db.shop.internal".to_owned());
    let mut state = state();
    state.apply(Event::Flows(flows));
    let screen = screen(&mut state, 200, 24);
    assert!(screen[2].ends_with("WHY            IN WORDS"), "{screen:#?}");
    assert!(
        screen[3].starts_with("10.77.0.2 orders-db.shop.internal "),
        "{screen:#?}"
    );
    assert!(
        screen[3].contains("receiver       the peer does not read fast enough:"),
        "{screen:#?}"
    );
    assert!(
        screen.iter().all(|line| line.chars().count() <= 200),
        "{screen:#?}"
    );
}

/// The first flow with names of its ends, by records; the second one by labels.
fn with_details() -> State {
    let mut flows = flows();
    let recent = flows.flows[0].recent.as_mut().unwrap();
    recent.protocol = Some("tls".to_owned());
    recent.server_name = Some("orders.example.com".to_owned());
    recent.backend = Some("10.244.1.7:8443".to_owned());
    recent.hop = Some("to_proxy".to_owned());
    recent.peer_name = Some("orders.test".to_owned());
    recent.peer_name_source = Some("dns".to_owned());
    recent.several = vec!["backend".to_owned()];
    let labels = [
        ("backend", "fd00::7"),
        ("backend_port", "8443"),
        ("protocol", "http"),
    ];
    let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
    flows.flows[1].labels.extend(labels);
    let mut state = state();
    state.apply(Event::Flows(flows));
    state
}

#[test]
fn the_line_above_the_keys_has_the_ends_and_the_protocol_of_the_marked_row_at_any_width() {
    let mut state = with_details();
    for width in [60, 80, 100, 200] {
        state.selected = 0;
        let lines = screen(&mut state, width, 24);
        let whole = "protocol tls  server name orders.example.com  backend 10.244.1.7:8443,..  hop to_proxy  name orders.test from dns";
        assert!(
            lines[22].len() >= 50 && whole.starts_with(&lines[22]),
            "{width}: {lines:#?}"
        );
        assert!(lines[20].contains("receiver:"), "the verdict stays: {lines:#?}");
        press(&mut state, KeyCode::Down);
        let lines = screen(&mut state, width, 24);
        assert_eq!(lines[22], "protocol http  backend [fd00::7]:8443", "{width}");
        press(&mut state, KeyCode::Down);
        assert_eq!(screen(&mut state, width, 24)[22], "", "{width}");
    }
    // A low terminal has none.
    assert!(!screen(&mut state, 80, 11).join("").contains("backend"));
}

#[test]
fn wide_terminals_have_columns_of_protocol_and_details_where_any_flow_has_them() {
    let heads = |width| {
        let head = screen(&mut with_details(), width, 24)[2].clone();
        (head.contains("PROTOCOL"), head.contains("DETAILS"))
    };
    assert_eq!(heads(139), (false, false));
    assert_eq!(heads(140), (true, false));
    assert_eq!(heads(200), (true, true));
    let lines = screen(&mut with_details(), 200, 24);
    assert!(
        lines[3].contains(" tls        orders.example.com 10.244.1.7:8443,~ "),
        "{lines:#?}"
    );
    assert!(lines[3].starts_with("10.77.0.2 orders.test "), "{lines:#?}");
    assert!(lines[4].contains(" http       [fd00::7]:8443 "), "{lines:#?}");
    for width in 60..=240 {
        let lines = screen(&mut with_details(), width, 24);
        assert!(
            lines[3].contains("1.23 MB") && lines[3].contains("receiver"),
            "{width}: {lines:#?}"
        );
    }
    assert!(!screen(&mut state(), 240, 24)[2].contains("PROTOCOL"));
}

#[test]
fn a_filter_finds_details_of_records() {
    let mut state = with_details();
    press(&mut state, KeyCode::Char('/'));
    type_text(&mut state, "orders.example");
    assert_eq!(state.rows().len(), 1);
}

#[test]
fn every_width_from_sixty_columns_on_has_room_for_whole_numbers() {
    for width in 60..=200 {
        let screen = screen(&mut state(), width, 24);
        assert!(
            screen[3].contains("1.23 MB") && screen[3].contains("12.3ms"),
            "{width}: {screen:#?}"
        );
        assert!(
            screen[3].contains("receiver") && screen[5].contains("_port"),
            "{width}: {screen:#?}"
        );
    }
}

#[test]
fn the_title_of_the_column_that_sorts_has_a_mark_that_points_to_its_end() {
    let mut state = state();
    let head = |state: &mut State| screen(state, 120, 24)[2].clone();
    press(&mut state, KeyCode::Char('s'));
    assert!(head(&mut state).contains("▼OUT/s") && !head(&mut state).contains("▼IN/s"));
    press(&mut state, KeyCode::Char('r'));
    assert!(head(&mut state).contains("▲OUT/s"));
    while state.sort != Sort::Peer {
        press(&mut state, KeyCode::Char('s'));
    }
    assert!(head(&mut state).starts_with("PEER▲ "));
    press(&mut state, KeyCode::Char('r'));
    assert!(head(&mut state).starts_with("PEER▼ "));
}

#[test]
fn keys_change_how_often_the_feed_asks() {
    let mut state = state();
    let every = |seconds| Next::Ask(Sort::Rate, Duration::from_secs(seconds));
    assert_eq!(press(&mut state, KeyCode::Char('-')), every(2));
    assert_eq!(press(&mut state, KeyCode::Char('-')), every(5));
    assert!(screen(&mut state, 80, 24)[1].ends_with("every 5s"));
    assert_eq!(press(&mut state, KeyCode::Char('+')), every(2));
    assert_eq!(press(&mut state, KeyCode::Char('+')), every(1));
    assert_eq!(press(&mut state, KeyCode::Char('+')), Next::Draw);
    // One that was given is kept until a key changes it.
    state.interval = Duration::from_millis(700);
    assert_eq!(press(&mut state, KeyCode::Char('-')), every(1));
}

#[test]
fn keys_change_the_order_and_the_feed_is_notified() {
    let mut state = state();
    let peers = |state: &State| {
        let rows = state.rows();
        rows.iter().map(|flow| flow.peer().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(
        press(&mut state, KeyCode::Char('s')),
        Next::Ask(Sort::Outbound, Duration::from_secs(1))
    );
    assert_eq!(peers(&state)[0], "2001:db8:1234:5678::beef:1");
    assert_eq!(
        press(&mut state, KeyCode::Char('S')),
        Next::Ask(Sort::Rate, Duration::from_secs(1))
    );
    assert_eq!(
        press(&mut state, KeyCode::Left),
        Next::Ask(Sort::Cause, Duration::from_secs(1))
    );
    assert_eq!(
        peers(&state)[0],
        "shop/web",
        "a connect that fails is worse than a slow reader"
    );
    assert_eq!(
        press(&mut state, KeyCode::Right),
        Next::Ask(Sort::Rate, Duration::from_secs(1))
    );
    assert_eq!(press(&mut state, KeyCode::Char('r')), Next::Draw);
    assert_eq!(peers(&state)[0], "shop/web");
    let screen = screen(&mut state, 80, 24);
    assert_eq!(screen[1], "1-3 of 3  by rate, reversed  every 1s");
}

#[test]
fn a_filter_keeps_rows_with_its_text_in_any_column_and_escape_clears_it() {
    let mut state = state();
    press(&mut state, KeyCode::Char('/'));
    type_text(&mut state, "NGINQ");
    press(&mut state, KeyCode::Backspace);
    type_text(&mut state, "X");
    let typing = screen(&mut state, 80, 24);
    assert!(typing[23].starts_with("filter: NGINX"), "{typing:#?}");
    press(&mut state, KeyCode::Enter);
    let kept = screen(&mut state, 80, 24);
    assert_eq!(kept[1], "1-1 of 1  by rate  every 1s  filter: NGINX");
    assert!(kept[3].contains("beef:1") && kept[4].is_empty(), "{kept:#?}");
    // In the filter's mode, `q` is a letter.
    press(&mut state, KeyCode::Char('/'));
    assert_eq!(press(&mut state, KeyCode::Char('q')), Next::Draw);
    assert_eq!(
        screen(&mut state, 80, 24)[1],
        "0-0 of 0  by rate  every 1s  filter: NGINXq"
    );
    press(&mut state, KeyCode::Esc);
    assert_eq!(state.rows().len(), 3);
}

#[test]
fn the_sentence_is_of_the_marked_row() {
    let mut state = state();
    press(&mut state, KeyCode::Down);
    let lines = screen(&mut state, 80, 24);
    assert_eq!(lines[21], "2001:db8:1234:5678::beef:1: no verdict yet");
    press(&mut state, KeyCode::Down);
    let lines = screen(&mut state, 80, 24);
    assert!(
        lines[21].starts_with("shop/web egress: no_local_port:"),
        "{lines:#?}"
    );
    // A low terminal has none.
    assert!(!screen(&mut state, 80, 11).join("").contains("no_local_port:"));
}

#[test]
fn findings_are_counted_in_the_head_and_listed_by_a_key() {
    let mut state = state();
    press(&mut state, KeyCode::Char('w'));
    assert!(
        screen(&mut state, 80, 24)
            .join("")
            .contains("the processor `watch`")
    );
    press(&mut state, KeyCode::Char('x'));
    state.apply(Event::Findings(Answer {
        total: 2,
        findings: vec![Finding {
            at: "2026-11-29T05:00:00Z".to_owned(),
            kind: "beacon".to_owned(),
            text: "curl\u{1b}[2J is in touch with 45.33.32.0/24, port 443 every 60 s (varying by 1 %)"
                .to_owned(),
            numbers: [("period_seconds".to_owned(), 60.0)].into(),
            raddr: "45.33.32.156".to_owned(),
            pid: Some(4711),
            ..Finding::default()
        }],
        ..Answer::default()
    }));
    let lines = screen(&mut state, 100, 24);
    assert!(lines[0].ends_with("  2 findings (w)"), "{lines:#?}");
    press(&mut state, KeyCode::Char('w'));
    let lines = screen(&mut state, 80, 24);
    let begin = lines.iter().position(|line| line.contains("beacon")).unwrap();
    let shown = lines[begin..begin + 4].iter();
    let shown = shown.map(|line| line.trim_matches('│').trim_end());
    assert_eq!(
        shown.collect::<Vec<_>>(),
        [
            "2026-11-29T05:00:00Z beacon curl?[2J is in touch with 45.33.32.0/24, port 443",
            "  every 60 s (varying by 1 %)",
            "  period_seconds=60",
            "  raddr=45.33.32.156 pid=4711",
        ],
        "{lines:#?}"
    );
    assert_eq!(press(&mut state, KeyCode::Char('q')), Next::Draw);
    assert_eq!(state.mode, Mode::Browse);
}

#[test]
fn a_paused_view_stands_still_and_goes_on() {
    let mut state = state();
    press(&mut state, KeyCode::Char('p'));
    state.apply(Event::Flows(Flows::default()));
    assert_eq!(state.rows().len(), 3);
    assert!(screen(&mut state, 80, 24)[0].ends_with("PAUSED"));
    press(&mut state, KeyCode::Char('p'));
    state.apply(Event::Flows(Flows::default()));
    assert_eq!(state.rows().len(), 0);
}

#[test]
fn trouble_is_shown_above_the_last_rows_until_it_is_over() {
    let mut state = state();
    state.apply(Event::FeedFailed("Connection refused (os error 111)".to_owned()));
    let troubled = screen(&mut state, 80, 24);
    assert!(troubled[0].contains("Connection refused"), "{troubled:#?}");
    assert!(troubled[3].contains("10.77.0.2"), "{troubled:#?}");
    state.apply(Event::Flows(flows()));
    assert!(!screen(&mut state, 80, 24)[0].contains("refused"));
}

#[test]
fn it_scrolls_no_further_than_there_are_rows() {
    let mut state = state();
    // Two rows fit.
    screen(&mut state, 80, 6);
    for _ in 0..10 {
        press(&mut state, KeyCode::Down);
    }
    let scrolled = screen(&mut state, 80, 6);
    assert_eq!(scrolled[1], "2-3 of 3  by rate  every 1s");
    assert_eq!(state.selected, 2);
    press(&mut state, KeyCode::PageUp);
    assert_eq!((state.selected, state.first), (0, 0));
}

#[test]
fn names_that_would_move_the_cursor_are_shown_as_text() {
    let mut flows = flows();
    let comm = "\u{1b}[2J\u{7}\u{9b}\u{202e}x";
    flows.flows[0].labels.insert("comm".to_owned(), comm.to_owned());
    let mut state = state();
    state.apply(Event::Flows(flows));
    let screen = screen(&mut state, 124, 24);
    assert!(screen[3].contains("?[2J???x/4711"), "{screen:#?}");
}

#[test]
fn help_is_over_the_table_until_a_key_and_quitting_quits() {
    let mut state = state();
    press(&mut state, KeyCode::Char('?'));
    let help = screen(&mut state, 80, 24).join("\n");
    assert!(HELP.iter().all(|line| help.contains(line.trim_end())), "{help}");
    assert_eq!(press(&mut state, KeyCode::Char('q')), Next::Draw);
    assert_eq!(state.mode, Mode::Browse);
    assert_eq!(press(&mut state, KeyCode::Char('q')), Next::Quit);
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(state.apply(Event::Key(interrupt)), Next::Quit);
    assert_eq!(state.apply(Event::Stop), Next::Quit);
}

#[test]
fn numbers_keep_to_their_columns() {
    for exponent in 0..18 {
        for digit in [1.0, 9.994, 9.995, 9.996, 99.95] {
            let value = digit * 10f64.powi(exponent);
            if value < 9.9e17 {
                assert!(short_bytes(value).len() <= 7, "{value}: {}", short_bytes(value));
            }
        }
    }
    assert_eq!(
        [0.0, 999.4, 999.5, 99_950.0, 999_500.0].map(short_bytes),
        ["0 B", "999 B", "1.00 kB", "100 kB", "1.00 MB"]
    );
    assert_eq!(
        [85.0, 1_234.0, 2_000_000.0].map(short_time),
        ["85us", "1.23ms", "2.00s"]
    );
    assert_eq!([0, 1_500, 99_999].map(short_count), ["0", "1.50k", "100k"]);
}

#[test]
fn a_text_is_broken_at_blanks_and_within_words_that_are_too_long() {
    assert_eq!(wrapped("ab cd ef", 5, 5), ["ab cd", "ef"]);
    assert_eq!(wrapped("ab abcdef", 2, 4), ["ab", "abcd", "ef"]);
    assert_eq!(wrapped("abcdef", 2, 6), ["", "abcdef"]);
    assert_eq!(wrapped("", 0, 0), [""]);
    assert_eq!(wrapped("ab", 0, 0).concat(), "ab");
}
