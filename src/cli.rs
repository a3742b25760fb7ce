//! The arguments.

#[cfg(feature = "file")]
pub(crate) mod history;
pub(crate) mod left_out;
pub(crate) mod manual;
#[cfg(feature = "analysis")]
pub(crate) mod policy;
pub(crate) mod sources;

#[cfg(feature = "file")]
use self::history::HistoryArgs;
use self::left_out::LeftOut;
use self::sources::ConfigArgs;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
#[cfg(any(feature = "analysis", feature = "top"))]
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

#[cfg(feature = "top")]
use flowtap_extensions::live::Sort;
use flowtap_pipeline::FindingKind;
use flowtap_pipeline::address::parse_listen;

/// The command line of `flowtap`.
#[derive(Debug, Parser)]
#[command(
    name = "flowtap",
    version,
    about = "Per-peer TCP and UDP traffic, latency and loss of this host, for Prometheus and OpenTelemetry",
    long_about = None,
    after_help = "\
Without a config:
  sudo flowtap run                               measure this machine, serve the metrics
  curl http://127.0.0.1:9464/metrics             ... and see them; or watch them: flowtap top

With a config (YAML or TOML):
  flowtap print-config > flowtap.yaml            the defaults, to start from
  sudo flowtap run --config flowtap.yaml --set exporters.prometheus.endpoint=0.0.0.0:9464

Without root: sudo setcap cap_bpf,cap_perfmon+ep $(command -v flowtap); else it uses sock_diag
Own metrics: 127.0.0.1:9460/metrics. Status page: 127.0.0.1:13134. Variables: flowtap run --help"
)]
pub(crate) struct Cli {
    /// Subcommand; prints help if omitted.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// Subcommand.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Measure and export until SIGTERM or SIGINT
    #[command(after_long_help = manual::help())]
    Run(RunArgs),
    /// Check the config and build everything short of starting it
    #[command(alias = "check")]
    Validate(ConfigArgs),
    /// Print the whole config, defaults filled in, secrets left out
    PrintConfig(ConfigArgs),
    /// Check the requirements on this machine; exit code 0 if `run --strict` would work
    Doctor(DoctorArgs),
    /// Record receiver output to a file
    #[cfg(feature = "analysis")]
    Record(RecordArgs),
    /// Run a recording through the pipelines and print the final /metrics
    #[cfg(feature = "analysis")]
    Replay(ReplayArgs),
    /// Estimate series cardinality, per metric and label, from live traffic or a recording
    #[cfg(feature = "analysis")]
    Explain(ExplainArgs),
    /// Show live flows in the terminal: a running daemon's, or this machine's
    #[cfg(feature = "top")]
    Top(TopArgs),
    /// Report what limits a peer, a process or a service: network, receiver or application
    #[cfg(feature = "analysis")]
    Diagnose(DiagnoseArgs),
    /// Show what a running daemon has found: what has changed, and why it was reported
    Findings(FindingsArgs),
    /// Show what the exporter `file` wrote on this node: top talkers, a peer's past, failures
    #[cfg(feature = "file")]
    History(HistoryArgs),
    /// Show the class of an address, and the rule that matched
    Classify(ClassifyArgs),
    /// Judge observed flows by Kubernetes NetworkPolicies, or suggest some
    #[cfg(feature = "analysis")]
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// List the component types of this build
    Components,
    /// Draw the pipelines, for Mermaid or Graphviz
    Graph(GraphArgs),
    /// Print the config's JSON Schema, for editors
    Schema,
    /// Print a shell's completions
    Completions(CompletionsArgs),
    /// Write the man pages, one per command
    Man(ManArgs),
    /// A command that this build was made without.
    #[command(flatten)]
    LeftOut(LeftOut),
}

/// Options of `run`.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// Where the config comes from.
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Fail instead of degrading, such as to netlink in place of eBPF
    #[arg(long)]
    pub(crate) strict: bool,
    /// Do not drop privileges or enter the Landlock/seccomp sandbox
    #[arg(long)]
    pub(crate) no_sandbox: bool,
}

/// Options of `record`.
#[cfg(feature = "analysis")]
#[derive(Args, Debug)]
pub(crate) struct RecordArgs {
    /// Where the receivers come from.
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The file; `-` for standard output
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Duration, such as 60s, from when the receivers are attached; without it, until SIGTERM or SIGINT
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) duration: Option<Duration>,
}

/// Options of `replay`.
#[cfg(feature = "analysis")]
#[derive(Args, Debug)]
pub(crate) struct ReplayArgs {
    /// Where the pipelines come from.
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Print the findings of the processors `watch` instead, in the order in which they were made
    #[arg(long)]
    pub(crate) findings: bool,
    /// Print the findings as JSON
    #[arg(long, requires = "findings")]
    pub(crate) json: bool,
    /// A file written by `flowtap record`
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

/// Options of `explain`.
#[cfg(feature = "analysis")]
#[derive(Args, Debug)]
pub(crate) struct ExplainArgs {
    /// Where the config comes from.
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Duration of the measurement, from when the receivers are attached, if no recording is given
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "1m")]
    pub(crate) duration: Duration,
    /// The recording
    #[arg(value_name = "FILE", conflicts_with = "duration")]
    pub(crate) file: Option<PathBuf>,
}

