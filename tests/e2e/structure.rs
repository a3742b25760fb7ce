//! The structure of the code: no cycle between crates, no cycle between the modules of a crate, no edge between crates
//! that is not allowed, and no dependency that needs a newer Rust.
//!
//! Both graphs are computed from the sources: the crates' from `cargo metadata`, the modules' from the paths in each file, as
//! `syn` parses them. A re-export (`pub use self::child::Item`) is not an edge; a path through one, also in the module that has it,
//! leads to the module that defines the item. Code under `#[cfg(test)]` does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use proc_macro2::{TokenStream, TokenTree};
use serde_json::Value;
use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};

/// The crates that a crate may use, and those that only its tests may use. An edge that is not here is a decision about the
/// structure: docs/ARCHITECTURE.md has the figure and the invariants that it has to fit.
struct Allowed {
    name: &'static str,
    uses: &'static [&'static str],
    /// Further ones.
    also: &'static [&'static str],
    tests_use: &'static [&'static str],
}

impl Allowed {
    const fn and(self, also: &'static [&'static str]) -> Self {
        Self { also, ..self }
    }
}

const fn allowed(
    name: &'static str,
    uses: &'static [&'static str],
    tests_use: &'static [&'static str],
) -> Allowed {
    Allowed {
        name,
        uses,
        also: &[],
        tests_use,
    }
}

/// The crates that flowtap puts together, and that its fuzz targets drive.
const COMPOSED: &[&str] = &[
    "flowtap-config",
    "flowtap-ebpf",
    "flowtap-engine",
    "flowtap-exporters",
    "flowtap-extensions",
    "flowtap-network-policy",
    "flowtap-pipeline",
    "flowtap-processors",
    "flowtap-receivers",
];

const ALLOWED: [Allowed; 13] = [
    allowed("flowtap-model", &[], &[]),
    allowed("flowtap-ebpf", &[], &[]),
    allowed("flowtap-network-policy", &["flowtap-model"], &[]),
    allowed("flowtap-pipeline", &["flowtap-model"], &[]),
    allowed("flowtap-config", &["flowtap-pipeline"], &[]),
    allowed("flowtap-engine", &["flowtap-pipeline"], &[]),
    allowed("flowtap-net", &["flowtap-pipeline"], &[]),
    // The stages: none uses another, and only receivers the kernel's side. Tests run a chain.
    allowed("flowtap-receivers", &["flowtap-ebpf", "flowtap-pipeline"], &[]),
    allowed("flowtap-processors", &["flowtap-pipeline"], &["flowtap-engine"]),
    allowed("flowtap-exporters", &["flowtap-net", "flowtap-pipeline"], &[]),
    allowed(
        "flowtap-extensions",
        &["flowtap-config", "flowtap-net", "flowtap-pipeline"],
        &["flowtap-engine", "flowtap-exporters"],
    ),
    allowed("flowtap", COMPOSED, &[]),
    allowed("flowtap-fuzz", COMPOSED, &[]).and(&["flowtap"]),
];

/// A graph: who uses whom, and an example of where.
type Edges = BTreeMap<String, BTreeMap<String, String>>;

/// A crate of the workspace.
struct Package {
    name: String,
    /// Root files of its library and its programs.
    roots: Vec<PathBuf>,
    /// Crates of the workspace that it depends on, and whether only its tests do.
    dependencies: BTreeMap<String, bool>,
}

fn packages() -> Vec<Package> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--format-version=1",
            "--no-deps",
            "--offline",
            "--locked",
        ])
        .arg("--manifest-path")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let packages = metadata["packages"].as_array().unwrap();
    let names: BTreeSet<_> = packages.iter().map(|package| text(&package["name"])).collect();
    let is_ours = |target: &&Value| {
        let kinds = target["kind"].as_array().unwrap();
        kinds.iter().any(|kind| kind == "lib" || kind == "bin")
    };
    let package = |package: &Value| Package {
        name: text(&package["name"]),
        roots: package["targets"]
            .as_array()
            .unwrap()
            .iter()
            .filter(is_ours)
            .map(|target| text(&target["src_path"]).into())
            .collect(),
        dependencies: dependencies_of(package, &names),
    };
    packages.iter().map(package).collect()
}

