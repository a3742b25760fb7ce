//! Components: their types, their configs, and sections of other programs that hold some.
//!
//! A component with a mistake in its type is read as one of the type that is meant, so that what is in it is checked as well.

use std::collections::BTreeMap;

use figment::value::Value;
use flowtap_pipeline::{ComponentConfig, ComponentId, ComponentKind, Factory, Registry, Violation};

use super::suggest::{Below, instead_of};
use super::{Checker, not_a_mapping, path};
use crate::aliases::{self, Meant};
use crate::lenient::Suggestion;
use crate::words::split_hint;

/// A component as it is written: its section, and the type that its id has or its config names.
struct Written<'a> {
    section: &'a str,
    id: &'a ComponentId,
    value: &'a Value,
}

impl Written<'_> {
    /// The type of this build that is meant, and the advice to write that.
    fn meant<'t>(&self, kind: ComponentKind, types: &[&'t str]) -> (Option<&'t str>, Suggestion) {
        let of = |name: &str| {
            let suggestion = instead_of(&[kind.section()], name, None, types);
            let key = suggestion.key.as_deref();
            let meant = types.iter().copied().find(|name| key == Some(*name));
            (meant, suggestion)
        };
        let named = self.value.as_dict().and_then(|dict| dict.get("type")?.as_str());
        let Some(named) = named else {
            return of(self.id.type_name());
        };
        let exact = types.iter().copied().find(|name| *name == named);
        match exact.map_or_else(|| of(named).0, Some) {
            Some(meant) => {
                let hint = format!(
                    "write `{}: {{{meant}/{}: {{...}}}}`: the type is the first part of the id",
                    kind.section(),
                    self.id.as_str().replace('/', "-"),
                );
                let key = Some(meant.to_owned());
                let value = None;
                (Some(meant), Suggestion { hint, key, value })
            }
            None => of(self.id.type_name()),
        }
    }
}

