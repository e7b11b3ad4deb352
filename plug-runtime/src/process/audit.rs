//! Looking for descriptors that a host leaks to its plugins.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use crate::log;
use crate::sys::descriptors::inheritable;

/// In a debug build, warns of each descriptor that a plugin would inherit: once.
pub(super) fn warn_of_leaks() {
    static TOLD: Mutex<BTreeSet<(u32, String)>> = Mutex::new(BTreeSet::new());
    if !cfg!(debug_assertions) {
        return;
    }
    for (number, target) in inheritable() {
        let is_new = {
            let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
            told.insert((number, target.clone()))
        };
        if is_new {
            log::warn(&format!(
                "descriptor {number} ({target}) is not close-on-exec: plugins inherit it"
            ));
        }
    }
}