/// The dependencies of a package on crates of the workspace. A crate's tests may ask for features of the crate itself, and of what it
/// uses.
fn dependencies_of(package: &Value, names: &BTreeSet<String>) -> BTreeMap<String, bool> {
    let mut found = BTreeMap::new();
    for dependency in package["dependencies"].as_array().unwrap() {
        let name = dependency["name"].as_str().unwrap();
        if names.contains(name) && package["name"] != name {
            let only_tests = dependency["kind"] == "dev";
            *found.entry(name.to_owned()).or_insert(true) &= only_tests;
        }
    }
    found
}

/// Differences between the dependencies of `packages` and those that are allowed.
fn not_allowed(packages: &[Package], allowed: &[Allowed]) -> Vec<String> {
    let mut found = Vec::new();
    for package in packages {
        let Some(allowed) = allowed.iter().find(|allowed| allowed.name == package.name) else {
            found.push(format!("{} is not in ALLOWED", package.name));
            continue;
        };
        for (lists, only_tests, user) in [
            ([allowed.uses, allowed.also], false, "uses"),
            ([allowed.tests_use, &[]], true, "has tests that use"),
        ] {
            let used = package
                .dependencies
                .iter()
                .filter(|(_, only)| **only == only_tests);
            let used: BTreeSet<_> = used.map(|(name, _)| name.as_str()).collect();
            let listed = lists.into_iter().flatten().copied().collect();
            let name = &package.name;
            let more = used.difference(&listed);
            found.extend(more.map(|other| format!("{name} {user} {other}, which ALLOWED does not list")));
            let fewer = listed.difference(&used);
            found.extend(
                fewer.map(|other| format!("ALLOWED lists that {name} {user} {other}, and nothing does")),
            );
        }
    }
    found
}

/// One module: what it contains, imports and refers to. Paths are absolute in the crate, without `crate`.
#[derive(Default)]
struct Module {
    children: BTreeSet<String>,
    /// Imported names, and their paths.
    imports: BTreeMap<String, Vec<String>>,
    /// Paths of items that are used.
    uses: BTreeSet<Vec<String>>,
}

type Modules = BTreeMap<Vec<String>, Module>;

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let is_cfg_test = attribute.path().is_ident("cfg")
            && matches!(attribute.parse_args::<syn::Ident>(), Ok(ident) if ident == "test");
        is_cfg_test || attribute.path().is_ident("test")
    })
}

/// Files of a module by attributes: that of `path`, and those of `path` in `cfg_attr`.
fn files_of(attributes: &[syn::Attribute]) -> (Option<PathBuf>, Vec<PathBuf>) {
    let file = |meta: &syn::Meta| {
        let syn::Meta::NameValue(pair) = meta else {
            return None;
        };
        match &pair.value {
            syn::Expr::Lit(syn::ExprLit {
                lit: syn::Lit::Str(file),
                ..
            }) if pair.path.is_ident("path") => Some(PathBuf::from(file.value())),
            _ => None,
        }
    };
    let always = attributes.iter().find_map(|attribute| file(&attribute.meta));
    let conditional = attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("cfg_attr"));
    let conditional = conditional.flat_map(|attribute| {
        let list = Punctuated::<syn::Meta, syn::Token![,]>::parse_terminated;
        attribute.parse_args_with(list).into_iter().flatten().skip(1)
    });
    (always, conditional.filter_map(|meta| file(&meta)).collect())
}

/// The folders in which the files of the children of a module are.
struct Folders<'a> {
    /// Of children without `path`.
    children: &'a Path,
    /// That which `path` begins at.
    paths: &'a Path,
}