/// Options of `top`.
#[cfg(feature = "top")]
#[derive(Args, Debug)]
pub(crate) struct TopArgs {
    /// Where the daemon's config comes from, to find its admin listener
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// A daemon's admin listener, such as 127.0.0.1:13134; without, that of the config; if nothing answers there, top measures
    /// by itself
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = parse_listen)]
    pub(crate) admin: Option<SocketAddr>,
    /// Which of the daemon's pipelines; the first by name otherwise
    #[arg(long, value_name = "NAME")]
    pub(crate) pipeline: Option<String>,
    /// The order to begin with
    #[arg(long, value_name = "COLUMN", default_value = "rate", value_parser = PossibleValuesParser::new(Sort::ALL.map(Sort::name)))]
    pub(crate) sort: String,
    /// Time between two updates, from 100ms to 1h. A daemon has new bytes when a window has closed
    #[arg(short = 'd', long, value_name = "DURATION", value_parser = refresh_interval, default_value = "1s")]
    pub(crate) interval: Duration,
}

/// The time between two questions of `top`.
#[cfg(feature = "top")]
fn refresh_interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&interval) {
        Ok(interval)
    } else {
        Err("must be from 100ms to 1h".to_owned())
    }
}

/// Options of `diagnose`.
#[cfg(feature = "analysis")]
#[derive(Args, Debug)]
pub(crate) struct DiagnoseArgs {
    /// The receivers, and the processors that name the ends
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// An address, a range, ADDRESS:PORT, HOST:PORT, a process id, or the name of a process, pod, workload, service, namespace or node;
    /// without, all TCP connections
    #[arg(value_name = "TARGET")]
    pub(crate) target: Option<String>,
    /// Duration of the measurement, from when the receivers are attached
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "30s")]
    pub(crate) duration: Duration,
    /// Maximum number of peers
    #[arg(long, value_name = "NUMBER", default_value_t = 10)]
    pub(crate) limit: usize,
    /// Diagnose a recording of `flowtap record` instead
    #[arg(long, value_name = "FILE", conflicts_with = "duration")]
    pub(crate) file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `findings`.
#[derive(Args, Debug)]
pub(crate) struct FindingsArgs {
    /// Where the daemon's config comes from, to find its admin listener
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The daemon's admin listener, such as 127.0.0.1:13134; without, that of the config
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = parse_listen)]
    pub(crate) admin: Option<SocketAddr>,
    /// Maximum number of findings, the newest first; a daemon keeps 1,000, and of each kind at least the newest 142
    #[arg(long, value_name = "NUMBER", default_value_t = 50)]
    pub(crate) limit: usize,
    /// Only those of this kind
    #[arg(long, value_name = "KIND", value_parser = PossibleValuesParser::new(FindingKind::ALL.map(FindingKind::as_str)))]
    pub(crate) kind: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `classify`.
#[derive(Args, Debug)]
pub(crate) struct ClassifyArgs {
    /// Where the lists come from.
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// A whole config to compare with, not a layer over the other one; exit code 1 if any class differs
    #[arg(long, value_name = "CONFIG")]
    pub(crate) diff: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// The addresses
    #[arg(value_name = "ADDRESS", required = true, value_parser = ip_address)]
    pub(crate) addresses: Vec<IpAddr>,
}

/// An address without a port.
fn ip_address(text: &str) -> Result<IpAddr, String> {
    let parsed = text.trim().parse();
    parsed.map_err(|_| {
        format!("`{text}` is not an IP address; hint: write one such as 192.0.2.7 or 2001:db8::7")
    })
}

/// Options of `graph`.
#[derive(Args, Debug)]
pub(crate) struct GraphArgs {
    /// Where the pipelines come from.
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Format of the graph
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) format: GraphFormat,
}

/// A language of drawings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum GraphFormat {
    /// For Markdown, where it is shown as a drawing
    #[default]
    Mermaid,
    /// For Graphviz: `flowtap graph --format dot | dot -Tsvg`
    Dot,
}

/// Options of `completions`.
#[derive(Args, Debug)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// Where the man pages go.
#[derive(Args, Debug)]
pub(crate) struct ManArgs {
    /// A directory, created if it is missing
    #[arg(value_name = "DIRECTORY")]
    pub(crate) directory: PathBuf,
}

/// Options of `doctor`.
#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// The proc file system, or where the host's is mounted
    #[arg(long, value_name = "PATH", default_value = "/proc")]
    pub(crate) proc_root: PathBuf,
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
