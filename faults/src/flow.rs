//! A plugin that streams, and that calls its host.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use plug::prost::Message as _;
use plug::{Call, Code, Error, Peer, Sender, Stream};

plug::include_proto!("flow");

/// The plugin.
#[derive(Clone, Default)]
pub struct Flowing {
    told: Arc<AtomicU64>,
    /// How many handlers wait to leave a file behind.
    asked: Arc<AtomicU64>,
    /// How many handlers have begun to wait until they are cancelled.
    waiting: Arc<AtomicU64>,
    /// How many items the streams of responses have made.
    made: Arc<AtomicU64>,
    /// Feed the streams that are fed later.
    held: Arc<Mutex<Vec<Sender<Item>>>>,
    /// How many handlers and streams of responses have learnt that nobody wants them any more.
    given_up: Arc<(Mutex<u64>, Condvar)>,
}

impl plug::Plugin for Flowing {
    type Services = FlowService;

    const NAME: &'static str = "flowing";
    /// For ten thousand streams.
    const MAX_CALLS: u32 = 20_000;

    fn start(&self, host: &Peer) -> plug::Result<()> {
        // A host that offers a home is asked, before the first call, whether this may start.
        if host.has::<HomeService>() {
            host.proxy::<HomeProxy>()?.say("may I start?")?;
        }
        Ok(())
    }
}

impl Flow for Flowing {
    fn count(&self, items: u64, size: u64) -> plug::Result<Stream<Item>> {
        let on_drop = OnDrop(self.clone());
        Ok(Stream::new(counted(items, size).inspect(move |_| {
            on_drop.0.made.fetch_add(1, Ordering::Relaxed);
        })))
    }

    fn sum(&self, items: Stream<Item>) -> plug::Result<Total> {
        let mut total = Total::default();
        // Of some, it takes no more than that.
        let enough = number("enough")?.unwrap_or(u64::MAX);
        for item in items.take(enough as usize) {
            let item = item?;
            total.items += 1;
            total.bytes += item.payload.len() as u64;
        }
        Ok(total)
    }

    fn mirror(&self, items: Stream<Item>) -> plug::Result<Stream<Item>> {
        // A part of them, or more when they have ended.
        if let Some(enough) = number("enough")? {
            return Ok(Stream::from_results(items.take(enough as usize)));
        }
        match number("more")? {
            Some(more) => Ok(Stream::from_results(items.chain(counted(more, 0).map(Ok)))),
            None => Ok(items),
        }
    }

    fn make(&self, what: String) -> plug::Result<Stream<Item>> {
        let (verb, rest) = what.split_once(' ').unwrap_or((&what, ""));
        let items = rest.parse::<u64>().unwrap_or_default();
        let on_drop = OnDrop(self.clone());
        match verb {
            // After so many items, it fails, panics, or waits until nobody wants it.
            "fail" => {
                let error = || Err(Error::new(Code::NotFound, "no more"));
                Ok(Stream::from_results(
                    counted(items, 0).map(Ok).chain(std::iter::once_with(error)),
                ))
            }
            "panic" => {
                let panic = || -> Item { panic!("no more") };
                Ok(Stream::new(counted(items, 0).chain(std::iter::once_with(panic))))
            }
            "block" => {
                let block = move || {
                    Call::current().wait_cancelled(Duration::from_secs(60));
                    drop(on_drop);
                    Item::default()
                };
                Ok(Stream::new(counted(items, 0).chain(std::iter::once_with(block))))
            }
            // It is fed when that is asked for.
            "held" => {
                let (sender, stream) = Stream::channel(1);
                self.held().push(sender);
                Ok(stream)
            }
            // What the host has.
            "feed" => home()?.feed(items, 100_u64),
            other => Err(format!("there is no {other:?}").into()),
        }
    }

    fn nest(&self, child: Option<Box<Node>>, _: u32) -> plug::Result<Total> {
        let mut total = Total::default();
        let mut node = &child;
        while let Some(inner) = node {
            node = &inner.child;
            total.items += 1;
        }
        Ok(total)
    }

    fn burst(&self, _: Vec<Wide>, make: u32) -> plug::Result<Vec<Wide>> {
        Ok(vec![Wide::default(); make as usize])
    }

    fn bursts(&self, _: Vec<Wide>, make: u32) -> plug::Result<Stream<BurstResponse>> {
        Ok(Stream::new([BurstResponse { all: vec![Wide::default(); make as usize] }]))
    }

    fn down(&self, depth: u32) -> plug::Result<u32> {
        match depth {
            0 => Ok(0),
            _ => Ok(home()?.up(depth - 1)? + 1),
        }
    }

