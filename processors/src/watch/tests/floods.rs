//! Floods and decoys hide nothing else, or are said to be what they are.

use flowtap_pipeline::ComponentConfig as _;

use super::*;

#[test]
fn forgetting_before_an_interval_has_ended_is_refused() {
    let faults = |forget, interval| {
        let config = Config {
            learn: Duration::ZERO,
            forget: Duration::from_secs(forget),
            interval: Duration::from_secs(interval),
            ..Config::default()
        };
        let faults = config.validate().into_iter();
        faults
            .map(|fault| (fault.path.join("."), fault.message))
            .collect::<Vec<_>>()
    };
    let message = "must be at least `interval`, or all contacts would be forgotten at the end of each";
    let fault = [("forget".to_owned(), message.to_owned())];
    assert_eq!(faults(0, 60), fault);
    assert_eq!(faults(59, 60), fault);
    assert!(faults(60, 60).is_empty());
}
