//! Draws the state: a head, a table, a line of keys. At 60 columns there is the peer, its rates and the cause, at 80 everything that
//! matters; wider terminals show more columns, names of peers, and the cause in words.

use std::fmt::Write as _;

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row, Table, Wrap};

use flowtap_extensions::live::{Bytes, Flow, Sort};
use flowtap_extensions::short::{short_bytes, short_count, short_time};
use flowtap_extensions::verdict::Cause;

use super::state::{Mode, State};

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const FAINT: Style = Style::new().add_modifier(Modifier::DIM);
const LOUD: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);

/// From this width on there is room for roles, processes and retransmissions.
const USUAL: u16 = 80;

/// From this width on there is room for failed connects and whole names of causes.
const WIDE: u16 = 100;

/// From this width on there is also room for classes and totals.
const WIDER: u16 = 120;

/// From this width on there is also room for the application protocol.
const WITH_PROTOCOL: u16 = 140;

/// From this width on there is also room for the cause in words.
const WIDEST: u16 = 160;

/// From this width on there is also room for the server's name, the end behind the peer's address, and the hop.
const WITH_DETAILS: u16 = 200;

/// The most columns that a peer fills: an IPv6 address, or an IPv4 address with a name. A wider terminal has words for the rest.
const PEER_WIDTH: u16 = 48;

/// Stands for what was cut off. One that every terminal has.
const CUT: char = '~';

/// A column: its title, the order that it shows, its width, whether it is a number, its text.
struct Column {
    title: &'static str,
    /// `None`: no order is by it.
    sort: Option<Sort>,
    width: u16,
    number: bool,
    text: fn(&Flow) -> String,
}

/// The peer's column, which has the room that is left, up to [`PEER_WIDTH`].
const PEER: usize = 0;

fn columns(state: &State, width: u16) -> Vec<Column> {
    let column = |title, sort, width, number, text| Column {
        title,
        sort: Some(sort),
        width,
        number,
        text,
    };
    let (is_usual, is_wide, is_wider) = (width >= USUAL, width >= WIDE, width >= WIDER);
    let peer = if is_wider {
        named_peer
    } else {
        |flow: &Flow| flow.peer().to_owned()
    };
    let mut columns = vec![
        column("PEER", Sort::Peer, 0, false, peer),
        column("PORT", Sort::Port, 5, true, |flow| flow.port().to_owned()),
    ];
    if is_usual {
        columns.push(column("ROLE", Sort::Role, 7, false, |flow| {
            flow.role.clone().unwrap_or_default()
        }));
    }
    if is_wider {
        columns.push(column("CLASS", Sort::Class, 9, false, |flow| {
            short_class(flow.class()).to_owned()
        }));
    }
    // A daemon's config need not have processes among its labels.
    if is_usual && state.flows.flows.iter().any(|flow| !flow.process().is_empty()) {
        let room = if is_wider {
            (12 + (width - WIDER) / 2).min(22)
        } else {
            10
        };
        columns.push(column("PROCESS", Sort::Process, room, false, Flow::process));
    }
    columns.extend(detail_columns(state, width));
    columns.extend([
        column("OUT/s", Sort::Outbound, 7, true, |flow| per_second(flow.outbound)),
        column("IN/s", Sort::Inbound, 7, true, |flow| {
            match (flow.inbound, flow.undirected) {
                // A window without directions: both, by a mark.
                (None, Some(both)) => format!("={}", short_bytes(both.per_second)),
                (inbound, _) => per_second(inbound),
            }
        }),
    ]);
    if is_wider {
        columns.push(column("TOTAL", Sort::Total, 7, true, |flow| {
            short_bytes(flow.total() as f64)
        }));
    }
    columns.push(column("RTT", Sort::Rtt, 6, true, |flow| {
        flow.rtt_microseconds.map_or_else(String::new, short_time)
    }));
    if is_usual {
        columns.push(column("RETR", Sort::Retransmits, 5, true, |flow| {
            // Never the total beside it: that is of another period.
            let recent = flow.recent.as_ref();
            recent.map_or_else(String::new, |recent| short_count(recent.retransmits))
        }));
    }
    if is_wide {
        let failed = |flow: &Flow| {
            let failed = flow.recent.as_ref().map(|recent| recent.failed);
            failed
                .filter(|count| *count > 0)
                .map_or_else(String::new, short_count)
        };
        columns.push(Column {
            sort: None,
            ..column("FAIL", Sort::Cause, 4, true, failed)
        });
    }
    columns.push(if is_wide {
        column("WHY", Sort::Cause, 14, false, |flow| {
            shown_cause(flow).map_or("", Cause::name).to_owned()
        })
    } else {
        column("WHY", Sort::Cause, 10, false, |flow| {
            shown_cause(flow).map_or("", short_cause).to_owned()
        })
    });
    if width >= WIDEST {
        let words = |flow: &Flow| {
            let recent = flow.recent.as_ref().filter(|_| shown_cause(flow).is_some());
            recent.map_or_else(String::new, |recent| recent.sentence.clone())
        };
        columns.push(Column {
            sort: None,
            ..column("IN WORDS", Sort::Cause, 0, false, words)
        });
    }
    share_out(&mut columns, width);
    columns
}

