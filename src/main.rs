//! The `flowtap` daemon: the component types of this distribution, and nothing else.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    flowtap::main(&flowtap::components::registry())
}
