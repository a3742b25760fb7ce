//! Warnings that repeat: once a while for each cause.

use std::time::Duration;

use tokio::time::Instant;

/// The same failure is a warning once in this time; in between it is logged at `debug`.
pub(super) const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// Causes that can be a warning within that time: the text of a peer may be another one each time, as one with the number of a request.
const MAX_CAUSES: usize = 4;

/// When there were warnings of late, and of which causes.
#[derive(Debug, Default)]
pub(crate) struct Warned(Vec<(Instant, String)>);

/// Whether `error` has not been a warning for a while; then it is one now.
pub(crate) fn is_news(Warned(causes): &mut Warned, error: &str) -> bool {
    causes.retain(|(at, _)| at.elapsed() < WARN_INTERVAL);
    let is_news = causes.len() < MAX_CAUSES && causes.iter().all(|(_, text)| text != error);
    if is_news {
        causes.push((Instant::now(), error.to_owned()));
    }
    is_news
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_same_failure_is_news_once_a_minute_and_another_at_once() {
        let mut warned = Warned::default();
        assert!(is_news(&mut warned, "refused"));
        assert!(!is_news(&mut warned, "refused"));
        assert!(is_news(&mut warned, "reset"));
        assert!(!is_news(&mut warned, "reset"));
        tokio::time::advance(WARN_INTERVAL).await;
        assert!(is_news(&mut warned, "reset"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_text_that_is_another_one_each_time_is_four_warnings_a_minute() {
        let mut warned = Warned::default();
        let mut news = |from| {
            (from..from + 9)
                .filter(|number| is_news(&mut warned, &format!("request {number}")))
                .count()
        };
        assert_eq!(news(0), MAX_CAUSES);
        tokio::time::advance(WARN_INTERVAL).await;
        assert_eq!(news(9), MAX_CAUSES);
    }
}
