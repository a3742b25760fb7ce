//! The verdict: is it the network, the receiver or the application?
//!
//! In: [`Evidence`], what was measured of a peer, a process or a service over a period. Out: a [`Verdict`]: a cause, a sentence
//! and the numbers that it rests on. `flowtap diagnose`, `flowtap top`, the status page and `/flows` all call [`judge()`].
//!
//! The rules, in order; the first that holds decides:
//!
//! 1. Connections could not be opened, and hardly any was: refused, no answer, unreachable, or another reason; not those that the
//!    next rule explains.
//! 2. A listening socket refused connections because its queue was full.
//! 3. No connection was open.
//! 4. The largest share of the time, not counting the time in which the application had nothing to send, if that share is at
//!    least [`NOTICEABLE`] of all the time: the network, the peer's answer, the receiver's window, this side's send buffer.
//!    For a black hole, or for loss, whichever share is the largest, if for half of that time nothing got through, or only after
//!    retransmission time-outs. The network's share is put down to loss if segments had to be retransmitted, else to the path's capacity.
//! 5. The process on this side does not read what has arrived.
//! 6. This side receives, several bytes for each that it sends: the peer's side measures what limits that.
//! 7. The application: it had nothing to send.
//!
//! Shares are of the sender: what this machine sent, or would have sent. `docs/diagnose.md` explains each cause.

mod cause;
mod details;
mod evidence;
mod judge;
mod report;
mod tally;

pub use cause::Cause;
pub use details::{Details, Newest};
pub(crate) use evidence::process_name;
pub use evidence::{Answers, Connects, Evidence, Listening, ListeningSocket, Shares};
pub use judge::{NOTICEABLE, Verdict, judge};
pub use report::{PeerVerdict, verdicts};
pub(crate) use tally::is_failed_connect;
pub use tally::{MAX_PEERS, OfPeer, Peer, Sums, Tally, server_port};
