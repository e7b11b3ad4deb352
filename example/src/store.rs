use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use plug::{Code, Error, Stream};

use crate::files::{Draft, Files};
use crate::sync::Answers;
use crate::watchers::Watchers;
use crate::{Audit, Event, Kv, KvService, Pair};

/// A key-value store in a directory: a file a key. A clone is the same store.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    audit: Option<Arc<dyn Audit>>,
}

struct Shared {
    files: Files,
    watchers: Watchers,
}

impl Store {
    /// The store in a directory, which is made if it does not exist.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub fn open(directory: impl Into<PathBuf>) -> plug::Result<Store> {
        let shared =
            Shared { files: Files::open(directory.into())?, watchers: Watchers::default() };
        Ok(Store { shared: Arc::new(shared), audit: None })
    }

    /// The same store, which asks `audit` before it stores a value, and tells it after that.
    pub fn audited(self, audit: impl Audit) -> Store {
        Store { audit: Some(Arc::new(audit)), ..self }
    }

    pub(crate) fn keys(&self, prefix: &str) -> plug::Result<Vec<String>> {
        self.shared.files.keys(prefix)
    }

    /// What is stored under a key, if there is anything.
    pub(crate) fn existing(&self, key: String) -> plug::Result<Option<Event>> {
        let value = self.shared.files.read(&key)?;
        Ok(value.map(|value| Event { key, value, existing: true }))
    }

    /// Stores a value unless there is one. Returns what is stored then.
    pub(crate) fn put_if_absent(&self, key: String, value: Vec<u8>) -> plug::Result<Event> {
        let new = Event { key, value, existing: false };
        loop {
            if let Some(existing) = self.existing(new.key.clone())? {
                return Ok(existing);
            }
            // Otherwise another call was faster.
            if self.change(&new, Draft::place_if_absent)? {
                return Ok(new);
            }
        }
    }

    /// Stores the value of an event. Returns whether `place` did it.
    fn change(
        &self,
        event: &Event,
        place: impl FnOnce(Draft) -> plug::Result<bool>,
    ) -> plug::Result<bool> {
        let size = event.value.len() as u64;
        if let Some(audit) = &self.audit {
            let decision = audit.allow(event.key.clone(), size)?;
            if !decision.allowed {
                return Err(Error::new(Code::PermissionDenied, decision.reason));
            }
        }
        let draft = self.shared.files.write(&event.key, &event.value)?;
        let stored = self.shared.watchers.change(event, || place(draft))?;
        if let Some(audit) = self.audit.as_ref().filter(|_| stored) {
            audit
                .record(event.key.clone(), size)
                .context("the value is stored, but not on record")?;
        }
        Ok(stored)
    }
}

impl Kv for Store {
    fn get(&self, key: String) -> plug::Result<Vec<u8>> {
        let missing = || Error::new(Code::NotFound, format!("nothing is stored under {key:?}"));
        self.shared.files.read(&key)?.ok_or_else(missing)
    }

    fn put(&self, key: String, value: Vec<u8>) -> plug::Result<()> {
        let event = Event { key, value, existing: false };
        self.change(&event, |draft| draft.replace().map(|()| true))?;
        Ok(())
    }

    fn watch(&self, prefix: String) -> plug::Result<Stream<Event>> {
        self.shared.watchers.add(prefix, |prefix| {
            let keys = self.keys(prefix)?.into_iter();
            keys.filter_map(|key| self.existing(key).transpose()).collect()
        })
    }

    fn import(&self, requests: Stream<Pair>) -> plug::Result<u64> {
        let mut count = 0;
        for pair in requests {
            let Pair { key, value } = pair?;
            self.put(key, value)?;
            count += 1;
        }
        Ok(count)
    }

    fn sync(&self, requests: Stream<Pair>) -> plug::Result<Stream<Event>> {
        Ok(Stream::from_results(Answers::new(self.clone(), requests)))
    }
}

impl plug::Plugin for Store {
    type Services = KvService;
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
}
