use std::sync::{Mutex, MutexGuard, PoisonError};

use plug::{Code, Error, Sender, Stream, TrySendError};

use crate::Event;

/// Who is told of changes.
///
/// A change waits for no watcher. One that has not taken its last [`BACKLOG`] events is ended with an error
/// instead of missing some: it can watch again, and begins with what is stored by then.
#[derive(Default)]
pub(crate) struct Watchers {
    list: Mutex<Vec<Watcher>>,
}

struct Watcher {
    prefix: String,
    events: Sender<Event>,
}

/// How many changes are kept for a watcher that is slow.
pub(crate) const BACKLOG: usize = 1024;

impl Watchers {
    /// Adds a watcher. Its stream begins with what `existing` returns, and no change is made meanwhile.
    pub(crate) fn add(
        &self,
        prefix: String,
        existing: impl FnOnce(&str) -> plug::Result<Vec<Event>>,
    ) -> plug::Result<Stream<Event>> {
        let mut watchers = self.lock();
        // No change may ever tell that they are gone.
        watchers.retain(|watcher| !watcher.events.is_closed());
        let existing = existing(&prefix)?;
        let (events, stream) = Stream::channel(existing.len() + BACKLOG);
        for event in existing {
            if events.try_send(event).is_err() {
                unreachable!("there is room for all, and the stream is here");
            }
        }
        watchers.push(Watcher { prefix, events });
        Ok(stream)
    }

    /// Makes a change, and reports it as `event` if it returns true. Changes are made one at a time, so that
    /// they are reported in the order in which they are made.
    pub(crate) fn change(
        &self,
        event: &Event,
        make: impl FnOnce() -> plug::Result<bool>,
    ) -> plug::Result<bool> {
        let mut watchers = self.lock();
        let made = make()?;
        if made {
            watchers.retain(|watcher| watcher.tell(event));
        }
        Ok(made)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Watcher>> {
        // The list is whole also after a panic.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watcher {
    /// Returns whether it stays a watcher.
    fn tell(&self, event: &Event) -> bool {
        if !event.key.starts_with(&self.prefix) {
            return !self.events.is_closed();
        }
        match self.events.try_send(event.clone()) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                let text = format!("the reader is more than {BACKLOG} changes behind: watch again");
                self.events.clone().fail(Error::new(Code::ResourceExhausted, text));
                false
            }
            Err(TrySendError::Closed(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(key: &str) -> Event {
        Event { key: key.to_owned(), ..Event::default() }
    }

    fn watch(watchers: &Watchers, prefix: &str) -> Stream<Event> {
        watchers.add(prefix.to_owned(), |_| Ok(Vec::new())).unwrap()
    }

    fn change(watchers: &Watchers, key: &str) {
        assert!(watchers.change(&event(key), || Ok(true)).unwrap());
    }

    #[test]
    fn a_watcher_sees_what_is_there_and_then_the_changes_under_its_prefix() {
        let watchers = Watchers::default();
        let existing = |prefix: &str| Ok(vec![event(&format!("{prefix}0"))]);
        let stream = watchers.add("a/".to_owned(), existing).unwrap();
        for key in ["a/1", "b/1", "a/2"] {
            change(&watchers, key);
        }
        assert!(!watchers.change(&event("a/not made"), || Ok(false)).unwrap());
        watchers.change(&event("a/failed"), || Err("it failed".into())).unwrap_err();
        drop(watchers);
        let keys: Vec<String> = stream.map(|event| event.unwrap().key).collect();
        assert_eq!(keys, ["a/0", "a/1", "a/2"]);
    }

    #[test]
    fn a_watcher_that_falls_behind_is_told_so_after_what_was_kept_and_the_others_go_on() {
        let watchers = Watchers::default();
        let mut slow = watch(&watchers, "");
        let mut other = watch(&watchers, "");
        for _ in 0..=BACKLOG {
            change(&watchers, "k");
            assert_eq!(other.next().unwrap().unwrap(), event("k"));
        }
        for _ in 0..BACKLOG {
            assert_eq!(slow.next().unwrap().unwrap(), event("k"));
        }
        let error = slow.next().unwrap().unwrap_err();
        assert_eq!(error.code(), Code::ResourceExhausted);
        assert!(slow.next().is_none());
        change(&watchers, "more");
        assert_eq!(other.next().unwrap().unwrap(), event("more"));
    }

    #[test]
    fn watchers_that_have_left_are_forgotten() {
        let watchers = Watchers::default();
        drop(watch(&watchers, "a"));
        drop(watch(&watchers, "b"));
        assert_eq!(watchers.lock().len(), 1, "the first was forgotten when the second came");
        change(&watchers, "under no prefix");
        assert_eq!(watchers.lock().len(), 0);
    }
}