/// Reads the file of the module at `path`, and those of its children, which are in `folder`.
fn read(file: &Path, folder: &Path, path: &[String], modules: &mut Modules) {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let folders = Folders {
        children: folder,
        paths: file.parent().unwrap(),
    };
    collect(&parsed.items, &folders, path, modules);
}

/// Reads the files of a child without its items: one, or one for each condition.
fn read_child(child: &syn::ItemMod, folders: &Folders<'_>, path: &[String], modules: &mut Modules) {
    let name = child.ident.to_string();
    let (always, mut files) = files_of(&child.attrs);
    let own = folders.children.join(&name);
    let flat = folders.children.join(format!("{name}.rs"));
    match always {
        Some(file) => files.push(file),
        None if flat.exists() => read(&flat, &own, path, modules),
        None if own.join("mod.rs").exists() || files.is_empty() => {
            read(&own.join("mod.rs"), &own, path, modules);
        }
        // Each condition has a file.
        None => {}
    }
    for file in files {
        let file = folders.paths.join(file);
        read(&file, file.parent().unwrap(), path, modules);
    }
}

fn collect(items: &[syn::Item], folders: &Folders<'_>, path: &[String], modules: &mut Modules) {
    let mut module = Module::default();
    for item in items {
        let syn::Item::Mod(child) = item else { continue };
        if is_test(&child.attrs) {
            continue;
        }
        let name = child.ident.to_string();
        let child_path = [path, std::slice::from_ref(&name)].concat();
        if let Some((_, items)) = &child.content {
            let folder = folders.children.join(&name);
            let folders = Folders {
                children: &folder,
                paths: &folder,
            };
            collect(items, &folders, &child_path, modules);
        } else {
            read_child(child, folders, &child_path, modules);
        }
        module.children.insert(name);
    }
    let mut reader = Reader {
        path,
        module,
        paths: BTreeSet::new(),
    };
    for item in items.iter().filter(|item| !matches!(item, syn::Item::Mod(_))) {
        reader.visit_item(item);
    }
    // One module for each condition may have this path: together they use what any of them does.
    let read = reader.finish();
    let module = modules.entry(path.to_vec()).or_default();
    module.children.extend(read.children);
    module.imports.extend(read.imports);
    module.uses.extend(read.uses);
}

/// Notes what the code of one module refers to.
struct Reader<'a> {
    path: &'a [String],
    module: Module,
    /// Paths as the code has them, a single name among them: imports that they begin with may come after them.
    paths: BTreeSet<Vec<String>>,
}