    fn ask(&self, what: String) -> plug::Result<String> {
        let call = Call::current();
        let (verb, rest) = what.split_once(' ').unwrap_or((&what, ""));
        match verb {
            "time" => {
                Ok(call.remaining().map_or("for ever".to_owned(), |left| format!("{left:?}")))
            }
            "metadata" => {
                let value = call.metadata(rest).ok_or("no such metadata")?;
                Ok(String::from_utf8(value.to_vec())?)
            }
            "method" => Ok(call.method().to_owned()),
            "peer" => Ok(call.peer().ok_or("nobody")?.name().to_owned()),
            "told" => Ok(self.told.load(Ordering::Relaxed).to_string()),
            // Until it is cancelled: then it counts. The other one says first that it is there.
            "wait" | "announce-and-wait" => {
                self.waiting.fetch_add(1, Ordering::Relaxed);
                if verb != "wait" {
                    home()?.say("waiting")?;
                }
                call.wait_cancelled(Duration::from_secs(60));
                self.give_up();
                Err(plug::Error::new(plug::Code::Cancelled, "nobody waits"))
            }
            "waiting" => Ok(self.waiting.load(Ordering::Relaxed).to_string()),
            "given-up" => {
                let wanted: u64 = rest.parse()?;
                let (count, changed) = &*self.given_up;
                let count = count.lock().unwrap_or_else(PoisonError::into_inner);
                let few = |count: &mut u64| *count < wanted;
                let waited = changed.wait_timeout_while(count, Duration::from_secs(30), few);
                Ok(waited.unwrap_or_else(PoisonError::into_inner).0.to_string())
            }
            "asked" => Ok(self.asked.load(Ordering::Relaxed).to_string()),
            "made" => Ok(self.made.load(Ordering::Relaxed).to_string()),
            // All streams that are held get an item; or they end.
            "feed-held" => {
                let held = self.held().clone();
                for (number, sender) in (0..).zip(&held) {
                    let item = Item { number, payload: Vec::new() };
                    sender.send(item).map_err(|_| "nobody reads it")?;
                }
                Ok(held.len().to_string())
            }
            "held" => Ok(self.held().len().to_string()),
            "let-go" => Ok(std::mem::take(&mut *self.held()).len().to_string()),
            // Leaves a file behind once it is cancelled.
            "wait-and-write" => {
                self.asked.fetch_add(1, Ordering::Relaxed);
                if !call.wait_cancelled(Duration::from_secs(60)) {
                    return Err("nobody cancelled it".into());
                }
                std::fs::write(rest, "cancelled")?;
                Ok("late".to_owned())
            }
            // Ignores its cancellation.
            "nap" => {
                std::thread::sleep(Duration::from_millis(rest.parse()?));
                Ok("awake".to_owned())
            }
            "say" => home()?.say(rest),
            // So many letters.
            "sing" => Ok("a".repeat(rest.parse()?)),
            // With so many bytes that the host does not know, behind nothing.
            "shout" => {
                let mut request = Vec::new();
                Noise { noise: vec![1; rest.parse()?] }.encode(&mut request)?;
                let host = call.peer().ok_or("there is no host")?;
                host.call("flow.Home/Up", &request)?;
                Ok("heard".to_owned())
            }
            #[cfg(feature = "tracing")]
            "log" => {
                tracing::info!(answer = 42, "{rest}");
                tracing::debug!("but {rest} in detail");
                eprintln!("printed {rest}");
                Ok("logged".to_owned())
            }
            // So many threads of this call ask the host at once.
            "chorus" => {
                let threads = (0..rest.parse::<u32>()?).map(|number| {
                    let call = call.clone();
                    std::thread::spawn(move || {
                        call.scope(|| home()?.say(format!("voice {number}")))
                    })
                });
                let threads: Vec<_> = threads.collect();
                for thread in threads {
                    thread.join().map_err(|_| "a voice panicked")??;
                }
                Ok("sung".to_owned())
            }
            "feed" => {
                let mut items = 0_u64;
                for item in home()?.feed(rest.parse::<u64>()?, 100_u64)? {
                    item?;
                    items += 1;
                }
                Ok(items.to_string())
            }
            other => Err(format!("there is no {other:?}").into()),
        }
    }

    fn tell(&self, what: String) -> plug::Result<()> {
        if let Some(what) = what.strip_prefix("say ") {
            // Nobody gets the result of this call; the host has what was said.
            home()?.say(what)?;
        }
        self.told.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl Flowing {
    fn held(&self) -> MutexGuard<'_, Vec<Sender<Item>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_up(&self) {
        let (count, changed) = &*self.given_up;
        *count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        changed.notify_all();
    }
}

/// Items with increasing numbers.
pub fn counted(items: u64, size: u64) -> impl Iterator<Item = Item> + Send {
    (0..items).map(move |number| Item { number, payload: vec![number as u8; size as usize] })
}

/// A number in the metadata of the current call.
fn number(key: &str) -> plug::Result<Option<u64>> {
    let value = Call::current().metadata(key);
    Ok(value
        .map(|value| String::from_utf8(value.to_vec()))
        .transpose()?
        .map(|text| text.parse())
        .transpose()?)
}

/// The host of the current call.
fn home() -> plug::Result<HomeProxy> {
    Call::current().peer().ok_or("there is no host")?.proxy()
}

/// Notes the end of a stream.
struct OnDrop(Flowing);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

/// What a host offers.
#[derive(Default)]
pub struct House {
    /// What was said to it.
    pub heard: Mutex<Vec<String>>,
}

impl Home for House {
    fn up(&self, depth: u32) -> plug::Result<u32> {
        match depth {
            0 => Ok(0),
            _ => {
                let plugin = Call::current().peer().ok_or("there is no plugin")?;
                Ok(plugin.proxy::<FlowProxy>()?.down(depth - 1)? + 1)
            }
        }
    }

    fn say(&self, what: String) -> plug::Result<String> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).push(what.clone());
        Ok(format!("you said {what}"))
    }

    fn feed(&self, items: u64, size: u64) -> plug::Result<Stream<Item>> {
        Ok(Stream::new(counted(items, size)))
    }
}
