//! YAML into values and places.
//!
//! An alias stands for a copy of what its anchor marks, and a merge key (`<<: *base`) for the keys of a mapping; keys beside it
//! win. Places within a copy are those of the anchor, where a mistake has to be corrected. Copies are bounded: nine lines of
//! aliases could make a billion values.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;

use figment::value::{Dict, Empty, Value};
use saphyr::Scalar;
use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput};

use super::syntax::{Document, MAX_DEPTH, Place, SyntaxError, tag};

/// Values that aliases may add: more than any config has.
const MAX_COPIED: usize = 100_000;

/// The key whose value is merged into the mapping around it.
const MERGE: &str = "<<";

pub(super) fn parse(text: &str) -> Result<Document, SyntaxError> {
    let (value, place, places, texts) = Reader::new(text).document()?;
    match value {
        Value::Dict(_, values) => Ok(Document {
            values,
            places: places.into_iter().collect(),
            texts: texts.into_iter().collect(),
            text: String::new(),
            line_starts: OnceLock::new(),
        }),
        Value::Empty(..) => Ok(Document::default()),
        _ => Err(SyntaxError {
            place,
            message: "a config is a mapping: `receivers:`, `processors:`, ...".to_owned(),
        }),
    }
}

pub(super) fn parse_value(text: &str) -> Result<(Value, Texts), SyntaxError> {
    let (value, _, _, texts) = Reader::new(text).document()?;
    Ok((value, texts))
}

/// The place of each key, by its path.
type Places = BTreeMap<Vec<String>, Place>;

/// The text of each number and truth value, by its path.
pub(super) type Texts = BTreeMap<Vec<String>, String>;

/// Value marked by an anchor. Paths are below it.
struct Marked {
    value: Value,
    places: Vec<(Vec<String>, Place)>,
    texts: Vec<(Vec<String>, String)>,
}

struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    places: Places,
    texts: Texts,
    path: Vec<String>,
    anchors: HashMap<usize, Marked>,
    copied: usize,
}

impl<'t> Reader<'t> {
    fn new(text: &'t str) -> Self {
        Self {
            parser: Parser::new_from_str(text),
            places: BTreeMap::new(),
            texts: BTreeMap::new(),
            path: Vec::new(),
            anchors: HashMap::new(),
            copied: 0,
        }
    }