impl Reader<'_> {
    /// The path in the crate that `segments` mean in this module, if they mean one.
    fn absolute(&self, segments: &[String]) -> Option<Vec<String>> {
        let mut base = self.path.to_vec();
        let mut rest = segments;
        match segments.first()?.as_str() {
            "crate" => {
                base.clear();
                rest = &segments[1..];
            }
            "self" => rest = &segments[1..],
            "super" => {
                while rest.first().is_some_and(|first| first == "super") {
                    base.pop()?;
                    rest = &rest[1..];
                }
            }
            name if self.module.children.contains(name) => {}
            _ => return None,
        }
        base.extend_from_slice(rest);
        Some(base)
    }

    fn import(&mut self, tree: &syn::UseTree, prefix: &mut Vec<String>, is_public: bool) {
        match tree {
            syn::UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.import(&path.tree, prefix, is_public);
                prefix.pop();
            }
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(tree, prefix, is_public);
                }
            }
            syn::UseTree::Glob(_) => self.imported(prefix, None, is_public),
            syn::UseTree::Name(name) => {
                let name = name.ident.to_string();
                let segments = if name == "self" {
                    prefix.clone()
                } else {
                    [prefix, &[name][..]].concat()
                };
                let alias = segments.last().cloned();
                self.imported(&segments, alias, is_public);
            }
            syn::UseTree::Rename(rename) => {
                let segments = [prefix, &[rename.ident.to_string()][..]].concat();
                self.imported(&segments, Some(rename.rename.to_string()), is_public);
            }
        }
    }

    fn imported(&mut self, segments: &[String], alias: Option<String>, is_public: bool) {
        let Some(absolute) = self.absolute(segments) else {
            return;
        };
        // A module that shows what its children hold does not use it.
        let is_facade = is_public && absolute.starts_with(self.path);
        if !is_facade {
            self.module.uses.insert(absolute.clone());
        }
        if let Some(alias) = alias {
            self.module.imports.insert(alias, absolute);
        }
    }

    /// Paths in the tokens of a macro's call, which no parser knows.
    fn scan(&mut self, tokens: TokenStream) {
        let mut segments: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Group(group) => {
                    self.note(&std::mem::take(&mut segments));
                    self.scan(group.stream());
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.note(&std::mem::take(&mut segments));
                    }
                    colons = 0;
                    segments.push(ident.to_string());
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {
                    self.note(&std::mem::take(&mut segments));
                    colons = 0;
                }
            }
        }
        self.note(&segments);
    }

    fn note(&mut self, segments: &[String]) {
        if !segments.is_empty() {
            self.paths.insert(segments.to_vec());
        }
    }

    /// The module, with the items that its paths mean.
    fn finish(mut self) -> Module {
        for path in std::mem::take(&mut self.paths) {
            // An imported name is used as well where its import is a facade, which is not an edge.
            let imported = self.module.imports.get(&path[0]);
            let used = match imported {
                Some(import) => Some([import.as_slice(), &path[1..]].concat()),
                // A name alone may be a variable that is called as a module is.
                None if path.len() > 1 => self.absolute(&path),
                None => None,
            };
            self.module.uses.extend(used);
        }
        self.module
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            syn::Item::Const(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !is_test(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_test(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let is_public = !matches!(item.vis, syn::Visibility::Inherited);
        self.import(&item.tree, &mut Vec::new(), is_public);
    }

    // `pub(in path)` and attributes name no item.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}
    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<_> = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string())
            .collect();
        self.note(&segments);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.scan(call.tokens.clone());
        visit::visit_macro(self, call);
    }
}

/// The module that defines the item at `path`.
fn defining(modules: &Modules, path: &[String], depth: usize) -> Vec<String> {
    let mut at = Vec::new();
    for (index, segment) in path.iter().enumerate() {
        let Some(module) = modules.get(&at) else { break };
        if module.children.contains(segment) {
            at.push(segment.clone());
        } else if let Some(target) = module.imports.get(segment).filter(|_| depth > 0) {
            let target = [target.as_slice(), &path[index + 1..]].concat();
            return defining(modules, &target, depth - 1);
        } else {
            break;
        }
    }
    at
}

fn module_edges(root: &Path) -> Edges {
    let mut modules = Modules::new();
    let folder = root.parent().unwrap();
    read(root, folder, &[], &mut modules);
    let name = |path: &[String]| {
        if path.is_empty() {
            "crate".to_owned()
        } else {
            path.join("::")
        }
    };
    let mut edges = Edges::new();
    for (path, module) in &modules {
        let targets = edges.entry(name(path)).or_default();
        for used in &module.uses {
            let definer = defining(&modules, used, 8);
            if definer != *path {
                targets.entry(name(&definer)).or_insert_with(|| name(used));
            }
        }
    }
    edges
}

