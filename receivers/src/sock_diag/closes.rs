//! Closed sockets of this network namespace, with their last counters, from the multicast groups
//! `SKNLGRP_INET_TCP_DESTROY` and `SKNLGRP_INET6_TCP_DESTROY` (`include/uapi/linux/sock_diag.h`).
//!
//! The kernel sends one message when it frees a socket, to any user. It keeps as many as the receive buffer holds, so a
//! thread takes them out at once: the receiver's own thread is busy for longer while it dumps or closes a window.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_sys::Socket as NetlinkSocket;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use tokio::sync::Notify;

use super::dump::{Dumper, Socket, socket};

/// `SKNLGRP_INET_TCP_DESTROY`, `SKNLGRP_INET6_TCP_DESTROY`.
const GROUPS: [u32; 2] = [1, 3];

/// Some eight thousand messages, each of which takes a kilobyte of the kernel's memory. Without `CAP_NET_ADMIN` the kernel
/// gives no more than `net.core.rmem_max`.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;

/// Longer than any message of these groups.
const MESSAGE_BYTES: usize = 4096;

/// Time for which the thread may run after the end, for closes that the kernel has reported until
/// then.
const FINISH: Duration = Duration::from_secs(1);

/// Maximum number of closes that wait for the receiver.
const CAPACITY: usize = 1 << 16;

/// The receiver is woken when this many wait, and need not wait for its next dump.
const WAKE_AT: usize = 1 << 12;

/// A socket that the kernel has freed.
#[derive(Clone, Debug)]
pub(super) struct Close {
    pub(super) socket: Socket,
    /// Whether its connection is in `TIME_WAIT`: this end closed first.
    pub(super) time_wait: bool,
    /// When its last acknowledgment came in or it sent payload last, to a tick of the kernel's clock.
    pub(super) last_active: Instant,
}

/// Closes since the last look.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) closes: VecDeque<Close>,
    /// Messages that the kernel dropped at the full receive buffer.
    pub(super) overrun: u64,
    /// Closes that this process dropped at its own bound.
    pub(super) rejected: u64,
    /// Why no more will come.
    pub(super) broken: Option<io::Error>,
    /// The kernel's buffer was empty after [`Closes::flush`] had asked for that.
    flushed: bool,
    /// Nobody takes closes any more.
    stopped: bool,
}

/// The subscription.
#[derive(Debug)]
pub(super) struct Closes {
    shared: Arc<Shared>,
    /// A byte asks the thread to empty the kernel's buffer; closed, it ends the thread.
    stop: PipeWriter,
}

#[derive(Debug, Default)]
struct Shared {
    taken: Mutex<Taken>,
    many: Notify,
    flushed: Condvar,
}

impl Closes {
    /// Joins the groups.
    ///
    /// # Errors
    /// The kernel's, which refuses a group that it does not know, or the system's, if it has no thread.
    pub(super) fn subscribe() -> io::Result<Self> {
        let mut socket = NetlinkSocket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        if setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER_BYTES).is_err() {
            socket.set_rx_buf_sz(i32::try_from(RECEIVE_BUFFER_BYTES).unwrap_or(i32::MAX))?;
        }
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        let lookups = Dumper::open()?;
        let (stopped, stop) = io::pipe()?;
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        thread::Builder::new()
            .name("sock-closes".to_owned())
            .spawn(move || {
                if let Err(error) = follow(&socket, &stopped, lookups, &for_thread) {
                    for_thread.lock(|taken| taken.broken = Some(error));
                    for_thread.flushed.notify_all();
                }
            })?;
        Ok(Self { shared, stop })
    }

    /// Waits until everything that the kernel has reported is taken, or for a second.
    pub(super) fn flush(&self) {
        let asked = (&self.stop).write_all(&[0]);
        if let Err(error) = asked {
            tracing::error!(%error, "the thread that follows closes has ended; \
                hint: restart flowtap");
            return;
        }
        let taken = self.shared.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let flushed = self
            .shared
            .flushed
            .wait_timeout_while(taken, FINISH, |taken| !taken.flushed && taken.broken.is_none());
        flushed.unwrap_or_else(PoisonError::into_inner).0.flushed = false;
    }

    /// Takes the closes that wait.
    pub(super) fn take(&self) -> Taken {
        self.shared.lock(|taken| Taken {
            flushed: taken.flushed,
            stopped: taken.stopped,
            ..std::mem::take(taken)
        })
    }

    /// Waits until so many wait that they should be taken.
    pub(super) async fn many(&self) {
        self.shared.many.notified().await;
    }
}

