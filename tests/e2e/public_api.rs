//! The public items of the crates that components are built from, as files that a review sees: `tests/api/*.txt`.
//!
//! In: the sources, as `syn` parses them. Out: each module's public items without bodies, private fields and docs, sorted, so that
//! an item that moves within its module changes nothing. Every `pub` item can be reached from outside: the lint `unreachable_pub`
//! sees to that, so a private module's are listed as well. Items that a macro makes are not seen.
//!
//! `make references` writes the files anew.
//!
//! Also: the main public types have an example in their docs, which `cargo test` compiles and runs.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use syn::{Fields, ImplItem, Item, TraitItem, Visibility};

use crate::daemon::read;

/// The crates, and the folders of their sources.
const CRATES: [(&str, &str); 3] = [
    ("flowtap-model", "pipeline/model/src"),
    ("flowtap-pipeline", "pipeline/api/src"),
    ("flowtap", "src"),
];

/// The types that an author of components meets first.
const MAIN: [&str; 20] = [
    "Aggregator",
    "BuildContext",
    "ComponentId",
    "Contract",
    "Endpoint",
    "Exporter",
    "Factory",
    "Flow",
    "FlowBatch",
    "LabelSet",
    "LogRecord",
    "Points",
    "Processor",
    "Published",
    "Receiver",
    "Series",
    "Sink",
    "Snapshot",
    "TcpRecord",
    "Violation",
];

/// Attributes that matter to users of an item.
const SHOWN: [&str; 4] = ["derive", "non_exhaustive", "cfg", "macro_export"];

const fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && matches!(attribute.parse_args::<syn::Ident>(), Ok(ident) if ident == "test")
    })
}

fn strip(attributes: &mut Vec<syn::Attribute>) {
    attributes.retain(|attribute| SHOWN.iter().any(|shown| attribute.path().is_ident(shown)));
}

/// In place of a body.
fn empty() -> syn::Block {
    syn::Block {
        brace_token: syn::token::Brace::default(),
        stmts: Vec::new(),
    }
}

/// In place of a value.
fn any() -> syn::Expr {
    syn::Expr::Infer(syn::ExprInfer {
        attrs: Vec::new(),
        underscore_token: syn::token::Underscore::default(),
    })
}

/// The modules of a crate with their items.
type Modules = Vec<(String, Vec<Item>)>;

fn collect(items: Vec<Item>, folder: &Path, path: &str, modules: &mut Modules) {
    let mut own = Vec::new();
    for item in items {
        let Item::Mod(mut child) = item else {
            own.push(item);
            continue;
        };
        if is_test(&child.attrs) {
            continue;
        }
        let name = child.ident.to_string();
        let (child_folder, child_path) = (folder.join(&name), format!("{path}::{name}"));
        let content = child.content.take();
        if is_public(&child.vis) {
            child.semi = Some(syn::token::Semi::default());
            own.push(Item::Mod(child));
        }
        if let Some((_, items)) = content {
            collect(items, &child_folder, &child_path, modules);
            continue;
        }
        let flat = folder.join(format!("{name}.rs"));
        let file = if flat.exists() {
            flat
        } else {
            child_folder.join("mod.rs")
        };
        let parsed = syn::parse_file(&read(&file)).unwrap();
        collect(parsed.items, &child_folder, &child_path, modules);
    }
    modules.push((path.to_owned(), own));
}

fn name_of(item: &Item) -> Option<String> {
    let (visibility, name) = match item {
        Item::Struct(item) => (&item.vis, &item.ident),
        Item::Enum(item) => (&item.vis, &item.ident),
        Item::Trait(item) => (&item.vis, &item.ident),
        Item::Type(item) => (&item.vis, &item.ident),
        _ => return None,
    };
    is_public(visibility).then(|| name.to_string())
}

/// The public fields; of a tuple, `_` in place of the others.
fn show_fields(fields: &mut Fields) {
    match fields {
        Fields::Named(fields) => {
            let mut named = std::mem::take(&mut fields.named).into_iter().collect::<Vec<_>>();
            named.retain(|field| is_public(&field.vis));
            for field in &mut named {
                strip(&mut field.attrs);
            }
            fields.named = named.into_iter().collect();
        }
        Fields::Unnamed(fields) => {
            for field in &mut fields.unnamed {
                strip(&mut field.attrs);
                if !is_public(&field.vis) {
                    field.ty = syn::Type::Infer(syn::TypeInfer {
                        underscore_token: syn::token::Underscore::default(),
                    });
                }
            }
        }
        Fields::Unit => {}
    }
}

