//! YAML into values and places.

use std::borrow::Cow;
use std::collections::HashMap;

use figment::value::{Dict, Empty, Value};
use saphyr::Scalar;
use saphyr_parser::{Event, Parser, ScanError, Span, StrInput};

use super::{Document, MAX_DEPTH, Place, SyntaxError, tag};

pub(super) fn parse(text: &str) -> Result<Document, SyntaxError> {
    let (value, place, places) = Reader::new(text).document()?;
    match value {
        Value::Dict(_, values) => Ok(Document {
            values,
            places,
            text: String::new(),
        }),
        Value::Empty(..) => Ok(Document::default()),
        _ => Err(SyntaxError {
            place,
            message: "a config is a mapping: `receivers:`, `processors:`, ...".to_owned(),
        }),
    }
}

pub(super) fn parse_value(text: &str) -> Result<Value, SyntaxError> {
    Reader::new(text).document().map(|(value, ..)| value)
}

/// The place of each key, by its path.
type Places = HashMap<Vec<String>, Place>;

struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    places: Places,
    path: Vec<String>,
}

impl<'t> Reader<'t> {
    fn new(text: &'t str) -> Self {
        Self {
            parser: Parser::new_from_str(text),
            places: HashMap::new(),
            path: Vec::new(),
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
    fn document(mut self) -> Result<(Value, Option<Place>, Places), SyntaxError> {
        let (mut value, mut begins) = (Value::Empty(tag(), Empty::None), None);
        let mut documents = 0;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok((value, begins, self.places)),
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
        match event {
            Event::Scalar(text, style, _, yaml_tag) => {
                let scalar = Scalar::parse_from_cow_and_metadata(text, style, yaml_tag.as_ref());
                scalar
                    .map(from_scalar)
                    .ok_or_else(|| at(span, "is not what its tag says"))
            }
            Event::SequenceStart(..) => self.sequence(),
            Event::MappingStart(..) => self.mapping(),
            _ => Err(at(
                span,
                "anchors and aliases are not supported; write the value out",
            )),
        }
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
        loop {
            let (event, span) = self.next()?;
            let key = match event {
                Event::MappingEnd => return Ok(Value::Dict(tag(), values)),
                Event::Scalar(key, ..) if key != "<<" => key.into_owned(),
                Event::Scalar(..) => return Err(at(&span, "merge keys are not supported")),
                _ => return Err(at(&span, "a key must be text")),
            };
            if values.contains_key(&key) {
                return Err(at(&span, &format!("the key `{key}` is there twice")));
            }
            self.path.push(key.clone());
            self.places.insert(self.path.clone(), place(&span));
            let (event, span) = self.next()?;
            let value = self.value(event, &span)?;
            self.path.pop();
            values.insert(key, value);
        }
    }
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
