use std::collections::HashSet;
use std::vec;

use plug::Stream;

use crate::{Event, Pair, Store};

/// The answers of [`Kv::sync`](crate::Kv::sync), each made when it is wanted.
pub(crate) struct Answers {
    store: Store,
    requests: Stream<Pair>,
    /// The keys of the requests.
    sent: HashSet<String>,
    /// The keys that are left to tell the caller, once it has sent all of its own.
    rest: Option<vec::IntoIter<String>>,
}

impl Answers {
    pub(crate) fn new(store: Store, requests: Stream<Pair>) -> Answers {
        Answers { store, requests, sent: HashSet::new(), rest: None }
    }

    fn answer(&mut self) -> plug::Result<Option<Event>> {
        if self.rest.is_none() {
            if let Some(pair) = self.requests.next() {
                let Pair { key, value } = pair?;
                self.sent.insert(key.clone());
                return self.store.put_if_absent(key, value).map(Some);
            }
        }
        let rest = match &mut self.rest {
            Some(rest) => rest,
            None => self.rest.insert(self.store.keys("")?.into_iter()),
        };
        for key in rest.filter(|key| !self.sent.contains(key)) {
            if let Some(event) = self.store.existing(key)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }
}

impl Iterator for Answers {
    type Item = plug::Result<Event>;

    fn next(&mut self) -> Option<plug::Result<Event>> {
        self.answer().transpose()
    }
}
