//! Whether labels exist that one selector matches and others do not: so long as an object's labels are not known, it may have them.

use super::{Operator, Selector};

/// Steps of a search. Selectors of a few labels each take one step per selector.
const MAX_STEPS: u32 = 1_000;

/// A condition on one label's key.
#[derive(Clone, Copy, Debug)]
struct Condition<'a> {
    key: &'a str,
    operator: Kind<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Kind<'a> {
    In(&'a [String]),
    NotIn(&'a [String]),
    Exists,
    DoesNotExist,
}

impl Condition<'_> {
    /// The condition that holds for exactly the other labels.
    const fn negated(self) -> Self {
        let operator = match self.operator {
            Kind::In(values) => Kind::NotIn(values),
            Kind::NotIn(values) => Kind::In(values),
            Kind::Exists => Kind::DoesNotExist,
            Kind::DoesNotExist => Kind::Exists,
        };
        Self { operator, ..self }
    }
}

impl Selector {
    /// Whether an object may be matched by this and by none of `others`. It may if a search that is long has not found that out.
    pub(crate) fn matches_without(&self, others: &[&Self]) -> bool {
        let mut held: Vec<_> = self.conditions().collect();
        let is_possible = held.iter().all(|condition| is_consistent(&held, condition.key));
        // One that can't match what this does excludes nothing.
        let overlapping = others.iter().filter(|other| self.overlaps(other));
        let overlapping: Vec<_> = overlapping.copied().collect();
        is_possible && search(&mut held, &overlapping, &mut { MAX_STEPS })
    }

    /// Whether an object may be matched by both.
    fn overlaps(&self, other: &Self) -> bool {
        let both: Vec<_> = self.conditions().chain(other.conditions()).collect();
        other
            .conditions()
            .all(|condition| is_consistent(&both, condition.key))
    }

    /// Its conditions, all of which must hold.
    fn conditions(&self) -> impl Iterator<Item = Condition<'_>> {
        let labels = self.labels.iter().map(|(key, value)| Condition {
            key,
            operator: Kind::In(std::slice::from_ref(value)),
        });
        let expressions = self.expressions.iter().map(|it| Condition {
            key: &it.key,
            operator: match &it.operator {
                Operator::In(values) => Kind::In(values),
                Operator::NotIn(values) => Kind::NotIn(values),
                Operator::Exists => Kind::Exists,
                Operator::DoesNotExist => Kind::DoesNotExist,
            },
        });
        labels.chain(expressions)
    }
}

/// Whether labels exist for which all of `held` hold, and a condition of each of `others` does not.
fn search<'a>(held: &mut Vec<Condition<'a>>, others: &[&'a Selector], steps: &mut u32) -> bool {
    let Some((first, rest)) = others.split_first() else {
        return true;
    };
    for condition in first.conditions() {
        let Some(left) = steps.checked_sub(1) else {
            return true;
        };
        *steps = left;
        held.push(condition.negated());
        if is_consistent(held, condition.key) && search(held, rest, steps) {
            return true;
        }
        held.pop();
    }
    // A selector without conditions matches everything.
    false
}

/// Whether a label with this key can be, or be absent, so that all its conditions hold.
fn is_consistent(conditions: &[Condition<'_>], key: &str) -> bool {
    let of_key = || {
        let same = conditions.iter().filter(|condition| condition.key == key);
        same.map(|condition| condition.operator)
    };
    let fits = |value: &String| {
        of_key().all(|operator| match operator {
            Kind::In(values) => values.contains(value),
            Kind::NotIn(values) => !values.contains(value),
            Kind::Exists => true,
            Kind::DoesNotExist => false,
        })
    };
    let mut lists = of_key().filter_map(|operator| match operator {
        Kind::In(values) => Some(values),
        _ => None,
    });
    if let Some(values) = lists.next() {
        return values.iter().any(fits);
    }
    // There are more values than conditions name.
    let is_present = of_key().any(|operator| matches!(operator, Kind::Exists));
    let is_absent = of_key().any(|operator| matches!(operator, Kind::DoesNotExist));
    !(is_present && is_absent)
}

#[cfg(test)]
mod tests {
    use flowtap_model::cluster_objects::ObjectLabels;
    use proptest::prelude::*;

    use super::*;
    use crate::selector::Expression;

    const KEYS: [&str; 2] = ["a", "b"];

    fn any_selector() -> impl Strategy<Value = Selector> {
        let values = || proptest::collection::vec((0_u8..2).prop_map(|value| value.to_string()), 1..3);
        let operator = prop_oneof![
            values().prop_map(Operator::In),
            values().prop_map(Operator::NotIn),
            Just(Operator::Exists),
            Just(Operator::DoesNotExist),
        ];
        let expression = (0..KEYS.len(), operator).prop_map(|(key, operator)| Expression {
            key: KEYS[key].to_owned(),
            operator,
        });
        let labels = proptest::collection::btree_map(
            (0..KEYS.len()).prop_map(|key| KEYS[key].to_owned()),
            "[01]",
            0..2,
        );
        (labels, proptest::collection::vec(expression, 0..3)).prop_map(|(labels, expressions)| Selector {
            labels: labels.into_iter().collect(),
            expressions,
        })
    }

    /// Every set of labels with these keys and values, and one value that no selector names.
    fn every_object() -> Vec<ObjectLabels> {
        let mut objects = vec![ObjectLabels::new()];
        for key in KEYS {
            let with = objects.iter().flat_map(|object| {
                ["0", "1", "other"].map(|value| {
                    let mut object = object.clone();
                    object.insert(key.to_owned(), value.to_owned());
                    object
                })
            });
            let with: Vec<_> = with.collect();
            objects.extend(with);
        }
        objects
    }

    proptest! {
        /// Against a trial of every set of labels.
        #[test]
        fn labels_that_one_matches_and_others_do_not_are_found_if_there_are_some(
            selector in any_selector(),
            others in proptest::collection::vec(any_selector(), 0..4),
        ) {
            let others: Vec<_> = others.iter().collect();
            let found = every_object()
                .iter()
                .any(|object| selector.matches(object) && !others.iter().any(|other| other.matches(object)));
            prop_assert_eq!(selector.matches_without(&others), found);
        }
    }

    #[test]
    fn a_search_that_takes_too_long_excludes_nothing() {
        let selectors = (0..200).map(|index| Selector {
            expressions: vec![
                Expression {
                    key: format!("k{index}"),
                    operator: Operator::Exists,
                },
                Expression {
                    key: format!("l{index}"),
                    operator: Operator::Exists,
                },
            ],
            ..Selector::default()
        });
        let mut selectors: Vec<_> = selectors.collect();
        // Matches everything: only the end of the search shows that there is no way.
        selectors.push(Selector::default());
        let others: Vec<_> = selectors.iter().collect();
        assert!(Selector::default().matches_without(&others));
    }
}
