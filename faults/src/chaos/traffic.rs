//! Mixed traffic: one thread that makes calls of all kinds, and knows for each what it must bring.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use plug::{CancelToken, Code, Delivery, Error, ErrorKind, Proxy as _, Stream};

use super::dice::Dice;
use super::ledger::{Ending, Ledger};
use super::violence::Violence;
use super::{ID, Piece, Total, WorkProxy, pieces};

/// A thread's calls to one plugin.
pub struct Traffic<'a> {
    /// The plugin.
    pub work: WorkProxy,
    /// Where its calls are noted.
    pub ledger: &'a Ledger,
    /// What the calls are.
    pub dice: Dice,
    /// What explains their errors.
    pub violence: Violence,
    /// Who cancels calls while they are under way.
    pub canceller: Sender<(CancelToken, Duration)>,
    /// The longest pause between two calls.
    pub pause: Duration,
}

/// Makes a call of one kind, and says whether the plugin is gone.
type Kind<'a> = fn(&mut Traffic<'a>, Limit) -> bool;

/// What a call brought: right, or what was wrong with it.
type Brought = Result<(), String>;

/// How a call may be ended by its caller.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Limit {
    #[default]
    None,
    Deadline,
    Cancel,
}

impl<'a> Traffic<'a> {
    /// Makes calls until it is told to stop, or the plugin is gone. Then all further calls must fail as not sent.
    pub fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            if self.any_call() {
                for _ in 0..3 {
                    self.call_in_vain();
                }
                return;
            }
            if !self.pause.is_zero() {
                std::thread::sleep(self.dice.time(self.pause));
            }
        }
    }

    /// Has the plugin do something to itself that it does not survive.
    pub fn end_by(mut self, how: &'static str) {
        self.call(how, Limit::None, |work| {
            work.end(how).map(|()| Err("it returned from its end".to_owned()))
        });
    }

    /// A call of any kind. Says whether the plugin is gone.
    fn any_call(&mut self) -> bool {
        let limit = self.dice.pick(&[(8, Limit::None), (1, Limit::Deadline), (1, Limit::Cancel)]);
        let kinds: [(u64, Kind<'a>); 10] = [
            (12, Self::echo),
            (4, Self::count),
            (2, Self::drop_early),
            (3, Self::sum),
            (3, Self::mirror),
            (3, Self::ask),
            (2, Self::fetch),
            (2, Self::nap),
            (2, Self::print),
            (2, Self::tell),
        ];
        self.dice.pick(&kinds)(self, limit)
    }

    fn echo(&mut self, limit: Limit) -> bool {
        let payload = self.payload();
        self.call("echo", limit, |work| Ok(same(&work.echo(payload.clone())?, &payload)))
    }

    fn count(&mut self, limit: Limit) -> bool {
        let (items, size) = self.stream();
        self.call("count", limit, |work| read(work.count(items, size)?, items, size, u64::MAX))
    }

    fn drop_early(&mut self, limit: Limit) -> bool {
        let read_some = self.dice.below(20);
        // What is dropped at once may be cancelled before it runs.
        let well = if read_some == 0 { Ending::OnItsWay } else { Ending::Right };
        self.call_for("a count that is dropped", limit, well, |work| {
            read(work.count(u64::MAX, 100)?, u64::MAX, 100, read_some)
        })
    }

    fn sum(&mut self, limit: Limit) -> bool {
        let (items, size) = self.stream();
        self.call("sum", limit, |work| {
            let total = work.sum(Stream::new(pieces(items, size)))?;
            Ok(same(&total, &Total { items, bytes: items * size }))
        })
    }

    fn mirror(&mut self, limit: Limit) -> bool {
        let (items, size) = self.stream();
        self.call("mirror", limit, |work| {
            read(work.mirror(Stream::new(pieces(items, size)))?, items, size, u64::MAX)
        })
    }

    fn ask(&mut self, limit: Limit) -> bool {
        let payload = self.payload();
        self.call("ask", limit, |work| Ok(same(&work.ask(payload.clone())?, &payload)))
    }

    fn fetch(&mut self, limit: Limit) -> bool {
        let (items, size) = self.stream();
        self.call("fetch", limit, |work| {
            Ok(same(&work.fetch(items, size)?, &Total { items, bytes: items * size }))
        })
    }

    fn nap(&mut self, limit: Limit) -> bool {
        let milliseconds = self.dice.below(4) as u32;
        self.call("nap", limit, |work| work.nap(milliseconds).map(Ok))
    }

    fn print(&mut self, limit: Limit) -> bool {
        let lines = self.dice.below(30) as u32;
        self.call("print", limit, |work| work.print(lines).map(Ok))
    }

    fn tell(&mut self, _: Limit) -> bool {
        let payload = self.payload();
        let id = self.ledger.issue("tell");
        let told = self.work.with_metadata(ID, id.to_le_bytes().to_vec()).tell(payload);
        let told = told.map(|()| Ok(()));
        self.note(id, "tell", Limit::None, told, Ending::OnItsWay)
    }

    /// A call to a plugin that is gone.
    fn call_in_vain(&mut self) {
        let id = self.ledger.issue("echo in vain");
        let error = match self.work.with_metadata(ID, id.to_le_bytes().to_vec()).echo("x") {
            Err(error) if error.delivery() == Delivery::NotSent => error,
            other => return self.ledger.wrong(format!("a call after the end: {other:?}")),
        };
        if !self.violence.explains(&error) {
            self.ledger.wrong(format!("a call after the end: {error:?}"));
        }
        self.ledger.end(id, Ending::NotSent);
    }

    fn call(
        &mut self,
        what: &'static str,
        limit: Limit,
        make: impl FnOnce(&WorkProxy) -> plug::Result<Brought>,
    ) -> bool {
        self.call_for(what, limit, Ending::Right, make)
    }

    /// A call that ends in a certain way if nothing comes between.
    fn call_for(
        &mut self,
        what: &'static str,
        limit: Limit,
        well: Ending,
        make: impl FnOnce(&WorkProxy) -> plug::Result<Brought>,
    ) -> bool {
        let id = self.ledger.issue(what);
        let mut work = self.work.with_metadata(ID, id.to_le_bytes().to_vec());
        match limit {
            Limit::None => {}
            Limit::Deadline => work = work.with_timeout(self.dice.time(LONGEST_TIMEOUT)),
            Limit::Cancel => {
                let token = CancelToken::new();
                work = work.with_cancel(&token);
                let after = self.dice.time(LONGEST_TIMEOUT);
                // Some before they are made.
                if after < LONGEST_TIMEOUT / 10 {
                    token.cancel();
                } else {
                    // Who cancels lives as long as this.
                    let _ = self.canceller.send((token, after));
                }
            }
        }
        let brought = make(&work);
        self.note(id, what, limit, brought, well)
    }

    /// Notes how a call ended, and whether it may have ended so. Says whether the plugin is gone.
    fn note(
        &mut self,
        id: u64,
        what: &'static str,
        limit: Limit,
        brought: plug::Result<Brought>,
        well: Ending,
    ) -> bool {
        let error = match brought {
            Ok(brought) => {
                if let (Err(wrong), false) = (brought, self.violence.may_corrupt()) {
                    self.ledger.wrong(format!("{what} {id}: {wrong}"));
                }
                self.ledger.end(id, well);
                return false;
            }
            Err(error) => error,
        };
        // A handler may hear of it first, and return it from a call of its own.
        let by_caller = match limit {
            Limit::None => false,
            Limit::Deadline => {
                error.kind() == ErrorKind::Deadline
                    || is_status(&error, Code::DeadlineExceeded)
                    || is_status(&error, Code::Cancelled)
            }
            Limit::Cancel => {
                error.kind() == ErrorKind::Cancelled || is_status(&error, Code::Cancelled)
            }
        };
        if !by_caller && !self.violence.explains(&error) {
            let why = format!("{:?} does not explain how {what} {id} ended", self.violence);
            let kind = (error.kind(), error.delivery(), error.exit());
            self.ledger.wrong(format!("{why}: {kind:?} {error:?}"));
        }
        self.ledger.end(
            id,
            match error.delivery() {
                Delivery::NotSent => Ending::NotSent,
                _ => Ending::MayHaveRun,
            },
        );
        !by_caller && error.kind() != ErrorKind::Status
    }

    fn payload(&mut self) -> Vec<u8> {
        let sizes = [(20, 10), (6, 1000), (3, 60_000), (2, 300_000), (1, 1_500_000)];
        let size = self.dice.pick(&sizes);
        vec![self.dice.roll() as u8; size]
    }

    /// How many pieces a stream has, and of what size.
    fn stream(&mut self) -> (u64, u64) {
        self.dice.pick(&[
            (2, (0, 0)),
            (8, (10, 100)),
            (4, (300, 10)),
            (2, (20, 20_000)),
            (1, (3, 400_000)),
        ])
    }
}

