//! State of this machine for components, now and when it changes.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, OnceLock, Weak};
use std::thread;

use flowtap_pipeline::node::{EphemeralPorts, InterfaceAddress};
use flowtap_pipeline::{NodeInfo, Published};
use ipnet::IpNet;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

/// Reads the interfaces' addresses and `resolv.conf`. Unreadable parts are left out with a warning:
/// classes then know less, and nothing stops.
pub fn describe() -> NodeInfo {
    NodeInfo {
        addresses: addresses(),
        resolvers: resolvers(),
        ephemeral_ports: ephemeral_ports(),
        own_pid: own_pid(),
    }
}

/// Id of this process in the initial pid namespace; 0 if it runs in another one, where it can't know.
fn own_pid() -> u32 {
    /// Of the initial namespace: `PROC_PID_INIT_INO` in the kernel's `include/linux/proc_ns.h`.
    const INITIAL: &str = "pid:[4026531836]";
    // Read once: the sandbox may hide the link later.
    static OWN: OnceLock<u32> = OnceLock::new();
    *OWN.get_or_init(|| match fs::read_link("/proc/self/ns/pid") {
        Ok(namespace) if namespace.as_os_str() == INITIAL => std::process::id(),
        _ => 0,
    })
}

/// Keeps `node` up to date: the kernel reports when an address is added or removed
/// (`rtnetlink(7)`). Without that, the addresses stay as they were at the start, with a warning.
pub fn watch(node: &Arc<Published<NodeInfo>>) {
    let node = Arc::downgrade(node);
    let watching = subscribe().and_then(|socket| {
        thread::Builder::new()
            .name("node-watch".to_owned())
            .spawn(move || follow(&socket, &node))
    });
    if let Err(error) = watching {
        tracing::warn!(%error, "changes of this machine's addresses will not be noticed; \
                hint: restart flowtap after addresses have changed");
    }
}

/// A socket that receives changes of addresses, IPv4 and IPv6 (`RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV6_IFADDR`).
fn subscribe() -> io::Result<OwnedFd> {
    const GROUPS: u32 = 0x10 | 0x100;
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
    Ok(socket)
}

fn follow(socket: &OwnedFd, node: &Weak<Published<NodeInfo>>) {
    // Which address it was does not matter: all are read again. Nor does a message that was cut short or lost.
    let mut message = [0; 4096];
    loop {
        let heard = recv(socket.as_raw_fd(), &mut message, MsgFlags::empty());
        let Some(node) = node.upgrade() else { return };
        match heard {
            Ok(_) | Err(Errno::ENOBUFS) => {
                let now = describe();
                if now != *node.load() {
                    tracing::info!(
                        addresses = now.addresses.len(),
                        "this machine's addresses have changed"
                    );
                    node.store(now);
                }
            }
            Err(Errno::EINTR) => {}
            Err(error) => {
                tracing::warn!(%error, "changes of this machine's addresses will no longer be noticed; \
                hint: restart flowtap after addresses have changed");
                return;
            }
        }
    }
}

fn addresses() -> Vec<InterfaceAddress> {
    let interfaces = match getifaddrs() {
        Ok(interfaces) => interfaces,
        Err(error) => {
            tracing::warn!(%error, "the interfaces' addresses can't be read; only loopback counts as local; hint: allow AF_NETLINK (RestrictAddressFamilies=, seccomp)");
            return Vec::new();
        }
    };
    interfaces
        .filter_map(|interface| {
            let address = ip(interface.address.as_ref()?)?;
            let netmask = interface.netmask.as_ref().and_then(ip);
            let network = match netmask {
                Some(netmask) => IpNet::with_netmask(address, netmask).ok()?,
                None => IpNet::from(address),
            };
            Some(InterfaceAddress {
                interface: interface.interface_name,
                network,
            })
        })
        .collect()
}

fn ip(address: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

fn ephemeral_ports() -> EphemeralPorts {
    const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
    let text = fs::read_to_string(RANGE);
    if let Some(ports) = text.as_deref().ok().and_then(port_range) {
        return ports;
    }
    let EphemeralPorts { first, last } = EphemeralPorts::default();
    tracing::warn!(
        first,
        last,
        "{RANGE} can't be read; assuming the kernel's default; \
                hint: mount /proc with /proc/sys"
    );
    EphemeralPorts::default()
}

/// Two ports, separated by white space.
fn port_range(text: &str) -> Option<EphemeralPorts> {
    let mut ports = text.split_whitespace().map(str::parse);
    match (ports.next()?, ports.next()?) {
        (Ok(first), Ok(last)) => Some(EphemeralPorts { first, last }),
        _ => None,
    }
}

fn resolvers() -> Vec<IpAddr> {
    match fs::read_to_string("/etc/resolv.conf") {
        Ok(text) => name_servers(&text),
        Err(error) => {
            tracing::warn!(%error, "/etc/resolv.conf can't be read; only port 53 counts as DNS; \
                hint: make the file readable; in the sandbox a file that was replaced by rename needs a restart of flowtap");
            Vec::new()
        }
    }
}

/// The `nameserver` lines; a zone (`fe80::1%eth0`) is cut off.
fn name_servers(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|rest| rest.split_whitespace().next())
        .filter_map(|address| address.split('%').next()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_as_the_resolver_reads_them() {
        let text = "# a comment\nsearch example.org\nnameserver 192.0.2.53\n nameserver fe80::1%eth0 # one\nnameserver\n";
        let expected: [IpAddr; 2] = ["192.0.2.53".parse().unwrap(), "fe80::1".parse().unwrap()];
        assert_eq!(name_servers(text), expected);
    }

    #[test]
    fn the_range_of_ephemeral_ports_is_read_as_the_kernel_writes_it() {
        let expected = EphemeralPorts {
            first: 20_000,
            last: 29_999,
        };
        assert_eq!(port_range("20000\t29999\n"), Some(expected));
        assert_eq!(port_range("20000\n"), None);
    }

    #[test]
    fn this_machines_loopback_is_among_its_addresses() {
        assert!(
            addresses()
                .iter()
                .any(|a| a.interface == "lo" && a.network.addr().is_loopback())
        );
    }
}
