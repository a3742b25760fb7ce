//! The arguments that name the sources of the config.

use std::path::PathBuf;

use clap::Args;

/// Where the config comes from. Later layers win: defaults, files, environment, `--set`.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ConfigArgs {
    /// A config file, .yaml or .toml; may be given again, later files win
    #[arg(short, long, value_name = "FILE", env = "FLOWTAP_CONFIG")]
    pub(crate) config: Vec<PathBuf>,
    /// One key, such as receivers.ebpf.interval=1s; may be given again
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}