/// The longest time after which a caller gives up a call that it gives up.
const LONGEST_TIMEOUT: Duration = Duration::from_millis(3);

fn is_status(error: &Error, code: Code) -> bool {
    error.kind() == ErrorKind::Status && error.code() == code
}

/// Reads so many pieces of a stream, or all: they must come in order, and end once.
fn read(mut stream: Stream<Piece>, items: u64, size: u64, at_most: u64) -> plug::Result<Brought> {
    let mut number = 0;
    while number < at_most {
        match stream.next() {
            Some(Ok(piece)) => {
                let right = piece.number == number && piece.payload.len() as u64 == size;
                if !right || piece.payload.iter().any(|&byte| byte != number as u8) {
                    let len = piece.payload.len();
                    return Ok(Err(format!("piece {} of {len} bytes for {number}", piece.number)));
                }
            }
            Some(Err(error)) => {
                return if stream.next().is_none() {
                    Err(error)
                } else {
                    Ok(Err(format!("it went on after {error:?}")))
                };
            }
            None if number != items => {
                return Ok(Err(format!("it ended after {number} of {items}")));
            }
            None if stream.next().is_some() => {
                return Ok(Err("it went on after its end".to_owned()));
            }
            None => break,
        }
        number += 1;
    }
    Ok(Ok(()))
}

fn same<T: PartialEq>(brought: &T, expected: &T) -> Brought {
    if brought == expected { Ok(()) } else { Err("it brought something else".to_owned()) }
}