fn show_enum(item: &mut syn::ItemEnum) {
    for variant in &mut item.variants {
        strip(&mut variant.attrs);
        variant
            .fields
            .iter_mut()
            .for_each(|field| strip(&mut field.attrs));
    }
}

fn show_trait(item: &mut syn::ItemTrait) {
    for item in &mut item.items {
        match item {
            TraitItem::Fn(item) => {
                strip(&mut item.attrs);
                // One with a body has a default.
                item.default = item.default.as_ref().map(|_| empty());
            }
            TraitItem::Const(item) => strip(&mut item.attrs),
            TraitItem::Type(item) => strip(&mut item.attrs),
            _ => {}
        }
    }
}

/// The last name of a type's path: of `&Points<'_>` it is `Points`.
fn type_name(of: &syn::Type) -> Option<String> {
    match of {
        syn::Type::Path(path) => path.path.segments.last().map(|last| last.ident.to_string()),
        syn::Type::Reference(reference) => type_name(&reference.elem),
        _ => None,
    }
}

/// Whether an `impl` says something about a public type or trait.
fn show_impl(item: &mut syn::ItemImpl, public: &BTreeSet<String>) -> bool {
    let own = type_name(&item.self_ty);
    let parameters: Vec<_> = item
        .generics
        .type_params()
        .map(|of| of.ident.to_string())
        .collect();
    let Some((_, of, _)) = &item.trait_ else {
        item.items.retain_mut(|item| match item {
            ImplItem::Fn(item) => {
                strip(&mut item.attrs);
                item.block = empty();
                is_public(&item.vis)
            }
            ImplItem::Const(item) => {
                strip(&mut item.attrs);
                item.expr = any();
                is_public(&item.vis)
            }
            _ => false,
        });
        return !item.items.is_empty() && own.is_some_and(|own| public.contains(&own));
    };
    let of = of.segments.last().map(|last| last.ident.to_string());
    item.items.clear();
    own.is_some_and(|own| {
        let is_blanket = parameters.contains(&own) && of.is_some_and(|of| public.contains(&of));
        public.contains(&own) || is_blanket
    })
}

/// The item as its users see it; `None` if they don't.
fn show(mut item: Item, public: &BTreeSet<String>) -> Option<Item> {
    let attributes = match &mut item {
        Item::Fn(item) if is_public(&item.vis) => {
            *item.block = empty();
            &mut item.attrs
        }
        Item::Struct(item) if is_public(&item.vis) => {
            show_fields(&mut item.fields);
            &mut item.attrs
        }
        Item::Enum(item) if is_public(&item.vis) => {
            show_enum(item);
            &mut item.attrs
        }
        Item::Trait(item) if is_public(&item.vis) => {
            show_trait(item);
            &mut item.attrs
        }
        Item::Const(item) if is_public(&item.vis) => {
            *item.expr = any();
            &mut item.attrs
        }
        Item::Static(item) if is_public(&item.vis) => {
            *item.expr = any();
            &mut item.attrs
        }
        Item::Type(item) if is_public(&item.vis) => &mut item.attrs,
        Item::Use(item) if is_public(&item.vis) => &mut item.attrs,
        Item::Mod(item) => &mut item.attrs,
        Item::Impl(item) => {
            if is_test(&item.attrs) || !show_impl(item, public) {
                return None;
            }
            &mut item.attrs
        }
        _ => return None,
    };
    strip(attributes);
    Some(item)
}

fn surface(folder: &Path, name: &str) -> String {
    let root = syn::parse_file(&read(&folder.join("lib.rs"))).unwrap();
    let mut modules = Modules::new();
    collect(root.items, folder, &name.replace('-', "_"), &mut modules);
    modules.sort_by(|(a, _), (b, _)| a.cmp(b));
    let items = modules.iter().flat_map(|(_, items)| items);
    let public: BTreeSet<_> = items.filter_map(name_of).collect();
    let mut text = format!(
        "// The public items of {name}, by tests/e2e/public_api.rs: `make references` writes them anew.\n"
    );
    for (path, items) in modules {
        let mut shown: Vec<_> = items
            .into_iter()
            .filter_map(|item| show(item, &public))
            .map(|item| {
                prettyplease::unparse(&syn::File {
                    shebang: None,
                    attrs: Vec::new(),
                    items: vec![item],
                })
            })
            .collect();
        shown.sort();
        if !shown.is_empty() {
            // Writing to a String does not fail.
            let _ = write!(text, "\n// {path}\n\n{}", shown.concat());
        }
    }
    text
}

