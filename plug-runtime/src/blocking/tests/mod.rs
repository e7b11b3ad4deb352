//! The driver against the other end of two pipes, which a test plays by hand.

mod alone;
mod drops;
mod landing;
mod messages;
mod nested;
mod pumps;
mod roles;
#[cfg(all(target_os = "linux", feature = "shm", not(plug_portable)))]
mod sharing;
mod space;
mod unwinding;

use std::os::fd::OwnedFd;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use super::dispatch::service_infos;
use super::lead::{Lead, Wakes};
use super::link::{Link, State, Ticking};
use super::patience::Patience;
use super::watcher::{self, Inside};
use crate::Method;
use crate::encoding::Encoded;
use crate::error::{Delivery, ErrorKind};
use crate::incoming::{Incoming, Reply};
use crate::offer::Offers;
use crate::options::Outbound;
use crate::protocol::{Answer, Connection, Event, Hello, Opening, Request, Side};
use crate::service::Offered;
use crate::sys::pipe::{self, Wait};

/// The plugin's end: a core without a driver.
struct Other {
    core: Connection,
    input: OwnedFd,
    output: OwnedFd,
}

/// A call of the first method, which is unary. The second takes a stream.
fn unary(link: &Arc<Link>) -> Outbound<'static> {
    Outbound::new(1, crate::MethodKind::Unary, false, None, None, link)
}

/// A host's link and the plugin's end, greeted, with pipes that hold 4 KiB.
fn pair() -> (Arc<Link>, Other) {
    greeted(Hello::new(text("host"), String::new()), None)
}

/// The same, of two sides with all features.
fn pair_with_features() -> (Arc<Link>, Other) {
    pair_serving(&[], |_| unreachable!("nothing is served"))
}

