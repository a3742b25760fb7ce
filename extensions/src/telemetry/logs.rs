//! Rate-limits log events per call site and reports how many were suppressed.
//!
//! In: events that the level lets through. Out: whether each is written. The same is what comes from the same place in the code: a peer that is down must not
//! fill a disk, and what another place has to say must not be lost in it. As the OpenTelemetry Collector samples its logs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use flowtap_config::SamplingConfig;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::callsite::Identifier;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Number of events of a call site in this tick.
#[derive(Debug)]
struct Spoken {
    times: u64,
    of: &'static Metadata<'static>,
}

/// The filter. Clones are the same one.
#[derive(Clone, Debug)]
pub(super) struct Throttle {
    config: SamplingConfig,
    spoken: Arc<Mutex<HashMap<Identifier, Spoken>>>,
}

impl Throttle {
    pub(super) fn new(config: &SamplingConfig) -> Self {
        Self {
            config: config.clone(),
            spoken: Arc::default(),
        }
    }

    /// Whether one more of `of` is written.
    fn admits(&self, of: &'static Metadata<'static>) -> bool {
        if !self.config.enabled {
            return true;
        }
        let mut spoken = self.spoken.lock().unwrap_or_else(PoisonError::into_inner);
        let spoken = spoken.entry(of.callsite()).or_insert(Spoken { times: 0, of });
        spoken.times += 1;
        spoken.times <= self.config.initial
    }

    /// Begins a tick. Returns the call sites whose events were suppressed in the last one, with
    /// their number.
    fn begin(&self) -> Vec<(&'static Metadata<'static>, u64)> {
        let mut spoken = self.spoken.lock().unwrap_or_else(PoisonError::into_inner);
        spoken
            .drain()
            .map(|(_, spoken)| (spoken.of, spoken.times.saturating_sub(self.config.initial)))
            .filter(|(_, left_out)| *left_out > 0)
            .collect()
    }

    /// Logs what was left out, tick by tick, until `stop`. Needs a runtime around it.
    pub(super) fn report_suppressed(&self, stop: CancellationToken) {
        if !self.config.enabled {
            return;
        }
        let throttle = self.clone();
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(throttle.config.tick);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                let ends = stop.run_until_cancelled(ticks.tick()).await.is_none();
                for (of, left_out) in throttle.begin() {
                    let (line, file) = (of.line().unwrap_or_default(), of.file().unwrap_or_default());
                    tracing::warn!(
                        left_out,
                        from = of.target(),
                        file,
                        line,
                        "a message was suppressed by rate limiting; \
                hint: look for the first messages of the same place, or raise service.telemetry.logs.sampling.initial"
                    );
                }
                if ends {
                    break;
                }
            }
        });
    }
}

/// For all layers beneath and above it.
impl<S: Subscriber> Layer<S> for Throttle {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        self.admits(event.metadata())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::log_format::PlainFields;
    use std::io;
    use tracing_subscriber::Registry;
    use tracing_subscriber::fmt;
    use tracing_subscriber::layer::SubscriberExt;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(config: &SamplingConfig, work: impl FnOnce(&Throttle)) -> String {
        let (lines, throttle) = (Lines::default(), Throttle::new(config));
        let writer = lines.clone();
        let layer = fmt::layer()
            .with_ansi(false)
            .fmt_fields(PlainFields)
            .with_writer(move || writer.clone());
        let registry = Registry::default().with(throttle.clone()).with(layer);
        tracing::subscriber::with_default(registry, || work(&throttle));
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_place_is_heard_so_often_per_tick_and_others_beside_it() {
        let config = SamplingConfig {
            initial: 3,
            ..SamplingConfig::default()
        };
        let text = logged(&config, |throttle| {
            for number in 0..100 {
                tracing::warn!(number, "the peer is down");
            }
            tracing::info!("something else");
            let left_out: Vec<_> = throttle.begin().into_iter().map(|(_, times)| times).collect();
            assert_eq!(left_out, [97]);
            assert!(throttle.begin().is_empty(), "reported once");
        });
        assert_eq!(text.matches("the peer is down").count(), 3, "{text}");
        assert_eq!(text.matches("something else").count(), 1, "{text}");
    }

    #[test]
    fn a_new_tick_hears_it_again_and_without_sampling_everything_is_written() {
        let config = SamplingConfig {
            initial: 1,
            ..SamplingConfig::default()
        };
        let speak = |times| {
            for _ in 0..times {
                tracing::warn!("again");
            }
        };
        let text = logged(&config, |throttle| {
            speak(5);
            throttle.begin();
            speak(5);
        });
        assert_eq!(text.matches("again").count(), 2, "{text}");
        let off = SamplingConfig {
            enabled: false,
            ..config
        };
        assert_eq!(logged(&off, |_| speak(5)).matches("again").count(), 5);
    }
}