    fn next(&mut self) -> Result<(Event<'t>, Span), SyntaxError> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(syntax(&error)),
            None => Err(SyntaxError {
                place: None,
                message: "ends too early".to_owned(),
            }),
        }
    }

    /// The one document of the text, and where it begins; nothing counts as null.
    fn document(mut self) -> Result<(Value, Option<Place>, Places, Texts), SyntaxError> {
        let (mut value, mut begins) = (Value::Empty(tag(), Empty::None), None);
        let mut documents = 0;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok((value, begins, self.places, self.texts)),
                Event::DocumentStart(_) if documents > 0 => {
                    return Err(at(&span, "a second document begins; a config is one"));
                }
                Event::DocumentStart(_) => documents += 1,
                Event::StreamStart | Event::DocumentEnd | Event::Nothing => {}
                event => {
                    begins = Some(place(&span));
                    value = self.value(event, &span)?;
                }
            }
        }
    }

    fn value(&mut self, event: Event<'t>, span: &Span) -> Result<Value, SyntaxError> {
        if self.path.len() > MAX_DEPTH {
            return Err(at(span, "nests too deep"));
        }
        let (anchor, value) = match event {
            Event::Scalar(text, style, anchor, yaml_tag) => {
                let plain = style == ScalarStyle::Plain && yaml_tag.is_none();
                let scalar = Scalar::parse_from_cow_and_metadata(text.clone(), style, yaml_tag.as_ref());
                let scalar = scalar.ok_or_else(|| at(span, "does not match its tag"))?;
                let value = from_scalar(scalar);
                if plain && matches!(value, Value::Bool(..) | Value::Num(..)) {
                    self.texts.insert(self.path.clone(), text.into_owned());
                }
                (anchor, value)
            }
            Event::SequenceStart(anchor, _) => (anchor, self.sequence()?),
            Event::MappingStart(anchor, _) => (anchor, self.mapping()?),
            Event::Alias(anchor) => return self.copy(anchor, span),
            _ => return Err(at(span, "is not a value")),
        };
        // The parser numbers anchors from 1.
        if anchor > 0 {
            let marked = Marked {
                value: value.clone(),
                places: below(&self.places, &self.path),
                texts: below(&self.texts, &self.path),
            };
            self.anchors.insert(anchor, marked);
        }
        Ok(value)
    }

    /// A copy of the value that `anchor` marks.
    fn copy(&mut self, anchor: usize, span: &Span) -> Result<Value, SyntaxError> {
        let Some(marked) = self.anchors.get(&anchor) else {
            return Err(at(span, "the alias refers to a value that contains it"));
        };
        self.copied += size(&marked.value);
        if self.copied > MAX_COPIED {
            let message = format!("aliases expand to more than {MAX_COPIED} values; hint: write them out");
            return Err(at(span, &message));
        }
        if self.path.len() + depth(&marked.value) > MAX_DEPTH {
            return Err(at(span, "nests too deep"));
        }
        for (path, place) in marked.places.iter().filter(|(path, _)| !path.is_empty()) {
            self.places.insert([&self.path[..], path].concat(), *place);
        }
        for (path, text) in &marked.texts {
            self.texts.insert([&self.path[..], path].concat(), text.clone());
        }
        Ok(marked.value.clone())
    }

    fn sequence(&mut self) -> Result<Value, SyntaxError> {
        let mut values = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(Value::Array(tag(), values));
            }
            self.path.push(values.len().to_string());
            self.places.insert(self.path.clone(), place(&span));
            values.push(self.value(event, &span)?);
            self.path.pop();
        }
    }

    fn mapping(&mut self) -> Result<Value, SyntaxError> {
        let mut values = Dict::new();
        let mut merged = None;
        loop {
            let (event, span) = self.next()?;
            let key = match event {
                Event::MappingEnd => break,
                Event::Scalar(key, ..) => key.into_owned(),
                _ => return Err(at(&span, "a key must be text")),
            };
            if values.contains_key(&key) || key == MERGE && merged.is_some() {
                return Err(at(&span, &format!("duplicate key `{key}`")));
            }
            self.path.push(key.clone());
            self.places.insert(self.path.clone(), place(&span));
            let (event, value_span) = self.next()?;
            let value = self.value(event, &value_span)?;
            self.path.pop();
            if key == MERGE {
                merged = Some((value, value_span));
            } else {
                values.insert(key, value);
            }
        }
        if let Some((value, span)) = merged {
            self.merge(value, &mut values, &span)?;
        }
        Ok(Value::Dict(tag(), values))
    }

    /// Adds to `into` the keys of `value`, a mapping or a list of mappings, that it does not have. The first that has a key wins.
    fn merge(&mut self, value: Value, into: &mut Dict, span: &Span) -> Result<(), SyntaxError> {
        let wrong = || {
            at(
                span,
                "only mappings can be merged: write `<<: *name` or `<<: [*a, *b]`",
            )
        };
        let from = [&self.path[..], &[MERGE.to_owned()]].concat();
        let mappings = match value {
            Value::Dict(_, dict) => vec![(from, dict)],
            Value::Array(_, list) => {
                let mappings = list.into_iter().enumerate().map(|(index, value)| match value {
                    Value::Dict(_, dict) => Ok(([&from[..], &[index.to_string()]].concat(), dict)),
                    _ => Err(wrong()),
                });
                mappings.collect::<Result<_, _>>()?
            }
            _ => return Err(wrong()),
        };
        for (from, mapping) in mappings {
            for (key, value) in mapping {
                if into.contains_key(&key) {
                    continue;
                }
                let from = [&from[..], std::slice::from_ref(&key)].concat();
                let to = [&self.path[..], std::slice::from_ref(&key)].concat();
                for (path, place) in below(&self.places, &from) {
                    self.places.insert([&to[..], &path].concat(), place);
                }
                for (path, text) in below(&self.texts, &from) {
                    self.texts.insert([&to[..], &path].concat(), text);
                }
                into.insert(key, value);
            }
        }
        Ok(())
    }
}

/// Entries of `map` at `path` and below, by the rest of their paths.
fn below<T: Clone>(map: &BTreeMap<Vec<String>, T>, path: &[String]) -> Vec<(Vec<String>, T)> {
    let from = map
        .range(path.to_vec()..)
        .take_while(|(found, _)| found.starts_with(path));
    from.map(|(found, value)| (found[path.len()..].to_vec(), value.clone()))
        .collect()
}

fn size(value: &Value) -> usize {
    1 + match value {
        Value::Dict(_, dict) => dict.values().map(size).sum(),
        Value::Array(_, list) => list.iter().map(size).sum::<usize>(),
        _ => 0,
    }
}

fn depth(value: &Value) -> usize {
    let deepest = match value {
        Value::Dict(_, dict) => dict.values().map(depth).max(),
        Value::Array(_, list) => list.iter().map(depth).max(),
        _ => return 0,
    };
    1 + deepest.unwrap_or(0)
}

fn from_scalar(scalar: Scalar<'_>) -> Value {
    match scalar {
        Scalar::Null => Value::Empty(tag(), Empty::None),
        Scalar::Boolean(value) => Value::Bool(tag(), value),
        Scalar::Integer(value) => Value::from(value),
        Scalar::FloatingPoint(value) => Value::from(value.into_inner()),
        Scalar::String(text) => Value::String(tag(), Cow::into_owned(text)),
    }
}

fn place(span: &Span) -> Place {
    (span.start.line(), span.start.col() + 1)
}

fn at(span: &Span, message: &str) -> SyntaxError {
    SyntaxError {
        place: Some(place(span)),
        message: message.to_owned(),
    }
}

fn syntax(error: &ScanError) -> SyntaxError {
    let marker = error.marker();
    SyntaxError {
        place: Some((marker.line(), marker.col() + 1)),
        message: error.info().to_owned(),
    }
}
