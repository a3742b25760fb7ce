//! State of the view, and its changes by events. Pure: no clock, no terminal.

use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use flowtap_extensions::admin::findings::Answer as Findings;
use flowtap_extensions::live::{Flow, Flows, Sort};
use flowtap_extensions::verdict::Cause;

/// Intervals that keys lead to. Less than a second, a daemon's answer is most often the one before.
const INTERVALS: [u64; 7] = [1, 2, 5, 10, 15, 30, 60];

/// The longest filter that can be typed.
const MAX_FILTER: usize = 60;

/// Something that happened.
#[derive(Debug)]
pub(super) enum Event {
    /// A key was pressed.
    Key(KeyEvent),
    /// There are newer flows.
    Flows(Flows),
    /// There are none, for this reason.
    FeedFailed(String),
    /// The newest findings.
    Findings(Findings),
    /// The terminal has another size.
    Redraw,
    /// A signal came, or the terminal has gone.
    Stop,
}

/// The action that follows an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Draw.
    Draw,
    /// Draw, and ask for flows in this order, and from now on at this interval.
    Ask(Sort, Duration),
    /// End.
    Quit,
}

/// Meaning of keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    /// Commands.
    #[default]
    Browse,
    /// The filter's text.
    Filter,
    /// Any closes the help.
    Help,
    /// Any closes the findings.
    Findings,
}

/// To another interval.
#[derive(Clone, Copy, Debug)]
enum Step {
    Shorter,
    Longer,
}

/// The view.
#[derive(Debug)]
pub(super) struct State {
    /// Source of the flows.
    pub(super) source: String,
    pub(super) flows: Flows,
    pub(super) sort: Sort,
    /// Time between two questions.
    pub(super) interval: Duration,
    /// Whether the order is turned round.
    pub(super) reversed: bool,
    pub(super) filter: String,
    pub(super) mode: Mode,
    /// Whether newer flows are left aside.
    pub(super) paused: bool,
    /// Why there are no newer ones.
    pub(super) feed_error: Option<String>,
    /// The newest findings; the default if the daemon has none.
    pub(super) findings: Findings,
    /// The marked row.
    pub(super) selected: usize,
    /// Rows that are scrolled past.
    pub(super) first: usize,
    /// Rows that fit: as the last drawing found.
    pub(super) height: usize,
}

impl State {
    /// Of `source`, with no flows yet.
    pub(super) fn new(source: String, sort: Sort, interval: Duration) -> Self {
        Self {
            source,
            flows: Flows::default(),
            sort,
            interval,
            reversed: false,
            filter: String::new(),
            mode: Mode::default(),
            paused: false,
            feed_error: None,
            findings: Findings::default(),
            selected: 0,
            first: 0,
            height: 1,
        }
    }

    /// Takes an event in.
    pub(super) fn apply(&mut self, event: Event) -> Next {
        match event {
            Event::Key(key) => return self.press(key),
            Event::Flows(flows) => {
                self.feed_error = None;
                if !self.paused {
                    self.flows = flows;
                }
            }
            Event::FeedFailed(text) => self.feed_error = Some(text),
            Event::Findings(findings) => self.findings = findings,
            Event::Redraw => {}
            Event::Stop => return Next::Quit,
        }
        Next::Draw
    }

