//! The daemon: what is built from a config and kept running.
//!
//! # Layout
//!
//! | module | what it does |
//! |---|---|
//! | [`run`](mod@self::run) | the command `run`: signals, services, pipelines, and the stop of all of them |
//! | `running` | the running graph and services; a new config in place of the one before |
//! | `services` | what runs beside the pipelines, as a list with start, reload and stop |
//! | [`graph`] | from a checked config to the stages, wired |
//! | `reload` | when the config is to be read again |
//! | `sandbox` | what the daemon gives up before it starts |
//! | `stop` | signals, and the deadline of the stop |
//! | `descriptors` | the limit of open files |

mod descriptors;
pub(crate) mod graph;
mod reload;
mod run;
mod running;
pub(crate) mod sandbox;
mod services;
mod stop;

#[cfg(feature = "analysis")]
pub(crate) use self::run::{private_files, stop_on_signal};
pub(crate) use self::run::{run, runtime};
pub(crate) use self::stop::Signals;
#[cfg(feature = "analysis")]
pub(crate) use self::stop::Stop;
