//! Ports of pods: by the name that containers give them, and behind a service's port.

use flowtap_model::cluster_objects::{
    NamedPort, PodObject, PortProtocol, ServiceObject, ServicePort, TargetPort,
};

/// The port of a pod behind a service's port; `None` if the service does not have the port, or does not select the pod.
pub(crate) fn backend_port(
    service: &ServiceObject,
    port: u16,
    protocol: PortProtocol,
    pod: &PodObject,
) -> Option<u16> {
    let mut wanted = service.selector.iter();
    let is_selected = !service.selector.is_empty()
        && pod.namespace == service.namespace
        && wanted.all(|(key, value)| pod.labels.get(key) == Some(value));
    let port = service_port(service, port, protocol).filter(|_| is_selected)?;
    match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => named_port(pod, name, protocol),
    }
}

/// The port of a service with this number and protocol. Several services may share an address, each with ports of its own.
pub(crate) fn service_port(
    service: &ServiceObject,
    port: u16,
    protocol: PortProtocol,
) -> Option<&ServicePort> {
    let mut ports = service.ports.iter();
    ports.find(|it| it.port == port && it.protocol == protocol)
}

/// The numbers that a pod gives a port's name: names are unique in a container only.
pub(crate) fn named_ports<'a>(
    pod: &'a PodObject,
    name: &'a str,
    protocol: PortProtocol,
) -> impl Iterator<Item = u16> + 'a {
    let named = move |it: &&NamedPort| it.name == name && it.protocol == protocol;
    pod.ports.iter().filter(named).map(|it| it.port)
}

/// The number that a service means by a port's name: that of the first container.
fn named_port(pod: &PodObject, name: &str, protocol: PortProtocol) -> Option<u16> {
    named_ports(pod, name, protocol).next()
}