/// A cycle of `edges`, if there is one, as text.
fn cycles(edges: &Edges) -> Vec<String> {
    /// All that can be reached from `from`.
    fn reach<'a>(edges: &'a Edges, from: &'a str) -> BTreeSet<&'a str> {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(at) = open.pop() {
            for next in edges.get(at).into_iter().flat_map(BTreeMap::keys) {
                if seen.insert(next.as_str()) {
                    open.push(next);
                }
            }
        }
        seen
    }
    let reached: BTreeMap<_, _> = edges
        .keys()
        .map(|from| (from.as_str(), reach(edges, from)))
        .collect();
    let mut components = BTreeSet::new();
    for (from, to) in &reached {
        let both = |other: &&&str| reached.get(**other).is_some_and(|back| back.contains(from));
        if to.contains(from) {
            components.insert(to.iter().filter(both).copied().collect::<Vec<_>>());
        }
    }
    let describe = |component: &Vec<&str>| {
        let mut text = component.join(", ");
        for from in component {
            for (to, example) in edges[*from]
                .iter()
                .filter(|(to, _)| component.contains(&to.as_str()))
            {
                // Writing to a String does not fail.
                let _ = write!(text, "\n    {from} -> {to}: {example}");
            }
        }
        text
    };
    components.iter().map(describe).collect()
}

#[test]
fn crates_depend_on_the_crates_that_are_allowed_and_in_no_cycle() {
    let packages = packages();
    assert_eq!(not_allowed(&packages, &ALLOWED), Vec::<String>::new());
    let mut edges = Edges::new();
    for package in packages {
        let targets = package.dependencies.into_keys().map(|name| (name, String::new()));
        edges.insert(package.name, targets.collect());
    }
    assert_eq!(cycles(&edges), Vec::<String>::new());
}

#[test]
fn an_edge_between_crates_that_is_not_allowed_is_found() {
    let package = |dependencies: &[(&str, bool)]| Package {
        name: "flowtap-exporters".to_owned(),
        roots: Vec::new(),
        dependencies: dependencies
            .iter()
            .map(|(name, only_tests)| ((*name).to_owned(), *only_tests))
            .collect(),
    };
    let found = |dependencies: &[(&str, bool)]| not_allowed(&[package(dependencies)], &ALLOWED);
    let whole = [("flowtap-net", false), ("flowtap-pipeline", false)];
    assert_eq!(found(&whole), Vec::<String>::new());
    // The kernel's side, a sibling, and one that only tests may use, were it another crate.
    for other in ["flowtap-ebpf", "flowtap-processors", "flowtap-engine"] {
        for (only_tests, user) in [(false, "uses"), (true, "has tests that use")] {
            let message = format!("flowtap-exporters {user} {other}, which ALLOWED does not list");
            assert_eq!(found(&[whole[0], whole[1], (other, only_tests)]), [message]);
        }
    }
    let missing = "ALLOWED lists that flowtap-exporters uses flowtap-net, and nothing does";
    assert_eq!(found(&whole[1..]), [missing]);
    let unknown = [Package {
        name: "flowtap-new".to_owned(),
        ..package(&[])
    }];
    assert_eq!(not_allowed(&unknown, &ALLOWED), ["flowtap-new is not in ALLOWED"]);
    // Answers of cargo metadata: of tests alone, of both, and of a crate's own features.
    let names = ["flowtap-a", "flowtap-b", "flowtap-c"].map(str::to_owned).into();
    let metadata = serde_json::json!({ "name": "flowtap-c", "dependencies": [
        { "name": "flowtap-a", "kind": null },
        { "name": "flowtap-a", "kind": "dev" },
        { "name": "flowtap-b", "kind": "dev" },
        { "name": "flowtap-c", "kind": "dev" },
        { "name": "serde", "kind": null },
    ] });
    let expected = [("flowtap-a".to_owned(), false), ("flowtap-b".to_owned(), true)];
    assert_eq!(dependencies_of(&metadata, &names), BTreeMap::from(expected));
}

#[test]
fn no_module_uses_a_module_that_uses_it() {
    let mut found = Vec::new();
    for package in packages() {
        for root in &package.roots {
            let edges = module_edges(root);
            assert!(!edges.is_empty(), "{}", root.display());
            let cycles = cycles(&edges);
            found.extend(cycles.iter().map(|cycle| format!("{}: {cycle}", package.name)));
        }
    }
    assert!(found.is_empty(), "{} cycles:\n{}", found.len(), found.join("\n"));
}

