//! Programs that get credentials for a kubeconfig, which the sandbox does not let start.

use flowtap_config::{Config, ConfigErrors};
use flowtap_extensions::kubernetes;
use flowtap_pipeline::plain::plain;

/// The reason why the config can't work in the sandbox, with the remedy: a program has to be started.
pub(crate) fn refused(config: &Config) -> Option<ConfigErrors> {
    let service = &config.service;
    if !(service.sandbox.landlock || service.sandbox.seccomp) {
        return None;
    }
    let plugin = kubernetes::plugin(&service.kubernetes)?;
    let message = format!(
        "{}: credentials come from the program `{}`, and the sandbox starts none; hint: use `token`, `tokenFile` or a client \
         certificate in it, or run with --no-sandbox",
        plain(&plugin.file.to_string_lossy()),
        plain(&plugin.program)
    );
    Some(config.error_at(&["service", "kubernetes", "kubeconfig"], &message))
}
