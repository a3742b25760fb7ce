//! The component types of this build, in one list.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use flowtap_exporters::{debug, file, otlp, prometheus, remote_write};
use flowtap_pipeline::{ComponentKind, Factory, Registry};
use flowtap_processors::{direction, kubernetes, policy, window};
use flowtap_receivers::{ebpf, generator, replay, sock_diag};

/// Every component type that comes with flowtap.
pub fn registry() -> Registry {
    Registry::new()
        .receiver(ebpf::FACTORY)
        .receiver(generator::FACTORY)
        .receiver(replay::FACTORY)
        .receiver(sock_diag::FACTORY)
        .processor(direction::FACTORY)
        .processor(kubernetes::FACTORY)
        .processor(policy::FACTORY)
        .processor(window::FACTORY)
        .exporter(debug::FACTORY)
        .exporter(file::FACTORY)
        .exporter(otlp::FACTORY)
        .exporter(prometheus::FACTORY)
        .exporter(remote_write::FACTORY)
}

/// The list for `flowtap components`: a section per kind, a line per type.
pub fn describe(registry: &Registry) -> String {
    let mut text = String::new();
    section(&mut text, ComponentKind::Receiver, registry.receivers());
    section(&mut text, ComponentKind::Processor, registry.processors());
    section(&mut text, ComponentKind::Exporter, registry.exporters());
    text
}

fn section<C: ?Sized>(text: &mut String, kind: ComponentKind, types: &BTreeMap<&'static str, Factory<C>>) {
    // Writing to a String does not fail.
    let _ = writeln!(text, "{}:", kind.section());
    for factory in types.values() {
        let _ = writeln!(text, "  {:<12} {}", factory.type_name, factory.summary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_its_line() {
        let text = describe(&registry());
        for name in [
            "ebpf",
            "generator",
            "replay",
            "sock_diag",
            "direction",
            "kubernetes",
            "policy",
            "window",
            "prometheus",
            "otlp",
            "remote_write",
            "file",
            "debug",
        ] {
            assert!(
                text.lines().any(|line| line.trim_start().starts_with(name)),
                "no {name} in:\n{text}"
            );
        }
    }
}
