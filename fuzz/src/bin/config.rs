//! Texts of configs: read, merged, checked by every component's own rules, and reported.
//!
//! Properties of each: no panic; an accepted config is printed as one that can be read; a rejected
//! one yields an error shorter than a megabyte.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use flowtap_config::document::Document;
use flowtap_config::{Layers, load};
use flowtap_pipeline::Registry;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

static REGISTRY: LazyLock<Registry> = LazyLock::new(flowtap::components::registry);

static FOLDER: LazyLock<Option<TempDir>> = LazyLock::new(|| tempfile::tempdir().ok());

const MAX_SAID: usize = 1 << 20;

fuzz_target!(|text: &str| {
    if Document::from_yaml(text).is_ok() {
        check(layers_of_file("config.yaml", text));
    }
    if Document::from_toml(text).is_ok() {
        check(layers_of_file("config.toml", text));
    }
    check(Some(Layers {
        set: text.lines().take(4).map(str::to_owned).collect(),
        ..Layers::default()
    }));
});

fn layers_of_file(name: &str, text: &str) -> Option<Layers> {
    // Files that a config names are read, and nothing here needs that.
    if text.contains("${file:") {
        return None;
    }
    let path: PathBuf = FOLDER.as_ref()?.path().join(name);
    std::fs::write(&path, text).ok()?;
    Some(Layers {
        files: vec![path],
        env: vec![("N".to_owned(), "7".to_owned())],
        set: Vec::new(),
    })
}

fn check(layers: Option<Layers>) {
    let Some(layers) = layers else { return };
    match load(&layers, &REGISTRY) {
        Ok(config) => {
            let printed = config.to_yaml();
            assert!(
                Document::from_yaml(&printed).is_ok(),
                "printed, but can't be read:\n{printed}"
            );
        }
        Err(errors) => {
            assert!(!errors.0.is_empty(), "refused without a reason");
            let said = errors.render(false).len() + errors.render(true).len();
            assert!(said < 2 * MAX_SAID, "{said} bytes of errors");
        }
    }
}
