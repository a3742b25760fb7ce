//! Draws the state: a head, a table, a line of keys. At 60 columns there is the peer, its rates and the cause, at 80 everything that
//! matters; wider terminals show more columns, names of peers, and the cause in words.

mod columns;
mod table;
mod text;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::Line;
use ratatui::widgets::{Block, Clear, Paragraph, Wrap};

use flowtap_extensions::live::Flow;

use self::table::draw_table;
use self::text::{HELP, details, findings, head_line, key_line, sentence};
use super::state::{Mode, State};

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

#[cfg(test)]
mod tests;