/// Columns of names and protocols, where there is room for them and a flow has any.
fn detail_columns(state: &State, width: u16) -> Vec<Column> {
    let has_any = |names: &[&str]| {
        let mut flows = state.flows.flows.iter();
        flows.any(|flow| names.iter().any(|name| !flow.detail(name).is_empty()))
    };
    let column = |title, width, text| Column {
        title,
        sort: None,
        width,
        number: false,
        text,
    };
    let mut columns = Vec::new();
    if width >= WITH_PROTOCOL && has_any(&["protocol"]) {
        columns.push(column("PROTOCOL", 10, |flow| flow.detail("protocol")));
    }
    if width >= WITH_DETAILS && has_any(&["server_name", "backend", "hop"]) {
        columns.push(column("DETAILS", 36, |flow| {
            let details = ["server_name", "backend", "hop"].map(|name| flow.detail(name));
            let known: Vec<_> = details.into_iter().filter(|text| !text.is_empty()).collect();
            known.join(" ")
        }));
    }
    columns
}

/// Gives the room that is left to the peer, and from [`WIDEST`] on the rest of it to the last column.
fn share_out(columns: &mut [Column], width: u16) {
    let gaps = u16::try_from(columns.len() - 1).unwrap_or(0);
    let taken: u16 = columns.iter().map(|column| column.width).sum::<u16>() + gaps;
    let left = width.saturating_sub(taken);
    if width < WIDEST {
        columns[PEER].width = left.max(8);
    } else if let Some(words) = columns.len().checked_sub(1) {
        columns[PEER].width = (left / 2).clamp(20, PEER_WIDTH);
        columns[words].width = left.saturating_sub(columns[PEER].width);
    }
}

/// The peer with its name, where labels have an address and a name.
fn named_peer(flow: &Flow) -> String {
    let names = ["peer_name", "peer_service", "peer_workload", "peer_pod"];
    let mut names = names.into_iter().map(|name| flow.detail(name));
    match names.find(|name| !name.is_empty() && *name != flow.peer()) {
        Some(name) => format!("{} {name}", flow.peer()),
        None => flow.peer().to_owned(),
    }
}

/// The title, with the mark of the order: which end of it is on top.
fn title(column: &Column, state: &State) -> String {
    let mark = match state.sort {
        Sort::Rate if matches!(column.sort, Some(Sort::Outbound | Sort::Inbound)) => mark(state),
        sort if column.sort == Some(sort) => mark(state),
        _ => return column.title.to_owned(),
    };
    if column.number {
        format!("{mark}{}", column.title)
    } else {
        format!("{}{mark}", column.title)
    }
}

/// Points down where the largest, or the last of the alphabet, is on top.
const fn mark(state: &State) -> char {
    if state.sort.is_descending() == state.reversed {
        '▲'
    } else {
        '▼'
    }
}

