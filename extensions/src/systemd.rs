//! Notifications to systemd: ready, reloading, stopping, and alive (`sd_notify(3)`). Nothing where nobody listens.

use std::time::Duration;

use flowtap_pipeline::StatusBoard;
use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

/// Notifies systemd of a state; failures are ignored.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd was not notified");
    }
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