#[test]
fn a_cycle_is_found_also_through_a_re_export() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    file(
        "lib.rs",
        "mod a;\nmod b;\npub use a::A;\n#[cfg(test)]\nmod absent;\n",
    );
    file("a.rs", "pub struct A(Vec<crate::b::B>);\n");
    file(
        "b.rs",
        "pub struct B;\nfn f() { println!(\"{:?}\", crate::A::default()); }\n",
    );
    let edges = module_edges(&folder.path().join("lib.rs"));
    assert_eq!(cycles(&edges), ["a, b\n    a -> b: b::B\n    b -> a: A::default"]);
    file("b.rs", "pub struct B;\n");
    let edges = module_edges(&folder.path().join("lib.rs"));
    assert_eq!(cycles(&edges), Vec::<String>::new());
}

#[test]
fn a_parent_that_uses_what_it_shows_of_a_child_uses_the_child() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let edges = || module_edges(&folder.path().join("lib.rs"));
    file(
        "lib.rs",
        "mod child;\npub use self::child::{Config as Settings, FACTORY};\npub struct Own(u8);\n",
    );
    file(
        "child.rs",
        "pub struct Config;\nfn build() -> super::Own { todo!() }\n",
    );
    assert_eq!(cycles(&edges()), Vec::<String>::new());
    let found = ["child, crate\n    child -> crate: Own\n    crate -> child: child::Config"];
    // By its name alone, before its import, and as the beginning of a path.
    for user in [
        "fn new(_: &Settings) {}",
        "fn new() { Settings::default(); }",
        "fn new() { vec![Settings]; }",
        "impl From<Settings> for Own { }",
    ] {
        file(
            "lib.rs",
            &format!("mod child;\n{user}\npub use self::child::Config as Settings;\npub struct Own(u8);\n"),
        );
        let found: Vec<_> = found.iter().map(|cycle| (*cycle).to_owned()).collect();
        let cycles: Vec<_> = cycles(&edges())
            .iter()
            .map(|cycle| cycle.replace("Config::default", "Config"))
            .collect();
        assert_eq!(cycles, found, "{user}");
    }
}

#[test]
fn the_files_of_each_condition_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    };
    let found = || cycles(&module_edges(&folder.path().join("lib.rs")));
    file("lib.rs", "pub mod a;\npub mod user;\n");
    file("user.rs", "fn f(_: crate::a::b::B) {}\n");
    let a = "#[cfg(unix)]\npub mod b;\n#[cfg(not(unix))]\n#[path = \"no_b.rs\"]\npub mod b;\n";
    file("a/mod.rs", a);
    file("a/b.rs", "pub struct B;\n");
    file("a/no_b.rs", "mod deeper;\npub struct B;\n");
    file("a/deeper.rs", "");
    assert_eq!(found(), Vec::<String>::new());
    // In the file of the other condition, and in a child of it.
    let cycle = "a::b, user\n    a::b -> user: user\n    user -> a::b: a::b::B";
    file("a/no_b.rs", "mod deeper;\nuse crate::user;\npub struct B;\n");
    assert_eq!(found(), [cycle]);
    file(
        "a/no_b.rs",
        "#[path = \"deeper.rs\"]\nmod deeper;\npub use self::deeper::B;\n",
    );
    file("a/deeper.rs", "use crate::user;\npub struct B;\n");
    assert_eq!(
        found(),
        ["a::b::deeper, user\n    a::b::deeper -> user: user\n    user -> a::b::deeper: a::b::B"]
    );
    file(
        "a/mod.rs",
        "#[cfg_attr(not(unix), path = \"deeper.rs\")]\npub mod b;\n",
    );
    assert_eq!(found(), [cycle]);
}

/// Whether `text` names `function` other than where it defines it.
fn names(text: &str, function: &str) -> bool {
    text.match_indices(function).any(|(at, _)| {
        let is_word = |neighbour: Option<char>| neighbour.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let before = &text[..at];
        !is_word(before.chars().next_back())
            && !is_word(text[at + function.len()..].chars().next())
            && !before.ends_with("fn ")
    })
}

