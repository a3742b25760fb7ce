//! The part of a stream that the other end's kernel has acknowledged, by `TCP_INFO`.

use std::os::fd::OwnedFd;
use std::time::Duration;

// The macro below names it.
use nix::libc;
use nix::sys::socket::sockopt::{GetStruct, Linger};
use nix::sys::socket::{GetSockOpt, setsockopt};

/// Interval at which a wait looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Time in which a handshake is acknowledged: delayed acknowledgements take 40 ms.
const HANDSHAKE_WAIT: Duration = Duration::from_millis(200);

/// More than what is left of a handshake by then.
const HANDSHAKE: u64 = 4096;

/// Bytes that TLS adds to a record at most, and those that a record has at most.
const TLS_OVERHEAD: u64 = 29;
const TLS_RECORD: u64 = 16_384;

/// Up to and with `tcpi_notsent_bytes` of `struct tcp_info` (`include/uapi/linux/tcp.h`), which only ever grows at its end.
const INFO_BYTES: usize = 148;

/// States in which everything that was acknowledged is known: `TCP_ESTABLISHED`, `TCP_CLOSE_WAIT`.
const OPEN: [u8; 2] = [1, 8];

#[derive(Clone, Copy)]
struct TcpInfo;

nix::getsockopt_impl!(
    TcpInfo,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    [u8; INFO_BYTES],
    GetStruct<[u8; INFO_BYTES]>
);

/// Acknowledgements of one connection.
#[derive(Debug)]
pub(super) struct Acks {
    /// A duplicate: what was acknowledged can be asked for after the connection has failed.
    socket: OwnedFd,
    is_tls: bool,
    /// Acknowledged bytes before the first message.
    base: u64,
    /// Bytes of the messages so far, as they are on the wire; at most, with TLS.
    end: u64,
}

#[derive(Clone, Copy, Debug)]
struct Info {
    is_open: bool,
    /// Whether nothing is under way.
    is_idle: bool,
    acknowledged: u64,
}

impl Acks {
    /// Of a connection that no message was written to.
    pub(super) async fn new(socket: OwnedFd, is_tls: bool) -> Self {
        let mut acks = Self {
            socket,
            is_tls,
            // The SYN counts as a byte.
            base: 1,
            end: 0,
        };
        if is_tls {
            // The handshake counts also: as long as some of it is under way, messages are taken for later than they are.
            let is_known = acks.settle(HANDSHAKE_WAIT).await;
            if !is_known && let Some(info) = acks.info() {
                acks.base = info.acknowledged + HANDSHAKE;
            }
        }
        acks
    }

    /// A message of `bytes` has been written. Returns the mark at which it is acknowledged.
    pub(super) const fn wrote(&mut self, bytes: usize) -> u64 {
        let bytes = bytes as u64;
        let overhead = if self.is_tls {
            TLS_OVERHEAD * bytes.div_ceil(TLS_RECORD)
        } else {
            0
        };
        self.end += bytes + overhead;
        self.end
    }

    /// The mark up to which messages are acknowledged.
    pub(super) fn mark(&mut self) -> u64 {
        let Some(info) = self.info() else {
            return 0;
        };
        if info.is_open && info.is_idle {
            self.base = info.acknowledged.saturating_sub(self.end);
            return self.end;
        }
        info.acknowledged.saturating_sub(self.base).min(self.end)
    }

    /// Waits until all is acknowledged, and returns whether it is.
    pub(super) async fn settle(&mut self, longest: Duration) -> bool {
        let settled = async {
            loop {
                match self.info() {
                    Some(info) if info.is_open && info.is_idle => {
                        self.mark();
                        return true;
                    }
                    Some(info) if info.is_open => tokio::time::sleep(LOOK_INTERVAL).await,
                    _ => return false,
                }
            }
        };
        tokio::time::timeout(longest, settled).await.unwrap_or(false)
    }

    /// Resets the connection: what is not acknowledged will not be delivered by it any more.
    pub(super) fn reset(self) {
        let now = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        // One that is closed already has nothing under way.
        let _ = setsockopt(&self.socket, Linger, &now);
    }

    fn info(&self) -> Option<Info> {
        let info = TcpInfo.get(&self.socket).ok()?;
        let u32_at = |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
        let acknowledged = info[120..128].try_into().map(u64::from_ne_bytes).ok()?;
        Some(Info {
            is_open: OPEN.contains(&info[0]),
            // `tcpi_unacked`, `tcpi_notsent_bytes`.
            is_idle: u32_at(24) == 0 && u32_at(144) == 0,
            acknowledged,
        })
    }
}
