//! TOML into values and places.

use std::collections::HashMap;
use std::sync::OnceLock;

use figment::value::{Dict, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::syntax::{Document, MAX_DEPTH, Place, SyntaxError, place_of, tag};

pub(super) fn parse(text: &str) -> Result<Document, SyntaxError> {
    let table = DeTable::parse(text).map_err(|error| SyntaxError {
        place: error.span().map(|span| place_of(text, span.start)),
        message: match error.message() {
            "recursion limit" => "nests too deep".to_owned(),
            message => message.to_owned(),
        },
    })?;
    let mut reader = Reader {
        text,
        places: HashMap::new(),
        texts: HashMap::new(),
        path: Vec::new(),
    };
    let values = reader.table(table.get_ref())?;
    Ok(Document {
        values,
        places: reader.places,
        texts: reader.texts,
        text: String::new(),
        line_starts: OnceLock::new(),
    })
}

struct Reader<'t> {
    text: &'t str,
    places: HashMap<Vec<String>, Place>,
    texts: HashMap<Vec<String>, String>,
    path: Vec<String>,
}

impl Reader<'_> {
    fn table(&mut self, table: &DeTable<'_>) -> Result<Dict, SyntaxError> {
        let mut values = Dict::new();
        for (key, value) in table {
            let name = key.get_ref().clone().into_owned();
            let value = self.entry(name.clone(), key.span().start, value)?;
            values.insert(name, value);
        }
        Ok(values)
    }

    /// The value at the path so far and `name`, which stands at the byte `start`.
    fn entry(
        &mut self,
        name: String,
        start: usize,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<Value, SyntaxError> {
        let place = place_of(self.text, start);
        if self.path.len() > MAX_DEPTH {
            return Err(SyntaxError {
                place: Some(place),
                message: "nests too deep".to_owned(),
            });
        }
        self.path.push(name);
        self.places.insert(self.path.clone(), place);
        let value = self.value(value)?;
        self.path.pop();
        Ok(value)
    }

    fn value(&mut self, value: &Spanned<DeValue<'_>>) -> Result<Value, SyntaxError> {
        let beyond = |what: &str| SyntaxError {
            place: Some(place_of(self.text, value.span().start)),
            message: format!("{what} is out of range"),
        };
        if matches!(
            value.get_ref(),
            DeValue::Boolean(_) | DeValue::Integer(_) | DeValue::Float(_)
        ) {
            let text = self.text.get(value.span()).unwrap_or_default();
            self.texts.insert(self.path.clone(), text.to_owned());
        }
        Ok(match value.get_ref() {
            DeValue::String(text) => Value::String(tag(), text.clone().into_owned()),
            DeValue::Boolean(value) => Value::Bool(tag(), *value),
            DeValue::Integer(number) => {
                let parsed = i64::from_str_radix(number.as_str(), number.radix());
                Value::from(parsed.map_err(|_| beyond(number.as_str()))?)
            }
            DeValue::Float(number) => Value::from(
                number
                    .as_str()
                    .parse::<f64>()
                    .map_err(|_| beyond(number.as_str()))?,
            ),
            DeValue::Datetime(datetime) => Value::String(tag(), datetime.to_string()),
            DeValue::Array(array) => {
                let entries = array.iter().enumerate();
                let entries =
                    entries.map(|(index, value)| self.entry(index.to_string(), value.span().start, value));
                Value::Array(tag(), entries.collect::<Result<_, _>>()?)
            }
            DeValue::Table(table) => Value::Dict(tag(), self.table(table)?),
        })
    }
}
