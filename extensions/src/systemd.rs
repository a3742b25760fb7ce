//! Notifications to systemd: ready, reloading, stopping, and alive (`sd_notify(3)`). Nothing where nobody listens.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use flowtap_pipeline::StatusBoard;
use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

/// Notifies systemd of a state.
fn notify(states: &[NotifyState<'_>]) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else {
        return;
    };
    if let Err(error) = send(&socket, states) {
        tracing::warn!(
            socket = %socket.display(), %error,
            "systemd was not notified and may end flowtap; hint: check `NotifyAccess=` and the rights of the socket"
        );
    }
}

/// Sends states to a socket: a path, or an abstract name after `@`. The crate knows paths only.
fn send(socket: &OsStr, states: &[NotifyState<'_>]) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    let mut message = String::new();
    for state in states {
        let _ = writeln!(message, "{state}");
    }
    let sender = UnixDatagram::unbound()?;
    sender.connect_addr(&address)?;
    // A datagram is sent as a whole or not at all.
    sender.send(message.as_bytes()).map(drop)
}

/// The daemon measures.
pub fn ready() {
    notify(&[NotifyState::Ready, NotifyState::Status("measuring")]);
}

/// It reads its config again; [`ready`] ends that.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "no monotonic clock"),
    }
}

/// It stops.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Reports that the daemon is alive, twice as often as systemd asks for, until `stop`: as long as the runtime's tasks run and every
/// receiver's thread does. Without, systemd ends it.
pub fn keep_alive(board: StatusBoard, stop: CancellationToken) {
    let Some(limit) = watchdog_interval() else { return };
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(limit / 2);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {
                    if board.is_alive() {
                        notify(&[NotifyState::Watchdog]);
                    }
                }
            }
        }
    });
}

/// Interval at which systemd's watchdog expects a notification, if enabled.
fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_arrive_at_a_socket_with_a_path_and_at_one_with_an_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("flowtap-test-{}", std::process::id());
        let of_name = SocketAddr::from_abstract_name(&name).unwrap();
        let at = [
            (UnixDatagram::bind(&path).unwrap(), path.into_os_string()),
            (
                UnixDatagram::bind_addr(&of_name).unwrap(),
                format!("@{name}").into(),
            ),
        ];
        for (receiver, socket) in &at {
            send(socket, &[NotifyState::Ready, NotifyState::Status("measuring")]).unwrap();
            let mut buffer = [0; 64];
            let length = receiver.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"READY=1\nSTATUS=measuring\n");
        }
        drop(at);
        assert!(send(OsStr::new("@flowtap-nobody"), &[NotifyState::Ready]).is_err());
    }
}
