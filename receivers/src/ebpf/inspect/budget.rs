//! The budget of the option `inspect`: a share of a CPU, and when the programs are attached so that they keep it.
//!
//! In: time that has passed, and CPU time that was spent. Out: whether the programs are to be attached. Credit grows by the share of
//! the time that passes, up to that of [`BURST`], and shrinks by what is spent. Without credit the programs are detached; they are
//! attached again once there is half of the most that there can be. Time that was overspent is paid back before that.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Time whose credit can be kept.
const BURST: Duration = Duration::from_secs(10);

/// CPU time of a run that the program does not see itself: the call.
const CALL_NS: u64 = 60;

/// A share of one CPU, in hundredths of a per cent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Share(u32);

/// Why a text is not a share.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a share of a CPU from 0.1% to 100%; hint: write it as `1%` or `0.5%`")]
pub struct InvalidShare(String);

impl Share {
    /// One per cent.
    pub(super) const DEFAULT: Self = Self(100);

    fn of(self, time: Duration) -> f64 {
        f64::from(self.0) / 10_000.0 * time.as_secs_f64()
    }
}

impl FromStr for Share {
    type Err = InvalidShare;

    fn from_str(text: &str) -> Result<Self, InvalidShare> {
        let parsed = text.trim().strip_suffix('%').and_then(|number| {
            let (whole, fraction) = number
                .trim_end()
                .split_once('.')
                .unwrap_or((number.trim_end(), ""));
            let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
            if whole.is_empty() || fraction.len() > 2 || !is_digits(whole) || !is_digits(fraction) {
                return None;
            }
            let hundredths = format!("{fraction:0<2}").parse::<u32>().ok()?;
            whole
                .parse::<u32>()
                .ok()?
                .checked_mul(100)?
                .checked_add(hundredths)
        });
        match parsed {
            Some(share @ 10..=10_000) => Ok(Self(share)),
            _ => Err(InvalidShare(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Share {
    type Error = InvalidShare;

    fn try_from(text: String) -> Result<Self, InvalidShare> {
        text.parse()
    }
}

impl From<Share> for String {
    fn from(share: Share) -> Self {
        share.to_string()
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 100, self.0 % 100) {
            (whole, 0) => write!(f, "{whole}%"),
            (whole, hundredths) if hundredths % 10 == 0 => write!(f, "{whole}.{}%", hundredths / 10),
            (whole, hundredths) => write!(f, "{whole}.{hundredths:02}%"),
        }
    }
}

impl JsonSchema for Share {
    fn schema_name() -> Cow<'static, str> {
        "Share".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": r"^\s*[0-9]{1,3}(\.[0-9]{1,2})?\s*%\s*$",
            "examples": ["1%", "0.5%"],
        })
    }
}

/// Credit, in seconds of CPU time.
#[derive(Debug)]
pub(super) struct Budget {
    share: Share,
    credit: f64,
    is_on: bool,
}

impl Budget {
    /// With all the credit that there can be.
    pub(super) fn new(share: Share) -> Self {
        Self {
            share,
            credit: share.of(BURST),
            is_on: true,
        }
    }

    pub(super) const fn is_on(&self) -> bool {
        self.is_on
    }

    /// After `elapsed`, in which `spent` was spent: whether the programs are to be attached.
    pub(super) fn tick(&mut self, elapsed: Duration, spent: Duration) -> bool {
        let most = self.share.of(BURST);
        self.credit = (self.credit + self.share.of(elapsed) - spent.as_secs_f64()).min(most);
        self.is_on = if self.is_on {
            self.credit > 0.0
        } else {
            self.credit >= most / 2.0
        };
        self.is_on
    }
}

/// CPU time of `runs` of the program, of which some were timed.
pub(super) fn cost(runs: u64, timed_runs: u64, timed_ns: u64) -> Duration {
    let own = u128::from(timed_ns) * u128::from(runs) / u128::from(timed_runs.max(1));
    let call = u128::from(runs) * u128::from(CALL_NS);
    Duration::from_nanos(u64::try_from(own.saturating_add(call)).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(100);

    #[test]
    fn shares_are_read_and_written_alike() {
        for (text, same) in [
            ("1%", "1%"),
            (" 0.5 %", "0.5%"),
            ("100%", "100%"),
            ("0.25%", "0.25%"),
            ("2.50%", "2.5%"),
        ] {
            assert_eq!(
                text.parse::<Share>().map(|share| share.to_string()).as_deref(),
                Ok(same)
            );
        }
        for text in [
            "",
            "1",
            "%",
            "0%",
            "0.05%",
            "101%",
            "-1%",
            "1.234%",
            "1e2%",
            "99999999999%",
            ".5%",
        ] {
            let refused = text.parse::<Share>().unwrap_err().to_string();
            assert!(refused.contains("0.1% to 100%"), "{text:?}: {refused}");
        }
    }

    /// Attached, and spent, over an hour of a load that would take so much of a CPU.
    fn hour(share: &str, load: f64) -> (f64, f64) {
        let mut budget = Budget::new(share.parse().unwrap());
        let (mut on, mut attached, mut spent) = (true, 0.0, 0.0);
        let ticks = 36_000;
        for _ in 0..ticks {
            let cost = if on { TICK.mul_f64(load) } else { Duration::ZERO };
            attached += f64::from(u8::from(on));
            spent += cost.as_secs_f64();
            on = budget.tick(TICK, cost);
        }
        (attached / f64::from(ticks), spent / 3600.0)
    }

    #[test]
    fn a_load_within_the_budget_is_seen_whole_and_one_beyond_it_takes_the_budget() {
        assert!(hour("1%", 0.009).0 > 0.999);
        for (share, load, budget) in [
            ("1%", 0.05, 0.01),
            ("1%", 0.8, 0.01),
            ("0.1%", 0.02, 0.001),
            ("10%", 1.5, 0.1),
        ] {
            let (attached, spent) = hour(share, load);
            assert!(spent <= budget * 1.005, "{share} of {load}: {spent}");
            assert!(spent >= budget * 0.98, "{share} of {load}: {spent}");
            assert!(
                (attached - budget / load).abs() < 0.02,
                "{share} of {load}: {attached}"
            );
        }
    }

    #[test]
    fn runs_that_were_not_timed_cost_as_much_as_those_that_were() {
        assert_eq!(
            cost(6400, 100, 10_000),
            Duration::from_nanos(6400 * (100 + CALL_NS))
        );
        assert_eq!(cost(0, 0, 0), Duration::ZERO);
        assert_eq!(cost(u64::MAX, 1, u64::MAX), Duration::from_nanos(u64::MAX));
    }
}
