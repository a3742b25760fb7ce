//! Label selectors: `matchLabels` and `matchExpressions`, all of which must hold.

mod without;

use flowtap_model::cluster_objects::ObjectLabels;
use serde_json::{Map, Value, json};

/// An operator of `matchExpressions`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operator {
    /// The label has one of these values.
    In(Vec<String>),
    /// The label has none of these values, or does not exist.
    NotIn(Vec<String>),
    /// The label exists.
    Exists,
    /// The label does not exist.
    DoesNotExist,
}

/// An element of `matchExpressions`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expression {
    /// The label's key.
    pub key: String,
    /// The condition.
    pub operator: Operator,
}

impl Expression {
    fn matches(&self, labels: &ObjectLabels) -> bool {
        let value = labels.get(&self.key);
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| values.contains(value)),
            Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

/// A label selector. An empty one matches everything.
///
/// ```
/// use flowtap_network_policy::selector::Selector;
///
/// let web = [("app".to_owned(), "web".to_owned())].into();
/// assert!(Selector::default().matches(&web));
/// assert!(Selector::of_labels(web.clone()).matches(&web));
/// assert!(!Selector::of_labels(web).matches(&Default::default()));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector {
    /// `matchLabels`.
    pub labels: ObjectLabels,
    /// `matchExpressions`.
    pub expressions: Vec<Expression>,
}

impl Selector {
    /// A selector with `matchLabels` alone.
    pub const fn of_labels(labels: ObjectLabels) -> Self {
        Self {
            labels,
            expressions: Vec::new(),
        }
    }

    /// Whether an object with `labels` is selected.
    pub fn matches(&self, labels: &ObjectLabels) -> bool {
        self.labels
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
            && self.expressions.iter().all(|it| it.matches(labels))
    }

    /// The same for an object of which only the labels `known` are known; `None` if another label decides.
    pub fn matches_partly(&self, known: &ObjectLabels) -> Option<bool> {
        let labels = self
            .labels
            .iter()
            .map(|(key, value)| Some(known.get(key)? == value));
        let expressions = self.expressions.iter().map(|it| {
            // An operator is not asked about a label that is not known: `NotIn` would take it for absent.
            known.contains_key(&it.key).then(|| it.matches(known))
        });
        let mut selected = Some(true);
        for condition in labels.chain(expressions) {
            match condition {
                Some(false) => return Some(false),
                Some(true) => {}
                None => selected = None,
            }
        }
        selected
    }

    /// Its form in the API.
    pub fn to_value(&self) -> Value {
        let mut object = Map::new();
        if !self.labels.is_empty() {
            object.insert("matchLabels".to_owned(), json!(self.labels));
        }
        if !self.expressions.is_empty() {
            let expressions = self.expressions.iter().map(|it| match &it.operator {
                Operator::In(values) => json!({"key": it.key, "operator": "In", "values": values}),
                Operator::NotIn(values) => json!({"key": it.key, "operator": "NotIn", "values": values}),
                Operator::Exists => json!({"key": it.key, "operator": "Exists"}),
                Operator::DoesNotExist => json!({"key": it.key, "operator": "DoesNotExist"}),
            });
            object.insert("matchExpressions".to_owned(), expressions.collect());
        }
        Value::Object(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operator_treats_a_missing_label_as_the_api_says() {
        let labels = |pairs: &[(&str, &str)]| -> ObjectLabels {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        let (missing, a, c) = (labels(&[]), labels(&[("x", "a")]), labels(&[("x", "c")]));
        let values = || vec!["a".to_owned(), "b".to_owned()];
        for (operator, expected) in [
            (Operator::In(values()), [false, true, false]),
            (Operator::NotIn(values()), [true, false, true]),
            (Operator::Exists, [false, true, true]),
            (Operator::DoesNotExist, [true, false, false]),
        ] {
            let selector = Selector {
                expressions: vec![Expression {
                    key: "x".to_owned(),
                    operator: operator.clone(),
                }],
                ..Selector::default()
            };
            assert_eq!(
                [&missing, &a, &c].map(|it| selector.matches(it)),
                expected,
                "{operator:?}"
            );
        }
    }

    #[test]
    fn a_label_that_is_not_known_leaves_open_what_the_known_ones_do_not_decide() {
        let known = [("name".to_owned(), "a".to_owned())].into();
        let labels = |pairs: &[(&str, &str)]| -> ObjectLabels {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        for (pairs, expected) in [
            (&[][..], Some(true)),
            (&[("name", "a")], Some(true)),
            (&[("name", "b")], Some(false)),
            (&[("team", "x")], None),
            (&[("name", "a"), ("team", "x")], None),
            (&[("name", "b"), ("team", "x")], Some(false)),
        ] {
            let selector = Selector::of_labels(labels(pairs));
            assert_eq!(selector.matches_partly(&known), expected, "{pairs:?}");
        }
        let values = || vec!["a".to_owned()];
        for (key, operator, expected) in [
            ("name", Operator::In(values()), Some(true)),
            ("name", Operator::NotIn(values()), Some(false)),
            ("name", Operator::DoesNotExist, Some(false)),
            ("team", Operator::In(values()), None),
            ("team", Operator::NotIn(values()), None),
            ("team", Operator::Exists, None),
            ("team", Operator::DoesNotExist, None),
        ] {
            let expression = Expression {
                key: key.to_owned(),
                operator,
            };
            let selector = Selector {
                expressions: vec![expression],
                ..Selector::default()
            };
            assert_eq!(selector.matches_partly(&known), expected, "{selector:?}");
        }
    }

    #[test]
    fn every_condition_must_hold() {
        let selector = Selector {
            labels: [("app".to_owned(), "web".to_owned())].into(),
            expressions: vec![Expression {
                key: "tier".to_owned(),
                operator: Operator::Exists,
            }],
        };
        let mut labels: ObjectLabels = [("app".to_owned(), "web".to_owned())].into();
        assert!(!selector.matches(&labels));
        labels.insert("tier".to_owned(), String::new());
        assert!(selector.matches(&labels));
    }
}