/// Draws all of it, and notes how many rows fit.
pub(super) fn draw(state: &mut State, frame: &mut Frame<'_>) {
    // A low terminal has rows instead.
    let room = if frame.area().height >= 12 { 2 } else { 0 };
    // For as long as there are any, so that the table keeps its height when the mark moves.
    let has_details = |flow: &Flow| !details(flow).is_empty();
    let details_room = u16::from(room > 0 && state.flows.flows.iter().any(has_details));
    let [head, about, table, detail, more, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(2),
        Constraint::Length(room),
        Constraint::Length(details_room),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    state.height = usize::from(table.height.saturating_sub(1)).max(1);
    state.keep_in_view(state.rows().len());
    frame.render_widget(head_line(state, head.width), head);
    draw_table(state, frame, table, about);
    frame.render_widget(Paragraph::new(sentence(state)).wrap(Wrap { trim: true }), detail);
    let marked = state
        .rows()
        .get(state.selected)
        .map_or_else(String::new, |flow| details(flow));
    frame.render_widget(Line::raw(marked), more);
    frame.render_widget(key_line(state, keys.width), keys);
    let width = frame.area().width;
    match state.mode {
        Mode::Help => draw_over(
            frame,
            " help: any key closes it ",
            60,
            HELP.map(Line::from).into(),
        ),
        Mode::Findings => draw_over(
            frame,
            " findings, the newest first: any key closes them ",
            u16::MAX,
            findings(state, width),
        ),
        Mode::Browse | Mode::Filter => {}
    }
}

/// Names of the peer and of its ends, as far as they are known.
fn details(flow: &Flow) -> String {
    let mut text = String::new();
    for (title, name) in [
        ("protocol ", "protocol"),
        ("  server name ", "server_name"),
        ("  backend ", "backend"),
        ("  hop ", "hop"),
        ("  name ", "peer_name"),
        (" from ", "peer_name_source"),
    ] {
        let value = flow.detail(name);
        if !value.is_empty() {
            let _ = write!(text, "{title}{}", plain(&value));
        }
    }
    text.trim_start().to_owned()
}

/// Why the marked row is slow, in words.
fn sentence(state: &State) -> Line<'static> {
    let rows = state.rows();
    let Some(flow) = rows.get(state.selected) else {
        return Line::default();
    };
    let Some(recent) = &flow.recent else {
        return Line::styled(format!("{}: no verdict yet", plain(flow.peer())), FAINT);
    };
    let mut peer = plain(flow.peer());
    // A narrow table has neither the role nor the process.
    for part in [
        flow.port(),
        flow.role.as_deref().unwrap_or_default(),
        &flow.process(),
    ] {
        if !part.is_empty() {
            let _ = write!(peer, " {}", plain(part));
        }
    }
    peer.push_str(": ");
    let text = format!("{}: {}", recent.cause.name(), plain(&recent.sentence));
    Line::from(vec![Span::styled(peer, BOLD), Span::raw(text)])
}

/// Columns before a further line of a finding.
const INDENT: usize = 2;

/// The newest findings with their numbers, as many lines each as this width asks for.
fn findings(state: &State, width: u16) -> Vec<Line<'static>> {
    if state.findings.findings.is_empty() {
        return vec![Line::from(
            "none; they need the processor `watch` in a pipeline (docs/findings.md)",
        )];
    }
    // Within a border.
    let width = usize::from(width.saturating_sub(2));
    let indented = |line: String, style: Style| Line::styled(format!("{:INDENT$}{line}", ""), style);
    let mut lines = Vec::new();
    for finding in &state.findings.findings {
        let (at, kind) = (plain(&finding.at), plain(&finding.kind));
        let head = at.chars().count() + kind.chars().count() + 2;
        let mut text = wrapped(
            &plain(&finding.text),
            width.saturating_sub(head),
            width - width.min(INDENT),
        )
        .into_iter();
        lines.push(Line::from(vec![
            Span::styled(format!("{at} "), FAINT),
            Span::styled(format!("{kind} "), BOLD),
            Span::raw(text.next().unwrap_or_default()),
        ]));
        lines.extend(text.map(|line| indented(line, Style::new())));
        for details in [finding.numbers_text(), finding.place_text()] {
            let room = width - width.min(INDENT);
            let details = wrapped(&plain(&details), room, room).into_iter();
            lines.extend(
                details
                    .filter(|line| !line.is_empty())
                    .map(|line| indented(line, FAINT)),
            );
        }
    }
    lines
}

