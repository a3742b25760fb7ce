//! Limits of later configs: the sandbox was entered with the config of the start.

use caps::CapsHashSet;
use flowtap_config::{Config, ConfigErrors};

use super::needs::{Needs, capability_key};
use super::paths::Paths;
use super::ports::Ports;

/// The limits that every config has from now on.
#[derive(Clone, Debug, Default)]
pub(in crate::daemon) struct Limits {
    /// TCP ports that are open, if others are closed.
    pub(super) ports: Option<Ports>,
    /// Paths that are open, if others are closed.
    pub(super) paths: Option<Paths>,
    /// Capabilities that were given up.
    pub(super) given_up: CapsHashSet,
}

impl Limits {
    /// Checks that `config` can work within them.
    ///
    /// # Errors
    /// The first thing that it needs and can't have, with its key and the remedy.
    pub(in crate::daemon) fn check(&self, config: &Config) -> Result<(), ConfigErrors> {
        let needs = Needs::capabilities(config);
        if let Some(capability) = needs
            .intersection(&self.given_up)
            .min_by_key(|needed| needed.index())
        {
            let key = capability_key(config, *capability);
            let key: Vec<_> = key.iter().map(String::as_str).collect();
            let message = format!(
                "this needs {capability}, which the sandbox has dropped at the start; hint: restart flowtap"
            );
            return Err(config.error_at(&key, &message));
        }
        self.ports.iter().try_for_each(|ports| ports.check(config))?;
        self.paths.iter().try_for_each(|paths| paths.check(config))
    }
}
