//! Draws the state: a head, a table, a line of keys. At 80 columns everything has its place; wider terminals show longer names.

use std::fmt::Write as _;

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row, Table};

use flowtap_extensions::live::{Bytes, Flow, Sort};
use flowtap_extensions::short::{short_bytes, short_count, short_time};

use super::state::{Mode, State};

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const FAINT: Style = Style::new().add_modifier(Modifier::DIM);
const LOUD: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);

/// From this width on there is room for totals.
const WIDE: u16 = 100;

/// Stands for what was cut off. One that every terminal has.
const CUT: char = '~';

/// A column: its title, the order that it shows, its width, whether it is a number, its text.
struct Column {
    title: &'static str,
    sort: Sort,
    width: u16,
    number: bool,
    text: fn(&Flow) -> String,
}

/// The peer's column, which has all the room that is left.
const PEER: usize = 0;

fn columns(state: &State, width: u16) -> Vec<Column> {
    let column = |title, sort, width, number, text| Column {
        title,
        sort,
        width,
        number,
        text,
    };
    let mut columns = vec![
        column("PEER", Sort::Peer, 0, false, |flow| flow.peer().to_owned()),
        column("PORT", Sort::Port, 5, true, |flow| flow.port().to_owned()),
        column("ROLE", Sort::Role, 7, false, |flow| {
            flow.role.clone().unwrap_or_default()
        }),
        column("CLASS", Sort::Class, 9, false, |flow| {
            short_class(flow.class()).to_owned()
        }),
    ];
    // A daemon's config need not have processes among its labels.
    if state.flows.flows.iter().any(|flow| !flow.process().is_empty()) {
        let room = if width < WIDE { 10 } else { 22 };
        columns.push(column("PROCESS", Sort::Process, room, false, Flow::process));
    }
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
    if width >= WIDE {
        columns.push(column("TOTAL", Sort::Total, 7, true, |flow| {
            short_bytes(flow.total() as f64)
        }));
    }
    columns.extend([
        column("RTT", Sort::Rtt, 6, true, |flow| {
            flow.rtt_microseconds.map_or_else(String::new, short_time)
        }),
        column("RETR", Sort::Retransmits, 5, true, |flow| {
            flow.retransmits
                .map_or_else(String::new, |seen| short_count(seen.total))
        }),
    ]);
    columns
}

/// Draws all of it, and notes how many rows fit.
pub(super) fn draw(state: &mut State, frame: &mut Frame<'_>) {
    let [head, about, table, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(2),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    state.height = usize::from(table.height.saturating_sub(1)).max(1);
    frame.render_widget(head_line(state), head);
    draw_table(state, frame, table, about);
    frame.render_widget(key_line(state), keys);
    if state.mode == Mode::Help {
        draw_help(frame);
    }
}

fn head_line(state: &State) -> Line<'_> {
    let flows = &state.flows;
    let mut spans = vec![
        Span::styled("flowtap top", BOLD),
        Span::raw(format!("  {}", plain(&state.source))),
    ];
    if flows.pipelines.len() > 1 {
        spans.push(Span::raw(format!(" {}", plain(&flows.pipeline))));
    }
    if let Some(feed_error) = &state.feed_error {
        spans.push(Span::styled(format!("  {}", plain(feed_error)), LOUD));
    } else if flows.pipelines.is_empty() {
        spans.push(Span::raw("  waiting for the first window to close"));
    } else {
        spans.push(Span::raw(format!(
            "  last {:.1}s  out {}/s  in {}/s",
            flows.window_seconds,
            short_bytes(flows.outbound_bytes_per_second),
            short_bytes(flows.inbound_bytes_per_second)
        )));
    }
    if state.paused {
        spans.push(Span::styled("  PAUSED", BOLD));
    }
    Line::from(spans)
}

fn draw_table(state: &State, frame: &mut Frame<'_>, area: Rect, about: Rect) {
    let mut columns = columns(state, area.width);
    let gaps = u16::try_from(columns.len() - 1).unwrap_or(0);
    let taken: u16 = columns.iter().map(|column| column.width).sum::<u16>() + gaps;
    columns[PEER].width = area.width.saturating_sub(taken).max(8);

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
        "  by {}{}",
        state.sort.name(),
        if state.reversed { ", reversed" } else { "" }
    );
    if !state.filter.is_empty() {
        let _ = write!(line, "  filter: {}", plain(&state.filter));
    }
    frame.render_widget(Line::styled(line, FAINT), about);

    let header = columns.iter().map(|column| {
        let style = if column.sort == state.sort {
            BOLD.add_modifier(Modifier::REVERSED)
        } else {
            BOLD
        };
        cell(column, column.title.to_owned()).style(style)
    });
    let rows = shown.iter().map(|flow| {
        let cells = columns.iter().map(|column| {
            cell(
                column,
                fitted(&plain(&(column.text)(flow)), column.width, column.sort),
            )
        });
        Row::new(cells)
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

fn key_line(state: &State) -> Line<'_> {
    match state.mode {
        Mode::Filter => Line::from(vec![
            Span::styled("filter: ", BOLD),
            Span::raw(plain(&state.filter)),
            Span::styled(" ", Style::new().add_modifier(Modifier::REVERSED)),
            Span::styled("  Enter keeps it, Esc clears it", FAINT),
        ]),
        _ => Line::styled("s sort  r reverse  / filter  p pause  h help  q quit", FAINT),
    }
}

const HELP: [&str; 14] = [
    "s, right    sort by the next column",
    "S, left     sort by the one before",
    "r           reverse the order",
    "/           filter: any text of a row",
    "p, space    pause, resume",
    "up, down    scroll; page up, page down, home",
    "q, Esc      quit",
    "",
    "egress      this machine opened the connections",
    "ingress     this machine accepted them",
    "PORT        of the server",
    "OUT, IN     sent and received by this machine",
    "RTT, RETR   round-trip time in the last window, and",
    "            retransmitted segments, of that peer",
];

fn draw_help(frame: &mut Frame<'_>) {
    let lines: Vec<_> = HELP.iter().map(|line| Line::from(*line)).collect();
    let (width, height) = (60, u16::try_from(HELP.len()).unwrap_or(0) + 2);
    let area = frame.area();
    let (width, height) = (width.min(area.width), height.min(area.height));
    let place = Rect::new(
        (area.width - width) / 2,
        (area.height - height) / 2,
        width,
        height,
    );
    frame.render_widget(Clear, place);
    let text = Paragraph::new(lines).block(Block::bordered().title(" help: any key closes it "));
    frame.render_widget(text, place);
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
fn fitted(text: &str, width: u16, sort: Sort) -> String {
    let (width, length) = (usize::from(width), text.chars().count());
    if length <= width || width < 2 {
        return text.to_owned();
    }
    let head = match sort {
        Sort::Peer => width / 2,
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
