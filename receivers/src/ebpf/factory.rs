//! The receiver type `ebpf`: builds the receiver from its config.

use flowtap_pipeline::{BuildContext, BuildError, Factory, Receiver, ReceiverConfig, Signal, Stability};

use super::EbpfReceiver;
use super::config::Config;

impl ReceiverConfig for Config {
    fn build(&self, context: &BuildContext) -> Result<Box<dyn Receiver>, BuildError> {
        Ok(Box::new(EbpfReceiver::new(self.clone(), context)))
    }

    /// UDP, with the DNS in it, has programs of its own.
    fn without(&self, signal: Signal) -> Option<Box<dyn ReceiverConfig>> {
        (signal == Signal::Udp).then(|| {
            let mut config = self.clone();
            config.udp.enabled = false;
            Box::new(config) as _
        })
    }
}

/// The receiver type `ebpf`.
pub const FACTORY: Factory<dyn ReceiverConfig> = Factory::of::<Config>(
    "ebpf",
    "TCP from the kernel's own totals, UDP, DNS and drops, of every network namespace (eBPF)",
    Stability::Beta,
);
