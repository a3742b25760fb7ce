//! Tests of the list, with services that note what happens to them.

use std::cell::RefCell;
use std::rc::Rc;

use flowtap_pipeline::futures::future::ready;

use super::*;
use crate::exit::Code;

type Notes = Rc<RefCell<Vec<String>>>;

struct Noting {
    name: &'static str,
    notes: Notes,
    /// The call that fails.
    fails: &'static str,
}

impl Noting {
    fn note(&self, call: &str) -> Result<(), ExitError> {
        self.notes.borrow_mut().push(format!("{call} {}", self.name));
        if call == self.fails {
            return Err(ExitError::new(Code::Software, self.name));
        }
        Ok(())
    }
}

impl Service for Noting {
    fn start<'a>(&'a mut self, _: &'a Config) -> LocalBoxFuture<'a, Result<(), ExitError>> {
        Box::pin(ready(self.note("start")))
    }

    fn reload<'a>(&'a mut self, config: &'a Config) -> LocalBoxFuture<'a, Result<(), ExitError>> {
        let call = if config.service.telemetry.logs.level == "debug" {
            "reload"
        } else {
            "restore"
        };
        Box::pin(ready(self.note(call)))
    }

    fn stop(&mut self, _: Instant) -> LocalBoxFuture<'_, ()> {
        let _ = self.note("stop");
        Box::pin(ready(()))
    }
}

fn config(level: &str) -> Config {
    let layers = flowtap_config::Layers {
        set: vec![format!("service.telemetry.logs.level={level}")],
        ..flowtap_config::Layers::default()
    };
    flowtap_config::load(&layers, &crate::components::registry()).unwrap()
}

fn services(fails: [&'static str; 3]) -> (Services, Notes) {
    let notes = Notes::default();
    let service = |(name, fails)| -> Box<dyn Service> {
        Box::new(Noting {
            name,
            notes: Rc::clone(&notes),
            fails,
        })
    };
    let list = ["a", "b", "c"].into_iter().zip(fails).map(service).collect();
    (Services::new(list), notes)
}

#[tokio::test]
async fn services_stop_in_the_opposite_order_of_their_start() {
    let (mut services, notes) = services([""; 3]);
    services.start(&config("info")).await.unwrap();
    services.stop(Instant::now()).await;
    assert_eq!(
        *notes.borrow(),
        ["start a", "start b", "start c", "stop c", "stop b", "stop a"]
    );
}

#[tokio::test]
async fn after_one_that_does_not_start_those_before_it_are_stopped_and_no_other() {
    let (mut services, notes) = services(["", "start", ""]);
    assert!(services.start(&config("info")).await.is_err());
    services.stop(Instant::now()).await;
    assert_eq!(*notes.borrow(), ["start a", "start b", "stop a"]);
}

#[tokio::test]
async fn a_config_that_one_refuses_is_taken_back_from_those_that_took_it() {
    let (mut services, notes) = services(["", "reload", ""]);
    let (before, after) = (config("info"), config("debug"));
    services.start(&before).await.unwrap();
    notes.borrow_mut().clear();
    let refused = services.reload(&after, &before).await.unwrap_err();
    assert!(
        matches!(&refused, ReloadError::Kept(why) if why.to_string() == "b"),
        "{refused:?}"
    );
    assert_eq!(
        *notes.borrow(),
        ["reload a", "reload b", "restore a", "restore b"]
    );
}