    fn press(&mut self, key: KeyEvent) -> Next {
        // The terminal is in raw mode, so this does not raise a signal.
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c' | 'd') => Next::Quit,
                _ => Next::Draw,
            };
        }
        match self.mode {
            Mode::Browse => self.command(key.code),
            Mode::Filter => {
                self.type_filter(key.code);
                Next::Draw
            }
            Mode::Help | Mode::Findings => {
                self.mode = Mode::Browse;
                Next::Draw
            }
        }
    }

    fn command(&mut self, code: KeyCode) -> Next {
        match code {
            KeyCode::Char('q') | KeyCode::Esc => return Next::Quit,
            KeyCode::Char('s') | KeyCode::Right => return self.turn_to(1),
            KeyCode::Char('S') | KeyCode::Left => return self.turn_to(Sort::ALL.len() - 1),
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Char('/' | 'f') => self.mode = Mode::Filter,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('+' | '=') => return self.ask_every(Step::Shorter),
            KeyCode::Char('-') => return self.ask_every(Step::Longer),
            KeyCode::Char('h' | '?') => self.mode = Mode::Help,
            KeyCode::Char('w') => self.mode = Mode::Findings,
            KeyCode::Down | KeyCode::Char('j') => self.selected += 1,
            KeyCode::Up | KeyCode::Char('k') => self.selected = self.selected.saturating_sub(1),
            KeyCode::PageDown => self.selected += self.height,
            KeyCode::PageUp => self.selected = self.selected.saturating_sub(self.height),
            KeyCode::Home | KeyCode::Char('g') => self.selected = 0,
            _ => {}
        }
        self.keep_in_view(self.rows().len());
        Next::Draw
    }

    /// Moves the mark onto one of `rows` rows, and scrolls to it.
    pub(super) fn keep_in_view(&mut self, rows: usize) {
        self.selected = self.selected.min(rows.saturating_sub(1));
        let last = self.first + self.height.max(1) - 1;
        if self.selected < self.first {
            self.first = self.selected;
        } else if self.selected > last {
            self.first += self.selected - last;
        }
        self.first = self.first.min(rows.saturating_sub(self.height));
    }

    /// The order so many places on.
    fn turn_to(&mut self, places: usize) -> Next {
        let place = Sort::ALL.iter().position(|sort| *sort == self.sort).unwrap_or(0);
        self.sort = Sort::ALL[(place + places) % Sort::ALL.len()];
        self.reversed = false;
        (self.selected, self.first) = (0, 0);
        Next::Ask(self.sort, self.interval)
    }

    /// Asks more often, or less often.
    fn ask_every(&mut self, step: Step) -> Next {
        let intervals = INTERVALS.map(Duration::from_secs);
        let next = match step {
            Step::Shorter => intervals
                .into_iter()
                .rev()
                .find(|interval| *interval < self.interval),
            Step::Longer => intervals.into_iter().find(|interval| *interval > self.interval),
        };
        let Some(interval) = next else {
            return Next::Draw;
        };
        self.interval = interval;
        Next::Ask(self.sort, interval)
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.mode = Mode::Browse,
            KeyCode::Esc => {
                self.filter.clear();
                self.mode = Mode::Browse;
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(character) if self.filter.chars().count() < MAX_FILTER => {
                self.filter.push(character);
            }
            _ => {}
        }
        (self.selected, self.first) = (0, 0);
    }

    /// The flows that the filter lets through, in order.
    pub(super) fn rows(&self) -> Vec<&Flow> {
        let wanted = self.filter.to_lowercase();
        let mut rows: Vec<_> = self
            .flows
            .flows
            .iter()
            .filter(|flow| has(flow, &wanted))
            .collect();
        rows.sort_by(|a, b| self.sort.compare(a, b));
        if self.reversed {
            rows.reverse();
        }
        rows
    }
}

/// Details that the filter searches also where they are of records.
const DETAILS: [&str; 5] = ["peer_name", "backend", "hop", "protocol", "server_name"];

/// Whether any text of the flow contains `wanted`, which is in lower case.
fn has(flow: &Flow, wanted: &str) -> bool {
    let within = |text: &str| text.to_lowercase().contains(wanted);
    wanted.is_empty()
        || within(flow.role.as_deref().unwrap_or_default())
        || within(flow.class())
        || within(&flow.process())
        || within(flow.cause().map_or("", Cause::name))
        || DETAILS.iter().any(|name| within(&flow.detail(name)))
        || flow.labels.values().any(|value| within(value))
}
