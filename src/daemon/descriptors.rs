//! The limit of open descriptors: raised as far as the system lets us.
//!
//! systemd and container runtimes start programs with a soft limit of 1024, for the sake of `select(2)`, and a far higher hard
//! one. Listeners leave the last descriptors to the receivers (`flowtap_exporters::listener`).

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Below this a few scrapes and exporters can use up what scans need.
const ENOUGH: u64 = 256;

/// Raises the soft limit to the hard one; returns what holds.
pub(crate) fn raise() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return 0;
    };
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        hard
    } else {
        soft
    }
}

/// Logs the limit if it is low.
pub(crate) fn report(limit: u64) {
    if limit < ENOUGH {
        tracing::warn!(
            limit,
            "few descriptors: connections are closed when they run out; hint: LimitNOFILE= of the unit, or ulimits of the container"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let limit = raise();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (limit, limit));
    }
}
