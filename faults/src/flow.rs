//! A plugin that streams, and that calls its host.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use plug::{Call, Peer, Stream};

plug::include_proto!("flow");

/// The plugin.
#[derive(Clone, Default)]
pub struct Flowing {
    told: Arc<AtomicU64>,
    /// How many handlers and streams of responses have learnt that nobody wants them any more.
    given_up: Arc<(Mutex<u64>, Condvar)>,
}

impl plug::Plugin for Flowing {
    type Services = FlowService;

    const NAME: &'static str = "flowing";

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
            let _alive = &on_drop;
        })))
    }

    fn sum(&self, items: Stream<Item>) -> plug::Result<Total> {
        let mut total = Total::default();
        for item in items {
            let item = item?;
            total.items += 1;
            total.bytes += item.payload.len() as u64;
        }
        Ok(total)
    }

    fn mirror(&self, items: Stream<Item>) -> plug::Result<Stream<Item>> {
        Ok(items)
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
                if verb != "wait" {
                    home()?.say("waiting")?;
                }
                call.wait_cancelled(Duration::from_secs(60));
                self.give_up();
                Err(plug::Error::new(plug::Code::Cancelled, "nobody waits"))
            }
            "given-up" => {
                let wanted: u64 = rest.parse()?;
                let (count, changed) = &*self.given_up;
                let count = count.lock().unwrap_or_else(PoisonError::into_inner);
                let few = |count: &mut u64| *count < wanted;
                let waited = changed.wait_timeout_while(count, Duration::from_secs(30), few);
                Ok(waited.unwrap_or_else(PoisonError::into_inner).0.to_string())
            }
            // Ignores its cancellation.
            "nap" => {
                std::thread::sleep(Duration::from_millis(rest.parse()?));
                Ok("awake".to_owned())
            }
            "say" => home()?.say(rest),
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

    fn tell(&self, _: String) -> plug::Result<()> {
        self.told.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl Flowing {
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
