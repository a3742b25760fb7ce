//! Extensions: what runs beside the pipelines, as in the OpenTelemetry Collector.

use futures::future::BoxFuture;

use crate::stage::StageError;

/// A part of the daemon that no record passes through, such as a listener for health checks.
///
/// Extensions start before the pipelines, in the order of `service.extensions`, and stop after them, in the opposite order. One
/// whose config a reload changes is stopped, and started anew with the new config.
///
/// ```
/// use flowtap_pipeline::futures::FutureExt;
/// use flowtap_pipeline::futures::future::BoxFuture;
/// use flowtap_pipeline::{Extension, StageError};
///
/// /// Logs when it starts and stops.
/// struct Diary;
///
/// impl Extension for Diary {
///     fn start(&mut self) -> BoxFuture<'_, Result<(), StageError>> {
///         async {
///             println!("started");
///             Ok(())
///         }
///         .boxed()
///     }
///
///     fn stop(&mut self) -> BoxFuture<'_, ()> {
///         async { println!("stopped") }.boxed()
///     }
/// }
/// ```
pub trait Extension: Send {
    /// Binds, opens, spawns: whatever can fail for a reason that the operator must hear of before the daemon is called ready.
    /// Returns once it is at work.
    ///
    /// # Errors
    /// [`StageError`] with the missing requirement and its fix.
    fn start(&mut self) -> BoxFuture<'_, Result<(), StageError>>;

    /// Ends everything that [`start`](Extension::start) began, and returns when it has ended.
    fn stop(&mut self) -> BoxFuture<'_, ()>;
}
