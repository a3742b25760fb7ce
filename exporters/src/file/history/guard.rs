//! Calls of decoders that can panic on a damaged file.
//!
//! In: a call. Out: its result, or the panic as an error of the file, so that the other files are read. The crates that decode Parquet and
//! Arrow check what they read by assertions in some places.

use std::any::Any;
use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use super::statistics::invalid;

thread_local! {
    /// Whether a panic of this thread is one that [`guarded`] reports.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// The hook prints a panic before it is caught: it is left out where the panic becomes an error.
fn silence_hook() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            if !GUARDED.get() {
                before(panic);
            }
        }));
    });
}

/// The result of `decode`.
///
/// # Errors
/// Those of `decode`, and its panic.
pub(super) fn guarded<T>(decode: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    silence_hook();
    let was_guarded = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(decode));
    GUARDED.set(was_guarded);
    result.unwrap_or_else(|panic| {
        let reason = message(&*panic);
        Err(invalid(format!("its contents contradict each other: {reason}")))
    })
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no reason is known")
}
