//! The table of flows.

use std::fmt::Write as _;

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Row, Table};

use flowtap_extensions::live::Sort;

use super::columns::{Column, columns};
use super::text::{BOLD, FAINT, fitted, plain};
use crate::commands::top::state::State;

pub(super) fn draw_table(state: &State, frame: &mut Frame<'_>, area: Rect, about: Rect) {
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

fn cell<'a>(column: &Column, text: String) -> Cell<'a> {
    let side = if column.number {
        Alignment::Right
    } else {
        Alignment::Left
    };
    Cell::from(Line::from(text).alignment(side))
}