/// Lines of at most `first` columns, and `next` from the second one on, broken at blanks; a word that is longer than a line is broken too.
fn wrapped(text: &str, first: usize, next: usize) -> Vec<String> {
    let (mut lines, mut line, mut room) = (Vec::new(), String::new(), first);
    for word in text.split(' ') {
        let mut word: Vec<char> = word.chars().collect();
        let used = line.chars().count();
        if used > 0 && used + 1 + word.len() <= room {
            line.push(' ');
            line.extend(word);
            continue;
        }
        if used > 0 || word.len() > room && room < next {
            lines.push(std::mem::take(&mut line));
            room = next;
        }
        while word.len() > room && room > 0 {
            let rest = word.split_off(room);
            lines.push(word.into_iter().collect());
            (word, room) = (rest, next);
        }
        line.extend(word);
    }
    lines.push(line);
    lines
}

fn head_line(state: &State, width: u16) -> Line<'_> {
    let flows = &state.flows;
    let is_usual = width >= USUAL;
    let mut spans = vec![Span::styled(if is_usual { "flowtap top" } else { "top" }, BOLD)];
    // A narrow head has the rates and the findings alone.
    if is_usual {
        spans.push(Span::raw(format!("  {}", plain(&state.source))));
    }
    if is_usual && flows.pipelines.len() > 1 {
        spans.push(Span::raw(format!(" {}", plain(&flows.pipeline))));
    }
    if let Some(feed_error) = &state.feed_error {
        spans.push(Span::styled(format!("  {}", plain(feed_error)), LOUD));
    } else if flows.pipelines.is_empty() {
        spans.push(Span::raw("  waiting for the first window to close"));
    } else {
        spans.push(Span::raw(format!(
            "  {}out {}/s  in {}/s",
            if is_usual {
                format!("last {:.1}s  ", flows.window_seconds)
            } else {
                String::new()
            },
            short_bytes(flows.outbound_bytes_per_second),
            short_bytes(flows.inbound_bytes_per_second)
        )));
    }
    if state.findings.total > 0 {
        spans.push(Span::styled(
            format!("  {} (w)", counted(state.findings.total)),
            BOLD,
        ));
    }
    if state.paused {
        spans.push(Span::styled("  PAUSED", BOLD));
    }
    Line::from(spans)
}

fn draw_table(state: &State, frame: &mut Frame<'_>, area: Rect, about: Rect) {
    let columns = columns(state, area.width);
    let all = state.rows();
    let shown: Vec<_> = all.iter().skip(state.first).take(state.height).collect();
    let mut line = format!(
        "{}-{} of {}",
        if shown.is_empty() { 0 } else { state.first + 1 },
        state.first + shown.len(),
        all.len()
    );
    if state.flows.total > state.flows.flows.len() {
        let _ = write!(
            line,
            " (the first {} of {})",
            state.flows.flows.len(),
            state.flows.total
        );
    }
    let _ = write!(
        line,
        "  by {}{}  every {}",
        state.sort.name(),
        if state.reversed { ", reversed" } else { "" },
        humantime::format_duration(state.interval)
    );
    if !state.filter.is_empty() {
        let _ = write!(line, "  filter: {}", plain(&state.filter));
    }
    frame.render_widget(Line::styled(line, FAINT), about);

    let header = columns.iter().map(|column| {
        let style = if column.sort == Some(state.sort) {
            BOLD.add_modifier(Modifier::REVERSED)
        } else {
            BOLD
        };
        cell(column, title(column, state)).style(style)
    });
    let marked = state.selected.saturating_sub(state.first);
    let rows = shown.iter().enumerate().map(|(place, flow)| {
        let cells = columns.iter().map(|column| {
            cell(
                column,
                fitted(&plain(&(column.text)(flow)), column.width, column.sort),
            )
        });
        let style = if place == marked {
            Style::new().add_modifier(Modifier::REVERSED)
        } else {
            Style::new()
        };
        Row::new(cells).style(style)
    });
    let widths = columns.iter().map(|column| Constraint::Length(column.width));
    let table = Table::new(rows, widths)
        .header(Row::new(header))
        .column_spacing(1);
    frame.render_widget(table, area);
}

