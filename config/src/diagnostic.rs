//! Diagnostics: the fault in a config, its place, and a hint.

use std::fmt;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use flowtap_pipeline::plain::{lines, plain};

/// More mistakes than this are counted, not shown.
const MAX_SHOWN: usize = 100;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// A file's path, `--set`, an environment variable, or `the built-in defaults`.
    pub name: String,
    /// Line and column in a file, both from 1.
    pub place: Option<(usize, usize)>,
    /// The text of that line, if it can be shown.
    pub line: Option<String>,
}

impl Origin {
    /// The line with a mark under the fault; `None` if there is no line to show.
    fn excerpt(&self, styled: bool) -> Option<String> {
        let ((number, column), line) = (self.place?, self.line.as_deref()?);
        let start = line
            .char_indices()
            .nth(column.saturating_sub(1))
            .map_or(line.len(), |(start, _)| start);
        let snippet = Snippet::source(line)
            .line_start(number)
            .annotation(AnnotationKind::Primary.span(start..start + word(&line[start..])));
        let renderer = if styled {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        Some(renderer.render(&[Group::with_level(Level::ERROR).element(snippet)]))
    }
}

/// Bytes of the key or value that `text` begins with.
fn word(text: &str) -> usize {
    let length = match text.chars().next() {
        Some(quote @ ('"' | '\'')) => text[1..].find(quote).map(|end| end + 2),
        _ => text.find(|c: char| c.is_whitespace() || matches!(c, ':' | '=' | ',' | ']' | '}')),
    };
    let first = text.chars().next().map_or(0, char::len_utf8);
    length.unwrap_or(text.len()).max(first)
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Some((line, column)) => write!(f, "{}:{line}:{column}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// One mistake, or one warning.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    /// Where it stands.
    pub origin: Option<Origin>,
    /// The key: `processors.policy.internal_hosts[3]`. Empty for a file as a whole.
    pub key: String,
    /// Message, without place and hint.
    pub message: String,
    /// Fix.
    pub help: Option<String>,
}

impl fmt::Display for Diagnostic {
    /// `file.yaml:12:5: key: what is wrong`, and what to do on a second line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{}: ", plain(&origin.to_string()))?;
        }
        // `--set KEY` names the key already.
        let set = self
            .origin
            .as_ref()
            .and_then(|origin| origin.name.strip_prefix("--set "));
        if !self.key.is_empty() && set != Some(&*self.key) {
            write!(f, "{}: ", plain(&self.key))?;
        }
        // Names of files, values and texts of other libraries are in it.
        f.write_str(&lines(&self.message))?;
        match &self.help {
            Some(help) => write!(f, "\n  hint: {}", lines(help)),
            None => Ok(()),
        }
    }
}

/// Everything that is wrong with a config, in the order of its places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<Diagnostic>);

impl Diagnostic {
    /// As it is displayed, and between the two lines the one of the file that is meant, with a mark; `styled` for a terminal.
    /// The first line stays what it is, so that `file:line:column:` can be searched for.
    pub fn render(&self, styled: bool) -> String {
        let short = self.to_string();
        let excerpt = self.origin.as_ref().and_then(|origin| origin.excerpt(styled));
        match (excerpt, short.split_once("\n  hint: ")) {
            (None, _) => short,
            (Some(excerpt), None) => format!("{short}\n{excerpt}"),
            (Some(excerpt), Some((first, help))) => format!("{first}\n{excerpt}\n  hint: {help}"),
        }
    }
}

impl ConfigErrors {
    /// All, each as [`Diagnostic::render`] has it.
    pub fn render(&self, styled: bool) -> String {
        self.list(|diagnostic| diagnostic.render(styled))
    }

    fn list(&self, show: impl Fn(&Diagnostic) -> String) -> String {
        let plural = if self.0.len() == 1 { "" } else { "s" };
        let mut shown: Vec<_> = self.0.iter().take(MAX_SHOWN).map(show).collect();
        if self.0.len() > MAX_SHOWN {
            shown.push(format!("... and {} more", self.0.len() - MAX_SHOWN));
        }
        format!(
            "the config has {} error{plural}\n{}",
            self.0.len(),
            shown.join("\n")
        )
    }

    pub(crate) fn new(mut diagnostics: Vec<Diagnostic>) -> Self {
        diagnostics.sort();
        diagnostics.dedup();
        Self(diagnostics)
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.list(ToString::to_string))
    }
}

impl std::error::Error for ConfigErrors {}

/// A path as a key: names joined by dots, indices in brackets.
pub(crate) fn key_of<'a>(path: impl IntoIterator<Item = &'a String>) -> String {
    let mut key = String::new();
    for part in path {
        if part.bytes().all(|b| b.is_ascii_digit()) && !key.is_empty() {
            key.push_str(&["[", part, "]"].concat());
        } else {
            if !key.is_empty() {
                key.push('.');
            }
            key.push_str(part);
        }
    }
    key
}
