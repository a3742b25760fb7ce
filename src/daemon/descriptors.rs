//! The limit of open descriptors: raised as far as the system lets us.
//!
//! systemd and container runtimes start programs with a soft limit of 1024, for the sake of `select(2)`, and a far higher hard
//! one. Listeners leave the last descriptors to the receivers (`flowtap_exporters::listener`).

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

use crate::exit::{Code, ExitError};

/// Below this a few scrapes and exporters can use up what scans need.
const ENOUGH: u64 = 256;

/// Below this nothing starts: by default programs, maps and sockets are about a hundred.
const NEEDED: u64 = 128;

/// Raises the soft limit to the hard one; returns what holds, or no limit if it can't be read.
pub(crate) fn raise() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return RLIM_INFINITY;
    };
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        hard
    } else {
        soft
    }
}

/// Refuses a limit with which a part of flowtap would fail wherever the descriptors happen to run out.
///
/// # Errors
/// The limit is that low.
pub(crate) fn require(limit: u64) -> Result<(), ExitError> {
    if limit >= NEEDED {
        return Ok(());
    }
    Err(ExitError::new(
        Code::System,
        format!(
            "the limit of open files is {limit}: at least {NEEDED} are needed\n  \
             hint: raise LimitNOFILE= of the unit, ulimits of the container, or `ulimit -Hn`"
        ),
    ))
}

/// Logs the limit if it is low.
pub(crate) fn report(limit: u64) {
    if limit < ENOUGH {
        tracing::warn!(
            limit,
            "few descriptors: connections are closed when they run out; hint: raise LimitNOFILE= of the unit, or ulimits of the container"
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
