//! Texts: the lines around the table, and what fits into a cell.

use std::fmt::Write as _;

use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use flowtap_extensions::live::{Bytes, Flow, Sort};
use flowtap_extensions::short::short_bytes;
use flowtap_extensions::verdict::Cause;
use flowtap_pipeline::plain_text::is_hostile;

use crate::commands::top::state::{Mode, State};

pub(super) const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);

pub(super) const FAINT: Style = Style::new().add_modifier(Modifier::DIM);

pub(super) const LOUD: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);

/// From this width on there is room for roles, processes and retransmissions.
pub(super) const USUAL: u16 = 80;

/// Stands for what was cut off. One that every terminal has.
const CUT: char = '~';

/// Columns before a further line of a finding.
const INDENT: usize = 2;

pub(super) fn head_line(state: &State, width: u16) -> Line<'_> {
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

pub(super) fn key_line(state: &State, width: u16) -> Line<'_> {
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

/// Names of the peer and of its ends, as far as they are known.
pub(super) fn details(flow: &Flow) -> String {
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
pub(super) fn sentence(state: &State) -> Line<'static> {
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

/// The newest findings with their numbers, as many lines each as this width asks for.
pub(super) fn findings(state: &State, width: u16) -> Vec<Line<'static>> {
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
pub(super) fn wrapped(text: &str, first: usize, next: usize) -> Vec<String> {
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

pub(super) const HELP: [&str; 19] = [
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

fn counted(findings: u64) -> String {
    format!("{findings} finding{}", if findings == 1 { "" } else { "s" })
}

/// The cause of a row, but for idle ones: an empty cell is easier to pass over.
pub(super) fn shown_cause(flow: &Flow) -> Option<Cause> {
    flow.cause().filter(|cause| *cause != Cause::Idle)
}

/// The name of a cause in ten columns.
pub(super) const fn short_cause(cause: Cause) -> &'static str {
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
pub(super) fn plain(text: &str) -> String {
    let shown = |character| if is_hostile(character) { '?' } else { character };
    text.chars().map(shown).collect()
}

/// Cut to `width`: an address in its middle, as both its ends are significant.
pub(super) fn fitted(text: &str, width: u16, sort: Option<Sort>) -> String {
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
pub(super) fn short_class(class: &str) -> &str {
    class.strip_suffix("Hosts").unwrap_or(class)
}

pub(super) fn per_second(bytes: Option<Bytes>) -> String {
    bytes.map_or_else(String::new, |bytes| short_bytes(bytes.per_second))
}