fn cell<'a>(column: &Column, text: String) -> Cell<'a> {
    let side = if column.number {
        Alignment::Right
    } else {
        Alignment::Left
    };
    Cell::from(Line::from(text).alignment(side))
}

fn key_line(state: &State, width: u16) -> Line<'_> {
    match state.mode {
        Mode::Filter => Line::from(vec![
            Span::styled("filter: ", BOLD),
            Span::raw(plain(&state.filter)),
            Span::styled(" ", Style::new().add_modifier(Modifier::REVERSED)),
            Span::styled("  Enter keeps it, Esc clears it", FAINT),
        ]),
        _ if width < USUAL => Line::styled("s sort  / filter  + - rate  w findings  h help  q quit", FAINT),
        _ => Line::styled(
            "s sort  r reverse  / filter  + - rate  w findings  p pause  h help  q quit",
            FAINT,
        ),
    }
}

const HELP: [&str; 19] = [
    "s, right    sort by the next column",
    "S, left     sort by the one before",
    "r           reverse the order",
    "/           filter: any text of a row",
    "p, space    pause, resume",
    "+, -        ask more often, less often",
    "w           findings: what has changed",
    "up, down    mark another row; page up, page down, home",
    "q, Esc      quit",
    "",
    "egress      this machine opened the connections",
    "ingress     this machine accepted them",
    "PORT        of the server",
    "OUT, IN     sent and received by this machine",
    "RTT, RETR   smallest round-trip time, and segments",
    "            retransmitted in the last 15 to 30 s",
    "FAIL        connects that failed in that time",
    "WHY         what limits the traffic; in words below",
    "            the table for the marked row",
];

fn draw_over(frame: &mut Frame<'_>, title: &'static str, width: u16, lines: Vec<Line<'_>>) {
    let height = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_add(2);
    let area = frame.area();
    let (width, height) = (width.min(area.width), height.min(area.height));
    let place = Rect::new(
        (area.width - width) / 2,
        (area.height - height) / 2,
        width,
        height,
    );
    frame.render_widget(Clear, place);
    let text = Paragraph::new(lines).block(Block::bordered().title(title));
    frame.render_widget(text, place);
}

fn counted(findings: u64) -> String {
    format!("{findings} finding{}", if findings == 1 { "" } else { "s" })
}

/// The cause of a row, but for idle ones: an empty cell is easier to pass over.
fn shown_cause(flow: &Flow) -> Option<Cause> {
    flow.cause().filter(|cause| *cause != Cause::Idle)
}

/// The name of a cause in ten columns.
const fn short_cause(cause: Cause) -> &'static str {
    match cause {
        Cause::Unreachable => "no_route",
        Cause::NoLocalPort => "no_port",
        Cause::ConnectFailed => "failed",
        Cause::AcceptQueue => "accept_q",
        Cause::Application => "app",
        other => other.name(),
    }
}

/// Text that moves no cursor and turns no line round: names of processes are whatever those chose.
fn plain(text: &str) -> String {
    let shown = |character: char| {
        let invisible = matches!(character,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        if character.is_control() || invisible {
            '?'
        } else {
            character
        }
    };
    text.chars().map(shown).collect()
}

/// Cut to `width`: an address in its middle, as both its ends are significant.
fn fitted(text: &str, width: u16, sort: Option<Sort>) -> String {
    let (width, length) = (usize::from(width), text.chars().count());
    if length <= width || width < 2 {
        return text.to_owned();
    }
    let head = match sort {
        Some(Sort::Peer) => width / 2,
        _ => width - 1,
    };
    let behind = text.chars().skip(length - (width - 1 - head));
    text.chars().take(head).chain([CUT]).chain(behind).collect()
}

/// `internalHosts` is `internal`, to fit.
fn short_class(class: &str) -> &str {
    class.strip_suffix("Hosts").unwrap_or(class)
}

fn per_second(bytes: Option<Bytes>) -> String {
    bytes.map_or_else(String::new, |bytes| short_bytes(bytes.per_second))
}

#[cfg(test)]
mod tests;
