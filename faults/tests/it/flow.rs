//! All kinds of call, and calls back, with real processes and inside this one.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use plug::{CancelToken, Command, ErrorKind, Peer, Proxy as _, Stream};
use plug_faults::flow::{FlowProxy, Flowing, HomeProxy, HomeService, House, Item, counted};

use crate::aftermath::{BOUND, Case};

const FLOWING: &str = env!("CARGO_BIN_EXE_flowing");

/// The plugin in a process of its own, and inside this one.
fn both(test: impl Fn(&FlowProxy, &House)) {
    let case = Case::new();
    for command in [Command::new(FLOWING), Command::in_process(Flowing::default())] {
        let house = Arc::new(House::default());
        let peer = command.serve::<HomeService>(house.clone()).load().unwrap();
        peer.pid().inspect(|pid| case.expect_gone(*pid));
        let flow: FlowProxy = peer.proxy().unwrap();
        test(&flow, &house);
    }
    case.finish();
}

#[test]
fn a_plugin_calls_its_host_while_it_starts() {
    both(|_, house| assert_eq!(*house.heard.lock().unwrap(), ["may I start?"]));
}

#[test]
fn all_four_kinds_of_call() {
    both(|flow, _| {
        let numbers: Vec<_> =
            flow.count(1000_u64, 10_u64).unwrap().map(|item| item.unwrap().number).collect();
        assert_eq!(numbers, (0..1000).collect::<Vec<_>>());
        let total = flow.sum(counted(1000, 1000)).unwrap();
        assert_eq!((total.items, total.bytes), (1000, 1_000_000));
        let (sender, stream) = Stream::channel(1);
        let mut mirrored = flow.mirror(stream).unwrap();
        for number in 0..100 {
            sender.send(Item { number, payload: Vec::new() }).unwrap();
            assert_eq!(mirrored.next().unwrap().unwrap().number, number);
        }
        drop(sender);
        assert!(mirrored.next().is_none());
        assert_eq!(flow.ask("method").unwrap(), "flow.Flow/Ask");
    });
}

#[test]
fn messages_of_any_size_stream() {
    both(|flow, _| {
        for size in [0_u64, 1, 100 << 10, 400 << 10, 3 << 20] {
            let mut items = 0;
            for item in flow.count(20_u64, size).unwrap() {
                assert_eq!(item.unwrap().payload.len() as u64, size);
                items += 1;
            }
            assert_eq!(items, 20);
            assert_eq!(flow.sum(counted(20, size)).unwrap().bytes, 20 * size);
        }
    });
}

#[test]
fn c8_calls_back_and_forth_a_thousand_deep() {
    both(|flow, _| {
        for depth in [50, 1000] {
            assert_eq!(flow.down(depth).unwrap(), depth);
        }
    });
}

#[test]
fn m10_more_calls_back_at_once_than_there_are_threads() {
    both(|flow, house| {
        flow.ask("chorus 100").unwrap();
        assert_eq!(house.heard.lock().unwrap().len(), 101);
        assert_eq!(flow.ask("feed 1000").unwrap(), "1000");
        assert_eq!(flow.ask("say hello").unwrap(), "you said hello");
    });
}

#[test]
fn a_deadline_ends_the_call_and_the_handler_sees_it() {
    both(|flow, _| {
        assert_eq!(flow.ask("time").unwrap(), "for ever");
        assert_ne!(flow.with_timeout(BOUND).ask("time").unwrap(), "for ever");
        let brief = flow.with_timeout(Duration::from_millis(20));
        let error = brief.ask("wait").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Deadline, "{error:?}");
        assert_eq!(flow.ask("given-up 1").unwrap(), "1");
        let error = brief.ask("nap 200").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Deadline, "{error:?}");
        assert_eq!(flow.ask("say still here").unwrap(), "you said still here");
    });
}

#[test]
fn a_token_cancels_from_another_thread() {
    both(|flow, house| {
        let token = CancelToken::new();
        let waiting = flow.with_cancel(&token);
        let waits = std::thread::spawn(move || waiting.ask("announce-and-wait"));
        crate::aftermath::wait_until("the handler", || {
            house.heard.lock().unwrap().iter().any(|heard| heard == "waiting")
        });
        token.cancel();
        let error = waits.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{error:?}");
        assert_eq!(flow.ask("given-up 1").unwrap(), "1");
        let error = flow.with_cancel(&token).ask("time").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "at once");
    });
}

#[test]
fn a_stream_that_is_dropped_early_stops_its_producer() {
    both(|flow, _| {
        let mut stream = flow.count(u64::MAX, 1000_u64).unwrap();
        assert_eq!(stream.next().unwrap().unwrap().number, 0);
        drop(stream);
        assert_eq!(flow.ask("given-up 1").unwrap(), "1");
    });
}

#[test]
fn metadata_and_one_way_calls_arrive() {
    both(|flow, _| {
        let tagged = flow.with_metadata("trace-id", "abc");
        assert_eq!(tagged.ask("metadata trace-id").unwrap(), "abc");
        for _ in 0..2000 {
            flow.tell("it").unwrap();
        }
        // In their order on the wire, but each on a worker of its own if need be.
        crate::aftermath::wait_until("all of them", || flow.ask("told").unwrap() == "2000");
        flow.peer().ping(BOUND).unwrap();
    });
}

/// A plugin that keeps a proxy of its host, and offers nothing.
#[derive(Default)]
struct Keeper(OnceLock<HomeProxy>);

impl plug::Plugin for Keeper {
    type Services = ();

    fn start(&self, host: &Peer) -> plug::Result<()> {
        let home = self.0.get_or_init(|| host.proxy().unwrap());
        home.say("I stay").map(drop)
    }
}

#[test]
fn a_plugin_inside_this_process_that_keeps_its_host_can_be_stopped() {
    let case = Case::new();
    let house = Arc::new(House::default());
    let command = Command::in_process(Keeper::default()).serve::<HomeService>(house.clone());
    let peer = command.load().unwrap();
    assert_eq!(*house.heard.lock().unwrap(), ["I stay"]);
    peer.stop(BOUND).unwrap();
    drop(peer);
    case.finish();
}

/// The calls block the thread, and nothing more: they need no runtime, and mind none.
#[test]
fn c15_blocking_calls_work_inside_an_async_runtime() {
    both(|flow, _| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            assert_eq!(flow.ask("method").unwrap(), "flow.Flow/Ask");
            assert_eq!(flow.down(3_u32).unwrap(), 3);
            assert_eq!(flow.count(10_u64, 10_u64).unwrap().count(), 10);
            let inside = tokio::spawn({
                let flow = flow.clone();
                async move { flow.sum(counted(10, 10)) }
            });
            assert_eq!(inside.await.unwrap().unwrap().items, 10);
        });
    });
}
