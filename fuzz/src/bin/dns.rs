//! DNS messages through the table of transactions and the policy for names.
//!
//! Each begins with three bytes: flags, the bytes that were cut off, and its length up to there.
#![no_main]

use std::net::Ipv4Addr;
use std::time::Duration;

use flowtap_pipeline::Endpoint;
use flowtap_receivers::dns::{NamePolicy, Names, Owner, Packet, Transaction, Transactions};
use libfuzzer_sys::fuzz_target;

const MAX_PENDING: usize = 16;
const MAX_NAMES: usize = 4;

/// Bits of the flags.
const SENT: u8 = 1;
const OTHER_PEER: u8 = 1 << 1;
const LATER: u8 = 1 << 2;

fn check(policies: &mut [NamePolicy], ended: &Transaction) {
    for policy in policies {
        let named = policy.name(&ended.name, ended.at);
        for text in named.label.iter().chain(&named.name) {
            assert!(text.len() <= 253, "{text:?}");
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            assert!(text.bytes().all(is_plain), "{text:?}");
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut transactions = Transactions::new(MAX_PENDING, Duration::from_secs(1), true);
    let mut policies =
        [Names::None, Names::RegisteredDomain, Names::Full].map(|names| NamePolicy::new(names, MAX_NAMES));
    let (mut rest, mut at, mut taken, mut ended) = (bytes, 0, 0, 0);
    while let Some(([flags, cut, length], after)) =
        rest.split_first_chunk().map(|(head, after)| (*head, after))
    {
        let (payload, after) = after.split_at(after.len().min(usize::from(length)));
        rest = after;
        at += if flags & LATER == 0 { 1 } else { 400_000_000 };
        let host = if flags & OTHER_PEER == 0 { 1 } else { 2 };
        let packet = Packet {
            at,
            is_sent: flags & SENT != 0,
            local: Endpoint::new(Ipv4Addr::LOCALHOST.into(), 40_000),
            remote: Endpoint::new(Ipv4Addr::new(192, 0, 2, host).into(), 53),
            owner: Owner::default(),
            length: u32::try_from(payload.len()).unwrap_or(u32::MAX) + u32::from(cut),
            payload,
        };
        taken += 1;
        if let Some(transaction) = transactions.take(&packet) {
            ended += 1;
            check(&mut policies, &transaction);
        }
        transactions.expire(at, |transaction| {
            ended += 1;
            check(&mut policies, &transaction);
        });
        assert!(transactions.waiting() <= MAX_PENDING, "the table has no bound");
    }
    transactions.abandon();
    // Every query is an outcome, a retry of one, or counted as rejected.
    let unfinished = transactions.rejected().unfinished;
    assert!(ended + unfinished <= taken, "{ended} + {unfinished} of {taken}");
});