impl Drop for Closes {
    fn drop(&mut self) {
        // The thread looks at its pipe only when the kernel has nothing for it.
        self.shared.lock(|taken| taken.stopped = true);
    }
}

impl Shared {
    fn lock<T>(&self, f: impl FnOnce(&mut Taken) -> T) -> T {
        f(&mut self.taken.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns whether somebody takes closes.
    fn put(&self, close: Close) -> bool {
        let (waiting, goes_on) = self.lock(|taken| {
            if taken.closes.len() < CAPACITY {
                taken.closes.push_back(close);
            } else {
                taken.rejected += 1;
            }
            (taken.closes.len(), !taken.stopped)
        });
        if waiting == WAKE_AT {
            self.many.notify_one();
        }
        goes_on
    }
}

/// Takes messages out of the kernel's buffer until the other end of `stopped` is closed.
fn follow(
    socket: &NetlinkSocket,
    stopped: &PipeReader,
    mut lookups: Dumper,
    shared: &Shared,
) -> io::Result<()> {
    let inode = fs::metadata(format!("/proc/self/fd/{}", socket.as_raw_fd())).map_or(0, |fd| fd.ino());
    let (mut buffer, mut dropped, mut flushing) = (vec![0; MESSAGE_BYTES], 0, false);
    loop {
        match socket.recv(&mut &mut buffer[..], 0) {
            Ok(size) => {
                if let Some(close) = close(&buffer[..size], &mut lookups)
                    && !shared.put(close)
                {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if std::mem::take(&mut flushing) {
                    shared.lock(|taken| taken.flushed = true);
                    shared.flushed.notify_all();
                }
                let mut ready =
                    [socket.as_fd(), stopped.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
                match poll(&mut ready, PollTimeout::NONE) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
                if ready[1].any() == Some(true) {
                    if (&*stopped).read(&mut [0])? == 0 {
                        return Ok(());
                    }
                    // Messages that came meanwhile are also taken.
                    flushing = true;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                // One error stands for any number of messages.
                let now = dropped_messages(inode).unwrap_or(0).max(dropped + 1);
                shared.lock(|taken| taken.overrun += now - dropped);
                dropped = now;
            }
            Err(error) => return Err(error),
        }
    }
}

/// The close that a message reports; `None` if the socket never was a connection.
fn close(message: &[u8], lookups: &mut Dumper) -> Option<Close> {
    let message = NetlinkMessage::<SockDiagMessage>::deserialize(message).ok()?;
    let NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) = message.payload else {
        return None;
    };
    let socket = socket(&response)?;
    let since_active = Duration::from_millis(u64::from(socket.counters.last_active_ms()));
    let last_active = Instant::now().checked_sub(since_active)?;
    let time_wait = is_worth_a_look(&socket) && lookups.in_time_wait(&response).unwrap_or(false);
    Some(Close {
        socket,
        time_wait,
        last_active,
    })
}

/// Whether it matters that the connection is in `TIME_WAIT`: where something is unread, it shows that by itself.
fn is_worth_a_look(socket: &Socket) -> bool {
    !socket.is_cleared() && socket.counters.was_established() && socket.counters.unread == 0
}

/// Number of messages that the kernel has dropped at the full buffer of the netlink socket with
/// this inode number.
fn dropped_messages(inode: u64) -> Option<u64> {
    let text = fs::read_to_string("/proc/self/net/netlink").ok()?;
    // sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode
    text.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(8);
        let (drops, of) = (fields.next()?, fields.next()?);
        (of.parse() == Ok(inode)).then(|| drops.parse().ok())?
    })
}
