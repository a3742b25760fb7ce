//! The running kernel's types (BTF), parsed once for all objects that are loaded at a time.
//!
//! aya parses them again in each `EbpfLoader::new()` and offers no other way, so this halves the work rather than ending it.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use aya::{Btf, BtfError};

use crate::heap;

static PARSED: Mutex<Weak<Btf>> = Mutex::new(Weak::new());

/// The types, from the file if no one holds them.
pub(crate) fn parsed() -> Result<Arc<Btf>, BtfError> {
    let mut parsed = PARSED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(btf) = parsed.upgrade() {
        return Ok(btf);
    }
    let btf = Arc::new(Btf::from_sys_fs()?);
    *parsed = Arc::downgrade(&btf);
    Ok(btf)
}

/// Keeps the kernel's types in memory, some twenty MiB, for as long as this exists.
///
/// For one who loads several objects in a row. They load without it too, each with types that it parses and drops.
#[derive(Debug)]
#[must_use = "the types are dropped with it"]
pub struct KeptBtf(Option<Arc<Btf>>);

impl KeptBtf {
    /// Parses the types, if no one else has. Without them, each object that needs them fails with the reason.
    pub fn new() -> Self {
        Self(parsed().ok())
    }
}

impl Default for KeptBtf {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for KeptBtf {
    fn drop(&mut self) {
        drop(self.0.take());
        heap::trim();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No other test of this crate needs the types, so no one else holds them.
    #[test]
    fn types_that_are_kept_are_parsed_once_and_gone_afterwards() {
        let kept = KeptBtf::new();
        let Some(first) = &kept.0 else {
            assert!(std::env::var_os("FLOWTAP_TEST_REQUIRE_ALL").is_none(), "no BTF");
            eprintln!("SKIPPED: no BTF");
            return;
        };
        assert!(Arc::ptr_eq(first, &parsed().unwrap()));
        let held = Arc::downgrade(first);
        drop(kept);
        assert!(held.upgrade().is_none());
        assert!(parsed().is_ok());
    }
}
