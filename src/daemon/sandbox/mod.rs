//! The sandbox drops, before flowtap starts, privileges that it does not need and access that an
//! attacker could use.
//!
//! In order, all before the first thread, so that every thread has it:
//!
//! 1. The limit of locked memory is raised, which kernels before 5.11 ask for and which takes a capability that goes next.
//! 2. Capabilities: `CAP_BPF` and `CAP_PERFMON` stay; `CAP_NET_BIND_SERVICE` if a listener's port
//!    is below 1024; `CAP_NET_ADMIN` if the config asks for programs of the root cgroup
//!    (`udp.hooks: cgroup`). The namespace of process 1 in a proc file system other than `/proc`, for which
//!    `CAP_SYS_PTRACE` is needed, is looked up before. Everything else is also removed from the
//!    bounding set.
//! 3. `no_new_privs`: no program that is started could have more.
//! 4. The libraries of the sources of names (`/etc/nsswitch.conf`) are loaded, as the last mappings of code.
//! 5. Landlock (Linux 5.13): files can be read where flowtap reads any (the cgroup v2 file system among them, wherever it is
//!    mounted), written where set by the config, and not executed; from Linux 6.7 on, if the config asks for it, TCP is limited to
//!    its ports; from Linux 6.12 on, no other process gets a signal and no abstract Unix socket of others a connection.
//! 6. seccomp: system calls that flowtap does not make fail with `EPERM`: it is a list of those that are allowed, some only with
//!    certain arguments ([`calls`]).
//!
//! Mechanisms that the kernel lacks are skipped and logged, and so is one that `service.sandbox` turns off. Privileges that the process
//! does not have can't be dropped, which is not an error either.
//!
//! # Layout
//!
//! | module | contents |
//! |---|---|
//! | `needs` | what a config needs: capabilities, paths |
//! | `ports` | TCP ports that it needs |
//! | `paths` | paths that stay open |
//! | `plugins` | programs that a config asks for and that can't start |
//! | `limits` | the check of a reload against what is closed |
//! | `capabilities`, `access`, `calls` | the mechanisms: capabilities, Landlock, seccomp |

mod access;
mod calls;
mod capabilities;
mod limits;
mod needs;
mod paths;
pub(crate) mod plugins;
mod ports;

use std::fmt;
use std::net::ToSocketAddrs;

use flowtap_config::Config;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

pub(super) use self::limits::Limits;
use self::needs::Needs;
use self::paths::Paths;
use self::ports::Ports;
use crate::exit::{Code, ExitError};

/// A mechanism that the config turns off.
const OFF: &str = "off (service.sandbox)";

/// Result, for the log.
#[derive(Debug)]
pub(crate) struct Sandbox {
    /// Capabilities that stay.
    capabilities: Vec<String>,
    landlock: String,
    seccomp: String,
    /// Limits of later configs.
    pub(super) limits: Limits,
}

impl fmt::Display for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let capabilities = if self.capabilities.is_empty() {
            "none".to_owned()
        } else {
            self.capabilities.join(" ")
        };
        write!(
            f,
            "capabilities {capabilities}, landlock {}, TCP ports {}, seccomp {}",
            self.landlock,
            if self.limits.ports.is_some() {
                "of the config"
            } else {
                "not limited"
            },
            self.seccomp
        )
    }
}

/// Enters it. Call it before the first thread.
///
/// # Errors
/// A mechanism that the system refused although it has it; `--no-sandbox` skips all of them.
pub(crate) fn enter(config: &Config) -> Result<Sandbox, ExitError> {
    let needs = Needs::of(config);
    let failed = |what: &str, error: &dyn fmt::Display| {
        ExitError::new(
            Code::System,
            format!("the sandbox can't be entered: {what}: {error}\n  hint: --no-sandbox runs without it"),
        )
    };
    for root in &needs.proc_roots {
        // Landlock hides the namespaces of other processes whatever the capabilities.
        flowtap_receivers::listen_scan::remember_namespace(root);
    }
    // Without the capability for it the limit stays as it is, and the loader says so if it is too low.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    for path in &needs.write {
        // A missing path can't be passed to the kernel; the exporter has the better message if it
        // can't be created.
        let _ = std::fs::create_dir_all(path);
    }
    let (kept, given_up) =
        capabilities::keep(&needs.capabilities).map_err(|error| failed("capabilities", &error))?;
    nix::sys::prctl::set_no_new_privs().map_err(|error| failed("no_new_privs", &error))?;
    load_name_services();
    let settings = &config.service.sandbox;
    // Another sandbox around this one, such as systemd's, may refuse these two: it does their work.
    let refused = |error: &dyn fmt::Display| format!("refused ({error})");
    // Kernels before 6.7 limit no ports.
    let limits_ports = settings.tcp_ports && access::knows_ports();
    let mut ports = limits_ports.then(|| Ports::of(config));
    let mut paths = None;
    let landlock = if !settings.landlock {
        Err(OFF.to_owned())
    } else if !needs.landlock {
        Err("off, to reach files beneath proc_root".to_owned())
    } else {
        // Before the paths are closed, which then have no links to follow.
        paths = Some(Paths::of(&needs, config));
        access::restrict(&needs, ports.as_ref()).map_err(|error| refused(&error))
    };
    if matches!(landlock, Err(_) | Ok(access::NOT_ENFORCED)) {
        (ports, paths) = (None, None);
    }
    let landlock = landlock.map_or_else(|why| why, str::to_owned);
    let seccomp = if settings.seccomp {
        calls::restrict().map_or_else(|error| refused(&error), str::to_owned)
    } else {
        OFF.to_owned()
    };
    Ok(Sandbox {
        capabilities: kept,
        landlock,
        seccomp,
        limits: Limits {
            ports,
            paths,
            given_up,
        },
    })
}

/// Lets the C library load what `/etc/nsswitch.conf` names, which it does at the first lookup and can't do in the sandbox.
fn load_name_services() {
    // A label has 63 bytes at most (RFC 1035, section 2.3.4), so each source is asked in turn, no name server is, and none has it.
    let nobody = "x".repeat(64);
    let _ = (nobody.as_str(), 0).to_socket_addrs();
}

#[cfg(test)]
mod tests;
