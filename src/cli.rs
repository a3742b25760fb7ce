//! The arguments.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// What `flowtap` is told.
#[derive(Debug, Parser)]
#[command(
    name = "flowtap",
    version,
    about = "Says who talks to whom over TCP on this machine, how much, and how well.",
    long_about = None,
    after_help = "\
Try it, with no config at all:
  sudo flowtap run                               measure this machine, serve the metrics
  curl http://127.0.0.1:9464/metrics             ... and see them
  sudo flowtap doctor                            what it could not see here, and why

With a config of your own (YAML or TOML):
  flowtap print-config > flowtap.yaml            the defaults, to start from
  flowtap validate --config flowtap.yaml         every mistake at once, each with its line
  sudo flowtap run --config flowtap.yaml --set exporters.prometheus.endpoint=0.0.0.0:9464

Without root: sudo setcap cap_bpf,cap_perfmon+ep $(command -v flowtap)
Without any privileges it still runs, by sock_diag, and says what it can't see; --strict refuses that.
The daemon's own metrics are on 127.0.0.1:8888/metrics, its health on 127.0.0.1:13133/healthz."
)]
pub struct Cli {
    /// What to do. Nothing: explain.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure, and export, until told to stop (SIGTERM or SIGINT)
    Run(RunArgs),
    /// Check the config and build everything short of starting it
    Validate(ConfigArgs),
    /// Print the whole config, defaults filled in, secrets left out
    PrintConfig(ConfigArgs),
    /// Say what this machine lets flowtap do, need by need; exit code 0 if `run --strict` would work
    Doctor(DoctorArgs),
    /// List the component types of this build
    Components,
}

/// How to run.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// Where the config comes from.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// End with an error where flowtap would make do with less, such as netlink in place of eBPF
    #[arg(long)]
    pub strict: bool,
}

/// How to look.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// For programs to read
    #[arg(long)]
    pub json: bool,
    /// The proc file system, or where the host's is mounted
    #[arg(long, value_name = "PATH", default_value = "/proc")]
    pub proc_root: PathBuf,
}

/// Where the config comes from. Later layers win: defaults, files, environment, `--set`.
#[derive(Args, Debug, Default)]
pub struct ConfigArgs {
    /// A config file, .yaml or .toml; may be given again, later files win
    #[arg(short, long, value_name = "FILE", env = "FLOWTAP_CONFIG")]
    pub config: Vec<PathBuf>,
    /// One key, such as receivers.ebpf.interval=1s; may be given again
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flowtap_without_arguments_explains_itself_in_a_screen() {
        let help = Cli::command().render_help().to_string();
        assert!(help.lines().count() <= 40, "{} lines", help.lines().count());
        for word in [
            "run",
            "validate",
            "print-config",
            "components",
            "/metrics",
            "setcap",
        ] {
            assert!(help.contains(word), "no {word} in:\n{help}");
        }
    }
}
