//! Parameters of a request, read by name, so that errors name them as a client wrote them.

use std::collections::BTreeMap;

use axum::extract::Query;
use axum::http::Uri;

/// The parameters that have not been read yet.
#[derive(Debug, Default)]
pub(crate) struct Parameters(BTreeMap<String, String>);

impl Parameters {
    /// Those of the query of a request.
    ///
    /// # Errors
    /// A message for the client: a parameter that is given twice.
    pub(crate) fn of(query: Option<&str>) -> Result<Self, String> {
        let uri = Uri::builder().path_and_query(format!("/?{}", query.unwrap_or_default()));
        let uri = uri
            .build()
            .map_err(|error| format!("the query can't be read: {error}"))?;
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(&uri)
            .map_err(|error| format!("the query can't be read: {}", error.body_text()))?;
        let mut parameters = BTreeMap::new();
        for (name, value) in pairs {
            if parameters.contains_key(&name) {
                return Err(format!("{name}: given more than once"));
            }
            parameters.insert(name, value);
        }
        Ok(Self(parameters))
    }

    /// The value of a parameter, if it is given.
    pub(crate) fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// The same of a whole number.
    ///
    /// # Errors
    /// A message for the client: another value.
    pub(crate) fn number(&mut self, name: &str) -> Result<Option<usize>, String> {
        let Some(text) = self.take(name) else {
            return Ok(None);
        };
        let number = text.parse();
        number
            .map(Some)
            .map_err(|_| format!("{name}: expected a whole number, found `{text}`"))
    }

    /// Makes sure that every parameter has been read.
    ///
    /// # Errors
    /// A message for the client: a parameter that is none of `available`.
    pub(crate) fn finish(self, available: &[&str]) -> Result<(), String> {
        self.0.keys().next().map_or(Ok(()), |name| {
            Err(format!(
                "unknown parameter `{name}`; available: {}",
                available.join(", ")
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_parameter_is_read_once_and_the_rest_is_refused() {
        let mut parameters = Parameters::of(Some("limit=7&name=a%20b&x=1")).unwrap();
        assert_eq!(parameters.number("limit"), Ok(Some(7)));
        assert_eq!(parameters.number("limit"), Ok(None));
        assert_eq!(parameters.take("name").as_deref(), Some("a b"));
        assert_eq!(
            parameters.finish(&["limit", "name"]).unwrap_err(),
            "unknown parameter `x`; available: limit, name"
        );
        assert_eq!(
            Parameters::of(Some("a=1&a=2")).unwrap_err(),
            "a: given more than once"
        );
        assert!(Parameters::of(None).unwrap().finish(&[]).is_ok());
    }
}