impl Checker<'_> {
    /// The sections that have components of `kind`: its own, and those of other programs for it.
    pub(super) fn sections(&self, kind: ComponentKind) -> Vec<String> {
        let is_of_kind = |key: &&String| {
            let meant = aliases::section(key).map(|alias| alias.meant);
            key.as_str() == kind.section() || meant == Some(Meant::Key(kind.section()))
        };
        self.merged.values.keys().filter(is_of_kind).cloned().collect()
    }

    pub(super) fn components<C: ComponentConfig + ?Sized>(
        &mut self,
        kind: ComponentKind,
        types: &BTreeMap<&'static str, Factory<C>>,
        registry: &Registry,
    ) -> BTreeMap<ComponentId, Box<C>> {
        let mut components = BTreeMap::new();
        for section in self.sections(kind) {
            for (text, value) in self.section(&path(&[&section])) {
                let at = path(&[&section, &text]);
                let id: ComponentId = match text.parse() {
                    Ok(id) => id,
                    Err(error) => {
                        let error: flowtap_pipeline::InvalidComponentId = error;
                        self.report(&at, error.to_string(), None);
                        continue;
                    }
                };
                let written = Written {
                    section: &section,
                    id: &id,
                    value: &value,
                };
                let Some((factory, value)) = self.factory(kind, types, registry, &written) else {
                    continue;
                };
                if value.as_dict().is_none() {
                    self.report(
                        &at,
                        not_a_mapping(&value),
                        Some(format!("to leave it at its defaults: `{text}: {{}}`")),
                    );
                    continue;
                }
                if let Some(config) = self.component(kind, &at, value, &factory) {
                    components.insert(id, config);
                }
            }
        }
        self.components_elsewhere(kind, types);
        components
    }

    /// The type of a component that is written, and what is read as its config; reports a type that does not exist.
    fn factory<C: ?Sized>(
        &mut self,
        kind: ComponentKind,
        types: &BTreeMap<&'static str, Factory<C>>,
        registry: &Registry,
        written: &Written<'_>,
    ) -> Option<(Factory<C>, Value)> {
        let id = written.id;
        if let Some(factory) = types.get(id.type_name()) {
            return Some((*factory, written.value.clone()));
        }
        let at = path(&[written.section, id.as_str()]);
        if let Some(feature) = registry.feature_of(kind, id.type_name()) {
            let hint = format!("build flowtap with the feature `{feature}`, or remove the {kind}");
            let message = format!("this build has no {kind} `{}`", id.type_name());
            self.report(&at, message, Some(hint));
            return None;
        }
        let names: Vec<_> = types.keys().copied().collect();
        let (meant, Suggestion { hint, key, .. }) = written.meant(kind, &names);
        if key.is_none() && !hint.starts_with("possible here") {
            self.removable.insert((kind, id.as_str().to_owned()));
        }
        let message = format!("unknown type of {kind} `{}`", id.type_name());
        self.report(&at, message, Some(hint));
        let mut value = written.value.clone();
        if let Value::Dict(_, dict) = &mut value {
            dict.remove("type");
            // The other half of the advice.
            if let Some((key, value)) =
                aliases::implied(kind.section(), id.type_name()).filter(|_| meant.is_some())
            {
                dict.entry(key.to_owned()).or_insert_with(|| Value::from(value));
            }
        }
        let factory = types.get(meant?)?;
        // Without its own keys a component of another program has nothing to say of.
        value.as_dict().is_some().then_some((*factory, value))
    }

    /// Reads the config of a component, and reports what is wrong with it.
    fn component<C: ComponentConfig + ?Sized>(
        &mut self,
        kind: ComponentKind,
        at: &[String],
        value: Value,
        factory: &Factory<C>,
    ) -> Option<Box<C>> {
        let known = [kind.section(), factory.type_name];
        let schema = (factory.schema)(&mut self.generator).to_value();
        let mut outcome = self.read(at, &known, value, &schema, factory.parse);
        let source = Below {
            merged: self.merged,
            at,
            known: &known,
        };
        outcome.narrow(&source, |config, path| config.words_at(path));
        let warnings = outcome.read.as_ref().map(|config| config.warnings());
        let warnings: Vec<_> = warnings
            .unwrap_or_default()
            .into_iter()
            .map(|Violation { path, message }| (outcome.shown(&path), message))
            .collect();
        if let Some(id) = at.get(1) {
            let written = (at.to_vec(), outcome.names().clone());
            self.written.insert((kind, id.clone()), written);
        }
        let config = self.report_outcome(at, outcome, |config| config.validate())?;
        for (path, message) in warnings {
            let (message, hint) = split_hint(&message);
            self.warn(&[at, &path].concat(), message, hint);
        }
        Some(config)
    }

    /// Reports what is wrong in sections of other programs that are a component of `kind`, or a list of several.
    fn components_elsewhere<C: ComponentConfig + ?Sized>(
        &mut self,
        kind: ComponentKind,
        types: &BTreeMap<&'static str, Factory<C>>,
    ) {
        for (key, value) in &self.merged.values {
            let Some(Meant::At(place)) = aliases::section(key).map(|alias| alias.meant) else {
                continue;
            };
            let of_kind = place.strip_prefix(kind.section());
            let type_name = of_kind.and_then(|rest| rest.strip_prefix('.'));
            let Some(factory) = type_name.and_then(|name| types.get(name)) else {
                continue;
            };
            let entries = match value {
                Value::Array(_, list) => list
                    .iter()
                    .enumerate()
                    .map(|(index, value)| (path(&[key, &index.to_string()]), value))
                    .collect(),
                value => vec![(path(&[key]), value)],
            };
            for (at, value) in entries.into_iter().filter(|(_, value)| value.as_dict().is_some()) {
                self.component(kind, &at, value.clone(), factory);
            }
        }
    }

    /// Adds components that a list names and no section defines: their definition is what the report of them advises.
    pub(super) fn assume<C: ?Sized>(
        list: &[String],
        types: &BTreeMap<&'static str, Factory<C>>,
        components: &mut BTreeMap<ComponentId, Box<C>>,
    ) {
        for id in list.iter().filter_map(|text| text.parse::<ComponentId>().ok()) {
            if let Some(factory) = types.get(id.type_name()) {
                components.entry(id).or_insert_with(|| factory.default());
            }
        }
    }

    /// The entries of `list` that are there once advice is followed.
    pub(crate) fn wanted<'l>(
        &'l self,
        kind: ComponentKind,
        list: &'l [String],
    ) -> impl Iterator<Item = &'l String> + 'l {
        let is_wanted = move |text: &&String| !self.removable.contains(&(kind, (*text).clone()));
        list.iter().filter(is_wanted)
    }
}
