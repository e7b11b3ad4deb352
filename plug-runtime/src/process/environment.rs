//! The environment variables of a plugin.

use std::env;
use std::ffi::{OsStr, OsString};
use std::process::Command;

/// What a plugin inherits, and what is changed about that.
#[derive(Debug, Default)]
pub(super) struct Environment {
    pub(super) inherit_all: bool,
    /// `None`: removed.
    pub(super) changes: Vec<(OsString, Option<OsString>)>,
}

impl Environment {
    pub(super) fn apply(&self, command: &mut Command) {
        if !self.inherit_all {
            command.env_clear();
            command.envs(env::vars_os().filter(|(key, _)| is_harmless(key)));
        }
        for (key, value) in &self.changes {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        command.env(HOST_VARIABLE, std::process::id().to_string());
    }
}

/// The variable that tells a plugin that it was started by a host: its process id.
pub(super) const HOST_VARIABLE: &str = "PLUG_HOST";

fn is_harmless(key: &OsStr) -> bool {
    const HARMLESS: [&str; 11] = [
        "HOME",
        "LANG",
        "LANGUAGE",
        "LOGNAME",
        "PATH",
        "RUST_BACKTRACE",
        "SHELL",
        "TERM",
        "TMPDIR",
        "TZ",
        "USER",
    ];
    let Some(key) = key.to_str() else { return false };
    HARMLESS.contains(&key) || key.starts_with("LC_") || key.starts_with("XDG_")
}