/// Rows of the tables in the section `heading` of the page of the architecture: file and function.
fn walk(heading: &str) -> Vec<(String, String)> {
    let page = read_file("docs/ARCHITECTURE.md");
    let (_, section) = page.split_once(heading).expect("the section");
    let section = section.split("\n#").next().expect("its text");
    let cell = |cell: &str| {
        let cell = cell.trim().strip_prefix('`')?.strip_suffix('`')?;
        Some(cell.to_owned())
    };
    let rows = section.lines().filter_map(|line| {
        let mut cells = line.strip_prefix('|')?.split('|');
        Some((cell(cells.next()?)?, cell(cells.next()?)?))
    });
    rows.collect()
}

fn read_file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_walk_of_a_record_is_as_the_page_says_and_enters_no_file_more_than_twice() {
    let rows = walk("\n### The walk of a record\n");
    assert!(rows.len() > 30, "{rows:?}");
    let mut entered: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut passed = Vec::new();
    for (file, function) in &rows {
        let text = read_file(file);
        let defines = [
            format!("fn {function}("),
            format!("fn {function}<"),
            format!("__always_inline int {function}("),
            format!("__always_inline void {function}("),
        ];
        assert!(
            defines.iter().any(|definition| text.contains(definition)),
            "{file} does not define `{function}`"
        );
        passed.push(text);
        // The first is called by the kernel.
        assert!(
            passed.len() == 1 || passed.iter().any(|text| names(text, function)),
            "no file before {file} names `{function}`"
        );
        entered.entry(file).or_default().push(function);
    }
    let often: Vec<_> = entered
        .iter()
        .filter(|(_, functions)| functions.len() > 2)
        .collect();
    assert!(often.is_empty(), "entered more than twice: {often:?}");
}

#[test]
fn the_places_of_the_page_where_to_look_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = read_file("docs/ARCHITECTURE.md");
    let (_, table) = page.split_once("\nWhere to look:\n\n").expect("the table");
    let rows = table.lines().take_while(|line| line.starts_with('|')).skip(2);
    let (mut places, mut missing) = (0, Vec::new());
    for row in rows {
        let place = row.split('|').nth(2).expect("a place");
        // The first is a path from the root; others may be of the same folder, and words of code with neither `/` nor `.` are functions.
        let mut folder = PathBuf::new();
        for name in place.split('`').skip(1).step_by(2) {
            if !name.contains(['/', '.']) {
                continue;
            }
            places += 1;
            let whole = root.join(name);
            if whole.exists() {
                folder = if whole.is_dir() {
                    whole
                } else {
                    whole.parent().expect("a folder").to_owned()
                };
            } else if !folder.join(name).exists() || folder.as_os_str().is_empty() {
                missing.push(format!("{name}, of {row}"));
            }
        }
    }
    assert!(places > 15, "{places} places");
    assert!(missing.is_empty(), "not there:\n{}", missing.join("\n"));
}

/// `1.90` or `1.90.0` as numbers.
fn version(text: &str) -> Vec<u32> {
    text.split('.').map(|part| part.parse().unwrap()).collect()
}

#[test]
fn no_dependency_needs_a_newer_rust_than_flowtap_says() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--offline", "--locked"])
        .arg("--filter-platform=x86_64-unknown-linux-gnu")
        .arg("--manifest-path")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let own = packages
        .iter()
        .find(|package| package["name"] == "flowtap")
        .unwrap();
    let own = own["rust_version"].as_str().unwrap();
    let newer: Vec<_> = packages
        .iter()
        .filter_map(|package| Some((package, package["rust_version"].as_str()?)))
        .filter(|(_, needs)| version(needs)[..2] > version(own)[..2])
        .map(|(package, needs)| format!("{} needs {needs}", package["id"]))
        .collect();
    assert!(
        packages.len() > 100 && newer.is_empty(),
        "flowtap says {own}: {newer:#?}"
    );
}

