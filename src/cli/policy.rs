//! The arguments of `flowtap policy`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use flowtap_network_policy::manifest::is_namespace;

use super::sources::ConfigArgs;

/// Subcommand of `policy`.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Show which observed flows NetworkPolicies deny, and the rule that decides; exit code 1 if any
    Check(CheckArgs),
    /// Print the least NetworkPolicies that allow the observed flows; exit code 1 if there is none
    Suggest(SuggestArgs),
    /// Show the observed flows whose verdict differs between two sets of NetworkPolicies; exit code 1 if any
    Diff(DiffArgs),
}

/// Options of `policy check`.
#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// NetworkPolicies in YAML or JSON: a file, a directory of .yaml, .yml and .json files, or `-` for standard input; may be given
    /// again
    #[arg(short, long, value_name = "FILE", required = true)]
    pub(crate) file: Vec<PathBuf>,
    /// Also show the flows that are allowed
    #[arg(long)]
    pub(crate) all: bool,
    /// Exit with 1 also if a flow is undecided, because a pod or a namespace's labels are not known
    #[arg(long)]
    pub(crate) fail_on_undecided: bool,
    /// Print JSON: every flow, allowed ones as well
    #[arg(long)]
    pub(crate) json: bool,
    /// The flows.
    #[command(flatten)]
    pub(crate) observed: ObservedArgs,
}

/// Options of `policy suggest`.
#[derive(Args, Debug)]
pub(crate) struct SuggestArgs {
    /// Do not allow DNS where the observation has no UDP
    #[arg(long)]
    pub(crate) no_dns: bool,
    /// Widen IPv4 addresses outside the cluster to this prefix length, or a longer one that has no address of the cluster
    #[arg(long, value_name = "LENGTH", default_value_t = 32, value_parser = clap::value_parser!(u8).range(0..=32))]
    pub(crate) prefix_v4: u8,
    /// The same for IPv6
    #[arg(long, value_name = "LENGTH", default_value_t = 128, value_parser = clap::value_parser!(u8).range(0..=128))]
    pub(crate) prefix_v6: u8,
    /// Print a JSON List, with the notes on standard error
    #[arg(long)]
    pub(crate) json: bool,
    /// The flows.
    #[command(flatten)]
    pub(crate) observed: ObservedArgs,
}

/// Options of `policy diff`.
#[derive(Args, Debug)]
pub(crate) struct DiffArgs {
    /// NetworkPolicies in YAML or JSON: a file, a directory, or `-` for standard input
    #[arg(value_name = "A")]
    pub(crate) before: PathBuf,
    /// NetworkPolicies to compare with
    #[arg(value_name = "B")]
    pub(crate) after: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// The flows.
    #[command(flatten)]
    pub(crate) observed: ObservedArgs,
}

/// The flows to judge, and the cluster around them.
#[derive(Args, Debug)]
pub(crate) struct ObservedArgs {
    /// Where the receivers and processors come from.
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Pods, namespaces, services and nodes, as `kubectl get pods,namespaces,services,nodes -A -o yaml` prints them: a file, a
    /// directory, or `-` for standard input; may be given again. Without it, those of the recording
    #[arg(long, value_name = "FILE", visible_aliases = ["pods", "namespaces", "services", "nodes"])]
    pub(crate) cluster: Vec<PathBuf>,
    /// Namespace of policies that name none
    #[arg(long, value_name = "NAME", default_value = "default", value_parser = namespace)]
    pub(crate) namespace: String,
    /// Also judge connects that failed, or still waited for an answer
    #[arg(long)]
    pub(crate) attempts: bool,
    /// Maximum number of different flows: ends on the recorded node, each with a peer and the server's port. A connection within
    /// the node counts twice
    #[arg(long, value_name = "COUNT", default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_flows: u32,
    /// Duration of the measurement, from when the receivers are attached, if no recording is given
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "1m")]
    pub(crate) duration: Duration,
    /// Files written by `flowtap record`, of one machine or of several; without one, what passes on this machine now
    #[arg(value_name = "RECORDING", conflicts_with = "duration")]
    pub(crate) recordings: Vec<PathBuf>,
}

fn namespace(name: &str) -> Result<String, String> {
    if is_namespace(name) {
        Ok(name.to_owned())
    } else {
        Err("expected the name of a namespace: up to 63 of a-z, 0-9 and `-`, with a letter or digit at both ends".to_owned())
    }
}