/// The same, of a host that serves some methods.
fn pair_serving(
    methods: &'static [Method],
    serve: impl Fn(Incoming<'_>) -> Reply + Send + Sync + 'static,
) -> (Arc<Link>, Other) {
    let service = Offered { name: "a.B", magic: "", version: 0, methods, descriptors: b"" };
    let mut hello = Hello::new(text("host"), String::new()).with_features(&[]);
    hello.services = service_infos([&service].into_iter());
    let serve = Arc::new(move |_: usize, call: Incoming<'_>| serve(call));
    greeted(hello, (!methods.is_empty()).then(|| Offers { services: vec![service], serve }))
}

/// The same, of a plugin that takes so many calls at once.
fn pair_taking(max_calls: u32) -> (Arc<Link>, Other) {
    let hello = Hello::new(text("host"), String::new()).with_features(&[]);
    greeted_taking(hello, None, max_calls)
}

fn greeted(hello: Hello, offers: Option<Offers>) -> (Arc<Link>, Other) {
    greeted_taking(hello, offers, 0)
}

/// A plugin's end has the features that the host has.
fn greeted_taking(hello: Hello, offers: Option<Offers>, max_calls: u32) -> (Arc<Link>, Other) {
    let (host_input, output) = pipe::pair().unwrap();
    let (input, host_output) = pipe::pair().unwrap();
    for end in [&output, &host_output] {
        // Where a pipe cannot be made smaller, the tests still hold; they only see fewer full pipes.
        let _ = set_capacity(end, 4 << 10);
    }
    let name = text("plugin");
    const OTHERS: &[Method] = &[Method::unary("Call"), Method::client_streaming("Collect")];
    let methods = OTHERS;
    let service = Offered { name: "a.P", magic: "", version: 0, methods, descriptors: b"" };
    let services = service_infos([&service].into_iter());
    let others = Hello { name, services, max_calls, ..hello.clone() };
    let core = Connection::new(Side::Host, hello, None);
    let link = Link::new(core, host_input, host_output, false).unwrap();
    link.offer(offers.into_iter().collect());
    let core = Connection::new(Side::Plugin, others, None);
    let mut other = Other { core, input, output };
    let host = link.clone();
    let greeter = std::thread::spawn(move || host.greet(Vec::new, || Ok(())));
    other.read_until(|event| matches!(event, Event::Greeted));
    other.core.accept();
    other.core.ready();
    other.write_all();
    greeter.join().unwrap().unwrap();
    link.wait_for_ready(Some(Instant::now() + LONG)).unwrap();
    watch(&link);
    (link, other)
}

fn watch(link: &Arc<Link>) {
    let key = watcher::register(|_| Arc::new(Inside(Arc::downgrade(link)))).unwrap();
    link.watch(key);
}

/// A plugin that serves, and the host's end. It has no watcher, and behaves as if no tick came: nobody helps it on.
fn unwatched_plugin(
    methods: &'static [Method],
    serve: impl Fn(Incoming<'_>) -> Reply + Send + Sync + 'static,
) -> (Arc<Link>, mpsc::Receiver<()>, Other) {
    served_plugin(methods, serve, false)
}

/// The same with a watcher.
fn watched_plugin(
    methods: &'static [Method],
    serve: impl Fn(Incoming<'_>) -> Reply + Send + Sync + 'static,
) -> (Arc<Link>, mpsc::Receiver<()>, Other) {
    served_plugin(methods, serve, true)
}

fn served_plugin(
    methods: &'static [Method],
    serve: impl Fn(Incoming<'_>) -> Reply + Send + Sync + 'static,
    is_watched: bool,
) -> (Arc<Link>, mpsc::Receiver<()>, Other) {
    let (input, host_output) = pipe::pair().unwrap();
    let (host_input, output) = pipe::pair().unwrap();
    let service = Offered { name: "a.B", magic: "", version: 0, methods, descriptors: b"" };
    let host = Hello::new(text("host"), String::new()).with_features(&[]);
    let services = service_infos([&service].into_iter());
    let plugin = Hello { services, ..host.clone() };
    let link = Link::new(Connection::new(Side::Plugin, plugin, None), input, output, false);
    let link = link.unwrap();
    link.offer(vec![Offers {
        services: vec![service],
        serve: Arc::new(move |_, call| serve(call)),
    }]);
    let core = Connection::new(Side::Host, host, None);
    let mut other = Other { core, input: host_input, output: host_output };
    other.write_all();
    if !is_watched {
        // From the beginning: another test may have a watcher, which would tick for this one too, and make it a second worker.
        link.lock().ticking = Ticking::Yes;
    }
    link.greet(Vec::new, || Ok(())).unwrap();
    if is_watched {
        watch(&link);
    }
    let plugin = link.clone();
    let served = spawn(move || {
        {
            let mut state = plugin.lock();
            state.core.accept();
            state.core.ready();
        }
        plugin.serve();
    });
    other.read_until(|event| matches!(event, Event::Ready));
    (link, served, other)
}

#[cfg(target_os = "linux")]
fn set_capacity(fd: &OwnedFd, bytes: usize) -> rustix::io::Result<usize> {
    rustix::pipe::fcntl_setpipe_size(fd, bytes)
}

#[cfg(not(target_os = "linux"))]
fn set_capacity(_: &OwnedFd, bytes: usize) -> rustix::io::Result<usize> {
    Ok(bytes)
}

impl Other {
    /// Reads until an event of a kind, which it returns.
    fn read_until(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        loop {
            while let Some(event) = self.core.poll_event() {
                if wanted(&event) {
                    return event;
                }
            }
            self.read_some();
        }
    }

    /// Reads what comes next.
    fn read_some(&mut self) {
        let mut buffer = [0; 64 << 10];
        let ready = pipe::wait(&[Wait::readable(&self.input)], Some(Instant::now() + LONG));
        assert!(ready[0], "waited {LONG:?} for anything");
        match pipe::read(&self.input, &mut buffer).unwrap() {
            0 => self.core.handle_eof(),
            len => self.core.handle_bytes(&buffer[..len]),
        }
        assert!(self.core.failure().is_none(), "{:?}", self.core.failure());
    }

    fn next_outcome(&mut self) -> (u64, crate::Result<bytes::Bytes>) {
        match self.read_until(|event| matches!(event, Event::Reply { .. })) {
            Event::Reply { call, outcome } => (call, outcome),
            other => unreachable!("asked for a reply, got {other:?}"),
        }
    }

    /// Calls a method of the host within a call of the host's, or within none (0). It is not sent yet.
    fn open_within(&mut self, method: u32, within: u64, request: &str) -> u64 {
        let opening = Opening { method, within, ..Opening::default() };
        self.core.open(&opening, Some(&text(request))).unwrap()
    }

    fn next_request(&mut self) -> Request {
        match self.read_until(|event| matches!(event, Event::Request(_))) {
            Event::Request(request) => request,
            other => unreachable!("asked for a request, got {other:?}"),
        }
    }

    /// Everything that the core has to send.
    fn output(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while self.core.has_output() {
            let mut some = Vec::new();
            self.core.poll_bytes(&mut some);
            all.append(&mut some);
        }
        all
    }

    fn write_all(&mut self) {
        let bytes = self.output();
        self.write(&bytes);
    }

    /// Writes, waiting for room as long as it takes the other end to read.
    fn write(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match pipe::write(&self.output, bytes) {
                pipe::Written::Bytes(len) | pipe::Written::Part(len) => bytes = &bytes[len..],
                pipe::Written::Full => {
                    pipe::wait(&[Wait::writable(&self.output)], None);
                }
                pipe::Written::Broken => panic!("the host's end is closed"),
            }
        }
    }
}

/// What an item or a handler of a test waits for. Dropping the sender lets it go on, too.
type Gate = Mutex<mpsc::Receiver<()>>;

fn gate() -> (mpsc::Sender<()>, Gate) {
    let (open, gate) = mpsc::channel();
    (open, Mutex::new(gate))
}

fn pass(gate: &Gate) {
    let _ = gate.lock().unwrap().recv_timeout(LONG);
}

fn text(text: &str) -> String {
    text.to_owned()
}

fn answer(text: &str) -> Answer {
    let mut response = Encoded::default();
    response.encode(&text.to_owned()).unwrap();
    response.long.map_or(Answer::Response(response.bytes), Answer::Long)
}

/// What a thread returns, in time.
fn in_time<R>(receiver: &mpsc::Receiver<R>, what: &str) -> R {
    receiver
        .recv_timeout(LONG)
        .unwrap_or_else(|error| panic!("waited {LONG:?} for {what}: {error}"))
}

/// Runs something on a thread of its own, for [`in_time`].
fn spawn<R: Send + 'static>(run: impl FnOnce() -> R + Send + 'static) -> mpsc::Receiver<R> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(run()));
    receiver
}

/// Waits until a link is in a state that somebody else brings about.
fn wait_for(link: &Arc<Link>, what: &str, mut is_it: impl FnMut(&mut State) -> bool) {
    let until = Instant::now() + LONG;
    loop {
        let mut state = link.lock();
        if is_it(&mut state) {
            return;
        }
        let seen = (until <= Instant::now()).then(|| told(&state));
        drop(state);
        if let Some(seen) = seen {
            panic!("waited {LONG:?} for {what}: {seen}");
        }
        std::thread::yield_now();
    }
}

/// Waits until a part of what is to be sent is written, and there is no room for the rest. Where it is a leader who wrote it,
/// that one waits for room and has the role.
fn wait_until_stuck(link: &Arc<Link>) {
    wait_for(link, "a part of it to be written", |state| {
        state.writer.as_ref().is_none_or(|writer| writer.taken.has_begun())
    });
}

/// What goes on, for who has waited in vain.
fn told(state: &State) -> String {
    let State { core, reader, writer, workers, pumps, .. } = state;
    format!(
        "somebody reads: {}, somebody writes: {}, {} pumps, handlers run: {}, a queue: {}, output: {}, ended: {}, failure: {:?}",
        reader.is_none(),
        writer.is_none(),
        pumps.len(),
        workers.is_busy(),
        workers.has_queue(),
        core.has_output(),
        state.input_ended,
        core.failure().map(ToString::to_string),
    )
}

/// How long a test waits for what must come. A machine that is busy is slow, and one that hangs is not waited for.
const LONG: Duration = Duration::from_secs(20);

fn spawn_call(link: &Arc<Link>, request: String) -> std::thread::JoinHandle<crate::Result<String>> {
    let link = link.clone();
    std::thread::spawn(move || {
        let response = link.call::<String>(&unary(&link), &request)?;
        Ok(prost::Message::decode(response)?)
    })
}

#[test]
fn m2_who_panics_in_the_middle_of_a_frame_leaves_it_to_the_next() {
    let (link, mut other) = pair();
    let caller = {
        // A thread that waits for its reply, while another has the role of reading.
        let mut state = link.lock();
        let mut lead = Lead::take(&link, &mut state, None).unwrap();
        drop(state);
        let caller = spawn_call(&link, text("one"));
        let request = other.next_request();
        other.core.reply(request.call, answer("ONE"));
        let reply = other.output();
        let (first, second) = reply.split_at(reply.len() / 2);
        other.write(first);

        let unwound = panic::catch_unwind(AssertUnwindSafe(|| {
            let mut state = link.flush_and_read(link.lock(), &mut lead, &Patience::endless());
            assert!(state.core.is_truncated(), "half a frame has been read");
            state.note_activity();
            drop(state);
            let _held = lead;
            panic!("as a test");
        }));
        assert!(unwound.is_err());
        other.write(second);
        caller
    };
    assert_eq!(caller.join().unwrap().unwrap(), "ONE");
}

#[test]
fn replies_come_in_any_order_and_to_their_callers() {
    let (link, mut other) = pair();
    let callers: Vec<_> = (0..20).map(|n| spawn_call(&link, n.to_string())).collect();
    let mut requests: Vec<_> = (0..20).map(|_| other.next_request()).collect();
    requests.reverse();
    for request in requests {
        let asked: String = prost::Message::decode(request.message).unwrap();
        other.core.reply(request.call, answer(&format!("re {asked}")));
    }
    other.write_all();
    for (n, caller) in callers.into_iter().enumerate() {
        assert_eq!(caller.join().unwrap().unwrap(), format!("re {n}"));
    }
}

#[test]
fn two_full_pipes_do_not_wait_for_each_other() {
    let (link, mut other) = pair();
    let long = "x".repeat(1 << 20);
    let first = spawn_call(&link, text("short"));
    let request = other.next_request();
    // A second request that fills the pipe to the plugin, while the plugin does not read but writes an answer
    // that fills the other one: the host must read for the plugin to come to reading.
    let second = spawn_call(&link, long.clone());
    other.core.reply(request.call, answer(&long));
    other.write_all();
    assert_eq!(first.join().unwrap().unwrap().len(), long.len());
    let request = other.next_request();
    assert!(request.message.len() > long.len());
    other.core.reply(request.call, answer("done"));
    other.write_all();
    assert_eq!(second.join().unwrap().unwrap(), "done");
}

#[test]
fn a_reply_does_not_wait_for_the_long_request_of_another_caller() {
    let (link, mut other) = pair();
    let first = spawn_call(&link, text("short"));
    let request = other.next_request();
    let second = spawn_call(&link, "x".repeat(1 << 20));
    // The long request is on its way, and stuck, since nobody reads.
    let until = Some(Instant::now() + Duration::from_secs(10));
    assert!(pipe::wait(&[Wait::readable(&other.input)], until)[0]);
    other.core.reply(request.call, answer("quick"));
    other.write_all();
    assert_eq!(first.join().unwrap().unwrap(), "quick");
    let request = other.next_request();
    other.core.reply(request.call, answer("at last"));
    other.write_all();
    assert_eq!(second.join().unwrap().unwrap(), "at last");
}

#[test]
fn a_closed_connection_says_what_was_sent() {
    let (link, mut other) = pair();
    let sent = spawn_call(&link, text("sent"));
    other.next_request();
    let stuck = spawn_call(&link, "x".repeat(1 << 20));
    let until = Some(Instant::now() + Duration::from_secs(10));
    assert!(pipe::wait(&[Wait::readable(&other.input)], until)[0]);
    drop(other);
    let error = sent.join().unwrap().unwrap_err();
    assert_eq!((error.kind(), error.delivery()), (ErrorKind::Shutdown, Delivery::MayHaveRun));
    let error = stuck.join().unwrap().unwrap_err();
    assert_eq!((error.kind(), error.delivery()), (ErrorKind::Shutdown, Delivery::NotSent));
    let error = link.call::<String>(&unary(&link), &text("late")).unwrap_err();
    assert_eq!((error.kind(), error.delivery()), (ErrorKind::Shutdown, Delivery::NotSent));
}

#[test]
fn a_side_that_serves_nothing_refuses_calls() {
    let (_link, mut other) = pair();
    let call = other
        .core
        .open(&Opening { method: 1, ..Opening::default() }, Some(&text("hello?")))
        .unwrap();
    other.write_all();
    let event = other.read_until(|event| matches!(event, Event::Reply { .. }));
    let Event::Reply { call: answered, outcome } = event else { unreachable!() };
    assert_eq!(answered, call);
    let error = outcome.unwrap_err();
    assert_eq!((error.kind(), error.delivery()), (ErrorKind::Unimplemented, Delivery::NotSent));
}

#[test]
fn an_end_beside_the_pipe_wakes_who_reads_and_delivers_what_was_sent() {
    let (link, mut other) = pair();
    let answered = spawn_call(&link, text("answered"));
    let request = other.next_request();
    let waiting = spawn_call(&link, text("waiting"));
    other.next_request();
    other.core.reply(request.call, answer("yes"));
    other.write_all();
    // The pipe stays open, as if a child of the plugin held it.
    let gone = crate::Error::of_kind(ErrorKind::Exited, "the plugin is gone");
    link.end(&gone);
    assert_eq!(answered.join().unwrap().unwrap(), "yes");
    assert_eq!(waiting.join().unwrap().unwrap_err().kind(), ErrorKind::Exited);
}

/// The process has been sent a signal, and its pipes are still open.
#[test]
fn p22_calls_to_what_is_being_killed_do_not_wait_for_its_end() {
    let (link, mut other) = pair();
    let reading = spawn_call_for(&link, "one");
    other.next_request();
    wait_for(&link, "somebody to read", |state| state.leading.is_some());
    let waiting = spawn_call_for(&link, "two");
    other.next_request();
    link.sever(&crate::Error::of_kind(ErrorKind::Exited, "it is being killed"));
    for (called, who) in [(reading, "who reads"), (waiting, "who waits")] {
        let error = in_time(&called, who).unwrap_err();
        assert_eq!((error.kind(), error.delivery()), (ErrorKind::Exited, Delivery::MayHaveRun));
    }
    drop(other);
}

/// [`spawn_call`], for [`in_time`].
fn spawn_call_for(link: &Arc<Link>, request: &str) -> mpsc::Receiver<crate::Result<bytes::Bytes>> {
    let (link, request) = (link.clone(), text(request));
    spawn(move || link.call::<String>(&unary(&link), &request))
}