#[test]
fn the_public_items_are_those_of_the_reviewed_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut changed = Vec::new();
    for (name, folder) in CRATES {
        let text = surface(&root.join(folder), name);
        let file = root.join("tests/api").join(format!("{name}.txt"));
        if std::env::var_os("FLOWTAP_UPDATE_REFERENCES").is_some() {
            std::fs::write(&file, &text).unwrap();
        }
        let known = std::fs::read_to_string(&file).unwrap_or_default();
        let (known, now): (BTreeSet<_>, BTreeSet<_>) = (known.lines().collect(), text.lines().collect());
        changed.extend(known.difference(&now).map(|line| format!("{name}: - {line}")));
        changed.extend(now.difference(&known).map(|line| format!("{name}: + {line}")));
    }
    assert!(
        changed.is_empty(),
        "the public API has changed:\n{}\nif that is intended: run `make references`, and name it in CHANGELOG.md",
        changed.join("\n")
    );
}

/// The public types of a crate, each with whether its docs have an example that is compiled.
fn examples(folder: &Path) -> Vec<(String, bool)> {
    let root = syn::parse_file(&read(&folder.join("lib.rs"))).unwrap();
    let mut modules = Modules::new();
    collect(root.items, folder, "", &mut modules);
    let items = modules.iter().flat_map(|(_, items)| items);
    let types = items.filter_map(|item| {
        let attributes = match item {
            Item::Struct(item) => &item.attrs,
            Item::Enum(item) => &item.attrs,
            Item::Trait(item) => &item.attrs,
            _ => return None,
        };
        let docs = attributes.iter().filter(|attribute| attribute.path().is_ident("doc"));
        // A fence with a word, such as `text` or `ignore`, is not compiled.
        let is_fence = |attribute: &syn::Attribute| {
            let syn::Meta::NameValue(doc) = &attribute.meta else {
                return false;
            };
            matches!(&doc.value, syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) if text.value() == " ```")
        };
        Some((name_of(item)?, docs.filter(|doc| is_fence(doc)).count() > 1))
    });
    types.collect()
}

#[test]
fn each_of_the_main_public_types_has_an_example_that_compiles() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let types: Vec<_> = CRATES
        .iter()
        .flat_map(|(_, folder)| examples(&root.join(folder)))
        .collect();
    let without: Vec<_> = MAIN
        .into_iter()
        .filter(|main| {
            !types
                .iter()
                .any(|(name, has_example)| name == main && *has_example)
        })
        .collect();
    assert!(
        without.is_empty(),
        "without an example in their docs: {without:?}"
    );
}

#[test]
fn an_example_is_a_fence_in_the_docs_of_a_public_type() {
    let folder = tempfile::tempdir().unwrap();
    let text = "/// A.\n///\n/// ```\n/// assert!(true);\n/// ```\npub struct A;\n/// ```text\n/// b\n/// ```\npub enum B {}\n\
                /// ```\n/// 1;\n/// ```\nstruct Hidden;\n";
    std::fs::write(folder.path().join("lib.rs"), text).unwrap();
    let expected = [("A", true), ("B", false)].map(|(name, has)| (name.to_owned(), has));
    assert_eq!(examples(folder.path()), expected);
}

#[test]
fn private_items_bodies_and_docs_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    file(
        "lib.rs",
        "mod a;\npub use a::A;\npub(crate) fn hidden() {}\n#[cfg(test)]\nmod absent;\n",
    );
    file(
        "a.rs",
        "/// Docs.\n#[derive(Clone)]\npub struct A { pub x: u8, y: u8 }\nstruct B;\nimpl A { pub fn f(&self) -> u8 { self.y } fn g() {} }\n\
         impl Default for B { fn default() -> Self { B } }\nimpl Drop for A { fn drop(&mut self) {} }\npub const C: u8 = 7;\n",
    );
    assert_eq!(
        surface(folder.path(), "some-crate")
            .lines()
            .skip(1)
            .collect::<Vec<_>>()
            .join("\n"),
        "\n// some_crate\n\npub use a::A;\n\n// some_crate::a\n\n#[derive(Clone)]\npub struct A {\n    pub x: u8,\n}\n\
         impl A {\n    pub fn f(&self) -> u8 {}\n}\nimpl Drop for A {}\npub const C: u8 = _;"
    );
}
