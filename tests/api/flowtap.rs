// The public items of flowtap, by tests/e2e/public_api.rs: `make references` writes them anew.

// flowtap

pub fn main(registry: &Registry) -> ExitCode {}
pub mod components;

// flowtap::components

pub fn describe(registry: &Registry) -> String {}
pub fn registry() -> Registry {}
