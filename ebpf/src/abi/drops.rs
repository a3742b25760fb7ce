//! Drops, as their maps have them.

use std::mem::size_of;

use bytemuck::{Pod, Zeroable};

/// `struct drop_reason`: why a packet was dropped, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct DropReason {
    /// `enum skb_drop_reason` of the running kernel; a subsystem's number is in the upper half.
    pub reason: u32,
    /// Inode number of the network namespace; 0 if unknown.
    pub netns: u32,
}

/// `struct drop_flow`: the same with the packet's two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct DropFlow {
    /// Why and where.
    pub reason: DropReason,
    /// Network byte order.
    pub local_addr: [u8; 16],
    /// Network byte order.
    pub remote_addr: [u8; 16],
    /// Host byte order; 0 where the protocol has none.
    pub local_port: u16,
    /// Host byte order.
    pub remote_port: u16,
    /// [`AF_INET`](super::AF_INET) or [`AF_INET6`](super::AF_INET6).
    pub family: u16,
    /// `IPPROTO_*`.
    pub protocol: u8,
    /// 1 if the packet came in, or was forwarded: the remote end sent it. 0 if this side sent it.
    pub received: u8,
}

/// `struct drop_count`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct DropCount {
    /// Packets, as the kernel has them: one of several segments counts once.
    pub packets: u64,
    /// Their bytes, from the header of the layer that dropped them.
    pub bytes: u64,
}

/// `struct drop_slot`: the counts of one reason on one CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct DropSlot {
    /// Without packets the place is free.
    pub(crate) count: DropCount,
    pub(crate) reason: DropReason,
}

/// `struct drop_slots`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct DropSlots {
    pub(crate) slots: [DropSlot; 64],
}

/// `struct drops_state`: what user space changes while the programs are at work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct DropsState {
    /// The set of maps in use: 0 or 1.
    pub(crate) active: u32,
    /// Whether packets are counted by flow.
    pub(crate) with_flows: u32,
    /// Whether a flow has found no place in the set.
    pub(crate) refused: u32,
}

// SAFETY: plain old data of fixed layout (`Pod`), read from and written to maps byte by byte.
unsafe impl aya::Pod for DropReason {}
// SAFETY: as above.
unsafe impl aya::Pod for DropFlow {}
// SAFETY: as above.
unsafe impl aya::Pod for DropCount {}
// SAFETY: as above.
unsafe impl aya::Pod for DropSlots {}
// SAFETY: as above.
unsafe impl aya::Pod for DropsState {}

const _: () = {
    assert!(size_of::<DropReason>() == 8);
    assert!(size_of::<DropFlow>() == 48);
    assert!(size_of::<DropCount>() == 16);
    assert!(size_of::<DropSlot>() == 24);
    assert!(size_of::<DropSlots>() == 64 * 24);
    assert!(size_of::<DropsState>() == 12);
};
