//! Landlock: files and TCP ports that are open, and processes that can be reached.

use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use super::needs::Needs;
use super::ports::Ports;

/// Files and folders that are read whatever the config says: the kernel's, name resolution, the system's authorities, clocks.
pub(super) const READ: [&str; 25] = [
    "/proc",
    "/sys",
    "/dev/null",
    // A static binary waits here for the kernel's random numbers, where it does not find getrandom().
    "/dev/random",
    "/dev/urandom",
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/localtime",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/etc/ld.so.cache",
    "/etc/flowtap",
    "/run/systemd/resolve",
    "/run/secrets",
    "/var/run/secrets",
    "/usr/share",
    // Where distributions keep what their files in /etc are links to: SUSE, NixOS.
    "/var/lib/ca-certificates",
    "/nix/store",
    // Debian's own authorities are links to here.
    "/usr/local/share/ca-certificates",
    "/usr/lib",
    "/lib",
];

/// The status of a kernel without Landlock: nothing is closed.
pub(super) const NOT_ENFORCED: &str = "not on this kernel";

/// Closes everything but what `needs` and `ports` have; without `ports` TCP is not limited.
pub(super) fn restrict(needs: &Needs, ports: Option<&Ports>) -> Result<&'static str, RulesetError> {
    // The newest known ABI is requested; an older kernel enforces its subset.
    let abi = ABI::V6;
    let all = AccessFs::from_all(abi);
    let mut scopes = BitFlags::from(Scope::Signal);
    // systemd may receive notifications through one.
    if !std::env::var_os("NOTIFY_SOCKET").is_some_and(|path| path.as_encoded_bytes().starts_with(b"@")) {
        scopes |= Scope::AbstractUnixSocket;
    }
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .scope(scopes)?;
    if ports.is_some() {
        rules = rules.handle_access(AccessNet::from_all(abi))?;
    }
    let mut rules = rules.create()?;
    let listens = ports.iter().flat_map(|ports| ports.listens.keys());
    let connects = ports.iter().flat_map(|ports| ports.connects.keys());
    for (port, access) in listens
        .map(|port| (port, AccessNet::BindTcp))
        .chain(connects.map(|port| (port, AccessNet::ConnectTcp)))
    {
        rules = rules.add_rule(NetPort::new(*port, access))?;
    }
    let read_paths = READ.iter().map(PathBuf::from).chain(needs.read.iter().cloned());
    let beneath = read_paths.map(|path| (path, read)).chain(
        needs
            .write
            .iter()
            .map(|path| (path.clone(), all & !AccessFs::Execute)),
    );
    for (path, access) in beneath {
        // Missing paths need no rule.
        let Ok(fd) = PathFd::new(&path) else { continue };
        let access = if path.is_dir() {
            access
        } else {
            access & AccessFs::from_file(abi)
        };
        rules = rules.add_rule(PathBeneath::new(fd, access))?;
    }
    Ok(match rules.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => "on",
        RulesetStatus::PartiallyEnforced => "partial, as far as this kernel supports it",
        RulesetStatus::NotEnforced => NOT_ENFORCED,
    })
}

/// Whether this kernel can limit TCP to ports (Linux 6.7).
pub(super) fn knows_ports() -> bool {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessNet::ConnectTcp)
        .is_ok()
}