/// The text of each call of `warn!` and `error!`, also within other macros, but for modules `tests`.
fn messages(tokens: TokenStream, found: &mut Vec<String>) {
    let tokens: Vec<_> = tokens.into_iter().collect();
    let is_named = |at: usize, names: &[&str]| {
        let token = tokens.get(at);
        matches!(token, Some(TokenTree::Ident(name)) if names.iter().any(|wanted| name == wanted))
    };
    for (place, token) in tokens.iter().enumerate() {
        let TokenTree::Group(group) = token else {
            continue;
        };
        let is_call = place >= 2
            && matches!(&tokens[place - 1], TokenTree::Punct(mark) if mark.as_char() == '!')
            && is_named(place - 2, &["warn", "error"]);
        let is_tests = place >= 2 && is_named(place - 2, &["mod"]) && is_named(place - 1, &["tests"]);
        if is_call {
            found.push(group.stream().to_string());
        } else if !is_tests {
            messages(group.stream(), found);
        }
    }
}

pub(crate) fn sources(folder: &Path, each: &mut impl FnMut(&Path)) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, each);
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && path.file_name().is_some_and(|name| name != "tests.rs")
        {
            each(&path);
        }
    }
}

/// First words of hints: a hint says what to do.
const ACTIONS: [&str; 36] = [
    "add", "allow", "build", "change", "check", "compare", "correct", "create", "fix", "follow", "free",
    "give", "if", "let", "look", "lower", "make", "mount", "name", "put", "raise", "read", "reload",
    "remove", "report", "restart", "restore", "run", "scrape", "see", "send", "set", "start", "stop", "use",
    "watch",
];

/// Whether the text of a call has a hint that says what to do. One that is put in by a variable is such by its author.
fn has_hint(message: &str) -> bool {
    // Lines of a text that goes on are indented.
    let text = message
        .replace('\\', " ")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let hints: Vec<_> = text.split("hint: ").skip(1).collect();
    let says = |hint: &&str| {
        let word: String = hint.chars().take_while(char::is_ascii_alphabetic).collect();
        hint.starts_with('{') || ACTIONS.contains(&word.as_str())
    };
    if hints.is_empty() {
        return text.contains("hint") && !text.contains("hint:");
    }
    hints.iter().all(says)
}

#[test]
fn a_hint_that_says_nothing_to_do_is_found() {
    for message in [
        "%error, \"it failed; hint: check the disk\"",
        "\"it failed\\n  hint: \\\n      restart flowtap\"",
        "\"it failed; hint: {remedy}\"",
        "error, hint, \"it failed\"",
    ] {
        assert!(has_hint(message), "{message}");
    }
    for message in [
        "\"it failed\"",
        "\"it failed; hint: the next start does that\"",
        "\"it failed; hint: \"",
    ] {
        assert!(!has_hint(message), "{message}");
    }
}

#[test]
fn every_warning_and_every_error_in_the_log_has_a_hint() {
    let (mut without, mut count) = (Vec::new(), 0);
    let folders = packages().into_iter().flat_map(|package| package.roots);
    let folders: BTreeSet<_> = folders
        .filter_map(|root| root.parent().map(Path::to_owned))
        .collect();
    for folder in folders {
        sources(&folder, &mut |file| {
            let text = std::fs::read_to_string(file).unwrap();
            let mut found = Vec::new();
            messages(text.parse().unwrap(), &mut found);
            count += found.len();
            let no_hint = found.iter().filter(|message| !has_hint(message));
            without.extend(no_hint.map(|message| format!("{}: {message}", file.display())));
        });
    }
    assert!(count > 80, "{count} messages: the scan does not find them");
    assert!(
        without.is_empty(),
        "without a hint that says what to do, by its first word:\n{}",
        without.join("\n")
    );
}
